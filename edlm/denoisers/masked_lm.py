"""Any transformers masked language model as a denoiser."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from edlm.denoisers.base import Denoiser, DenoiserIdentity


class MaskedLMDenoiser(Denoiser):
    """A masked LM of transformers (BERT, ModernBERT, ...) as ``p_theta``.

    The model's own output layer is applied only at the positions asked for.

    Args:
        model: A model with a masked-LM head.
        tokenizer: Its tokenizer; gives the mask token. Columns beyond its vocabulary get no mass.
        mask_token_id: Needed without a tokenizer.
        impossible_token_ids: Further tokens that text never holds.
        name: What the identity calls it.

    Raises:
        ValueError: no mask token is known.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any = None,
        *,
        mask_token_id: int | None = None,
        impossible_token_ids: tuple[int, ...] = (),
        name: str | None = None,
    ):
        if mask_token_id is None:
            mask_token_id = getattr(tokenizer, "mask_token_id", None)
        if mask_token_id is None:
            raise ValueError("a denoiser needs a mask token: give mask_token_id, or a tokenizer that has one")
        vocab_size = model.config.vocab_size
        if tokenizer is not None:  # rows that pad the vocabulary to a round number
            impossible_token_ids += tuple(range(len(tokenizer), vocab_size))
        super().__init__(mask_token_id, vocab_size, impossible_token_ids)
        self.network = model
        self.tokenizer = tokenizer
        self.name = name or model.config.name_or_path or type(model).__name__
        # In a tuple, so that the parameters of the shared output layer are registered once.
        self._output_layer = (_OutputLayer(model),)

    @classmethod
    def from_pretrained(cls, path: str | Path, **model_options: Any) -> MaskedLMDenoiser:
        """Load a folder or hub id that holds a masked LM and its tokenizer; float32 unless told otherwise."""
        model = AutoModelForMaskedLM.from_pretrained(path, **{"dtype": torch.float32, **model_options})
        tokenizer = AutoTokenizer.from_pretrained(path)
        return cls(model, tokenizer, name=Path(path).name).eval()

    @classmethod
    def from_config(cls, tokenizer: Any, **config: Any) -> MaskedLMDenoiser:
        """A new, untrained network of ``model_type`` (and its other settings) for this tokenizer."""
        special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "cls", "sep")}
        # Transformers trains no input embedding for the padding token, which may be the separator of documents.
        special["pad_token_id"] = None
        settings = AutoConfig.for_model(**{"vocab_size": len(tokenizer), **special, **config})
        return cls(AutoModelForMaskedLM.from_config(settings), tokenizer)

    def save_pretrained(self, path: str | Path) -> None:
        """Write the network and its tokenizer as transformers does."""
        self.network.save_pretrained(path)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(path)

    @property
    def hidden_size(self) -> int:
        return self.network.config.hidden_size

    def encode_tokens(
        self, x_t: Tensor, t: Tensor, attention_mask: Tensor | None, keep_hidden: bool
    ) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        output = self.network.base_model(
            input_ids=x_t, attention_mask=attention_mask, output_hidden_states=keep_hidden, return_dict=True
        )
        return output.last_hidden_state, output.hidden_states if keep_hidden else None

    def decode(self, features: Tensor) -> Tensor:
        return self._output_layer[0](features)

    def embed(self, tokens: Tensor) -> Tensor:
        return self.network.get_input_embeddings()(tokens)

    @property
    def identity(self) -> DenoiserIdentity:
        vocabulary = ""
        if self.tokenizer is not None:
            vocabulary = _digest(repr(sorted(self.tokenizer.get_vocab().items())).encode())
        return DenoiserIdentity(
            self.name, _weights_fingerprint(self.network), self.vocab_size, self.mask_token_id, vocabulary
        )


class _OutputLayer:
    """The model's forward with its encoder replaced by "features are given": just the output layer.

    Works for every family whose forward is ``head(encoder(...))``, without knowing the head's name.
    """

    def __init__(self, model: PreTrainedModel):
        self._given = _GivenFeatures()
        self._head = copy.copy(model)
        self._head._modules = {**model._modules, model.base_model_prefix: self._given}

    def __call__(self, features: Tensor) -> Tensor:
        self._given.features = features[None]
        unused = torch.zeros(1, len(features), dtype=torch.long, device=features.device)
        try:
            return self._head(input_ids=unused, return_dict=True).logits[0]
        finally:
            self._given.features = None  # a kept graph could be neither freed nor copied


class _GivenFeatures(nn.Module):
    features: Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=self.features)


def _weights_fingerprint(model: nn.Module, samples: int = 256) -> str:
    """Digest of evenly spaced weights, in float16 so that shipped float16 files and their source agree."""
    picked = []
    for _, weight in sorted(model.named_parameters()):
        flat = weight.detach().flatten()
        picked.append(flat[:: max(1, len(flat) // samples)].to(torch.float16).cpu())
    return _digest(torch.cat(picked).numpy().tobytes())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
