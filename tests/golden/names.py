"""Names that a redesign may move: the only place to adapt. No number is decided here."""

from edlm.cli import main as command_line
from edlm.evaluation.languages.law import exact_law

__all__ = ["EXACT", "command_line", "exact_law"]

EXACT = None  # num_candidates of exact decisions
