"""Prompts and texts with gaps as rows of tokens, masks where text is to be written."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.rules import check, check_least, check_most, check_unicode, shown
from edlm.sampler.inputs import MAX_TOKENS, check_length

Message = dict[str, str]
Prompts = str | Sequence[str] | Sequence[Sequence[int]] | Sequence[Message] | Sequence[Sequence[Message]] | None

_Prompt = str | Sequence[int] | Sequence[dict] | None
_PROMPTS = "a text, chat messages, or a list of at least one text or token list"
_BRACKETS = ("<[({", ">])}")  # of markers of gaps, which then take a number
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


_ANCHORS = (".", "a", "1", "(", "\n")  # that text is read after
LENGTH, NEW_TOKENS = 128, 64  # of a text, and after a prompt, by default


def rows_of_prompts(
    denoiser: Denoiser, prompts: Prompts, max_new_tokens: int, suffix: str | Sequence[str] | None = None
) -> list[Row]:
    """A row for each prompt: frame, prompt, gap, suffix, frame; arguments are those of `EnergySampler.generate`.

    The denoiser's prefix goes before every text; and before token lists and nothing at all (None) only where sequences
    are always framed.
    """
    max_new_tokens = check("max_new_tokens", max_new_tokens, int)
    check_least(1, max_new_tokens=max_new_tokens)
    check_most(MAX_TOKENS, max_new_tokens=max_new_tokens)
    alone = prompts is None or (isinstance(prompts, Sequence) and prompts and isinstance(prompts[0], dict))
    prompts = _several("prompts", [prompts] if alone else prompts, _Prompt, _PROMPTS)
    suffixes = [suffix] * len(prompts) if suffix is None or isinstance(suffix, str) else list(suffix)
    if len(suffixes) != len(prompts):
        raise ValueError(f"suffix must be one text, or one a prompt ({len(prompts)}), got {len(suffixes)}")
    reader, rows = Reader(denoiser), []
    for prompt, after in zip(prompts, suffixes, strict=True):
        begins = isinstance(prompt, str) or denoiser.is_framed
        if isinstance(prompt, str):
            prompt = reader.read(prompt)
        elif prompt and isinstance(prompt[0], dict):
            prompt = reader.read_chat(prompt)
        given = prompt if prompt is not None else []
        if denoiser.mask_token_id in given:
            raise ValueError(f"a prompt must hold no mask token ({denoiser.mask_token_id}): fill and infill fill gaps")
        prefix = list(denoiser.prefix_ids) if begins else []
        if prefix and given[: len(prefix)] == prefix:
            given = given[len(prefix) :]
        rows.append(reader.row([given, max_new_tokens, reader.read(after, inside=True) if after else []], prefix))
    return rows


def num_new_tokens(denoiser: Denoiser, prompt: str | None, length: int | None) -> int:
    """Tokens of ``length`` that remain after a prompt and its frame; None: the smaller of 128 and ``max_length``.

    Raises:
        ValueError: the prompt leaves no room in ``length``.
    """
    length = min(LENGTH, denoiser.max_length or LENGTH) if length is None else length
    check_most(MAX_TOKENS, length=length)
    given = len(rows_of_prompts(denoiser, prompt, 1)[0].tokens) - 1
    if given >= length:
        raise ValueError(f"length must be above the prompt's {given} tokens, got {length}")
    return length - given


def rows_of_texts(denoiser: Denoiser, texts: str | Sequence[str], mask: str, span_length: int) -> list[Row]:
    """A row for each text with gaps in it, framed where sequences always are; see `EnergySampler.infill`."""
    texts = _several("texts", texts, str, "a text or a list of at least one text")
    if span_length < 1 or not mask:
        raise ValueError(f"span_length must be >= 1 and mask not empty, got {span_length} and {mask!r}")
    reader, prefix = Reader(denoiser), list(denoiser.prefix_ids) if denoiser.is_framed else []
    rows = [reader.row(reader.pieces(text, mask, span_length), prefix) for text in texts]
    if not any(row.gaps for row in rows):
        raise ValueError(f"texts must hold {mask} where text is to be written, got {shown(texts)}")
    return rows


def _several(name: str, values: Any, hint: Any, rule: str) -> list[Any]:
    """A list of at least one value; a text alone is a list of one."""
    several = check(name, [values] if isinstance(values, str) else values, Sequence[hint], rule)
    if not several:
        raise ValueError(f"{name} must be {rule}, got {several}")
    return several


class Reader:
    """Turns text into tokens as they would be in running text.

    Args:
        denoiser: Its tokenizer is used.
        keeps_special: Special tokens that are spelled out in a text, as a chat template does, are these tokens; else
            they are text. The mask is text in any case.
    """

    def __init__(self, denoiser: Denoiser, keeps_special: bool = False):
        self.denoiser = denoiser
        self.keeps_special = keeps_special
        self.tokenizer = denoiser.tokenizer
        self._marker: str | None = None

    def read(self, text: str, inside: bool = False) -> list[int]:
        """Tokens of a text, or of a piece ``inside`` one, without special ones around it."""
        if self.tokenizer is None:
            raise ValueError(f"text needs a tokenizer, and this denoiser has none: give token lists; got {text!r}")
        if inside and self._leading_space() == "▁":
            # Sentencepiece puts a space before whatever a text begins with.
            for before in _ANCHORS:  # with some of them the text's first character may be one token
                anchor, both = self._ids(before), self._ids(before + text)
                if both[: len(anchor)] == anchor:
                    return both[len(anchor) :]
        return self._ids(text)

    def gaps(self, text: str, mask: str) -> list[tuple[int, int, int | None]]:
        """Where each gap of a text starts and ends, and its number of tokens, if it is given."""
        masks = {mask, getattr(self.tokenizer, "mask_token", None) or mask}
        found = []
        for match in re.finditer("|".join(map(_near_marker, masks)), text):
            if not any(re.fullmatch(_marker(m), match.group()) for m in masks):
                raise ValueError(f"a gap must be spelled {mask} or {mask[:-1]}:12{mask[-1]}, got {match.group()!r}")
            size = re.search(r":(\d+).$", match.group())
            if size and not int(size.group(1)):
                raise ValueError(f"a gap must hold at least one token, got {match.group()!r}")
            found.append((*match.span(), int(size.group(1)) if size else None))
        return found

    def pieces(self, text: str, mask: str, span_length: int) -> list[list[int] | int]:
        """Tokens of the pieces of a text, and sizes of the gaps between them."""
        parts: list[list[int] | int] = []
        position = 0
        for start, stop, size in self.gaps(text, mask):
            before = text[position:start]
            before = before.removesuffix(self.space_of_gap(before))
            parts += [self.read(before, inside=position > 0), span_length if size is None else size]
            position = stop
        return [*parts, self.read(text[position:], inside=position > 0)]

    def space_of_gap(self, before: str) -> str:
        """The space before a gap, if the tokenizer puts it into the token that follows; else nothing."""
        return " " if before.endswith(" ") and self._leading_space() else ""

    def read_chat(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of chat messages by the tokenizer's template, up to where the answer begins."""
        if getattr(self.tokenizer, "chat_template", None) is None:
            raise ValueError(f"chat messages need a tokenizer with a chat template, got {shown(list(messages))}")
        return list(self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))

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
        if not text:
            return []
        check_unicode("text", text)
        for as_text in (not self.keeps_special, True):
            ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=as_text)["input_ids"]
            if self.denoiser.mask_token_id not in ids:
                return list(ids)
        raise ValueError(f"text must hold no mask token: infill fills gaps; got {shown(text)}")

    def _leading_space(self) -> str:
        """The tokenizer's leading-space marker, or "" if a space is a token of its own."""
        if self._marker is None:
            words = self.tokenizer.get_vocab()
            self._marker = next((m for m in _LEADING_SPACE if any(w[0] == m and len(w) > 1 for w in words if w)), "")
        return self._marker


def _marker(mask: str) -> str:
    """Pattern of a gap: the mask, with a number if it ends in a bracket."""
    size = r"(?::\d{1,18})?" if mask[-1] in _BRACKETS[1] else ""
    return re.escape(mask[:-1]) + size + re.escape(mask[-1])


def _near_marker(mask: str) -> str:
    """Pattern of what looks like a gap: in brackets, spaces, other cases, and anything for a number."""
    if mask[0] not in _BRACKETS[0] or mask[-1] not in _BRACKETS[1] or len(mask) < 3:
        return _marker(mask)
    first, inside, last = re.escape(mask[0]), re.escape(mask[1:-1]), re.escape(mask[-1])
    return rf"{first}\s*(?i:{inside})\s*(?::[^{last}\n]{{0,40}})?{last}"
