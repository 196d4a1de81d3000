"""Any transformers masked language model as a denoiser."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from edlm.denoisers.base import Denoiser
from edlm.denoisers.checkpoint import Checkpoint
from edlm.denoisers.families.family import Family, LoadOptions
from edlm.denoisers.identity import DenoiserIdentity, identity_of
from edlm.denoisers.logits import name_of, unused_columns


class MaskedLMDenoiser(Denoiser):
    """A masked LM of transformers (BERT, ModernBERT, ...) as ``p_theta``.

    The model's own output layer is applied only at the positions asked for.

    Args:
        model: A model with a masked-LM head.
        tokenizer: Its tokenizer; gives the mask token. Columns beyond its vocabulary get no mass, and, if it has a
            ``[CLS]`` token, neither do ``[CLS]``, ``[SEP]``, padding, unknown and what else frames a text.
        mask_token_id: Needed without a tokenizer.
        impossible_token_ids: Further tokens that text never holds.
        name: What the identity calls it.

    Raises:
        ValueError: no mask token is known.
    """

    family = "masked_lm"

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
        framing = _Framing.of(tokenizer)
        impossible_token_ids += unused_columns(tokenizer, vocab_size) + framing.impossible
        super().__init__(mask_token_id, vocab_size, impossible_token_ids)
        self.network = model
        self.tokenizer = tokenizer
        self.name = name or name_of(model)
        self.prefix_ids, self.suffix_ids, self.is_framed = framing.prefix, framing.suffix, framing.is_always
        self.eos_token_id = getattr(tokenizer, "eos_token_id", None)
        self.max_length = _max_length(model)
        # In a tuple, so that the parameters of the shared output layer are registered once.
        is_modernbert = model.config.model_type == "modernbert"
        self._output_layer = (nn.Sequential(model.head, model.decoder) if is_modernbert else _OutputLayer(model),)

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

    @property
    def num_blocks(self) -> int:
        return self.network.config.num_hidden_layers

    def encode_tokens(
        self, x_t: Tensor, t: Tensor, attention_mask: Tensor | None, keep_hidden: bool
    ) -> tuple[Callable[[], Tensor], tuple[Tensor, ...] | None]:
        encoder = self.network.base_model
        if keep_hidden and self.network.config.model_type == "modernbert":
            return _run_in_two_parts(encoder, x_t, attention_mask)
        output = encoder(
            input_ids=x_t, attention_mask=attention_mask, output_hidden_states=keep_hidden, return_dict=True
        )
        return lambda: output.last_hidden_state, output.hidden_states[:-1] if keep_hidden else None

    def decode(self, features: Tensor) -> Tensor:
        return self._output_layer[0](features)

    def embed(self, tokens: Tensor) -> Tensor:
        return self.network.get_input_embeddings()(tokens)

    @property
    def identity(self) -> DenoiserIdentity:
        return identity_of(self, self.network, self.name)


class _Framing(NamedTuple):
    """What stands around a text, and which tokens it never holds.

    BERT and its like are told by their ``[CLS]`` token: ``[CLS] text [SEP]``. Of others only the mask is never text:
    their end-of-sequence token may separate documents, as in what ``edlm prepare corpus`` writes; it stands before a
    prompt.
    """

    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    is_always: bool = False
    impossible: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokenizer: Any) -> _Framing:
        names = ("cls", "sep", "bos", "eos", "pad", "unk")
        ids = {name: getattr(tokenizer, f"{name}_token_id", None) for name in names}
        if ids["cls"] is None:
            return cls(prefix=() if ids["eos"] is None else (ids["eos"],))
        end = ids["eos"] if ids["sep"] is None else ids["sep"]
        never = {ids["cls"], ids["pad"], ids["unk"], end, ids["bos"]} - {None}
        return cls((ids["cls"],), () if end is None else (end,), True, tuple(sorted(never)))


def _max_length(model: PreTrainedModel) -> int | None:
    """Positions that there are; in RoBERTa and its like, they are counted from after the padding token's."""
    for name, table in model.base_model.named_modules():
        if name.endswith("position_embeddings") and getattr(table, "padding_idx", None) is not None:
            return table.num_embeddings - table.padding_idx - 1
    most = getattr(model.config, "max_position_embeddings", None)
    return most if most is not None and most > 0 else None


class _OutputLayer:
    """The model's forward with its encoder replaced by "features are given": just the output layer.

    Works for every family whose forward is ``head(encoder(...))``, without knowing the head's name.
    """

    def __init__(self, model: PreTrainedModel):
        self._given = _GivenFeatures()
        self._head = _with_modules(model, **{model.base_model_prefix: self._given})

    def __call__(self, features: Tensor) -> Tensor:
        self._given.features = features[None]
        unused = torch.zeros(1, len(features), dtype=torch.long, device=features.device)
        try:
            return self._head(input_ids=unused, return_dict=True).logits[0]
        finally:
            self._given.features = None  # a kept graph could be neither freed nor copied


class _GivenFeatures(nn.Module):
    features: Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> _EncoderOutput:
        return _EncoderOutput(self.features)


class _EncoderOutput(NamedTuple):
    """What heads read of transformers' BaseModelOutput, which takes much longer to make."""

    last_hidden_state: Tensor
    hidden_states: None = None
    attentions: None = None


def _run_in_two_parts(
    encoder: PreTrainedModel, x_t: Tensor, attention_mask: Tensor | None
) -> tuple[Callable[[], Tensor], tuple[Tensor, ...]]:
    """All blocks of a ModernBERT but the last, whose work an energy that replaces it saves; and what runs that one."""
    entering = []
    watched = nn.ModuleList(_Watched(block, entering) for block in encoder.layers[:-1])
    first = _with_modules(encoder, layers=watched, final_norm=nn.Identity())
    last = _with_modules(encoder, layers=encoder.layers[-1:], embeddings=_GivenEmbeddings())
    entering.append(first(input_ids=x_t, attention_mask=attention_mask, return_dict=True).last_hidden_state)

    def finish() -> Tensor:
        return last(inputs_embeds=entering[-1], attention_mask=attention_mask, return_dict=True).last_hidden_state

    return finish, tuple(entering)


class _Watched(nn.Module):
    """A block that notes the states that enter it."""

    def __init__(self, block: nn.Module, entering: list[Tensor]):
        super().__init__()
        self.block = block
        self.attention_type = block.attention_type
        self.entering = entering

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        self.entering.append(hidden_states)
        return self.block(hidden_states, **kwargs)


class _GivenEmbeddings(nn.Module):
    def forward(self, input_ids: None, inputs_embeds: Tensor) -> Tensor:
        return inputs_embeds


def _with_modules(model: PreTrainedModel, /, **modules: nn.Module) -> PreTrainedModel:
    """A shallow copy that shares all weights, with some of its modules replaced."""
    other = copy.copy(model)
    other._modules = {**model._modules, **modules}
    return other


def _recognizes(checkpoint: Checkpoint) -> bool:
    return checkpoint.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _load(checkpoint: Checkpoint, options: LoadOptions) -> MaskedLMDenoiser:
    model = AutoModelForMaskedLM.from_pretrained(
        checkpoint.path, dtype=options.dtype, trust_remote_code=options.trust_remote_code
    )
    return MaskedLMDenoiser(
        model, checkpoint.tokenizer(options.tokenizer), mask_token_id=options.mask_token_id, name=checkpoint.name
    )


FAMILY = Family("masked_lm", _recognizes, _load, MaskedLMDenoiser)
