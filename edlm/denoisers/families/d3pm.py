"""D3PM with absorbing noise: Lightning checkpoints of MDLM's code whose network is conditioned on time."""

from typing import Any

from torch import nn

from edlm.denoisers.families.dit_denoiser import wrap_official
from edlm.denoisers.families.mdlm import family_of
from edlm.denoisers.logits import LogitsDenoiser


def _wrap(
    module: nn.Module,
    tokenizer: Any = None,
    *,
    mask_token_id: int | None = None,
    time_conditioned: bool = True,
    **options: Any,
) -> LogitsDenoiser:
    """As `wrap_official`, but conditioned on time by default."""
    return wrap_official(module, tokenizer, mask_token_id=mask_token_id, time_conditioned=time_conditioned, **options)


FAMILY = family_of("d3pm", _wrap)
