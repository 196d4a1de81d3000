"""Families of published checkpoints by name; the first that recognises a checkpoint loads it."""

from edlm.denoisers.families import (
    bd3lm,
    decoders,
    diffullama,
    llada,
    llada2,
    masked_lm,
    mdlm,
    sedd,
    smdm,
    x0_prediction,
)
from edlm.denoisers.families.family import Family

_ALL = (mdlm.FAMILY, mdlm.D3PM, sedd.FAMILY, bd3lm.FAMILY, *decoders.FAMILIES, llada.FAMILY, llada2.FAMILY)
_ALL += (diffullama.FAMILY, diffullama.DIFFUGPT, masked_lm.FAMILY, smdm.FAMILY, x0_prediction.FAMILY)
FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}
