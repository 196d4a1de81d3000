"""The common part of residual heads: blocks on the denoiser's states, and which token sees which."""

from abc import abstractmethod
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from edlm.denoisers.base import Denoiser
from edlm.diffusion.slots import DenseSlots
from edlm.energies.decision import Decision, Step
from edlm.energies.head_settings import HeadOptions, HeadSettings, copy_blocks
from edlm.energies.pretrained import PretrainedEnergy
from edlm.energies.two_stream import Block, Memory, Own, Rotary


class Head(PretrainedEnergy):
    """Blocks whose tokens attend to the frozen denoiser's states, and to tokens decided before them in the step.

    A head holds no copy of the denoiser's embeddings and output layer: it uses those of the step's denoiser.

    Args:
        settings: Its shape. `from_denoiser` makes a head that fits, started warm.
    """

    reads_hidden = True

    def __init__(self, settings: HeadSettings):
        super().__init__()
        self.shape = settings
        self.is_control = settings.blind
        width, hidden_size = settings.width, settings.hidden_size
        self.read = nn.Linear(hidden_size, width, bias=False) if settings.start == "cold" else nn.Identity()
        self.token_norm = nn.LayerNorm(hidden_size, elementwise_affine=False)
        self.token = nn.Linear(hidden_size, width, bias=False)
        self.blocks = nn.ModuleList(
            Block(width, settings.num_heads, settings.intermediate_size, settings.norm_eps)
            for _ in range(settings.num_blocks)
        )
        self.rotary = Rotary(width // settings.num_heads, settings.rope_theta)
        self.final_norm = nn.LayerNorm(width, eps=settings.norm_eps, bias=False)

    @classmethod
    def from_denoiser(cls, denoiser: Denoiser, **options: Any) -> Self:
        """A head for this denoiser that leaves its marginals as they are until it is trained.

        Args:
            denoiser: Frozen; the head belongs to it from now on.
            options: Fields of `HeadOptions`.

        Raises:
            ValueError: a warm start is not possible, or was given sizes of its own.
        """
        head = cls(HeadSettings.fitting(denoiser, HeadOptions(**options)))
        if head.shape.start == "warm":
            copy_blocks(denoiser, head.blocks, head.final_norm)
        head.denoiser_identity = denoiser.identity
        return head

    def settings(self) -> dict[str, Any]:
        return asdict(self.shape)

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        return cls(HeadSettings(**settings))

    def forward(self, decision: Decision) -> Tensor:
        """Energies of the candidates, nats, ``[batch, k]``; 0 for rows that decide nothing."""
        energy = torch.zeros_like(decision.log_proposal)
        if not len(decision.slots):
            return energy
        dense = decision.slots.dense()
        states, memory = self._read_step(decision.step, dense.active)
        if not self.shape.blind:
            memory = self._with_earlier(decision, dense.active, states, memory)
        index = dense.positions[:, None].expand(-1, decision.num_candidates, -1)
        tokens = decision.candidates[dense.active].gather(2, index)
        energies = self._energies(decision, dense, states, memory, tokens)
        return energy.index_add(0, dense.active, energies.to(energy))

    @abstractmethod
    def _energies(
        self, decision: Decision, dense: DenseSlots, states: Tensor, memory: list[Memory], tokens: Tensor
    ) -> Tensor:
        """Energies ``[rows, k]`` of tokens ``[rows, k, n]`` at the dense slots."""

    def _read_step(self, step: Step, active: Tensor) -> tuple[Tensor, list[Memory]]:
        """The states that enter the first block, and each block's memory of the denoiser's states."""
        if step.encoding.hidden is None:
            raise ValueError(f"a {type(self).__name__} reads states, and {type(step.denoiser).__name__} gives none")
        place = step.encoding.place[active]
        first = len(step.encoding.hidden) - len(self.blocks)
        kept = step.encoding.hidden[first:]  # on several devices, if the denoiser is
        entering = (h[place.to(h.device)].to(self.token.weight) for h in kept)
        layers = [self.read(h) for h in entering]
        angles = self.rotary(torch.arange(layers[0].shape[1], device=active.device)[None])
        return layers[0], [block.memory(h, angles) for block, h in zip(self.blocks, layers, strict=True)]

    def _with_earlier(self, decision: Decision, active: Tensor, states: Tensor, memory: list[Memory]) -> list[Memory]:
        """Memories in which tokens that earlier groups of the step decided replace their stale states."""
        step = decision.step
        is_decided = step.slots.gather(decision.x_partial) != step.denoiser.mask_token_id
        earlier = step.slots.select(is_decided).dense(active)
        if not earlier.valid.any():
            return memory
        tokens = decision.x_partial[active].gather(1, earlier.positions)[:, None]
        visible = causal_masks(earlier, earlier.rounds(1), states.shape[1], step)
        own, _ = self._contents(step, earlier, states, memory, tokens, visible)
        return [m.with_tokens(earlier.positions, earlier.valid, o) for m, o in zip(memory, own, strict=True)]

    def _contents(
        self,
        step: Step,
        dense: DenseSlots,
        states: Tensor,
        memory: list[Memory],
        tokens: Tensor,
        visible: tuple[Tensor, Tensor],
    ) -> tuple[list[Own], Tensor]:
        """Content stream: keys and values of tokens ``[rows, k, n]`` in each block, and states that enter the last.

        ``states`` and ``memory`` come from `_read_step`; ``visible`` are masks like those of `causal_masks`.
        """
        angles = self.rotary(dense.positions)
        content = take(states, dense.positions)[:, None] + self._token(step, tokens)
        keys_values = [self.blocks[0].own(content, angles)]
        for block, following, m in zip(self.blocks, self.blocks[1:], memory, strict=False):
            content = block(content, angles, m, visible[0], keys_values[-1], visible[1])
            keys_values.append(following.own(content, angles))
        return keys_values, content

    def _token(self, step: Step, tokens: Tensor) -> Tensor:
        with torch.no_grad():
            embedded = step.denoiser.embed(tokens)
        return self.token(self.token_norm(embedded.to(self.token.weight)))


def take(states: Tensor, positions: Tensor) -> Tensor:
    """States ``[rows, n, width]`` at ``positions[rows, n]``."""
    return states.gather(1, positions[..., None].expand(-1, -1, states.shape[-1]))


def seen_positions(step: Step, rows: Tensor) -> Tensor | None:
    """Positions of the rows that are not padding, bool ``[rows, 1, length]``; None without padding."""
    return step.attention_mask[rows][:, None] if step.attention_mask is not None else None


def causal_masks(
    dense: DenseSlots, rounds: Tensor, length: int, step: Step, strictly: bool = False
) -> tuple[Tensor, Tensor]:
    """Visible memory (not decided up to a token's round) and tokens (up to its round; ``strictly``: before it)."""
    limit = rounds[:, :, None] + (not strictly)
    memory_visible = dense.at_positions(rounds, length)[:, None] >= limit
    own_visible = rounds[:, None] < limit
    seen = seen_positions(step, dense.active)
    return (memory_visible if seen is None else memory_visible & seen), own_visible
