"""The residual head: a small Transformer over the tokens of a step, on the frozen denoiser's states."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edlm.denoisers.base import Denoiser
from edlm.diffusion.slots import DenseSlots, Slots, num_rounds
from edlm.energies.base import Decision, Step, TokenwiseEnergy
from edlm.energies.head_body import HeadSettings, copy_blocks, fitting_settings
from edlm.energies.head_state import HeadState, causal_masks, seen_positions, take
from edlm.energies.pretrained import PretrainedEnergy
from edlm.energies.two_stream import Block, Memory, Own, Rotary
from edlm.numerics import precise

_ROWS_PER_DECODE = 8192


class ResidualHead(TokenwiseEnergy, PretrainedEnergy):
    """Joint corrections to the tokens that a step writes, for a fraction of a denoiser pass.

    Normalized form: for the i-th token of a step, in decision order,
    ``q(x_i | x_t, earlier) = softmax(log p_theta(. | x_t) + delta_i)``, and
    ``E(x_R) = log p_theta(x_R | x_t) - log q(x_R | x_t)``, so ``Z = 1``. Tokens attend to the denoiser's
    states at all positions, except the stale ones of tokens decided before them in this step, and to those
    tokens. ``q`` equals ``p_theta`` before training.

    Unnormalized form: tokens attend to earlier groups and to all of their own; one scalar a candidate.

    The head holds no copy of the denoiser's embeddings and output layer: it uses those of the step's denoiser.

    Args:
        settings: Its shape. `from_denoiser` makes one that fits, started warm.
    """

    reads_hidden = True

    def __init__(self, settings: HeadSettings):
        super().__init__()
        self.shape = settings
        cold = settings.start == "cold"
        width, hidden_size = settings.width, settings.hidden_size
        self.read = nn.Linear(hidden_size, width, bias=False) if cold else nn.Identity()
        self.token_norm = nn.LayerNorm(hidden_size, elementwise_affine=False)
        self.token = nn.Linear(hidden_size, width, bias=False)
        self.blocks = nn.ModuleList(
            Block(width, settings.num_heads, settings.intermediate_size, settings.norm_eps)
            for _ in range(settings.num_blocks)
        )
        self.rotary = Rotary(width // settings.num_heads, settings.rope_theta)
        self.final_norm = nn.LayerNorm(width, eps=settings.norm_eps, bias=False)
        self.is_normalized = settings.form == "normalized"
        # Before training all corrections are zero: those of a warm start because nothing of the tokens is
        # injected, the others because nothing is written.
        if cold or not self.is_normalized:
            self.write = nn.Linear(width, hidden_size if self.is_normalized else 1, bias=False)
            nn.init.zeros_(self.write.weight)
        else:
            nn.init.zeros_(self.token.weight)
        if settings.blind:
            self.token.requires_grad_(False)

    @classmethod
    def from_denoiser(
        cls,
        denoiser: Denoiser,
        *,
        form: Literal["normalized", "unnormalized"] = "normalized",
        num_blocks: int = 1,
        start: Literal["warm", "cold"] = "warm",
        blind: bool = False,
        width: int | None = None,
        num_heads: int | None = None,
        intermediate_size: int | None = None,
    ) -> ResidualHead:
        """A head for this denoiser that leaves its marginals as they are until it is trained.

        Args:
            denoiser: Frozen; the head belongs to it from now on.
            form: See `HeadSettings`.
            num_blocks: Number of blocks.
            start: ``"warm"`` copies the denoiser's last blocks (ModernBERT with global attention);
                ``"cold"`` suits any denoiser that keeps hidden states.
            blind: Make the control that does not see the step's other tokens.
            width: Cold start only: size of a token's state (the denoiser's by default).
            num_heads: Cold start only (one for each 32 of width by default).
            intermediate_size: Cold start only (twice the width by default).

        Raises:
            ValueError: a warm start is not possible, or was given sizes of its own.
        """
        settings = fitting_settings(
            denoiser,
            form=form,
            num_blocks=num_blocks,
            start=start,
            blind=blind,
            width=width,
            num_heads=num_heads,
            intermediate_size=intermediate_size,
        )
        head = cls(settings)
        if start == "warm":
            copy_blocks(denoiser, head.blocks, head.final_norm)
        head.denoiser_identity = denoiser.identity
        return head

    def settings(self) -> dict[str, Any]:
        return asdict(self.shape)

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> ResidualHead:
        return cls(HeadSettings(**settings))

    def forward(self, decision: Decision) -> Tensor:
        """Energies of the candidates, nats, ``[batch, k]``; 0 for rows that decide nothing."""
        energy = torch.zeros_like(decision.log_proposal)
        if not len(decision.slots):
            return energy
        step, own = decision.step, decision.slots.dense()
        states, memory = self._read_step(step, own.active)
        if not self.shape.blind:
            memory = self._with_earlier(decision, own.active, states, memory)
        index = own.positions[:, None].expand(-1, decision.num_candidates, -1)
        tokens = decision.candidates[own.active].gather(2, index)
        if self.is_normalized:
            log_q = self._log_q(step, own, states, memory, tokens, decision.round_size).to(energy)
            return energy.index_add(0, own.active, decision.log_p[own.active] - log_q)
        return energy.index_add(0, own.active, self._scalar(step, own, states, memory, tokens).to(energy))

    def log_prob(self, step: Step, tokens: Tensor, round_size: int = 1) -> Tensor:
        log_q = precise(torch.zeros(len(step.x_t), device=tokens.device))
        if not len(step.slots):
            return log_q
        own = step.slots.dense()
        states, memory = self._read_step(step, own.active)
        table = step.slots.write(step.x_t, tokens)[own.active].gather(1, own.positions)[:, None]
        return log_q.index_add(0, own.active, self._log_q(step, own, states, memory, table, round_size)[:, 0])

    def start(self, step: Step, round_size: int = 1) -> HeadState:
        own = step.slots.dense()
        states, memory = self._read_step(step, own.active)
        angles = tuple(part[:, 0, 0, :, None] for part in self.rotary(own.positions))
        entering = take(states, own.positions)
        queries = self.blocks[0].next_query(entering, angles)
        numbers = num_rounds(own.counts, round_size)
        return HeadState(step, own, numbers, entering, queries, angles, memory)

    def next_logits(self, state: HeadState, x_partial: Tensor, slots: Slots) -> Tensor:
        if state.round and not self.shape.blind:
            self._remember(state, x_partial)
        index, valid = state.slots_of(state.round)
        angles = tuple(part[index] for part in state.angles)
        seen = seen_positions(state.step, state.own.active)
        x, query = state.entering[index], state.queries[index]
        for i, (block, memory) in enumerate(zip(self.blocks, state.memory, strict=True)):
            if i:
                query = block.next_query(x, angles)
            x = block.next_state(x, query, memory, seen)
        state.round += 1
        return self._logits(x.flatten(0, 1) if valid is None else x[valid], state.step, slots)

    def _remember(self, state: HeadState, x_partial: Tensor) -> None:
        """Put the tokens of the last round in the place of the stale states at their positions (key-value cache)."""
        index, valid = state.slots_of(state.round - 1)
        positions, angles = state.own.positions[index], tuple(part[index] for part in state.angles)
        tokens = x_partial[state.own.active[:, None], positions]
        rows = torch.arange(len(positions), device=positions.device)[:, None].expand_as(positions)
        at = (rows, positions) if valid is None else (rows[valid], positions[valid])
        seen = seen_positions(state.step, state.own.active)
        content = state.entering[index] + self._token(state.step, tokens)
        for i, (block, memory) in enumerate(zip(self.blocks, state.memory, strict=True)):
            keys, values = block.next_key_value(content, angles)
            memory.write(*at, *(x if valid is None else x[valid] for x in (keys, values)))
            if i + 1 < len(self.blocks):
                content = block.next_state(content, block.next_query(content, angles), memory, seen)

    def _read_step(self, step: Step, active: Tensor) -> tuple[Tensor, list[Memory]]:
        """The states that enter the first block, and each block's memory of the denoiser's states."""
        if step.encoding.hidden is None:
            raise ValueError(f"a ResidualHead reads states, and {type(step.denoiser).__name__} gives none")
        place = step.encoding.place[active]
        first = len(step.encoding.hidden) - len(self.blocks)
        layers = [self.read(step.encoding.hidden[first + b][place]) for b in range(len(self.blocks))]
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
        causal = causal_masks(earlier, earlier.rounds(1), states.shape[1], step)
        own, _ = self._contents(step, earlier, states, memory, tokens, *causal)
        return [m.with_tokens(earlier.positions, earlier.valid, o) for m, o in zip(memory, own, strict=True)]

    def _contents(
        self,
        step: Step,
        dense: DenseSlots,
        states: Tensor,
        memory: list[Memory],
        tokens: Tensor,
        memory_visible: Tensor,
        own_visible: Tensor,
    ) -> tuple[list[Own], Tensor]:
        """The content stream: keys and values of tokens ``[rows, k, n]`` at each block, and what leaves the last."""
        angles = self.rotary(dense.positions)
        content = take(states, dense.positions)[:, None] + self._token(step, tokens)
        keys_values = []
        for i, (block, m) in enumerate(zip(self.blocks, memory, strict=True)):
            own = block.own(content, angles)
            keys_values.append(own)
            if i + 1 < len(self.blocks) or not self.is_normalized:
                content = block(content, angles, m, memory_visible, own, own_visible)
        return keys_values, content

    def _log_q(
        self,
        step: Step,
        dense: DenseSlots,
        states: Tensor,
        memory: list[Memory],
        tokens: Tensor,
        round_size: int,
    ) -> Tensor:
        """Two streams: ``sum_i log q(x_i | x_t, earlier rounds)``, nats, ``[rows, k]``."""
        rows, k, n = tokens.shape
        query = take(states, dense.positions)[:, None].expand(-1, k, -1, -1)
        angles = self.rotary(dense.positions)
        if self.shape.blind:
            for block, m in zip(self.blocks, memory, strict=True):
                query = block(query, angles, m, seen_positions(step, dense.active))
        else:
            rounds, length = dense.rounds(round_size), states.shape[1]
            causal = causal_masks(dense, rounds, length, step)
            own, _ = self._contents(step, dense, states, memory, tokens, *causal)
            before = causal_masks(dense, rounds, length, step, strictly=True)
            for block, m, o in zip(self.blocks, memory, own, strict=True):
                query = block(query, angles, m, before[0], o, before[1])

        valid = dense.valid[:, None].expand_as(tokens)
        r, _, i = valid.nonzero(as_tuple=True)
        slots = Slots(dense.active[r], dense.positions[r, i], i, len(step.x_t))
        parts = torch.arange(len(r), device=r.device).split(_ROWS_PER_DECODE)
        query, wanted = query[valid], tokens[valid]

        def log_q_of(part: Tensor) -> Tensor:
            logits = self._logits(query[part], step, slots.part(part))
            log_q = step.denoiser.normalize(logits, check=not self.training)
            return log_q.gather(1, wanted[part, None])[:, 0]

        log_q = torch.cat([log_q_of(part) for part in parts])
        return precise(log_q.new_zeros(valid.shape).masked_scatter(valid, log_q)).sum(-1)

    def _scalar(self, step: Step, dense: DenseSlots, states: Tensor, memory: list[Memory], tokens: Tensor) -> Tensor:
        """Energies ``[rows, k]`` of the unnormalized form: a sum over the group's tokens."""
        length = states.shape[1]
        taken = dense.at_positions(dense.rounds(1), length) < length
        outside = ~taken[:, None].expand(-1, tokens.shape[2], -1)
        seen = seen_positions(step, dense.active)
        together = dense.valid[:, None].expand(-1, tokens.shape[2], -1)
        # A padded slot sees everything, so that no softmax is empty; it does not count below.
        visible = (outside if seen is None else outside & seen) | ~dense.valid[:, :, None]
        _, content = self._contents(step, dense, states, memory, tokens, visible, together)
        per_token = self.write(self.final_norm(content))[..., 0]
        return (per_token * dense.valid[:, None]).sum(-1)

    def _token(self, step: Step, tokens: Tensor) -> Tensor:
        with torch.no_grad():
            embedded = step.denoiser.embed(tokens)
        return self.token(self.token_norm(embedded))

    def _logits(self, query: Tensor, step: Step, slots: Slots) -> Tensor:
        """``log q`` but for a constant, from states ``[num_slots, width]`` that left the last block."""
        features = self.final_norm(query)
        if self.shape.start == "cold":
            features = step.encoding.at(slots) + self.write(features)
        return step.denoiser.decode(features)
