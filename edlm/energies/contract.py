"""What every energy must do, as checks on small batches: for users' own classes, and for ours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.diffusion.slots import Slots
from edlm.energies.decision import Decision, Step
from edlm.verdicts import CheckReport, Verdict

NUM_ROWS, LENGTH = 4, 6  # of random tokens, where no data are given
MOST_FILLINGS = 4096  # that are summed for a normaliser
MOST_ROWS = 256  # of data that are shuffled
SIGMAS = 3.0
TOLERANCE = 1e-4  # relative, and in nats

Found = tuple[bool | None, str]


@dataclass(frozen=True)
class Trial:
    """An energy, and decisions to try it on.

    Attributes:
        energy: The energy.
        denoiser: Whose tokens it judges.
        data: Rows that the energy should find plausible, ``[n, length]``; None without.
        num_candidates: Of a decision.
        seed: Of tokens, slots and candidates.
    """

    energy: Any
    denoiser: Denoiser
    data: Tensor | None
    num_candidates: int
    seed: int

    @cached_property
    def decision(self) -> Decision:
        """Several rows, each with slots of its own; masks stay where the energy allows it."""
        return self.decide(*self.layout)

    @cached_property
    def possible(self) -> Tensor:
        """The real tokens."""
        return self.denoiser.vocabulary.possible_ids.to(self.denoiser.device)

    @cached_property
    def rows(self) -> Tensor:
        """A few rows of tokens, ``[n, length]``."""
        if self.data is not None:
            return self.data[:NUM_ROWS].to(self.possible.device)
        length = min(LENGTH, self.denoiser.max_length or LENGTH)
        drawn = torch.randint(len(self.possible), (NUM_ROWS, length), generator=self.generator())
        return self.possible[drawn.to(self.possible.device)]

    def decide(self, x_0: Tensor, masked: Tensor, chosen: Tensor, tokens: Tensor | None = None) -> Decision:
        """The decision at ``chosen`` of the ``masked`` positions, ``[batch, length]``, the others of which stay masked.

        ``tokens[num_slots, k]`` are drawn from the marginals if they are not given.
        """
        x_t, slots = x_0.masked_fill(masked, self.denoiser.mask_token_id), Slots.where(chosen)
        t = masked.float().mean(1)
        encoding = self.denoiser.encode(x_t, t, keep_hidden=self.energy.reads_hidden)
        log_probs = self.denoiser.slot_log_probs(encoding, slots)
        if tokens is None:
            draw = {"num_samples": self.num_candidates, "replacement": True, "generator": self.generator()}
            tokens = log_probs.double().exp().cpu().multinomial(**draw).to(x_t.device)
        candidates = x_t[:, None].repeat(1, tokens.shape[1], 1)
        candidates[slots.rows, :, slots.positions] = tokens
        log_p = log_probs.gather(1, tokens)
        return Decision(Step(self.denoiser, x_t, t, encoding, slots), slots, x_t, candidates, log_p, log_p)

    def tokens_of(self, decision: Decision) -> Tensor:
        """The candidates' tokens at the slots, ``[num_slots, k]``."""
        return decision.candidates[decision.slots.rows, :, decision.slots.positions]

    @torch.no_grad()
    def judge(self, decision: Decision) -> Tensor:
        """What the energy says, whatever it is, of a copy of the candidates."""
        return self.energy(replace(decision, candidates=decision.candidates.clone()))

    @cached_property
    def layout(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, which of their positions are masked, and which of these are slots."""
        x_0 = self.rows
        n, length = x_0.shape
        place = torch.arange(length)
        first = 1 + torch.arange(n) % max(1, length - 2)  # the first token is given: not every denoiser predicts it
        masked = place >= first[:, None]
        keys = torch.rand(n, length, generator=self.generator()).masked_fill(~masked, 2.0)
        if self.energy.reads == "slots":
            masked = keys < 0.9
        number = {"sequence": length, "prefix": 2, "slots": 3}[self.energy.reads]
        keys = keys if self.energy.reads == "slots" else place.expand(n, -1).float().masked_fill(~masked, torch.inf)
        chosen = masked & (keys.argsort(1).argsort(1) < number)
        return x_0, masked.to(x_0.device), chosen.to(x_0.device)

    def generator(self) -> torch.Generator:
        """The same at each call."""
        return torch.Generator().manual_seed(self.seed)


def _shape(trial: Trial) -> Found:
    energies, expected = trial.judge(trial.decision), tuple(trial.decision.candidates.shape[:2])
    is_right = isinstance(energies, Tensor) and tuple(energies.shape) == expected
    got = tuple(energies.shape) if isinstance(energies, Tensor) else type(energies).__name__
    return is_right, f"energies must be a tensor [batch, k] = {expected}, got {got}"


def _values(trial: Trial) -> Found:
    energies = trial.judge(trial.decision)
    bad = energies[energies.isnan() | energies.isneginf()]
    got = f"{len(bad)} of {energies.numel()} are {bad[0].item()}" if len(bad) else f"{_range(energies)} nats"
    return not len(bad), f"energies must be finite or +inf, got {got}"


def _type(trial: Trial) -> Found:
    energies, device = trial.judge(trial.decision), trial.decision.candidates.device
    is_right = energies.is_floating_point() and energies.device == device
    name = str(energies.dtype).removeprefix("torch.")
    return is_right, f"energies must be floats on {device}, got {name} on {energies.device}"


def _repeated(trial: Trial) -> Found:
    first, second = trial.judge(trial.decision), trial.judge(trial.decision)
    return torch.equal(first, second), f"equal calls must give equal energies, got {_gap(first, second)}"


def _inputs(trial: Trial) -> Found:
    decision = trial.decide(*trial.layout)
    before = decision.candidates.clone(), decision.x_partial.clone()
    with torch.no_grad():
        trial.energy(decision)
    is_right = all(map(torch.equal, before, (decision.candidates, decision.x_partial)))
    return is_right, f"candidates must be left as they are, got {'no' if is_right else 'a'} change"


def _batch(trial: Trial) -> Found:
    together, tokens = trial.judge(trial.decision), trial.tokens_of(trial.decision)
    tables, owner = trial.layout, trial.decision.slots.rows
    alone = [
        trial.judge(trial.decide(*(table[r : r + 1] for table in tables), tokens[owner == r]))
        for r in range(len(together))
    ]
    alone = torch.cat(alone)
    return _alike(together, alone), f"rows must be judged as each alone, got {_gap(together, alone)}"


def _candidates(trial: Trial) -> Found:
    tokens = trial.tokens_of(trial.decision)
    order = torch.arange(tokens.shape[1]).flip(0).roll(1).to(tokens.device)
    energies, moved = trial.judge(trial.decision), trial.judge(trial.decide(*trial.layout, tokens[:, order]))
    single = trial.judge(trial.decide(*trial.layout, tokens[:, :1]))
    expected, got = torch.cat([energies[:, order], energies[:, :1]], 1), torch.cat([moved, single], 1)
    return _alike(expected, got), f"a candidate must be judged alone, wherever it stands, got {_gap(expected, got)}"


def _normalized(trial: Trial) -> Found:
    if not trial.energy.is_normalized:
        return None, "it does not claim to be normalised"
    size, length = len(trial.possible), trial.rows.shape[1]
    number = next((n for n in range(length - 1, 0, -1) if size**n <= MOST_FILLINGS), 0)
    if not number:
        return None, f"its vocabulary is too large to sum over ({size} tokens): try it on a tiny denoiser"
    fillings = torch.cartesian_prod(*[trial.possible] * number).view(-1, number)
    last = (torch.arange(length) >= length - number).expand(1, -1).to(fillings.device)
    decision = trial.decide(trial.rows[:1], last, last, fillings.T)
    log_z = (decision.log_p - trial.judge(decision)).logsumexp(1)[0].item()
    text = f"sum of p exp(-E) must be 1, got {math.exp(log_z):.6f} over {len(fillings)} fillings"
    if abs(log_z) > 1e-3 or not hasattr(trial.energy, "draws_in_rounds"):
        return abs(log_z) <= 1e-3, text
    tokens = trial.tokens_of(trial.decision)
    with torch.no_grad():
        drawn = torch.stack([trial.energy.log_prob(trial.decision.step, of_one) for of_one in tokens.T], 1)
    energies = trial.decision.log_p - drawn
    gap = _gap(trial.judge(trial.decision), energies)
    return _alike(trial.judge(trial.decision), energies), f"{text}; and log_prob must be log p - E, got {gap}"


def _sign(trial: Trial) -> Found:
    if trial.data is None:
        return None, "give data (rows of real tokens) to compare with shuffled ones"
    x_0 = trial.data[:MOST_ROWS].to(trial.possible.device)
    inside = torch.arange(x_0.shape[1], device=x_0.device).expand_as(x_0) > 0
    keys = torch.rand(x_0.shape, generator=trial.generator()).to(x_0.device).masked_fill(~inside, -1.0)
    tokens = torch.stack([x_0, x_0.gather(1, keys.argsort(1))], 2)[inside]
    energies = trial.judge(trial.decide(x_0, inside, inside, tokens))
    wins, losses = (int((a < b).sum()) for a, b in (energies.unbind(1), energies.flip(1).unbind(1)))
    z = (wins - losses) / math.sqrt(max(1, wins + losses))
    text = f"real rows must have less energy than shuffled ones, got {wins} with less and {losses} with more"
    return (z > 0) if abs(z) > SIGMAS else None, text


def _identity(trial: Trial) -> Found:
    trial.energy.check_denoiser(trial.denoiser)
    return True, "it fits the denoiser"


CHECKS: dict[str, Callable[[Trial], Found]] = {
    "denoiser": _identity,
    "shape": _shape,
    "values": _values,
    "type": _type,
    "repeated": _repeated,
    "inputs": _inputs,
    "batch": _batch,
    "candidates": _candidates,
    "normalized": _normalized,
    "sign": _sign,
}


def check_energy(trial: Trial, names: Sequence[str] = tuple(CHECKS)) -> CheckReport:
    """The verdicts of the checks of these names; a check that raises has failed."""

    def verdict(name: str) -> Verdict:
        try:
            return Verdict(name, *CHECKS[name](trial))
        except Exception as error:
            return Verdict(name, False, f"{type(error).__name__}: {' '.join(str(error).split())}")

    return CheckReport(tuple(map(verdict, names)))


def _range(energies: Tensor) -> str:
    return f"{energies.min().item():.3g} to {energies.max().item():.3g}"


def _alike(first: Tensor, second: Tensor) -> bool:
    return torch.allclose(first.double(), second.double(), rtol=TOLERANCE, atol=TOLERANCE)


def _gap(first: Tensor, second: Tensor) -> str:
    """The largest difference, in words."""
    first, second = first.double(), second.double()
    gap = torch.where(first == second, 0.0, (first - second).abs()).max().item()
    return f"differences up to {gap:.2g} nats"
