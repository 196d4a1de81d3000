"""Several rounds of a step drawn at once, from guesses of the rounds before that are verified.

With a uniform for each token a draw is a function of the tokens before it: guesses for which all draws agree are the
tokens that one round after the other would have given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from edlm.diffusion.slots import DenseSlots, Slots, num_rounds, places_of
from edlm.energies.decision import Step
from edlm.memory import rows_at_once

SLOTS_AT_ONCE = 8  # of all rows on a CPU: a product of so few rows takes little longer than one of a single row
CACHED_ENTRIES = 2**22  # 16 MiB in float32
_NEVER = torch.iinfo(torch.int64).max // 2  # one more is an integer still


@dataclass(frozen=True)
class Window:
    """Rounds that are drawn together.

    Attributes:
        slots: Theirs, row by row in the order of rounds, padded.
        rounds: Round of each slot whose token is guessed, a number beyond all rounds elsewhere, ``[rows, width]``.
        tokens: The guesses, ``[rows, width]``; any token where there is none.
        drawn: Slots that are drawn, bool, ``[rows, width]``; of the others the draw is known.
        index: Numbers of the slots that are drawn, ``[num_drawn]``.
    """

    slots: DenseSlots
    rounds: Tensor
    tokens: Tensor
    drawn: Tensor
    index: Tensor


def rounds_ahead(step: Step, round_size: int, num_listed: int | None = None) -> int:
    """Rounds that are worth drawing at once, before it is known how well guesses agree; 1: speculation is of no use.

    It is where a pass of several rows costs about as much as one of a single row: where it waits for the output layer's
    weights, or for a device, which takes all rounds at once. On a CPU whose cache holds these weights, work that is
    thrown away costs more. Rounds of several tokens are few, and guesses of all their tokens seldom agree.
    """
    device, rows = step.x_t.device, int((step.slots.counts > 0).sum())
    width = num_listed or step.denoiser.vocab_size
    entries = width * step.denoiser.hidden_size * (rows if num_listed else 1)  # each row has its own list
    if round_size > 1 or (device.type == "cpu" and entries <= CACHED_ENTRIES):
        return 1
    return max(1, rows_at_once(width, device, of_cpu=SLOTS_AT_ONCE * width) // max(1, rows))


def draw_ahead(
    slots: Slots,
    round_size: int,
    least: int,
    draw: Callable[[Window], Tensor],
    keep: Callable[[Tensor, Tensor], None],
) -> Tensor:
    """Tokens of all slots, ``[num_slots]``.

    Rounds enter a window without guesses. A pass draws them from what is guessed before them; draws up to the first
    round in which one differs from its guess are exact, those behind it are guesses of the next pass. The window is
    twice as long after a pass in which all agree, and half as long after another, down to ``least`` rounds.

    Args:
        slots: At least one.
        round_size: Tokens of a row that are drawn at once.
        least: Rounds of the first window; see `rounds_ahead`.
        draw: Draws the tokens of ``window.index``; no token sees guesses of its own round or of later ones.
        keep: ``keep(rows, columns)``: guesses of the window at these entries were right, and are drawn no more.
    """
    by_round, rounds = _by_round(slots, round_size)
    back = by_round.argsort()
    counts = slots.counts
    active = counts.nonzero()[:, 0]
    row = places_of(active, slots.batch_size)[slots.rows]
    ends = counts[active].cumsum(0)
    begin, exact = ends - counts[active], torch.zeros_like(ends)  # rounds before ``exact`` are drawn
    last = rounds[ends - 1]
    tokens = torch.full_like(rounds, -1)
    positions, size = slots.positions[by_round], least
    while True:
        at = begin[:, None] + torch.arange(min(size * round_size, int((ends - begin).max())), device=begin.device)
        inside, at = at < ends[:, None], at.clamp(max=len(rounds) - 1)
        of_round, guesses = rounds[at], tokens[at]
        inside = inside & (of_round < of_round[:, :1] + size)
        drawn = inside & (of_round >= exact[:, None])
        seen = of_round.masked_fill(~inside | (guesses < 0), _NEVER)
        index = at[drawn]
        draws = draw(
            Window(DenseSlots(active, positions[at], inside), seen, guesses.clamp(min=0), drawn, by_round[index])
        )
        differs = rounds[index].masked_fill(draws == tokens[index], _NEVER)
        first = torch.full_like(begin, _NEVER).scatter_reduce(0, row[index], differs, "amin")
        tokens[index] = draws
        reached = of_round.masked_fill(~inside, -1).amax(1)
        exact = torch.maximum(exact, torch.minimum(first, reached) + 1)
        if bool((exact > last).all()):
            return tokens[back]
        right = inside & (of_round < first[:, None])
        keep(*right.nonzero(as_tuple=True))
        begin = torch.where(exact > last, ends, begin + right.sum(1))
        size = 2 * size if bool((first == _NEVER).all()) else max(least, size // 2)


def _by_round(slots: Slots, round_size: int) -> tuple[Tensor, Tensor]:
    """Numbers of the slots, row by row in the order of rounds, and the rounds of these."""
    rounds = slots.ranks % num_rounds(slots.counts, round_size)[slots.rows]
    by_round = (slots.rows * (int(rounds.max()) + 1) + rounds).argsort(stable=True)
    return by_round, rounds[by_round]
