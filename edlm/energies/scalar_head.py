"""The unnormalised residual head: one scalar for a group of tokens that see each other."""

from typing import Any

from torch import Tensor, nn

from edlm.diffusion.slots import DenseSlots
from edlm.energies.base import Decision
from edlm.energies.head_body import Head, seen_positions
from edlm.energies.head_settings import HeadSettings
from edlm.energies.two_stream import Memory


class ScalarHead(Head):
    """A scalar for each candidate of a group: tokens see earlier groups of the step and all of their own group.

    Zero before training. It has no normalisation of its own, so candidates are drawn from the denoiser and weighed;
    `ResidualHead` is the form that needs none.

    Args:
        settings: Its shape. `from_denoiser` makes a head that fits, started warm.

    Raises:
        ValueError: the settings are blind: a scalar that sees no tokens is constant; or list tokens: it has no law.
    """

    def __init__(self, settings: HeadSettings):
        super().__init__(settings)
        if settings.blind:
            raise ValueError("blind must be False for a ScalarHead, got True: without the tokens there is no energy")
        if settings.num_listed is not None:
            raise ValueError(f"num_listed must be None for a ScalarHead, got {settings.num_listed}: it has no law")
        self.write = nn.Linear(settings.width, 1, bias=False)
        nn.init.zeros_(self.write.weight)

    @property
    def recommended(self) -> dict[str, Any]:
        """As many candidates as in training, in groups of the first size that it was trained on."""
        if self.trained_for is None:
            return super().recommended
        candidates = {"num_candidates": self.trained_for.num_candidates, "group_size": self.trained_for.group_sizes[0]}
        return {**super().recommended, **candidates}

    def _energies(
        self, decision: Decision, dense: DenseSlots, states: Tensor, memory: list[Memory], tokens: Tensor
    ) -> Tensor:
        """Sums over the group's tokens."""
        step, length = decision.step, states.shape[1]
        taken = dense.at_positions(dense.rounds(1), length) < length
        outside = ~taken[:, None].expand(-1, tokens.shape[2], -1)
        seen = seen_positions(step, dense.active)
        together = dense.valid[:, None].expand(-1, tokens.shape[2], -1)
        # A padded slot sees everything, so that no softmax is empty; it does not count below.
        visible = (outside if seen is None else outside & seen) | ~dense.valid[:, :, None]
        own, content = self._contents(step, dense, states, memory, tokens, (visible, together))
        angles = self.rotary(dense.positions)
        content = self.blocks[-1](content, angles, memory[-1], visible, own[-1], together)
        per_token = self.write(self.final_norm(content))[..., 0]
        return (per_token * dense.valid[:, None]).sum(-1)
