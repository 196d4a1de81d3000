"""Prompts and texts with gaps as rows of tokens, masks where text is to be written."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser

Prompts = str | Sequence[str] | Sequence[Sequence[int]] | None

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
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be >= 1, got {max_new_tokens}")
    prompts = [prompts] if prompts is None or isinstance(prompts, str) else list(prompts)
    if not prompts or any(isinstance(prompt, int) for prompt in prompts):
        raise ValueError(f"prompts must be a text, or a list of at least one text or token list, got {prompts!r}")
    suffixes = [suffix] * len(prompts) if suffix is None or isinstance(suffix, str) else list(suffix)
    if len(suffixes) != len(prompts):
        raise ValueError(f"suffix must be one text, or one a prompt ({len(prompts)}), got {len(suffixes)}")
    reader, rows = Reader(denoiser), []
    for prompt, after in zip(prompts, suffixes, strict=True):
        begins = isinstance(prompt, str) or denoiser.is_framed
        if isinstance(prompt, str):
            prompt = reader.read(prompt)
        given = [int(token) for token in prompt] if prompt is not None else []
        prefix = list(denoiser.prefix_ids) if begins else []
        if prefix and given[: len(prefix)] == prefix:
            given = given[len(prefix) :]
        rows.append(reader.row([given, max_new_tokens, reader.read(after, inside=True) if after else []], prefix))
    return rows


def rows_of_texts(denoiser: Denoiser, texts: str | Sequence[str], mask: str, span_length: int) -> list[Row]:
    """A row for each text with gaps in it, framed where sequences always are; see `EnergySampler.infill`."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"texts must be a text or a list of at least one text, got {texts!r}")
    if span_length < 1 or not mask:
        raise ValueError(f"span_length must be >= 1 and mask not empty, got {span_length} and {mask!r}")
    reader, prefix = Reader(denoiser), list(denoiser.prefix_ids) if denoiser.is_framed else []
    return [reader.row(reader.pieces(text, mask, span_length), prefix) for text in texts]


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
