"""Candidates as text: the part that a left-to-right reader may use, where the text ends, and its spelling."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.denoisers.vocabulary import token_id
from edlm.energies.base import Decision
from edlm.numerics import precise
from edlm.rules import check

_NAMED = 3  # differing ids in an error message


def at_slots(decision: Decision) -> Tensor:
    """The positions that are filled, bool ``[batch, length]``."""
    chosen = torch.zeros_like(decision.x_partial, dtype=torch.bool)
    chosen[decision.slots.rows, decision.slots.positions] = True
    return chosen


def readable(decision: Decision) -> Tensor:
    """The positions before the first one that is still masked, or padding, bool ``[batch, length]``.

    Raises:
        ValueError: a position before a slot is masked.
    """
    step, chosen = decision.step, at_slots(decision)
    unknown = (decision.x_partial == step.denoiser.mask_token_id) & ~chosen
    if step.attention_mask is not None:
        unknown = unknown | ~step.attention_mask.bool()
    seen = unknown.cumsum(1) == 0
    if (chosen & ~seen).any():
        rows = (chosen & ~seen).any(1).nonzero()[:, 0].tolist()
        raise ValueError(
            f"a causal LM reads from the left: nothing before a slot may be masked, got masks "
            f"(or padding) in rows {rows}; use scope='sequence' or order='left_to_right'"
        )
    return seen


def ends_of_text(decision: Decision, eos_token_id: int | None) -> Tensor:
    """The position of the EOS that ends each candidate's text, ``length`` if none does; ``[batch, k]``.

    It is the first EOS from the row's first slot on after which all given tokens are EOS too: one in a prompt
    separates documents, and a given text cannot lie behind the end.
    """
    batch, k, length = decision.candidates.shape
    if eos_token_id is None:
        return decision.candidates.new_full((batch, k), length)
    places = torch.arange(length, device=decision.candidates.device)
    chosen, x = at_slots(decision), decision.x_partial
    given = ~chosen & (x != eos_token_id) & (x != decision.step.denoiser.mask_token_id)
    if decision.step.attention_mask is not None:
        given = given & decision.step.attention_mask.bool()
    last_given = torch.where(given, places, 0).amax(1)
    first_slot = torch.where(chosen, places, length).amin(1)
    earliest = torch.maximum(last_given, first_slot)
    may_end = (decision.candidates == eos_token_id) & (places >= earliest[:, None, None])
    return torch.where(may_end, places, length).amin(2)


def log_proposal_until(decision: Decision, ends: Tensor) -> Tensor:
    """``log q'`` of the slots up to ``ends[batch, k]``, nats; float64, ``[batch, k]``."""
    slots = decision.slots
    before = slots.positions[:, None] <= ends[slots.rows]
    return slots.sum_rows(precise(torch.where(before, decision.slot_log_proposal, 0.0)))


def check_same_tokens(tokenizer: Any, denoiser: Denoiser, reader: str, advice: str) -> None:
    """Refuse a denoiser whose tokens are not those of a tokenizer, if both are known.

    Only ids that both have are compared, and none that the denoiser never writes (its mask, padded columns).

    Args:
        tokenizer: Of the energy, or None.
        denoiser: It writes the tokens.
        reader: Name of the energy's side in the message.
        advice: The end of the message: an alternative.

    Raises:
        ValueError: names the first ids that differ.
    """
    if tokenizer is None or denoiser.tokenizer is None:
        return
    theirs, ours = _token_names(tokenizer), _token_names(denoiser.tokenizer)
    never = {denoiser.mask_token_id, *denoiser.vocabulary.impossible}
    differing = [i for i in sorted(theirs.keys() & ours.keys()) if theirs[i] != ours[i] and i not in never]
    if differing:
        first = ", ".join(f"{i} ({ours[i]!r}, {reader}: {theirs[i]!r})" for i in differing[:_NAMED])
        raise ValueError(
            f"{reader} must give the denoiser's tokens the same ids, got {len(differing)} ids that differ, "
            f"the first: {first}; {advice}"
        )


def _token_names(tokenizer: Any) -> Mapping[int, str]:
    return {index: token for token, index in tokenizer.get_vocab().items()}


@dataclass(frozen=True)
class CandidateTexts:
    """Texts of a decision; rows that decide nothing have none.

    Attributes:
        texts: The distinct ones.
        ended: Which of them are over: an EOS follows.
        active: Rows that decide something, shape ``[num_active]``.
        kind: Index of the text that each of their candidates spells, shape ``[num_active, k]``.
        ends: Position of the EOS that ends each candidate, ``length`` if none does; shape ``[batch, k]``.
    """

    texts: list[str]
    ended: list[bool]
    active: Tensor
    kind: Tensor
    ends: Tensor


class TextDecoder:
    """Turns the candidates of a decision into texts, each distinct one once.

    Left out are padding, the denoiser's frame, special tokens, everything from the end of the text on (the EOS
    included), and everything after a mask (of a clean prefix, at step scope).

    Args:
        tokenizer: The denoiser's; by default the one that it holds itself.
        eos_token_id: The denoiser's token that ends a text (`ends_of_text`); "auto": its own, else its tokenizer's;
            None: no token does.
        decode: ``decode(ids) -> text`` in place of the tokenizer's own, special tokens skipped.
    """

    def __init__(
        self,
        tokenizer: Any = None,
        eos_token_id: int | Literal["auto"] | None = None,
        decode: Callable[[Sequence[int]], str] | None = None,
    ):
        self.tokenizer = tokenizer
        self.eos_token_id = check("eos_token_id", eos_token_id, int | Literal["auto"] | None)
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

    def _eos_of(self, denoiser: Denoiser) -> int | None:
        if self.eos_token_id != "auto":
            return self.eos_token_id
        return token_id(denoiser.tokenizer, "eos") if denoiser.eos_token_id is None else denoiser.eos_token_id

    def __call__(self, decision: Decision) -> CandidateTexts:
        """The texts.

        Raises:
            ValueError: a position before a slot is masked, or there is no tokenizer.
        """
        seen, ends = readable(decision), ends_of_text(decision, self._eos_of(decision.step.denoiser))
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
