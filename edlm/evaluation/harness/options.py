"""Options of the harness model."""

from dataclasses import dataclass
from typing import Literal

import torch

from edlm.rules import check_options

BATCH_SIZE = 16


@check_options
@dataclass(frozen=True, kw_only=True)
class HarnessOptions:
    """How a denoiser is loaded, and how requests are answered.

    Raises:
        ValueError: an option is unknown, or is not what its type says.
    """

    batch_size: int | str = BATCH_SIZE
    """Texts at a time; changes memory and speed only. "auto" means 16."""

    max_batch_size: int | None = None
    """Not used; the harness passes it."""

    device: str | torch.device | None = None
    """Device of denoiser and energy; by default the CPU, or where they are. Without CUDA, "cuda" is the CPU."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the denoiser's weights."""

    family: str | None = None
    """Family of the denoiser, see `load_denoiser`."""

    revision: str | None = None
    """Revision of the denoiser on the hub."""

    trust_remote_code: bool = False
    """Run code that comes with the denoiser."""

    num_orders: int = 1
    """Draws of the bound that are averaged for a likelihood; one suffices where the bound is exact."""

    inner_draws: int = 1
    """Draws of candidates inside of each, see `EnergySampler.likelihood_bound`: at sequence scope the bound of one is
    very loose."""

    rolling_context: int | None = None
    """Given tokens of the windows of a text that is longer than one; half of a window by default."""

    max_gen_toks: int = 256
    """Tokens to write where a task gives no number."""

    check_greedy: bool = True
    """Answer ``is_greedy``, which costs another run of the sampler a request; without it the answer is False."""

    greedy: Literal["sampler", "likeliest"] = "sampler"
    """Where a task requests greedy decoding, as most do: "sampler" draws as it is set, by fixed seeds; "likeliest"
    takes the likeliest tokens, so that all candidates are the same."""

    seed: int = 0
    """Seed of orders, candidates and texts."""
