"""The denoiser protocol."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from edlm.denoisers.cache import KeyValues
from edlm.denoisers.encoding import Encoding
from edlm.denoisers.identity import DenoiserIdentity
from edlm.denoisers.vocabulary import Vocabulary
from edlm.diffusion.slots import Slots, places_of
from edlm.modules import ShortRepr
from edlm.numerics import check_mass, distinct_rows
from edlm.rules import shown

_NO_STATES = "keeps no hidden states, which heads read: of trained energies, Markov heads and chains need none"


def _of_vocabulary(name: str, *, settable: bool) -> property:
    def get(self: Denoiser) -> Any:
        return getattr(self.vocabulary, name)

    def put(self: Denoiser, value: Any) -> None:
        self.vocabulary = replace(self.vocabulary, **{name: value})

    return property(get, put if settable else None, doc=f"`Vocabulary.{name}`.")


class Denoiser(ShortRepr, nn.Module, ABC):
    """A network that predicts every masked token from the others: ``log p_theta(x_0^i | x_t)``.

    A subclass gives ``encode_tokens`` (the expensive pass) and ``decode`` (the output layer, applied only where a
    log-probability is needed). The SUBS rules of MDLM hold here, once for all families: no mass on the mask token or on
    unused columns, and a revealed token carries over.

    Args:
        vocabulary: Its tokens and what frames its texts.
        shift: Whether output i - 1 predicts token i; then nothing predicts the first token, which must be given.
        time_conditioned: Whether the output depends on ``t``.
        max_length: Longest sequence it takes, framing tokens included; None if not known.
        block_size: Tokens that are written together, left to right block by block; None without blocks.

    Attributes:
        family: Name of the family it was loaded or wrapped as, or None. Others: as given, or of the vocabulary.
        prefix_ids, suffix_ids, is_framed, eos_token_id, tokenizer: Of the vocabulary; may be set.
    """

    family: str | None = None

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        shift: bool = False,
        time_conditioned: bool = False,
        max_length: int | None = None,
        block_size: int | None = None,
    ):
        super().__init__()
        self.vocabulary = vocabulary
        self.shift = shift
        self.time_conditioned = time_conditioned
        self.max_length = max_length
        self.block_size = block_size
        self.register_buffer("_impossible", torch.tensor(vocabulary.impossible, dtype=torch.long), persistent=False)

    vocab_size = _of_vocabulary("size", settable=False)
    mask_token_id = _of_vocabulary("mask_token_id", settable=False)
    prefix_ids = _of_vocabulary("prefix_ids", settable=True)
    suffix_ids = _of_vocabulary("suffix_ids", settable=True)
    is_framed = _of_vocabulary("is_framed", settable=True)
    eos_token_id = _of_vocabulary("eos_token_id", settable=True)
    tokenizer = _of_vocabulary("tokenizer", settable=True)

    @abstractmethod
    def encode_tokens(
        self, x_t: Tensor, t: Tensor, attention_mask: Tensor | None, keep_hidden: bool
    ) -> tuple[Callable[[], Tensor], tuple[Tensor, ...] | None]:
        """A function that gives features ``[rows, length, width]``; and, if kept, the states entering the blocks."""

    @abstractmethod
    def decode(self, features: Tensor) -> Tensor:
        """Unnormalised logits ``[n, vocab_size]`` of features ``[n, width]``."""

    @property
    def output_layer(self) -> tuple[Callable[[Tensor], Tensor], nn.Linear] | None:
        """What `decode` begins with, and the linear layer that it ends with; None if it is not known to end so."""
        return None

    def embed(self, tokens: Tensor) -> Tensor:
        """Input embeddings of tokens, shape ``[..., hidden_size]``; for energies that read states."""
        raise ValueError(f"{type(self).__name__} has no token embeddings, which a head of its own states needs")

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(chain(self.parameters(), self.buffers())).device

    @property
    def longest_text(self) -> int | None:
        """Most tokens of a text, without those that frame it; None if not known."""
        return None if self.max_length is None else self.max_length - self.vocabulary.frame_length

    @property
    def hidden_size(self) -> int:
        """Size of the states that enter the blocks."""
        raise ValueError(f"{type(self).__name__} {_NO_STATES}")

    @property
    def num_blocks(self) -> int:
        """Number of blocks, and of hidden states that `encode` keeps."""
        raise ValueError(f"{type(self).__name__} {_NO_STATES}")

    @property
    def can_prefill(self) -> bool:
        """Whether passes can go on from keys and values of tokens that were run before."""
        return False

    @property
    def identity(self) -> DenoiserIdentity | None:
        """Which checkpoint this is; None for a function."""
        return None

    def encode(
        self,
        x_t: Tensor,
        t: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        rows: Tensor | None = None,
        keep_hidden: bool = False,
        cache: KeyValues | None = None,
        hold: Tensor | None = None,
    ) -> Encoding:
        """Run the network: once for rows that are the same; or, with a cache, at positions that it does not hold.

        Args:
            x_t: Tokens, shape ``[batch, length]``.
            t: Times, shape ``[batch]``; by default the fraction of masked tokens.
            attention_mask: False at padding, shape ``[batch, length]``.
            rows: Rows to run (all by default), shape ``[encoded_rows]``.
            keep_hidden: Keep the states that enter the blocks.
            cache: Of the whole batch, from `prefill` or empty.
            hold: With a cache: what `Encoding.cache` is to hold of these rows, bool, shape ``[batch, length]``.

        Raises:
            ValueError: ``x_t`` is longer than `max_length`, or `shift` and the first token of a row is masked; with a
                cache, as `prefill`.
        """
        if cache is not None:
            raise ValueError(f"{type(self).__name__} holds no keys and values")
        t, rows = self.check_rows(x_t, t, rows)
        place = places_of(rows, len(x_t))
        x_t, t = x_t[rows], t[rows]
        attention_mask = attention_mask[rows] if attention_mask is not None else None
        tables = [x_t, t.float().view(torch.int32)[:, None]] + ([] if attention_mask is None else [attention_mask])
        first, kind = distinct_rows(torch.cat([table.long() for table in tables], 1))
        if len(first) < len(x_t):  # such as before the first step
            place = torch.where(place < 0, place, kind[place])
            x_t, t = x_t[first], t[first]
            attention_mask = attention_mask[first] if attention_mask is not None else None
        return Encoding(*self.encode_tokens(x_t, t, attention_mask, keep_hidden), place)

    def prefill(self, x_t: Tensor, attention_mask: Tensor | None = None, **options: Any) -> KeyValues:
        """Keys and values of tokens, for passes that go on from them.

        Exact for a denoiser that writes in blocks, whose finished blocks read nothing on their right; else approximate.

        Args:
            x_t: Whole rows, shape ``[batch, length]``.
            attention_mask: True at positions that are held from now on, shape ``[batch, length]``; all by default.
            options: ``rows``, ``t`` and ``keep_hidden`` as for `encode`; ``cache``, to which the positions that it does
                not hold are added.

        Raises:
            ValueError: it `can_prefill` nothing; or it writes in blocks, and one is not complete.
        """
        raise ValueError(f"{type(self).__name__} holds no keys and values")

    def check_rows(self, x_t: Tensor, t: Tensor | None, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """Times ``[batch]`` and rows ``[encoded_rows]``, by default those of `encode`; it checks these rows."""
        t = (x_t == self.mask_token_id).float().mean(1) if t is None else t
        rows = torch.arange(len(x_t), device=x_t.device) if rows is None else rows
        x_t = x_t[rows]
        if self.max_length is not None and x_t.shape[1] > self.max_length:
            raise ValueError(f"x_t must hold at most max_length = {self.max_length} tokens, got {x_t.shape[1]}")
        if self.shift and x_t.shape[1] and (x_t[:, 0] == self.mask_token_id).any():
            begin = f" such as prefix_ids = {list(self.prefix_ids)}" if self.prefix_ids else ""
            raise ValueError(
                f"x_t must begin with a given token{begin}, since nothing predicts the first one (shift), "
                f"got the mask {self.mask_token_id} there"
            )
        return t, rows

    def possible(self, logits: Tensor) -> Tensor:
        """Logits ``[n, vocab_size]`` as they are drawn from, in a new tensor: impossible columns are ``-inf``."""
        if logits.shape[-1] != self.vocab_size:
            raise ValueError(f"logits must have vocab_size = {self.vocab_size} columns, got {logits.shape[-1]}")
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        return logits.index_fill(-1, self._impossible.to(logits.device), -torch.inf)  # a function's may be elsewhere

    def normalize(self, logits: Tensor, *, check: bool = True) -> Tensor:
        """Log-probabilities of logits ``[n, vocab_size]``, impossible columns excluded; a new tensor.

        Args:
            logits: As `decode` gives them.
            check: Refuse rows without mass. Training does not: its loss says at which step it stopped being finite.

        Raises:
            ValueError: another width; or, checked, a row that has no mass, or holds NaN or +inf.
        """
        logits = self.possible(logits)
        if check:
            check_mass(logits.amax(-1))
        return logits.log_softmax(-1)

    def slot_logits(self, encoding: Encoding, slots: Slots) -> Tensor:
        """``log p_theta(. | x_t)`` at the slots, but for a constant of each slot, as `decode` gives it."""
        return self.decode(encoding.at(slots))

    def slot_log_probs(self, encoding: Encoding, slots: Slots) -> Tensor:
        """``log p_theta(. | x_t)`` at the slots, nats, shape ``[num_slots, vocab_size]``."""
        return self.normalize(self.slot_logits(encoding, slots))

    def log_probs(self, x_t: Tensor, t: Tensor | None = None, attention_mask: Tensor | None = None) -> Tensor:
        """``log p_theta(x_0^i | x_t)`` at every position, in nats.

        Args:
            x_t: Tokens, some of them masked, shape ``[batch, length]``.
            t: Times in [0, 1], shape ``[batch]``; by default the fraction of masked tokens.
            attention_mask: False at padding, shape ``[batch, length]``.

        Returns:
            Shape ``[batch, length, vocab_size]``: normalised over real tokens; where ``x_t`` is not masked,
            0 at its token and ``-inf`` elsewhere.

        References:
            SUBS parameterisation, Sahoo et al. 2024, arXiv:2406.07524, Sec. 3.2.3.
        """
        masked = Slots.where(x_t == self.mask_token_id)
        at_masked = self.slot_log_probs(self.encode(x_t, t, attention_mask), masked)
        log_probs = at_masked.new_full((*x_t.shape, self.vocab_size), -torch.inf)
        log_probs.scatter_(-1, x_t.clamp(max=self.vocab_size - 1)[..., None], 0.0)
        return log_probs.index_put((masked.rows, masked.positions), at_masked)

    def forward(self, x_t: Tensor, slots: Slots, t: Tensor | None = None) -> Tensor:
        """Log-probabilities at the slots from a fresh pass, not checked: what training differentiates."""
        if not isinstance(slots, Slots):
            raise ValueError(f"a denoiser takes Slots here, got {shown(slots)}: for marginals call log_probs(x_t, t)")
        return self.normalize(self.decode(self.encode(x_t, t).at(slots)), check=False)
