"""Denoiser passes of a run: shared by calls that start from the same tokens, and going on from finished blocks."""

from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import Self

from edlm.denoisers.base import Denoiser
from edlm.denoisers.cache import KeyValues
from edlm.denoisers.encoding import Encoding
from edlm.sampler.kernel import Kernel

CacheName = Literal["auto", "none", "prefix", "dual"]


class Passes:
    """Denoiser passes on a batch; one serves all consecutive calls that start from the same tokens.

    Of a denoiser that writes in blocks the keys and values of finished blocks are computed once: its results are those
    of whole passes. ``"prefix"`` and ``"dual"`` hold keys of a denoiser that sees both sides, which is approximate: all
    tokens before the block that is written, or also those behind it, as they were when the block began.

    Args:
        denoiser: The network that is run.
        keep_hidden: Whether to keep its states in all passes; None keeps them where an energy reads them.
        holds_hidden: Whether an energy of the run reads states, at whichever steps: what is held has them.
        cache: "auto" holds finished blocks where that is exact; "none" nothing.

    Attributes:
        memory: What energies keep from step to step, by any key of their own.

    References:
        Approximate caches: Fast-dLLM, arXiv:2505.22618.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        keep_hidden: bool | None = None,
        *,
        holds_hidden: bool,
        cache: CacheName = "auto",
    ):
        self.denoiser = denoiser
        self.keep_hidden = keep_hidden
        self.holds_hidden = holds_hidden
        self.is_approximate = cache in ("prefix", "dual")
        self._cache_name = cache
        self._holds = denoiser.can_prefill and (self.is_approximate or (denoiser.block_size and cache == "auto"))
        self._cache: KeyValues | None = None
        self._last: tuple[list[Tensor], Encoding] | None = None
        self.memory: dict[Any, Any] = {}

    @classmethod
    def of(cls, kernel: Kernel, cache: CacheName = "auto") -> Self:
        """Passes for one kernel."""
        return cls(kernel.denoiser, holds_hidden=kernel.reads_hidden, cache=cache)

    def encode(
        self, x_t: Tensor, t: Tensor, rows: Tensor, real: Tensor | None, block: Tensor, reads_hidden: bool
    ) -> Encoding:
        """The pass on ``rows[n]`` of ``x_t[batch, length]`` at times ``t[batch]``.

        Args:
            x_t: Tokens, shape ``[batch, length]``.
            t: Times, shape ``[batch]``.
            rows: Rows that are run, ascending, shape ``[n]``.
            real: False at padding, bool, shape ``[batch, length]``; None without padding.
            block: Positions that are written together with those of the step, bool, shape ``[batch, length]``.
            reads_hidden: An energy reads the states.
        """
        keep_hidden = reads_hidden if self.keep_hidden is None else self.keep_hidden
        inputs = [x_t, t, rows, torch.tensor(keep_hidden)] + ([] if real is None else [real])
        inputs += [block] if self.is_approximate else []  # what is held depends on it
        if self._last is None or not _are_equal(inputs, self._last[0]):
            self._last = None  # it is freed before the next one is computed
            self._last = (inputs, self._run(x_t, t, rows, real, block, keep_hidden))
        return self._last[1]

    def _run(
        self, x_t: Tensor, t: Tensor, rows: Tensor, real: Tensor | None, block: Tensor, keep_hidden: bool
    ) -> Encoding:
        """A new pass, which goes on from what is held, and takes along what is to be held from now on.

        If most rows need no more than they hold, what the others need is run before, for these alone.
        """
        if not self._holds:
            return self.denoiser.encode(x_t, t, real, rows=rows, keep_hidden=keep_hidden)
        held = self._held_now(x_t, real, block)
        cache, due = self._usable(x_t, rows, held)
        hold = held if len(due) and 2 * len(due) >= len(rows) else None
        if hold is None and len(due):
            run = held if not self.is_approximate else torch.ones_like(held) if real is None else real
            cache = self.denoiser.prefill(x_t, run, rows=due, t=t, cache=cache, keep_hidden=self.holds_hidden)
            cache = cache.without(torch.nn.functional.pad(~held, (0, cache.held.shape[1] - held.shape[1])))
        keep_hidden = keep_hidden or (hold is not None and self.holds_hidden)
        start = cache if hold is not None or cache.held[rows].any() else None
        encoding = self.denoiser.encode(x_t, t, real, rows=rows, keep_hidden=keep_hidden, cache=start, hold=hold)
        self._cache = cache if hold is None else encoding.cache
        return encoding

    def _usable(self, x_t: Tensor, rows: Tensor, held: Tensor) -> tuple[KeyValues, Tensor]:
        """The cache without what has become wrong, and those of ``rows`` for which it does not hold all of ``held``."""
        cache = KeyValues.empty(len(x_t), x_t.device) if self._cache is None else self._cache
        cache = cache.resized(max(cache.held.shape[1], x_t.shape[1]))
        seen = cache.held[:, : x_t.shape[1]]
        stale = cache.held[:, x_t.shape[1] :].any(1)
        if cache.tables:
            stale = stale | (seen & (cache.tables["tokens"][:, : x_t.shape[1]] != x_t)).any(1)
        in_use = torch.zeros_like(stale).index_fill(0, rows, True)
        changed = seen != held if self.is_approximate else seen & ~held  # a new block renews approximate keys
        stale = (stale | changed.any(1)) & in_use
        cache = cache.without(stale[:, None].expand_as(cache.held))
        due = (held & ~cache.held[:, : x_t.shape[1]]).any(1)
        return cache, rows[due[rows]]

    def _held_now(self, x_t: Tensor, real: Tensor | None, block: Tensor) -> Tensor:
        """Positions that each row holds in this step, bool, ``[batch, length]``."""
        places = torch.arange(x_t.shape[1], device=x_t.device)
        if not self.is_approximate:
            first = (x_t == self.denoiser.mask_token_id).int().argmax(1, keepdim=True)
            return places < first // self.denoiser.block_size * self.denoiser.block_size
        held = ~block if self._cache_name == "dual" else places < block.int().argmax(1, keepdim=True)
        return held if real is None else held & real


def _are_equal(some: list[Tensor], others: list[Tensor]) -> bool:
    return len(some) == len(others) and all(map(torch.equal, some, others))


def check_cache(kernel: Kernel, cache: CacheName) -> None:
    """Refuse a cache that the denoiser, or its order, cannot have, by ValueError."""
    if cache not in ("prefix", "dual"):
        return
    denoiser = kernel.denoiser
    if denoiser.block_size is not None:
        raise ValueError(f"cache must be 'auto' or 'none' for a denoiser that writes in blocks, got {cache!r}")
    if not denoiser.can_prefill:
        raise ValueError(f"cache {cache!r} needs a denoiser that can hold keys, got {type(denoiser).__name__}")
    if kernel.block_length is None:
        raise ValueError(f"cache {cache!r} needs block_length, since it is renewed with each block; got None")
