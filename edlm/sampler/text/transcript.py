"""Tokens decoded to text: where it stops, the filling of each gap, and masks rendered as masks."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.denoisers.vocabulary import token_id
from edlm.sampler.text.prompts import Row


class Transcript:
    """Decodes rows to text with the denoiser's tokenizer; ``eos_token_id`` and ``stop`` as in `GenerateOptions`.

    Raises:
        ValueError: a stop string is empty, or there is no tokenizer to find it with.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        eos_token_id: int | Sequence[int] | Literal["auto"] | None = None,
        stop: str | Sequence[str] | None = None,
    ):
        self.tokenizer, self.mask_token_id = denoiser.tokenizer, denoiser.mask_token_id
        if eos_token_id == "auto":
            of_tokenizer = getattr(self.tokenizer, "eos_token_id", None)
            eos_token_id = denoiser.eos_token_id if denoiser.eos_token_id is not None else of_tokenizer
        several = [eos_token_id] if eos_token_id is None or isinstance(eos_token_id, int) else eos_token_id
        self.eos_token_ids = tuple(int(token) for token in several if token is not None)
        self._special = _special_ids(self.tokenizer)
        self.stop = (stop,) if isinstance(stop, str) else tuple(stop or ())
        if not all(self.stop):
            raise ValueError(f"stop must hold no empty string, got {list(self.stop)}")
        if self.stop and self.tokenizer is None:
            raise ValueError(f"stop strings need a tokenizer, and this denoiser has none; got {list(self.stop)}")
        words = self.tokenizer.get_vocab() if self.stop else {}
        special = [end for end in self.stop if words.get(end) in self._special]  # text does not show them
        self.eos_token_ids += tuple(words[end] for end in special)
        self.stop = tuple(end for end in self.stop if end not in special)
        self._mask = getattr(self.tokenizer, "mask_token", None)
        self._knows_mask = getattr(self.tokenizer, "mask_token_id", None) == self.mask_token_id

    def read(self, row: Row, tokens: Tensor) -> tuple[str, tuple[str, ...]]:
        """Full text, cut at the stop string of its last gap, and the filling of each gap; masks are rendered.

        ``tokens[length]`` are those of the row as they are now. Without a tokenizer texts are empty.
        """
        if self.tokenizer is None:
            return "", tuple("" for _ in row.gaps)
        ids = tokens.tolist()
        text, fills, at = "", [], row.num_prefix
        before: list[int | None] = []
        for start, stop in row.gaps:
            before += ids[at:start]
            gap = [None if token == self.mask_token_id else token for token in ids[start:stop]]
            if self.eos_token_ids and stop == row.gaps[-1][1]:
                gap = gap[: self._first_eos(gap)]
            text, through = self._decode(before), self._decode(before + gap)
            fills.append(through[len(text) :] if through.startswith(text) else self._decode(gap))
            before, at = before + gap, stop
        after = ids[at : len(ids) - row.num_suffix]
        whole = self._decode(before + after)
        cut = self._first_stop(fills[-1]) if fills else None
        if cut is None:
            return whole, tuple(fills)
        through = self._decode(before)
        tail = whole[len(through) :] if whole.startswith(through) else self._decode(after)
        return text + fills[-1][:cut] + tail, (*fills[:-1], fills[-1][:cut])

    def has_stopped(self, row: Row, tokens: Tensor) -> bool:
        """Whether an end was written in the row's last gap; text after it does not count."""
        start, stop = row.gaps[-1]
        gap = [None if token == self.mask_token_id else token for token in tokens[start:stop].tolist()]
        if self._first_eos(gap) < len(gap):
            return True
        return bool(self.stop) and self._first_stop(self._decode(gap)) is not None

    def _first_eos(self, gap: Sequence[int | None]) -> int:
        return next((i for i, token in enumerate(gap) if token in self.eos_token_ids), len(gap))

    def _first_stop(self, text: str) -> int | None:
        ends = [at for at in (text.find(end) for end in self.stop) if at >= 0]
        return min(ends) if ends else None

    def _decode(self, ids: Sequence[int | None]) -> str:
        """Text of tokens, special ones left out; None represents a mask."""
        visible = [token for token in ids if token not in self._special]
        if self._knows_mask:
            return self.tokenizer.decode([self.mask_token_id if token is None else token for token in visible])
        parts: list[list[int]] = [[]]
        for token in visible:
            if token is None:
                parts.append([])
            else:
                parts[-1].append(token)
        return (self._mask or "<mask>").join(self.tokenizer.decode(part) if part else "" for part in parts)


def decode(denoiser: Denoiser, tokens: Tensor) -> str:
    """Text of one sequence without its framing tokens; a document separator becomes an empty line."""
    if denoiser.is_framed:
        tokens = tokens[len(denoiser.prefix_ids) : len(tokens) - len(denoiser.suffix_ids)]
    text = denoiser.tokenizer.decode(tokens)
    separator = denoiser.tokenizer.eos_token
    return (text.replace(separator, "\n\n") if separator else text).strip()


def _special_ids(tokenizer: Any) -> set[int]:
    """Tokens that text does not show: the special ones, but for the unknown one, if it is nothing else."""
    if tokenizer is None:
        return set()
    others = {token_id(tokenizer, kind) for kind in ("mask", "bos", "eos", "cls", "sep", "pad")}
    return set(tokenizer.all_special_ids) - ({token_id(tokenizer, "unk")} - others)
