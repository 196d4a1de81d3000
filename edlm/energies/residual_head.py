"""The residual head: a small Transformer over the tokens of a step, on the frozen denoiser's states."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edlm.diffusion.slots import DenseSlots, Slots, num_rounds
from edlm.energies.decision import Decision, Step, Targets
from edlm.energies.exact import Likeliest, TokenwiseEnergy, likeliest_of
from edlm.energies.head_body import Head, causal_masks, seen_positions, take
from edlm.energies.head_settings import HeadSettings
from edlm.energies.head_state import HeadState, Round
from edlm.energies.proposal import PLAIN, Proposal, draw_categorical
from edlm.energies.speculation import Window, draw_ahead, rounds_ahead
from edlm.energies.two_stream import Memory, Own
from edlm.memory import parts_of_table
from edlm.numerics import precise


class ResidualHead(Head, TokenwiseEnergy):
    """Joint corrections to the tokens that a step writes, for a fraction of a denoiser pass.

    For the i-th token of a step, in decision order,
    ``q(x_i | x_t, earlier) = softmax(log p_theta(. | x_t) + delta_i)``, and
    ``E(x_R) = log p_theta(x_R | x_t) - log q(x_R | x_t)``, so ``Z = 1``. Tokens attend to the denoiser's
    states at all positions, except the stale ones of tokens decided before them in this step, and to those
    tokens. ``q`` equals ``p_theta`` before training.

    Args:
        settings: Its shape. `from_denoiser` makes a head that fits, started warm.
    """

    def __init__(self, settings: HeadSettings):
        super().__init__(settings)
        # Before training all corrections are zero: those of a warm start because nothing of the tokens is
        # injected, those of a cold one because nothing is written.
        if settings.start == "cold":
            self.write = nn.Linear(settings.width, settings.hidden_size, bias=False)
            nn.init.zeros_(self.write.weight)
        else:
            nn.init.zeros_(self.token.weight)
        if settings.blind:
            self.token.requires_grad_(False)

    def _energies(
        self, decision: Decision, dense: DenseSlots, states: Tensor, memory: list[Memory], tokens: Tensor
    ) -> Tensor:
        """``log p_theta - log q`` of the tokens."""
        log_q = self._log_q(decision.step, dense, states, memory, tokens, decision.round_size, decision.targets)
        return decision.log_p[dense.active] - log_q.to(decision.log_p)

    def log_prob(self, step: Step, tokens: Tensor, round_size: int = 1, proposal: Proposal = PLAIN) -> Tensor:
        if not proposal.is_default:
            return super().log_prob(step, tokens, round_size, proposal)
        log_q = precise(torch.zeros(len(step.x_t), device=tokens.device))
        if not len(step.slots):
            return log_q
        dense = step.slots.dense()
        states, memory = self._read_step(step, dense.active)
        table = step.slots.write(step.x_t, tokens)[dense.active].gather(1, dense.positions)[:, None]
        return log_q.index_add(0, dense.active, self._log_q(step, dense, states, memory, table, round_size)[:, 0])

    def sample(
        self,
        step: Step,
        uniforms: Tensor,
        round_size: int = 1,
        proposal: Proposal = PLAIN,
        num_likeliest: int = 0,
    ) -> tuple[Tensor, Likeliest]:
        """As `TokenwiseEnergy` has it; several single tokens of a row at once where that pays, see `rounds_ahead`."""
        if self.shape.blind:
            round_size, ahead = max(1, len(step.slots)), 1  # no token sees another one
        elif (ahead := rounds_ahead(step, round_size)) == 1:
            return super().sample(step, uniforms, round_size, proposal, num_likeliest)
        if not len(step.slots):
            return step.slots.positions, None
        states, memory = self._read_step(step, step.slots.counts.nonzero()[:, 0])
        kept: list[tuple[Tensor, list[Own]]] = []
        tops: list[tuple[Tensor, Likeliest]] = []

        def draw(window: Window) -> Tensor:
            tokens, index = window.tokens[:, None], window.index
            query, own = self._queries(step, window.slots, states, memory, tokens, window.rounds)
            kept[:] = [(window.slots.positions, own)]
            logits = self._logits(query[:, 0][window.drawn], step, step.slots.part(index))
            log_q = proposal(step.denoiser.possible(logits))
            tops.append((index, likeliest_of(log_q, num_likeliest)))
            return draw_categorical(log_q, uniforms[index.cpu(), :1])[:, 0]

        def keep(rows: Tensor, columns: Tensor) -> None:
            positions, own = kept[0]
            for m, o in zip(memory, own, strict=True):
                m.write(rows, positions[rows, columns], o.keys[rows, :, 0, columns], o.values[rows, :, 0, columns])

        tokens = draw_ahead(step.slots, round_size, ahead, draw, keep)
        return tokens, _last_of(tops, len(tokens)) if num_likeliest else None

    def start(self, step: Step, round_size: int = 1) -> HeadState:
        dense = step.slots.dense()
        states, memory = self._read_step(step, dense.active)
        angles = tuple(part[:, 0, 0, :, None] for part in self.rotary(dense.positions))
        entering = take(states, dense.positions)
        numbers = num_rounds(dense.counts, round_size)
        return HeadState(step, dense, numbers, entering, angles, memory)

    def next_logits(self, state: HeadState, x_partial: Tensor, slots: Slots) -> Tensor:
        (index, valid), seen = state.slots_of(state.round), seen_positions(state.step, state.dense.active)
        x, angles = state.entering[index], tuple(part[index] for part in state.angles)
        last = self._last_round(state, x_partial) if state.round and not self.shape.blind else None
        if last is not None:  # what follows from its tokens is computed beside the next ones: weights are read once
            x = torch.cat([last.content, x], 1)
            angles = tuple(torch.cat(parts, 1) for parts in zip(last.angles, angles, strict=True))
        for i, (block, memory) in enumerate(zip(self.blocks, state.memory, strict=True)):
            if last is not None:
                last.write(memory, *block.next_key_value(x[:, : last.size], last.angles))
                if i + 1 == len(self.blocks):  # nothing reads what leaves it
                    x, angles = x[:, last.size :], tuple(part[:, last.size :] for part in angles)
            x = block.next_state(x, angles, memory, seen)
        state.round += 1
        return self._logits(x.flatten(0, 1) if valid is None else x[valid], state.step, slots)

    def _last_round(self, state: HeadState, x_partial: Tensor) -> Round:
        """The tokens that were decided last, which replace the stale states at their positions (key-value cache)."""
        index, valid = state.slots_of(state.round - 1)
        positions, angles = state.dense.positions[index], tuple(part[index] for part in state.angles)
        tokens = x_partial[state.dense.active[:, None], positions]
        content = state.entering[index] + self._token(state.step, tokens)
        rows = torch.arange(len(positions), device=positions.device)[:, None].expand_as(positions)
        return Round(content, angles, rows, positions, valid)

    def _log_q(
        self,
        step: Step,
        dense: DenseSlots,
        states: Tensor,
        memory: list[Memory],
        tokens: Tensor,
        round_size: int,
        targets: Targets | None = None,
    ) -> Tensor:
        """Two streams: ``sum_i log q(x_i | x_t, earlier rounds)``, or the means under targets, nats, ``[rows, k]``."""
        query, _ = self._queries(step, dense, states, memory, tokens, dense.rounds(round_size))
        valid = dense.valid[:, None].expand_as(tokens)
        r, _, i = valid.nonzero(as_tuple=True)
        slots = Slots(dense.active[r], dense.positions[r, i], i, len(step.x_t))
        query, wanted = query[valid], tokens[valid]

        def table_of(part: Tensor) -> Tensor:
            logits = self._logits(query[part], step, slots.part(part))
            return step.denoiser.normalize(logits, check=not self.training)

        if targets is None:
            parts = parts_of_table(len(r), step.denoiser.vocab_size, r.device)
            log_q = torch.cat([table_of(part).gather(1, wanted[part, None])[:, 0] for part in parts])
        else:
            means = targets.mean(table_of(targets.index))
            log_q = means.new_zeros(len(r)).index_put((targets.index,), means)
        return precise(log_q.new_zeros(valid.shape).masked_scatter(valid, log_q)).sum(-1)

    def _queries(
        self,
        step: Step,
        dense: DenseSlots,
        states: Tensor,
        memory: list[Memory],
        tokens: Tensor,
        rounds: Tensor,
    ) -> tuple[Tensor, list[Own]]:
        """Query stream ``[rows, k, n, width]`` of tokens ``[rows, k, n]``, each given those of earlier rounds.

        ``rounds`` is ``[rows, n]``. And the tokens' own keys and values in each block; a blind head has none.
        """
        query = take(states, dense.positions)[:, None].expand(-1, tokens.shape[1], -1, -1)
        angles, length = self.rotary(dense.positions), states.shape[1]
        if self.shape.blind:
            for block, m in zip(self.blocks, memory, strict=True):
                query = block(query, angles, m, seen_positions(step, dense.active))
            return query, []
        own, _ = self._contents(step, dense, states, memory, tokens, causal_masks(dense, rounds, length, step))
        before = causal_masks(dense, rounds, length, step, strictly=True)
        for block, m, o in zip(self.blocks, memory, own, strict=True):
            query = block(query, angles, m, before[0], o, before[1])
        return query, own

    def _logits(self, query: Tensor, step: Step, slots: Slots) -> Tensor:
        """``log q`` up to a constant, from states ``[num_slots, width]`` that left the last block."""
        features = self.final_norm(query)
        if self.shape.start == "cold":
            features = step.encoding.at(slots) + self.write(features)
        return step.denoiser.decode(features.to(step.encoding.hidden[0].dtype))


def _last_of(tops: list[tuple[Tensor, Likeliest]], size: int) -> Likeliest:
    """The tables of the last draw of each slot."""
    tables = tuple(table.new_empty(size, table.shape[1]) for table in tops[0][1])
    for index, drawn in tops:
        for table, rows in zip(tables, drawn, strict=True):
            table[index] = rows
    return tables
