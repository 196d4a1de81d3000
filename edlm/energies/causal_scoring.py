"""Sums of ``log p_AR`` terms of many sequences: long prefixes run once, logits only where a term is needed."""

import inspect
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from edlm.diffusion.slots import places_of
from edlm.energies.next_token import NextToken
from edlm.energies.prefixes import ReadPrefixes, at_least_float32, selected
from edlm.memory import rows_at_once, tokens_at_once
from edlm.numerics import widest_float

LOGITS_OF_CPU = 2**24  # of a pass: 64 MiB in float32
SHORT = 1 / 32  # of what follows: a prefix of so few tokens is read again with each candidate, which saves a pass


class TokenScorer:
    """Scores tokens under a causal LM.

    Args:
        model: Any transformers causal LM that takes ``logits_to_keep``.
        bos_token_id: Token that goes before each sequence, or None.
        max_tokens_per_pass: Bounds the tokens of a pass, cached ones included (a longer sequence alone is still one
            pass), see `tokens_at_once`; changes memory and speed only.
        max_positions: Most tokens that it reads of a sequence, BOS included; its configuration's by default.

    Raises:
        ValueError: the model takes no ``logits_to_keep``, or an option is below 1.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        bos_token_id: int | None,
        max_tokens_per_pass: int | None = None,
        max_positions: int | None = None,
    ):
        arguments = inspect.signature(model.forward).parameters
        if "logits_to_keep" not in arguments:
            raise ValueError(f"a causal LM must accept logits_to_keep, {type(model).__name__} does not")
        for name, number in (("max_tokens_per_pass", max_tokens_per_pass), ("max_positions", max_positions)):
            if number is not None and number < 1:
                raise ValueError(f"{name} must be >= 1, got {number}")
        config = model.config.get_text_config()
        self.model = model
        self.bos_token_id = bos_token_id
        self.max_tokens_per_pass = max_tokens_per_pass
        self.vocab_size = config.vocab_size
        self.max_positions = max_positions or getattr(config, "max_position_embeddings", None)
        # Recurrent layers may not continue from a cache with several tokens at once.
        layers = {type(layer) for layer in DynamicCache(config=model.config).layers}
        plain = layers <= {DynamicLayer, DynamicSlidingWindowLayer}
        self._shares_prefixes = plain and "past_key_values" in arguments
        self._next_token = NextToken(model)

    def sum_terms(self, tokens: Tensor, terms: Tensor, rows: Tensor, prefixes: ReadPrefixes | None = None) -> Tensor:
        """Sum of ``log p_AR`` over the terms of each sequence.

        Args:
            tokens: Shape ``[n, length]``.
            terms: Which tokens are scored, bool, shape ``[n, length]``.
            rows: Sequences of the same row have the same first term, and agree before it; shape ``[n]``.
            prefixes: What was read before, to go on from; of this model.

        Returns:
            float64, shape ``[n]``, on the device of ``tokens``.
        """
        home, device = tokens.device, self.model.device
        tokens, terms, rows = self._as_read(tokens.to(device), terms.to(device)) + (rows.to(device),)
        total = torch.zeros(len(rows), dtype=widest_float(device), device=device)
        if not terms.any():
            return total.to(home)
        alone = prefixes is None and len(rows.unique()) == len(rows)
        if not self._shares_prefixes or alone:
            self._add(total, torch.arange(len(rows), device=device), tokens, terms, start=0)
            return total.to(home)
        prefixes = ReadPrefixes() if prefixes is None else prefixes
        prefixes.begin()
        for chunk in self._chunks_of_rows(terms, rows):
            start, latest = terms[chunk].int().argmax(1).aminmax()
            start, latest, last = int(start), int(latest), int(terms[chunk].any(0).nonzero()[-1])
            owner = rows[chunk].unique_consecutive(return_inverse=True)[1]
            if latest <= SHORT * (last - latest):
                self._add(total, chunk, tokens, terms, start=0)
                continue
            first = torch.cat([owner.new_ones(1), owner.diff()]).nonzero()[:, 0]
            for some, read in prefixes.read(tokens[chunk[first], :start], self._go_on):
                place = places_of(some, len(first))[owner]
                part, place = chunk[place >= 0], place[place >= 0]
                next_term = read.log_probs[place, tokens[part, start]].to(total)
                total[part] += torch.where(terms[part, start], next_term, 0.0)
                self._add(total, part, tokens, terms, start, (read.cache, place))
        return total.to(home)

    @property
    def _num_tokens(self) -> int:
        return tokens_at_once(self.model.device, self.max_tokens_per_pass)

    def _go_on(self, tokens: Tensor, cache: DynamicCache | None) -> tuple[DynamicCache, Tensor]:
        """Read ``tokens[n, length]`` after those of a cache: the cache of all, and ``log p_AR`` of the next token."""
        cache = DynamicCache(config=self.model.config) if cache is None else cache
        logits = self.model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        return cache, logits[:, 0].to(at_least_float32(logits)).log_softmax(-1)

    def _as_read(self, tokens: Tensor, terms: Tensor) -> tuple[Tensor, Tensor]:
        """Prepend BOS, zero all tokens after the last term, and check length and ids."""
        if self.bos_token_id is not None:
            tokens = torch.cat([tokens.new_full((len(tokens), 1), self.bos_token_id), tokens], 1)
            terms = torch.cat([terms.new_zeros(len(terms), 1), terms], 1)
        limit, num_read = self.max_positions, tokens.shape[1] - 1  # the last token is only scored
        if limit is not None and num_read > limit:
            bos = ", BOS included" if self.bos_token_id is not None else ""
            raise ValueError(
                f"a row must be at most {limit + 1} tokens long{bos}, since the LM's max_positions is {limit} "
                f"(and the last token is not read), got {num_read + 1}"
            )
        read = terms.flip(1).cumsum(1).flip(1) > 0
        tokens = tokens.masked_fill(~read, 0)
        outside = (tokens < 0) | (tokens >= self.vocab_size)
        if outside.any():
            raise ValueError(
                f"tokens must lie in the LM's vocabulary 0..{self.vocab_size - 1}, "
                f"got {tokens[outside][0].item()}: it must share the denoiser's tokenizer"
            )
        return tokens, terms

    def _chunks_of_rows(self, terms: Tensor, rows: Tensor) -> Iterator[Tensor]:
        """Sequences (indices) of rows whose first terms lie close together, row by row."""
        first = terms.int().argmax(1)
        order = (first * (rows.max() + 1) + rows).argsort(stable=True)
        counts = rows[order].unique_consecutive(return_counts=True)[1].tolist()
        sequences = order.split(counts)
        starts = first[torch.stack([members[0] for members in sequences])].tolist()
        begin = 0
        while begin < len(starts):
            most = min(self._num_tokens // starts[begin], rows_at_once(self.vocab_size, terms.device, LOGITS_OF_CPU))
            # Candidates of a row read again what lies between the common start and its own.
            latest = starts[begin] + terms.shape[1] // 8
            end = begin + 1
            while end < min(len(starts), begin + max(1, most)) and starts[end] <= latest:
                end += 1
            yield torch.cat(sequences[begin:end])
            begin = end

    def _add(
        self,
        total: Tensor,
        chunk: Tensor,
        tokens: Tensor,
        terms: Tensor,
        start: int,
        prefix: tuple[DynamicCache, Tensor] | None = None,
    ) -> None:
        """Add the terms after ``start`` of the sequences ``chunk``.

        ``prefix`` is a cache of what precedes, and the row of it that belongs to each sequence of the chunk.
        """
        needed = terms[:, start + 1 :]
        has_more = needed[chunk].any(1)
        chunk = chunk[has_more]
        if not len(chunk):
            return
        keep = needed[chunk].any(0).nonzero()[:, 0]
        stop = start + int(keep[-1]) + 1  # the last token is scored, but not read
        logits = len(keep) * self._next_token.logits_per_state
        size = min(self._num_tokens // stop, rows_at_once(logits, tokens.device, LOGITS_OF_CPU))
        for part in torch.arange(len(chunk), device=chunk.device).split(max(1, size)):
            options = {"use_cache": False}
            if prefix is not None:
                cache, owner = prefix
                options = {"past_key_values": selected(cache, owner[has_more][part]), "use_cache": True}
            members = chunk[part]
            targets = tokens[members, start + 1 : stop + 1][:, keep]
            log_p = self._next_token.log_prob(tokens[members, start:stop], keep, targets, **options)
            log_p = torch.where(needed[members][:, keep], log_p.to(total), 0.0)
            total[members] += log_p.sum(1)
