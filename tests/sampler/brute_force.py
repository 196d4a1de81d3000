"""The sampler's exact law and bound in a world of 3 symbols and 3 positions, by summing over everything.

Written from method.md, with loops over candidate tuples and reveal sets; shares no code with edlm.
Only `World.denoiser`, `World.energy` and `World.head` hand the same tables to edlm.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch

from edlm import CallableEnergy, FunctionDenoiser
from edlm.energies import Decision, Step, TokenwiseEnergy

V = L = MASK = 3
SEQUENCES = list(itertools.product(range(V), repeat=L))
NOTHING = (MASK,) * L
POWERS = torch.tensor([16, 4, 1])


def code(x: tuple[int, ...]) -> int:
    return 16 * x[0] + 4 * x[1] + x[2]


def write(x: tuple[int, ...], positions: tuple[int, ...], tokens: tuple[int, ...]) -> tuple[int, ...]:
    x = list(x)
    for position, token in zip(positions, tokens, strict=True):
        x[position] = token
    return tuple(x)


class World:
    """Tables, all entries unrelated: logits of each ``x_t`` (sharper with t), and an energy of each candidate that
    depends on ``x_partial`` and on the proposal too."""

    def __init__(self, seed: int = 0, strength: float = 1.5, proposal_weight: float = 0.3):
        g = torch.Generator().manual_seed(seed)
        self.logits = 1.2 * torch.randn(64, L, V, generator=g, dtype=torch.float64)
        self.scores = strength * torch.randn(64, generator=g, dtype=torch.float64)
        self.factors = 0.5 + torch.rand(64, generator=g, dtype=torch.float64)
        self.delta = torch.randn(64, 64, V, generator=g, dtype=torch.float64)  # of x_partial and what is decided
        self.proposal_weight = proposal_weight

    # For edlm.

    def denoiser(self, device: str = "cpu") -> FunctionDenoiser:
        logits, powers = self.logits.to(device), POWERS.to(device)
        return FunctionDenoiser(
            lambda x_t, t: logits[(x_t * powers).sum(1)] * (0.5 + t.double())[:, None, None], MASK, V
        )

    def energy(self, device: str = "cpu") -> CallableEnergy:
        scores, factors, powers = (table.to(device) for table in (self.scores, self.factors, POWERS))
        return CallableEnergy(
            lambda candidates, x_partial, log_proposal: (
                scores[(candidates * powers).sum(-1)] * factors[(x_partial * powers).sum(-1)][:, None]
                + self.proposal_weight * log_proposal
            )
        )

    def head(self) -> TableHead:
        return TableHead(self)

    # For the sums below.

    def marginals(self, x_t: tuple[int, ...], t: float) -> np.ndarray:
        p = np.exp(self.logits[code(x_t)].numpy() * (0.5 + np.float32(t)))
        return p / p.sum(1, keepdims=True)

    def energy_of(self, candidate, x_partial, log_proposal: float) -> float:
        score = self.scores[code(candidate)].item() * self.factors[code(x_partial)].item()
        return score + self.proposal_weight * log_proposal

    def conditional(self, x_t, t: float, x_partial, position: int) -> np.ndarray:
        """The head's law of the next token."""
        q = self.marginals(x_t, t)[position] * np.exp(self.delta[code(x_partial), 16 * position].numpy())
        return q / q.sum()


class TableHead(TokenwiseEnergy):
    """A normalised energy: its correction is a table of the tokens decided so far and of the position."""

    def __init__(self, world: World):
        super().__init__()
        self.world = world

    def start(self, step: Step, round_size: int = 1):
        return step

    def next_logits(self, state, x_partial, slots):
        log_p = state.denoiser.slot_log_probs(state.encoding, slots)
        where = (x_partial * POWERS).sum(1)[slots.rows]
        return (log_p + self.world.delta[where, 16 * slots.positions]).log_softmax(-1)

    def forward(self, decision: Decision):
        """Token by token along the slots of every candidate."""
        energy = decision.log_proposal.clone()
        for j in range(decision.num_candidates):
            x_partial = decision.x_partial
            for slots in decision.slots.groups(1):
                tokens = slots.gather(decision.candidates[:, j])
                log_q = self.next_logits(decision.step, x_partial, slots).gather(1, tokens[:, None])[:, 0]
                energy[:, j] -= slots.sum_rows(log_q)
                x_partial = slots.write(x_partial, tokens)
        return energy


@dataclass(frozen=True)
class Options:
    """Options of the sampler, for both sides."""

    num_steps: int = 2
    num_candidates: int | None = 1
    scope: str = "step"
    group_size: int | None = None
    order: str = "random"
    schedule: str = "log_linear"
    window: tuple[float, float] = (0.0, 1.0)
    weight_temperature: float = 1.0
    on_impossible: str = "raise"
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    correct_proposal: bool = False

    def sampler_options(self) -> dict:
        return dict(self.__dict__)

    def __str__(self) -> str:
        default = Options()
        return "-".join(f"{k}={v}" for k, v in self.__dict__.items() if v != getattr(default, k)) or "default"


ALPHA: dict[str, Callable[[float], float]] = {
    "log_linear": lambda t: 1 - t,
    "cosine": lambda t: 1 - math.cos(math.pi * (1 - t) / 2),
    "polynomial": lambda t: 1 - t**2,
}


@dataclass(frozen=True, eq=False)
class BruteForce:
    """Exact law, likelihood and bound of a sampler.

    Attributes:
        energy_of: Overrides the world's energy: ``(candidate, x_partial, log_proposal) -> nats``.
        base: No energy at all.
    """

    world: World
    options: Options
    energy_of: Callable | None = None
    base: bool = False
    start: tuple[int, ...] = NOTHING
    _memo: dict = field(default_factory=dict)

    def law(self) -> torch.Tensor:
        """Probability of each of ``SEQUENCES``; what is left masked at the end (policy keep) has none."""
        law = self._law_from(self.start, 0)
        return torch.tensor([law.get(x, 0.0) for x in SEQUENCES], dtype=torch.float64)

    def left_masked(self) -> dict[tuple[int, ...], float]:
        return {x: p for x, p in self._law_from(self.start, 0).items() if MASK in x}

    def bound(self, x_0: tuple[int, ...]) -> float:
        """Expectation of ``likelihood_bound`` over seeds."""
        x_t = tuple(token if given != MASK else MASK for token, given in zip(x_0, self.start, strict=True))
        return self._bound_from(x_0, x_t, 0)

    # The law, step by step.

    def _law_from(self, x_t, i) -> dict:
        if i == self.options.num_steps:
            return {x_t: 1.0}
        if (x_t, i) not in self._memo:
            law = defaultdict(float)
            for p_set, revealed in self._reveal_sets(x_t, i):
                for x_s, p in self._step_law(x_t, i, revealed).items():
                    for x_0, q in self._law_from(x_s, i + 1).items():
                        law[x_0] += p_set * p * q
            self._memo[x_t, i] = dict(law)
        return self._memo[x_t, i]

    def _step_law(self, x_t, i, revealed) -> dict:
        """Law of ``x_s`` given the reveal set in decision order."""
        others = tuple(p for p in range(L) if x_t[p] == MASK and p not in revealed)
        going, stopped = {x_t: 1.0}, defaultdict(float)
        for group in self._groups(x_t, i, revealed):
            fills = group + others if self.options.scope == "sequence" and group else group
            following = defaultdict(float)
            for x_partial, p in going.items():
                chosen, impossible = self._chosen_law(x_t, i, x_partial, fills)
                if self.options.on_impossible == "redraw":
                    chosen = {tokens: q / (1 - impossible) for tokens, q in chosen.items()}
                elif self.options.on_impossible == "keep":
                    stopped[x_partial] += p * impossible
                for tokens, q in chosen.items():
                    following[write(x_partial, group, tokens[: len(group)])] += p * q
            going = following
        for x_s, p in stopped.items():
            going[x_s] = going.get(x_s, 0.0) + p
        return going

    @cache  # noqa: B019 (lives as long as the test)
    def _chosen_law(self, x_t, i, x_partial, fills) -> tuple[dict, float]:
        """Law of the chosen candidate's tokens at ``fills``, and the probability that all are impossible."""
        if self._decides_exactly(i, x_t):
            (position,) = fills
            q = self._tempered(self.world.conditional(x_t, self._time(i), x_partial, position))
            return {(token,): q[token] for token in range(V)}, 0.0
        tokens, p, w = self._candidates(x_t, i, x_partial, fills)
        k = self.options.num_candidates if self._uses_energy(i, x_t) else 1
        if k == 1:
            possible = p * (w > 0)
            return dict(zip(tokens, possible, strict=True)), 1 - possible.sum()
        # Every k-tuple of candidates: its probability, and each member's chance to be chosen.
        probability, total = np.ones(()), np.zeros(())
        for j in range(k):
            axis = [1] * k
            axis[j] = -1
            probability, total = probability * p.reshape(axis), total + w.reshape(axis)
        chance = np.divide(probability, total, out=np.zeros_like(total), where=total > 0)
        law = np.zeros(len(tokens))
        for j in range(k):
            law += w * chance.sum(tuple(a for a in range(k) if a != j))
        return dict(zip(tokens, law, strict=True)), probability[total == 0].sum()

    # The bound, along the data.

    def _bound_from(self, x_0, x_t, i) -> float:
        if i == self.options.num_steps:
            return 0.0
        key = (x_0, x_t, i)
        if key not in self._memo:
            total = 0.0
            for p_set, revealed in self._reveal_sets(x_t, i):
                x_partial, terms = x_t, 0.0
                for group in self._groups(x_t, i, revealed):
                    terms += self._term(x_0, x_t, i, x_partial, group)
                    x_partial = write(x_partial, group, tuple(x_0[p] for p in group))
                total += p_set * (self._bound_from(x_0, x_partial, i + 1) - terms)
            self._memo[key] = total
        return self._memo[key]

    @cache  # noqa: B019
    def _term(self, x_0, x_t, i, x_partial, group) -> float:
        """Right-hand side of (*) for one decision."""
        if self._decides_exactly(i, x_t):
            (position,) = group
            q = self._tempered(self.world.conditional(x_t, self._time(i), x_partial, position))[x_0[position]]
            return math.log(q) if q > 0 else -math.inf
        proposals = [self._tempered(row) for row in self.world.marginals(x_t, self._time(i))]
        if any(proposals[position][x_0[position]] == 0 for position in group):
            return -math.inf
        log_p = sum(math.log(proposals[position][x_0[position]]) for position in group)
        k = self.options.num_candidates if self._uses_energy(i, x_t) else 1
        if k == 1:
            return log_p
        others = tuple(p for p in range(L) if x_t[p] == MASK and p not in group)
        fills = group + others if self.options.scope == "sequence" else group
        tokens, p, w = self._candidates(x_t, i, x_partial, fills)
        is_data = np.array([all(c == x_0[f] for c, f in zip(ts, group, strict=False)) for ts in tokens])
        completed = p * is_data / (p * is_data).sum()  # the data, its other positions drawn
        probability, total = completed.reshape([-1] + [1] * (k - 1)), w.reshape([-1] + [1] * (k - 1))
        for j in range(1, k):
            axis = [1] * k
            axis[j] = -1
            probability, total = probability * p.reshape(axis), total + w.reshape(axis)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = math.log(k) + np.log(w.reshape([-1] + [1] * (k - 1))) - np.log(total)
        return log_p + np.where(probability > 0, probability * share, 0.0).sum()

    # What both need.

    def _candidates(self, x_t, i, x_partial, fills) -> tuple[list, np.ndarray, np.ndarray]:
        """All ways to fill that the proposal allows: tokens, probability, weight."""
        marginals = self.world.marginals(x_t, self._time(i))
        proposals = [self._tempered(row) for row in marginals]
        uses = self._uses_energy(i, x_t)
        energy_of = self.energy_of or self.world.energy_of
        tokens, probabilities, weights = [], [], []
        for ts in itertools.product(range(V), repeat=len(fills)):
            q = math.prod(proposals[f][c] for f, c in zip(fills, ts, strict=True))
            if q == 0:
                continue
            energy = energy_of(write(x_partial, fills, ts), x_partial, math.log(q)) if uses else 0.0
            weight = math.exp(-energy / self.options.weight_temperature)
            if self.options.correct_proposal and uses:  # an importance weight, whatever the weight temperature
                weight *= math.prod(marginals[f, c] for f, c in zip(fills, ts, strict=True)) / q
            tokens.append(ts)
            probabilities.append(q)
            weights.append(weight)
        return tokens, np.array(probabilities), np.array(weights)

    def _tempered(self, p: np.ndarray) -> np.ndarray:
        """What is drawn from: tempered, the likeliest ``top_k``, of these the fewest that hold ``top_p``."""
        o = self.options
        q = p ** (1 / o.temperature)
        ranked = sorted(range(V), key=lambda v: (-q[v], v))[: o.top_k]
        whole, kept, held = sum(q[v] for v in ranked), [], 0.0
        for v in ranked:
            if held < o.top_p:
                kept.append(v)
            held += q[v] / whole
        return np.array([q[v] if v in kept else 0.0 for v in range(V)]) / sum(q[v] for v in kept)

    def _groups(self, x_t, i, revealed) -> list[tuple[int, ...]]:
        size = 1 if self._decides_exactly(i, x_t) else self.options.group_size or max(len(revealed), 1)
        return [revealed[g : g + size] for g in range(0, len(revealed), size)]

    def _reveal_sets(self, x_t, i) -> list[tuple[float, tuple[int, ...]]]:
        """Probability of each reveal set, in decision order, given what earlier steps revealed."""
        o, masked = self.options, [p for p in range(L) if x_t[p] == MASK]
        if o.order == "ancestral":
            alpha = ALPHA[o.schedule]
            t, s = self._time(i), 1 - (i + 1) / o.num_steps
            r = (alpha(s) - alpha(t)) / (1 - alpha(t)) if i + 1 < o.num_steps else 1.0
            sets = []
            for m in range(len(masked) + 1):
                for subset in itertools.permutations(masked, m):
                    sets.append((r**m * (1 - r) ** (len(masked) - m) / math.factorial(m), subset))
            return [(p, subset) for p, subset in sets if p > 0]
        if "(" in o.order:
            return [(1.0, self._adaptive(x_t, i, masked))]
        n = sum(token == MASK for token in self.start)
        due = n * (i + 1) // o.num_steps - (n - len(masked))
        if o.order == "random":
            if o.on_impossible == "keep":
                raise NotImplementedError("what is kept comes first: the next set depends on it")
            sets = list(itertools.permutations(masked, due))
            return [(1 / len(sets), subset) for subset in sets]
        return [(1.0, tuple(self._ranked(x_t, i, masked)[:due]))]

    def _ranked(self, x_t, i, masked) -> list[int]:
        if self.options.order == "left_to_right":
            return masked
        if self.options.order == "confidence":
            largest = self.world.marginals(x_t, self._time(i)).max(1)
            return sorted(masked, key=lambda p: (-largest[p], p))
        first = [p for p in range(L) if self.start[p] == MASK]  # dilated: classes of these, modulo the steps
        sequence = {1: [0], 2: [0, 1], 3: [0, 2, 1], 4: [0, 2, 1, 3]}[self.options.num_steps]
        by_class = [p for c in sequence for p in first[c :: self.options.num_steps]]
        steps = self.options.num_steps
        bounds = [len(first) * i // steps for i in range(steps + 1)]
        chunks = [sorted(by_class[a:b]) for a, b in itertools.pairwise(bounds)]  # left to right inside a step
        return [p for chunk in chunks for p in chunk if p in masked]

    def _adaptive(self, x_t, i, masked) -> tuple[int, ...]:
        """The largest prefix that keeps the rule, at least one position; and all of them at the last step."""
        kind, threshold = self.options.order[:-1].split("(")
        p = self.world.marginals(x_t, self._time(i))
        if kind == "entropy_bounded":
            score = {m: -sum(q * math.log(q) for q in p[m].tolist() if q > 0) for m in masked}
        else:
            score = {m: -float(p[m].max()) for m in masked}
        ranked, n = sorted(masked, key=lambda m: (score[m], m)), 0
        if i + 1 == self.options.num_steps:
            return tuple(ranked)
        for n in range(len(ranked), 1, -1):
            if kind == "entropy_bounded" and sum(score[m] for m in ranked[: n - 1]) <= float(threshold):
                break
            if kind != "entropy_bounded" and all(-score[m] > float(threshold) for m in ranked[:n]):
                break
        else:
            n = min(1, len(ranked))
        return tuple(ranked[:n])

    def _uses_energy(self, i, x_t) -> bool:
        if self.base:
            return False
        low, high = self.options.window
        return low < self._time(i) <= high

    def _decides_exactly(self, i, x_t) -> bool:
        return self.options.num_candidates is None and self._uses_energy(i, x_t)

    def _time(self, i) -> float:
        return 1 - i / self.options.num_steps


def count(tokens: torch.Tensor) -> torch.Tensor:
    """How often each of ``SEQUENCES`` was drawn."""
    assert tokens.min() >= 0 and tokens.max() < V
    return torch.bincount((tokens * torch.tensor([9, 3, 1])).sum(1), minlength=len(SEQUENCES))


def entropy(law: torch.Tensor) -> float:
    return torch.special.entr(law).sum().item()
