"""The orders that a name alone gives."""

from edlm.diffusion.orders import ORDERS
from edlm.diffusion.rules import RULES

NAMED = [*ORDERS, *(name for name in RULES if name != "dependency_bounded")]  # which needs a trained predictor
