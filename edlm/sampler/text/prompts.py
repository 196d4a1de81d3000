"""Prompts and texts with gaps as rows of tokens, masks where text is to be written."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.rules import check, check_least
from edlm.sampler.inputs import check_length

Prompts = str | Sequence[str] | Sequence[Sequence[int]] | None

_PROMPTS = "a text, or a list of at least one text or token list"
_LEADING_SPACE = ("Ġ", "▁")  # byte-level BPE, sentencepiece: the space before a word is part of its first token


@dataclass(frozen=True)
class Row:
    """A text with gaps.

    Attributes:
        tokens: The mask token where text is to be written, int64, shape ``[length]``.
        gaps: First position of each gap and the one after its last, ascending.
        num_prefix: Number of leading framing tokens (BOS, [CLS]).
        num_suffix: Number of trailing framing tokens.
    """

    tokens: Tensor
    gaps: tuple[tuple[int, int], ...]
    num_prefix: int
    num_suffix: int

    def is_gap(self) -> Tensor:
        """True at the positions that are to be written, ``[length]``."""
        written = torch.zeros_like(self.tokens, dtype=torch.bool)
        for start, stop in self.gaps:
            written[start:stop] = True
        return written


def rows_of_prompts(
    denoiser: Denoiser, prompts: Prompts, max_new_tokens: int, suffix: str | Sequence[str] | None = None
) -> list[Row]:
    """A row for each prompt: frame, prompt, gap, suffix, frame; arguments are those of `EnergySampler.generate`.

    The denoiser's prefix goes before every text; and before token lists and nothing at all (None) only where sequences
    are always framed.
    """
    max_new_tokens = check("max_new_tokens", max_new_tokens, int)
    check_least(1, max_new_tokens=max_new_tokens)
    prompts = _several("prompts", [None] if prompts is None else prompts, str | Sequence[int] | None, _PROMPTS)
    suffixes = [suffix] * len(prompts) if suffix is None or isinstance(suffix, str) else list(suffix)
    if len(suffixes) != len(prompts):
        raise ValueError(f"suffix must be one text, or one a prompt ({len(prompts)}), got {len(suffixes)}")
    reader, rows = Reader(denoiser), []
    for prompt, after in zip(prompts, suffixes, strict=True):
        begins = isinstance(prompt, str) or denoiser.is_framed
        if isinstance(prompt, str):
            prompt = reader.read(prompt)
        given = prompt if prompt is not None else []
        prefix = list(denoiser.prefix_ids) if begins else []
        if prefix and given[: len(prefix)] == prefix:
            given = given[len(prefix) :]
        rows.append(reader.row([given, max_new_tokens, reader.read(after, inside=True) if after else []], prefix))
    return rows


def rows_of_texts(denoiser: Denoiser, texts: str | Sequence[str], mask: str, span_length: int) -> list[Row]:
    """A row for each text with gaps in it, framed where sequences always are; see `EnergySampler.infill`."""
    texts = _several("texts", texts, str, "a text or a list of at least one text")
    if span_length < 1 or not mask:
        raise ValueError(f"span_length must be >= 1 and mask not empty, got {span_length} and {mask!r}")
    reader, prefix = Reader(denoiser), list(denoiser.prefix_ids) if denoiser.is_framed else []
    return [reader.row(reader.pieces(text, mask, span_length), prefix) for text in texts]


def _several(name: str, values: Any, hint: Any, rule: str) -> list[Any]:
    """A list of at least one value; a text alone is a list of one."""
    several = check(name, [values] if isinstance(values, str) else values, Sequence[hint], rule)
    if not several:
        raise ValueError(f"{name} must be {rule}, got {several}")
    return several


class Reader:
    """Turns text into tokens as they would be in running text."""

    def __init__(self, denoiser: Denoiser):
        self.denoiser = denoiser
        self.tokenizer = denoiser.tokenizer
        self._marker: str | None = None

    def read(self, text: str, inside: bool = False) -> list[int]:
        """Tokens of a text, or of a piece ``inside`` one, without special ones around it."""
        if self.tokenizer is None:
            raise ValueError(f"text needs a tokenizer, and this denoiser has none: give token lists; got {text!r}")
        if inside and self._leading_space() == "▁":
            # Sentencepiece puts a space before whatever a text begins with.
            anchor, both = self._ids("."), self._ids("." + text)
            if both[: len(anchor)] == anchor:
                return both[len(anchor) :]
        return self._ids(text)

    def pieces(self, text: str, mask: str, span_length: int) -> list[list[int] | int]:
        """Tokens of the pieces of a text, and sizes of the gaps between them."""
        tokenizer_mask = getattr(self.tokenizer, "mask_token", None)
        marks = "|".join(rf"{re.escape(m[:-1])}(?::\d+)?{re.escape(m[-1])}" for m in {mask, tokenizer_mask or mask})
        parts: list[list[int] | int] = []
        position = 0
        for match in re.finditer(marks, text):
            before = text[position : match.start()]
            if before.endswith(" ") and self._leading_space():
                before = before[:-1]  # it belongs to the first token of the gap
            size = re.search(r":(\d+).$", match.group())
            parts += [self.read(before, inside=position > 0), int(size.group(1)) if size else span_length]
            if parts[-1] < 1:
                raise ValueError(f"a gap must hold at least one token, got {match.group()!r}")
            position = match.end()
        return [*parts, self.read(text[position:], inside=position > 0)]

    def row(self, parts: Sequence[list[int] | int], prefix: list[int]) -> Row:
        """A row of given tokens and sizes of gaps, after ``prefix`` and, if framed, before the denoiser's suffix."""
        suffix = list(self.denoiser.suffix_ids) if self.denoiser.is_framed else []
        check_length(sum(part if isinstance(part, int) else len(part) for part in parts))
        tokens, gaps = list(prefix), []
        for part in parts:
            if isinstance(part, list):
                tokens += part
                continue
            start = gaps.pop()[0] if gaps and gaps[-1][1] == len(tokens) else len(tokens)
            tokens += [self.denoiser.mask_token_id] * part
            gaps.append((start, len(tokens)))
        return Row(torch.tensor(tokens + suffix, dtype=torch.long), tuple(gaps), len(prefix), len(suffix))

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def _leading_space(self) -> str:
        """The tokenizer's leading-space marker, or "" if a space is a token of its own."""
        if self._marker is None:
            words = self.tokenizer.get_vocab()
            self._marker = next((m for m in _LEADING_SPACE if any(w[0] == m and len(w) > 1 for w in words if w)), "")
        return self._marker
