"""Denoisers whose network can read keys and values that were computed before."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from edlm.denoisers.cache import KeyValues, Past, Remaining
from edlm.denoisers.network import NetworkDenoiser, shifted
from edlm.denoisers.visibility import visible_positions


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

    def encode_remaining(
        self, x_t: Tensor, t: Tensor, attention_mask: Tensor | None, keep_hidden: bool, cache: KeyValues
    ) -> tuple[Callable[[], Tensor], tuple[Tensor, ...] | None]:
        length, cache = x_t.shape[1], cache.resized(x_t.shape[1])
        remaining, past = _remaining(x_t, attention_mask, cache)
        visible = remaining.visible(cache.keys_held, self.block_size)
        finish, entering = self.run(remaining.gather(x_t), t, visible, remaining.positions, past, keep_hidden)

        def features() -> Tensor:
            states = remaining.spread(finish(), length, cache.tables["states"] if self.shift else None)
            return shifted(states) if self.shift else states

        if not keep_hidden:
            states = features()
            return lambda: states, None
        tables = (cache.tables["hidden", i] for i in range(len(entering)))
        hidden = (remaining.spread(new, length, old) for new, old in zip(entering, tables, strict=True))
        return features, tuple(hidden)

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
        if not self.can_prefill:
            raise ValueError(f"{type(self).__name__} reads the time, which changes all keys: it holds none")
        t, rows = self.check_rows(x_t, t, rows)
        cache = KeyValues.empty(len(x_t), x_t.device) if cache is None else cache
        cache = cache.resized(max(x_t.shape[1], cache.held.shape[1]))
        mine = cache.select(rows).resized(x_t.shape[1])
        x_t, t = x_t[rows], t[rows]
        attention_mask = None if attention_mask is None else attention_mask[rows]
        remaining, past = _remaining(x_t, attention_mask, mine)
        if self.block_size is not None:
            self._check_blocks(x_t, attention_mask, remaining)
        visible, tokens = remaining.visible(mine.keys_held, self.block_size), remaining.gather(x_t)
        finish, entering = self.run(tokens, t, visible, remaining.positions, past, keep_hidden)
        states = finish()
        new: dict[Hashable, Tensor] = {"tokens": tokens, **past.new}
        if self.shift:
            new["states"] = states
        if keep_hidden:
            new |= {("hidden", i): table for i, table in enumerate(entering)}
        return cache.written(rows, remaining, new)

    def _check_blocks(self, x_t: Tensor, attention_mask: Tensor | None, remaining: Remaining) -> None:
        """A block's keys are final once the whole block is; ValueError if one is not."""
        if ((remaining.gather(x_t) == self.mask_token_id) & remaining.real).any():
            raise ValueError(f"a block must be finished before its keys are held, got a mask {self.mask_token_id}")
        counts = torch.full((len(x_t),), x_t.shape[1]) if attention_mask is None else attention_mask.sum(1)
        if (counts % self.block_size).any():
            raise ValueError(f"whole blocks of {self.block_size} tokens must be held, got rows of {counts.tolist()}")


def _remaining(x_t: Tensor, attention_mask: Tensor | None, cache: KeyValues) -> tuple[Remaining, Past]:
    real = torch.ones_like(x_t, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    return Remaining.where(real & ~cache.held), Past(cache)
