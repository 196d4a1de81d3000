"""Denoisers whose network can read keys and values that were computed before."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from edlm.denoisers.cache import KeyValues, Past, Remaining
from edlm.denoisers.encoding import Encoding
from edlm.denoisers.network import NetworkDenoiser, shifted
from edlm.denoisers.visibility import visible_positions
from edlm.diffusion.slots import places_of


class CachingDenoiser(NetworkDenoiser):
    """A denoiser that runs some positions of its rows, beside the keys and values of others.

    A subclass gives `run`. A network without blocks can hold keys too; but these are stale as soon as another token
    changes, so that what it then computes is approximate.
    """

    @property
    def can_prefill(self) -> bool:
        return not self.time_conditioned

    @abstractmethod
    def run(
        self,
        tokens: Tensor,
        t: Tensor,
        visible: Tensor | None,
        positions: Tensor | None = None,
        past: Past | None = None,
        keep_hidden: bool = False,
    ) -> tuple[Callable[[], Tensor], tuple[Tensor, ...] | None]:
        """Run the network.

        Args:
            tokens: Shape ``[n, q]``.
            t: Times, shape ``[n]``.
            visible: Which keys (columns) a position (row) reads, ``[n or 1, 1, q, keys]``; None: all.
            positions: Of the tokens in their rows, shape ``[n, q]``; None: from 0 on.
            past: Joins the keys and values of each layer with those that are held; None without.
            keep_hidden: Keep the states that enter the blocks.

        Returns:
            A function that gives the states ``[n, q, width]`` of these positions, not shifted; and, if kept, the states
            entering the blocks, each ``[n, q, hidden_size]``.
        """

    def encode_tokens(
        self, x_t: Tensor, t: Tensor, attention_mask: Tensor | None, keep_hidden: bool
    ) -> tuple[Callable[[], Tensor], tuple[Tensor, ...] | None]:
        visible = visible_positions(x_t.shape[1], self.block_size, attention_mask, x_t.device)
        finish, hidden = self.run(x_t, t, visible, keep_hidden=keep_hidden)
        if keep_hidden:  # a head may replace the last block
            return (lambda: shifted(finish())) if self.shift else finish, hidden
        states = finish()
        features = shifted(states) if self.shift else states
        return lambda: features, None

    def encode(
        self,
        x_t: Tensor,
        t: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        rows: Tensor | None = None,
        keep_hidden: bool = False,
        cache: KeyValues | None = None,
        hold: Tensor | None = None,
    ) -> Encoding:
        if cache is None:
            return super().encode(x_t, t, attention_mask, rows=rows, keep_hidden=keep_hidden)
        t, rows = self.check_rows(x_t, t, rows)
        length, mine = x_t.shape[1], cache.select(rows).resized(x_t.shape[1])
        rest = self._run_rest(x_t, t, attention_mask, rows, mine, keep_hidden)
        if hold is not None:
            cache = self._written(cache, rows, rest, hold[rows])

        def features() -> Tensor:
            states = rest.remaining.spread(rest.states, length, mine.table("states") if self.shift else None)
            return shifted(states) if self.shift else states

        place, kept = places_of(rows, len(x_t)), None if hold is None else cache
        if rest.entering is None:
            states = features()
            return Encoding(lambda: states, None, place, kept)
        tables = (mine.table(("hidden", i)) for i in range(len(rest.entering)))
        hidden = (rest.remaining.spread(new, length, old) for new, old in zip(rest.entering, tables, strict=True))
        return Encoding(features, tuple(hidden), place, kept)

    @torch.no_grad()
    def prefill(
        self,
        x_t: Tensor,
        attention_mask: Tensor | None = None,
        *,
        rows: Tensor | None = None,
        t: Tensor | None = None,
        cache: KeyValues | None = None,
        keep_hidden: bool = False,
    ) -> KeyValues:
        t, rows = self.check_rows(x_t, t, rows)
        cache = KeyValues.empty(len(x_t), x_t.device) if cache is None else cache
        hold = torch.ones_like(x_t, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        rest = self._run_rest(x_t, t, hold, rows, cache.select(rows).resized(x_t.shape[1]), keep_hidden)
        return self._written(cache, rows, rest, hold[rows])

    def _run_rest(
        self, x_t: Tensor, t: Tensor, attention_mask: Tensor | None, rows: Tensor, mine: KeyValues, keep_hidden: bool
    ) -> _Rest:
        """The pass on the positions of ``rows`` that ``mine``, their cache, does not hold."""
        if not self.can_prefill:
            raise ValueError(f"{type(self).__name__} reads the time, which changes all keys: it holds none")
        x_t, t = x_t[rows], t[rows]
        real = torch.ones_like(x_t, dtype=torch.bool) if attention_mask is None else attention_mask[rows].bool()
        remaining, past = Remaining.where(real & ~mine.held), Past(mine)
        tokens, visible = remaining.gather(x_t), remaining.visible(mine.keys_held, self.block_size)
        return _Rest(tokens, remaining, past, *self.run(tokens, t, visible, remaining.positions, past, keep_hidden))

    def _written(self, cache: KeyValues, rows: Tensor, rest: _Rest, hold: Tensor) -> KeyValues:
        """The cache with what the pass computed at ``hold[n, length]``."""
        held = replace(rest.remaining, real=rest.remaining.real & rest.remaining.gather(hold))
        if self.block_size is not None:
            self._check_blocks(rest.tokens, held, hold.sum(1))
        states = rest.states  # the last block may have been deferred: its keys are there from now on
        new: dict[Hashable, Tensor] = {"tokens": rest.tokens, **rest.past.new}
        if self.shift:
            new["states"] = states
        new |= {("hidden", i): table for i, table in enumerate(rest.entering or ())}
        return cache.resized(max(cache.held.shape[1], hold.shape[1])).written(rows, held, new)

    def _check_blocks(self, tokens: Tensor, held: Remaining, counts: Tensor) -> None:
        """A block's keys are final once the whole block is; ValueError if one is not."""
        if ((tokens == self.mask_token_id) & held.real).any():
            raise ValueError(f"a block must be finished before its keys are held, got a mask {self.mask_token_id}")
        if (counts % self.block_size).any():
            raise ValueError(f"whole blocks of {self.block_size} tokens must be held, got rows of {counts.tolist()}")


@dataclass
class _Rest:
    """A pass on remaining positions: what was run, and what it gave."""

    tokens: Tensor
    remaining: Remaining
    past: Past
    finish: Callable[[], Tensor]
    entering: tuple[Tensor, ...] | None

    @cached_property
    def states(self) -> Tensor:
        """Shape ``[n, q, width]``, not shifted."""
        return self.finish()
