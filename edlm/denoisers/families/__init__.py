"""Families of published checkpoints, one module each."""

from edlm.denoisers.families import (
    bd3lm,
    d3pm,
    diffugpt,
    diffullama,
    dream,
    llada,
    masked_lm,
    mdlm,
    sedd,
    smdm,
    x0_prediction,
)
from edlm.denoisers.families.family import Family

FAMILIES: tuple[Family, ...] = tuple(
    module.FAMILY  # the first that recognises a checkpoint loads it
    for module in (mdlm, d3pm, sedd, bd3lm, llada, dream, diffullama, diffugpt, masked_lm, smdm, x0_prediction)
)
