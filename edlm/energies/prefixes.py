"""Prefixes that a causal LM has read, and goes on from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from edlm.numerics import distinct_rows


@dataclass(frozen=True)
class ReadPrefix:
    """Some prefixes of one length.

    Attributes:
        tokens: Shape ``[n, length]``.
        cache: Their keys and values.
        log_probs: ``log p_AR`` of the token after each, nats, ``[n, vocab_size]``.
    """

    tokens: Tensor
    cache: DynamicCache
    log_probs: Tensor


class ReadPrefixes:
    """The prefixes of the last call, from which the next one goes on: each token of a growing prefix is read once."""

    def __init__(self) -> None:
        self._last: list[ReadPrefix] = []
        self._now: list[ReadPrefix] = []

    def begin(self) -> None:
        """A new call."""
        self._last, self._now = self._now, []

    def read(
        self, tokens: Tensor, go_on: Callable[[Tensor, DynamicCache | None], tuple[DynamicCache, Tensor]]
    ) -> Iterator[tuple[Tensor, ReadPrefix]]:
        """Read ``tokens[n, length]``, in parts.

        Args:
            tokens: The prefixes.
            go_on: ``go_on(tokens, cache)`` reads tokens after those of a cache, which it may change, or from nothing:
                the cache of all, and the log-probabilities of the next token.

        Yields:
            Indices of some prefixes, and what was read of these.
        """
        left, length = torch.arange(len(tokens), device=tokens.device), tokens.shape[1]
        for known in sorted(self._last, key=lambda known: known.tokens.shape[1], reverse=True):
            so_far = known.tokens.shape[1]
            if so_far > length or not len(left):
                continue
            kind = distinct_rows(torch.cat([known.tokens, tokens[left, :so_far]]))[1]
            same = kind[len(known.tokens) :, None] == kind[: len(known.tokens)]
            found = same.any(1)
            if not found.any():
                continue
            some, rows = left[found], same[found].int().argmax(1)
            left = left[~found]
            cache, log_probs = selected(known.cache, rows), known.log_probs[rows]
            if so_far < length:
                cache, log_probs = go_on(tokens[some, so_far:], cache)
            yield some, self._keep(ReadPrefix(tokens[some], cache, log_probs))
        if len(left):
            yield left, self._keep(ReadPrefix(tokens[left], *go_on(tokens[left], None)))

    def _keep(self, read: ReadPrefix) -> ReadPrefix:
        self._now.append(read)
        return read


def prefixes_of(scorer: Any, memory: dict[Any, Any] | None) -> ReadPrefixes | None:
    """Those of a scorer in the memory of a run, see `Step`; None without one."""
    return None if memory is None else memory.setdefault(scorer, ReadPrefixes())


def selected(cache: DynamicCache, rows: Tensor) -> DynamicCache:
    """Rows of a cache; the original is not changed, since layers replace their tensors and never write in them."""
    selected = copy.copy(cache)
    selected.layers = [copy.copy(layer) for layer in cache.layers]
    selected.reorder_cache(rows)
    return selected


def at_least_float32(logits: Tensor) -> torch.dtype:
    """The type in which logits are normalised."""
    return torch.promote_types(logits.dtype, torch.float32)
