"""Families of published checkpoints by name; the first that recognises a checkpoint loads it."""

from edlm.denoisers.families import bd3lm, diffullama, dream, llada, masked_lm, mdlm, sedd, smdm, x0_prediction
from edlm.denoisers.families.family import Family

_ALL = (mdlm.FAMILY, mdlm.D3PM, sedd.FAMILY, bd3lm.FAMILY, llada.FAMILY, dream.FAMILY, diffullama.FAMILY)
_ALL += (diffullama.DIFFUGPT, masked_lm.FAMILY, smdm.FAMILY, x0_prediction.FAMILY)
FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}
