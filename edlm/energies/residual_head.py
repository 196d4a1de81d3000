"""The residual head: a small Transformer over the tokens of a step, on the frozen denoiser's states."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edlm.diffusion.slots import DenseSlots, Slots, num_rounds
from edlm.energies.decision import Decision, Step, Targets
from edlm.energies.exact import TokenwiseEnergy
from edlm.energies.head_body import Head, causal_masks, seen_positions, take
from edlm.energies.head_output import AllTokens, ListedTokens, Output
from edlm.energies.head_settings import HeadSettings
from edlm.energies.head_state import HeadState, Round
from edlm.energies.laws import Law, Likeliest
from edlm.energies.pretrained import PretrainedEnergy
from edlm.energies.proposal import PLAIN, Proposal
from edlm.energies.speculation import Window, draw_ahead, rounds_ahead
from edlm.energies.two_stream import Memory, Own
from edlm.memory import rows_at_once
from edlm.numerics import precise


class ResidualHead(Head, TokenwiseEnergy):
    """Joint corrections to the tokens that a step writes, for a fraction of a denoiser pass.

    For the i-th token of a step, in decision order,
    ``q(x_i | x_t, earlier) = softmax(log p_theta(. | x_t) + delta_i)``, and
    ``E(x_R) = log p_theta(x_R | x_t) - log q(x_R | x_t)``, so ``Z = 1``. Tokens attend to the denoiser's
    states at all positions, except the stale ones of tokens decided before them in this step, and to those
    tokens. ``q`` equals ``p_theta`` before training. With ``num_listed`` it decides between listed tokens (see
    `Listed`), and corrects the odds of all others together, so that a law does not need the whole output layer,
    unless it is tempered or cut.

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
        self.reads_marginals = settings.num_listed is not None
        if self.reads_marginals:
            self.rest = nn.Linear(settings.width, 1)
            nn.init.zeros_(self.rest.weight)
            nn.init.zeros_(self.rest.bias)
        if settings.blind:
            self.token.requires_grad_(False)

    def can_start_from(self, other: PretrainedEnergy) -> bool:
        """As of any energy; lists may differ."""
        lists = {"num_listed": self.shape.num_listed}
        return type(other) is type(self) and {**other.settings(), **lists} == self.settings()

    def _energies(
        self, decision: Decision, dense: DenseSlots, states: Tensor, memory: list[Memory], tokens: Tensor
    ) -> Tensor:
        """``log p_theta - log q`` of the tokens."""
        query, _ = self._queries(decision.step, dense, states, memory, tokens, dense.rounds(decision.round_size))
        if decision.targets is None:
            log_p = _scattered(decision.slot_log_p, dense.valid).transpose(1, 2)
            log_q = self._log_q(decision.step, dense, query, tokens, log_p)
        else:
            log_q = self._mean_log_q(decision.step, dense, query, decision.targets)
        return decision.log_p[dense.active] - log_q.to(decision.log_p)

    def log_prob(self, step: Step, tokens: Tensor, round_size: int = 1, proposal: Proposal = PLAIN) -> Tensor:
        log_q = precise(torch.zeros(len(step.x_t), device=tokens.device))
        if not len(step.slots):
            return log_q
        if not proposal.is_default:
            return super().log_prob(step, tokens, round_size, proposal)
        dense = step.slots.dense()
        states, memory = self._read_step(step, dense.active)
        table = step.slots.write(step.x_t, tokens)[dense.active].gather(1, dense.positions)[:, None]
        query, _ = self._queries(step, dense, states, memory, table, dense.rounds(round_size))
        return log_q.index_add(0, dense.active, self._log_q(step, dense, query, table)[:, 0])

    def sample(
        self,
        step: Step,
        uniforms: Tensor,
        round_size: int = 1,
        proposal: Proposal = PLAIN,
        num_likeliest: int = 0,
    ) -> tuple[Tensor, Likeliest]:
        """As `TokenwiseEnergy` has it; several single tokens of a row at once where that pays, see `rounds_ahead`."""
        if not len(step.slots):
            return step.slots.positions, None
        if self.shape.blind:
            round_size, ahead = len(step.slots), 1  # no token sees another one
        elif (ahead := rounds_ahead(step, round_size, self.shape.num_listed)) == 1:
            return super().sample(step, uniforms, round_size, proposal, num_likeliest)
        active = step.slots.counts.nonzero()[:, 0]
        output = self._output(step, active, uniforms)
        states, memory = self._read_step(step, active)
        kept: list[tuple[Tensor, list[Own]]] = []
        tops: list[tuple[Tensor, Likeliest]] = []

        def draw(window: Window) -> Tensor:
            tokens, index = window.tokens[:, None], window.index
            query, own = self._queries(step, window.slots, states, memory, tokens, window.rounds)
            kept[:] = [(window.slots.positions, own)]
            law = self._law(query[:, 0], window.drawn, step, step.slots.part(index), output)
            drawn, likeliest = law.through(proposal).draw(uniforms[index.cpu()], num_likeliest)
            tops.append((index, likeliest))
            return drawn

        def keep(rows: Tensor, columns: Tensor) -> None:
            positions, own = kept[0]
            for m, o in zip(memory, own, strict=True):
                m.write(rows, positions[rows, columns], o.keys[rows, :, 0, columns], o.values[rows, :, 0, columns])

        tokens = draw_ahead(step.slots, round_size, ahead, draw, keep)
        return tokens, _last_of(tops, len(tokens)) if num_likeliest else None

    def start(self, step: Step, round_size: int = 1) -> HeadState:
        return self.begin(step, round_size, None)

    def begin(self, step: Step, round_size: int, uniforms: Tensor | None) -> HeadState:
        dense = step.slots.dense()
        states, memory = self._read_step(step, dense.active)
        angles = tuple(part[:, 0, 0, :, None] for part in self.rotary(dense.positions))
        entering = take(states, dense.positions)
        numbers = num_rounds(dense.counts, round_size)
        return HeadState(step, dense, numbers, entering, angles, memory, self._output(step, dense.active, uniforms))

    def next_logits(self, state: HeadState, x_partial: Tensor, slots: Slots) -> Tensor:
        return self.next_law(state.step, state, x_partial, slots).log_probs()

    def next_law(self, step: Step, state: HeadState, x_partial: Tensor, slots: Slots) -> Law:
        (index, valid), seen = state.slots_of(state.round), seen_positions(step, state.dense.active)
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
        return self._law(x, valid, step, slots, state.output)

    def _last_round(self, state: HeadState, x_partial: Tensor) -> Round:
        """The tokens that were decided last, which replace the stale states at their positions (key-value cache)."""
        index, valid = state.slots_of(state.round - 1)
        positions, angles = state.dense.positions[index], tuple(part[index] for part in state.angles)
        tokens = x_partial[state.dense.active[:, None], positions]
        content = state.entering[index] + self._token(state.step, tokens)
        rows = torch.arange(len(positions), device=positions.device)[:, None].expand_as(positions)
        return Round(content, angles, rows, positions, valid)

    def _log_q(
        self, step: Step, dense: DenseSlots, query: Tensor, tokens: Tensor, log_p: Tensor | None = None
    ) -> Tensor:
        """``sum_i log q(x_i | x_t, earlier rounds)`` of tokens ``[rows, k, n]``, nats, ``[rows, k]``.

        ``query`` comes from `_queries`; ``log_p`` is what the denoiser says of the tokens, if known, ``[rows, k, n]``.
        """
        output, (_, k, n) = self._output(step, dense.active), tokens.shape
        x, valid = query.flatten(1, 2), dense.valid.repeat(1, k)
        parts = []
        for columns in torch.arange(k * n).split(max(1, rows_at_once(output.width, x.device) // len(x))):
            part = slice(int(columns[0]), int(columns[-1]) + 1)
            r, c = valid[:, part].nonzero(as_tuple=True)
            i = (c + part.start) % n
            slots = Slots(dense.active[r], dense.positions[r, i], i, len(step.x_t))
            law = self._law(x[:, part], valid[:, part], step, slots, output)
            at = (r, c + part.start)
            known = None if log_p is None else log_p.flatten(1)[at]
            parts.append(_scattered(law.log_prob(tokens.flatten(1)[at], known), valid[:, part]))
        return precise(torch.cat(parts, 1)).unflatten(1, (k, n)).sum(-1)

    def _mean_log_q(self, step: Step, dense: DenseSlots, query: Tensor, targets: Targets) -> Tensor:
        """Sums of the means under targets, nats, ``[rows, 1]``; of one candidate, see `_log_q`."""
        r, i = (index[targets.index] for index in dense.valid.nonzero(as_tuple=True))
        learnt = torch.zeros_like(dense.valid).index_put((r, i), torch.ones_like(r).bool())
        slots = Slots(dense.active[r], dense.positions[r, i], i, len(step.x_t))
        law = self._law(query[:, 0], learnt, step, slots, self._output(step, dense.active))
        return precise(_scattered(targets.mean(law.log_probs()), learnt)).sum(1, keepdim=True)

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

    def _output(self, step: Step, active: Tensor, uniforms: Tensor | None = None) -> Output:
        number, check = self.shape.num_listed, not self.training
        if number is None:
            return AllTokens(step, check=check)
        return ListedTokens(step, active, number, check=check, uniforms=uniforms)

    def _law(self, x: Tensor, valid: Tensor | None, step: Step, slots: Slots, output: Output) -> Law:
        """``log q`` at the slots, from states ``x[rows, n, width]`` that left the last block; see `Output.law`."""
        x = self.final_norm(x)
        rest = self.rest(x)[..., 0] if self.shape.num_listed is not None else None
        if self.shape.start == "cold":
            base = step.encoding.at(slots)
            written = self.write(x)
            x = written + (base.view_as(written) if valid is None else _scattered(base, valid))
        return output.law(x.to(step.encoding.hidden[0].dtype), rest, valid, slots)


def _scattered(values: Tensor, where: Tensor) -> Tensor:
    """``values[n, ...]`` at the true entries of ``where``, 0 elsewhere."""
    table = values.new_zeros(*where.shape, *values.shape[1:])
    return table.index_put((where.nonzero(as_tuple=True)), values)


def _last_of(tops: list[tuple[Tensor, Likeliest]], size: int) -> Likeliest:
    """The tables of the last draw of each slot."""
    tables = tuple(table.new_empty(size, table.shape[1]) for table in tops[0][1])
    for index, drawn in tops:
        for table, rows in zip(tables, drawn, strict=True):
            table[index] = rows
    return tables
