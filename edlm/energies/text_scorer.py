"""The loss of texts under a causal LM, wherever that runs: what a local model and a served one share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edlm.rules import check, check_least


class TextScorer(ABC):
    """``-log p(text) = -sum_i log p(token^i | BOS, token^0 .. token^{i-1})`` of a causal LM's own tokens, nats.

    Args:
        batch_size: Texts at a time; changes memory and speed only.

    Raises:
        ValueError: ``batch_size`` breaks its rule.
    """

    def __init__(self, batch_size: int = 16):
        check_least(1, batch_size=check("batch_size", batch_size, int))
        self.batch_size = batch_size

    @property
    @abstractmethod
    def has_eos(self) -> bool:
        """Whether the LM has a token that ends a text."""

    def settings(self) -> dict[str, Any]:
        """JSON values that decide the losses, apart from weights that can be read here."""
        return {}

    def score(self, texts: Sequence[str], *, ended: Sequence[bool] | None = None) -> tuple[Tensor, Tensor]:
        """Loss of each text, in the order given.

        Args:
            texts: ``n`` texts; an empty one has 0 nats and 0 tokens.
            ended: Texts that are over: the LM's eos is one more token of theirs. By default none.

        Returns:
            ``-log p`` in nats, float64, and the number of tokens, int64; both ``[n]``, on the CPU.

        Raises:
            ValueError: ``texts`` is one string, a text is longer than the LM's context, or one has ended and the LM
                has no eos.
        """
        if isinstance(texts, str):
            raise ValueError(f"texts must be a sequence of strings, got one string, {texts[:40]!r}")
        nats, counts = torch.zeros(len(texts), dtype=torch.float64), torch.zeros(len(texts), dtype=torch.int64)
        ended = [False] * len(texts) if ended is None else ended
        if any(ended) and not self.has_eos:
            raise ValueError(f"a text that ended needs an eos of the LM, got {self.name} with none")
        read = self._read(list(texts), ended)
        # Like lengths together, the longest first: a batch that does not fit in memory fails at once.
        order = sorted((i for i, item in enumerate(read) if len(item)), key=lambda i: len(read[i]), reverse=True)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            nats[rows], counts[rows] = self._score([read[i] for i in rows])
        return nats, counts

    @property
    @abstractmethod
    def name(self) -> str:
        """Of the LM, for messages."""

    @abstractmethod
    def _read(self, texts: list[str], ended: Sequence[bool]) -> Sequence[Any]:
        """What the LM reads of each text, with a length: nothing where the text is empty and goes on."""

    @abstractmethod
    def _score(self, batch: list[Any]) -> tuple[Tensor, Tensor]:
        """Nats, float64, and numbers of tokens of at most ``batch_size`` items of `_read`; on the CPU, ``[rows]``."""
