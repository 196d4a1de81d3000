"""Settings that several commands share."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from edlm.diffusion.reveal import Order

if TYPE_CHECKING:
    from edlm.denoisers.base import Denoiser
    from edlm.energies.base import Energy
    from edlm.sampler.sampler import EnergySampler


@dataclass(frozen=True)
class SamplerConfig:
    """How to sample; see ``EnergySampler``.

    Args:
        num_steps: Denoiser passes.
        num_candidates: Candidates k of each decision; null decides token by token, exactly.
        scope: What a candidate fills: the positions of the "step", or the whole "sequence".
        group_size: Tokens decided together; null for all of a step. Exact decisions: drawn at once; null for one.
        order: Reveal order.
        schedule: Masking schedule, for the ancestral order.
        window: Times (low, high] at which the energy is used.
        weight_temperature: Weights are exp(-E / weight_temperature).
        on_impossible: What to do where all candidates are impossible.
        temperature: Tokens are drawn from the marginals at this temperature.
        top_p: Tokens are drawn from the likeliest that hold so much mass.
        top_k: Tokens are drawn from so many likeliest; null for all.
        correct_proposal: Weigh candidates as if they were drawn from the denoiser's own marginals.
    """

    num_steps: int = 8
    num_candidates: int | None = 1
    scope: Literal["step", "sequence"] = "step"
    group_size: int | None = None
    order: Order = "dilated"
    schedule: Literal["log_linear", "cosine", "polynomial"] = "log_linear"
    window: tuple[float, float] = (0.0, 1.0)
    weight_temperature: float = 1.0
    on_impossible: Literal["raise", "redraw", "keep"] = "raise"
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    correct_proposal: bool = False

    def build(self, denoiser: Denoiser, energy: Energy | None) -> EnergySampler:
        """The sampler of these settings; without an energy there is nothing to decide by: k = 1."""
        from edlm.sampler.sampler import EnergySampler

        return EnergySampler(denoiser, energy, **asdict(self))
