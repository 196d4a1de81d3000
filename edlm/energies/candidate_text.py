"""The texts that candidates spell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.energies.base import Decision
from edlm.energies.reading import ends_of_text, readable
from edlm.energies.vocabularies import check_same_tokens


@dataclass(frozen=True)
class CandidateTexts:
    """Texts of a decision; rows that decide nothing have none.

    Attributes:
        texts: The distinct ones.
        ended: Which of them are over: an EOS follows.
        active: Rows that decide something, shape ``[num_active]``.
        kind: Which text each of their candidates spells, shape ``[num_active, k]``.
        ends: Position of the EOS that ends each candidate, ``length`` where none does; shape ``[batch, k]``.
    """

    texts: list[str]
    ended: list[bool]
    active: Tensor
    kind: Tensor
    ends: Tensor


class TextDecoder:
    """Turns the candidates of a decision into texts, each distinct one once.

    Left out are padding, the denoiser's frame, special tokens, what follows the end of the text (the EOS included),
    and what follows a mask (of a clean prefix, at step scope).

    Args:
        tokenizer: The denoiser's; by default the one that it holds itself.
        eos_token_id: The denoiser's token that ends a text (`ends_of_text`); None: no token does.
        decode: ``decode(ids) -> text`` in place of the tokenizer's own, special tokens skipped.
    """

    def __init__(
        self,
        tokenizer: Any = None,
        eos_token_id: int | None = None,
        decode: Callable[[Sequence[int]], str] | None = None,
    ):
        self.tokenizer = tokenizer
        self.eos_token_id = eos_token_id
        self.decode = decode

    def check_denoiser(self, denoiser: Denoiser) -> None:
        """Refuse a denoiser whose tokens cannot be decoded, or are others than the tokenizer's.

        Raises:
            ValueError: there is no tokenizer, or the denoiser's own differs from it.
        """
        if self.decode is None and self._tokenizer_for(denoiser) is not denoiser.tokenizer:
            check_same_tokens(self.tokenizer, denoiser, "the tokenizer that decodes", "give the denoiser's own")

    def _tokenizer_for(self, denoiser: Denoiser) -> Any:
        tokenizer = self.tokenizer if self.tokenizer is not None else denoiser.tokenizer
        if tokenizer is None:
            raise ValueError(
                f"an energy of text needs the denoiser's tokenizer: give it, for {type(denoiser).__name__} has none"
            )
        return tokenizer

    def __call__(self, decision: Decision) -> CandidateTexts:
        """The texts.

        Raises:
            ValueError: something before a slot is masked, or there is no tokenizer.
        """
        seen, ends = readable(decision), ends_of_text(decision, self.eos_token_id)
        active = decision.slots.counts.nonzero()[:, 0]
        places = torch.arange(seen.shape[1], device=seen.device)
        keep = (seen[active, None] & (places < ends[active, :, None])).flatten(0, 1).tolist()
        tokens = decision.candidates[active].flatten(0, 1).tolist()
        over = (ends[active] < seen.shape[1]).flatten().tolist()
        spelled: dict[tuple[int, ...], str] = {}
        index: dict[tuple[str, bool], int] = {}
        kind = []
        for row, kept, ended in zip(tokens, keep, over, strict=True):
            ids = tuple(token for token, is_kept in zip(row, kept, strict=True) if is_kept)
            if ids not in spelled:
                spelled[ids] = self._spell(ids, decision.step.denoiser)
            kind.append(index.setdefault((spelled[ids], ended), len(index)))
        table = torch.tensor(kind, dtype=torch.long, device=active.device).view(len(active), decision.num_candidates)
        return CandidateTexts([text for text, _ in index], [ended for _, ended in index], active, table, ends)

    def _spell(self, ids: tuple[int, ...], denoiser: Denoiser) -> str:
        prefix, suffix = tuple(denoiser.prefix_ids), tuple(denoiser.suffix_ids)
        if prefix and ids[: len(prefix)] == prefix:
            ids = ids[len(prefix) :]
        if suffix and ids[-len(suffix) :] == suffix:
            ids = ids[: -len(suffix)]
        if self.decode is not None:
            return self.decode(list(ids))
        return self._tokenizer_for(denoiser).decode(list(ids), skip_special_tokens=True)
