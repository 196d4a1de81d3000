"""Masked language models of transformers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from edlm.denoisers.architecture import building, new_config, try_out
from edlm.denoisers.checkpoint import SHARD_SIZE, Checkpoint, filling_with_weights
from edlm.denoisers.families.family import Family, LoadOptions
from edlm.denoisers.logits import unpadded
from edlm.denoisers.network import HiddenDenoiser
from edlm.denoisers.vocabulary import Vocabulary, token_id
from edlm.files import reading
from edlm.modules import apply_output_layer

# Positions next to a row's end see its padding, which the attention mask does not hide: rows run without theirs.
_LEAKS = ("big_bird", "convbert", "fnet", "mobilebert", "nystromformer", "longformer", "xlm", "flaubert")
_REFUSED = {
    **dict.fromkeys(("bart", "mbart", "mvp"), "its decoder sees only the tokens before a position"),
    **dict.fromkeys(("mra", "reformer", "yoso"), "its attention is random, or not exact"),
    **dict.fromkeys(("funnel", "perceiver"), "its states are not one for each token"),
    **dict.fromkeys(("modernvbert", "ultravbert"), "it reads images"),
}


class MaskedLMDenoiser(HiddenDenoiser):
    """A masked LM of transformers (BERT, ModernBERT, ...) as ``p_theta``.

    The model's own output layer is applied only at the positions requested.

    Args:
        model: A model with a masked-LM head.
        tokenizer: Its tokenizer; gives the mask token. Columns beyond its vocabulary get no mass, and, if it has a
            ``[CLS]`` token, neither do the special tokens that frame a text.
        mask_token_id: Needed without a tokenizer.
        name: What the identity calls it.

    Raises:
        ValueError: no mask token is known, or the architecture is one that cannot work here.
    """

    family = "masked_lm"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any = None,
        *,
        mask_token_id: int | None = None,
        name: str | None = None,
    ):
        if (kind := model.config.model_type) in _REFUSED:
            raise ValueError(f"model_type '{kind}' cannot be a denoiser: {_REFUSED[kind]}")
        vocabulary = Vocabulary.of_masked_lm(tokenizer, model.config.vocab_size, mask_token_id)
        # The padding token may be the separator of documents; transformers trains no embedding for it.
        model.get_input_embeddings().padding_idx = None
        self._first_position, max_length = _positions(model)
        super().__init__(model, vocabulary, name=name, max_length=max_length)
        # In a tuple, so that the parameters of the shared output layer are registered once.
        is_modernbert = model.config.model_type == "modernbert"
        self._output_layer = (partial(_decode, model) if is_modernbert else _OutputLayer(model),)

    @classmethod
    def from_config(cls, tokenizer: Any, model_type: str, **settings: Any) -> MaskedLMDenoiser:
        """A new, untrained network of an architecture of transformers, and its settings, for this tokenizer.

        Raises:
            ValueError: an unknown architecture or setting, with the nearest known one; or a value that it cannot have.
        """
        special = {**special_tokens(tokenizer), "pad_token_id": None}
        config = new_config(model_type, settings, vocab_size=len(tokenizer), **special)
        with building(model_type):
            model = AutoModelForMaskedLM.from_config(config)
            if config.pad_token_id is None and (counting := counting_module(model)) is not None:
                counting.padding_idx = config.pad_token_id = 0
            try_out(model)
        return cls(model, tokenizer)

    def save_pretrained(self, path: str | Path, *, max_shard_size: str = SHARD_SIZE) -> None:
        """Write the network, in files of at most this size, and its tokenizer as transformers does."""
        with filling_with_weights(path) as folder:
            self.network.save_pretrained(folder, max_shard_size=max_shard_size)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(folder)

    def encode_tokens(
        self, x_t: Tensor, t: Tensor, attention_mask: Tensor | None, keep_hidden: bool
    ) -> tuple[Callable[[], Tensor], tuple[Tensor, ...] | None]:
        encoder = self.network.base_model
        if keep_hidden and self.network.config.model_type == "modernbert":
            return _run_in_two_parts(encoder, x_t, attention_mask)

        def run(x_t: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, ...]:
            options = {"output_hidden_states": keep_hidden, "return_dict": True}
            if self._first_position:
                options["position_ids"] = torch.arange(x_t.shape[1], device=x_t.device)[None] + self._first_position
            output = encoder(input_ids=x_t, attention_mask=attention_mask, **options)
            return (*(output.hidden_states[:-1] if keep_hidden else ()), output.last_hidden_state)

        if attention_mask is not None and self.network.config.model_type in _LEAKS:
            together = unpadded(lambda x_t, t: torch.stack(run(x_t, None), -1).flatten(2))(x_t, t, attention_mask)
            *hidden, features = together.unflatten(2, (self.hidden_size, -1)).unbind(-1)
        else:
            *hidden, features = run(x_t, attention_mask)
        return lambda: features, tuple(hidden) if keep_hidden else None

    def decode(self, features: Tensor) -> Tensor:
        return self._output_layer[0](features)


def special_tokens(tokenizer: Any) -> dict[str, int | None]:
    """Special tokens of a tokenizer as settings of a network that is trained for it."""
    return {f"{kind}_token_id": token_id(tokenizer, kind) for kind in ("bos", "eos", "cls", "sep")}


def counting_module(model: PreTrainedModel) -> nn.Module | None:
    """The module of models like RoBERTa that counts positions from after the padding token's; None of others."""
    return next((m for m in model.modules() if hasattr(m, "position_embeddings") and hasattr(m, "padding_idx")), None)


def _positions(model: PreTrainedModel) -> tuple[int, int | None]:
    """The first position, which is given to the model where it would not count some tokens; and their number."""
    counting = counting_module(model)
    if counting is not None:
        first = counting.padding_idx + 1
        return first, counting.position_embeddings.weight.shape[0] - first
    length = getattr(model.config, "max_position_embeddings", None)
    return 0, length if length is not None and length > 0 else None


def _decode(model: PreTrainedModel, features: Tensor) -> Tensor:
    """The output layer of a ModernBERT."""
    return apply_output_layer(model.decoder, model.head(features))


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
    """The part of transformers' outputs that heads read, much faster to make; all else in them is None."""

    last_hidden_state: Tensor

    def __getattr__(self, name: str) -> None:
        return None


def _run_in_two_parts(
    encoder: PreTrainedModel, x_t: Tensor, attention_mask: Tensor | None
) -> tuple[Callable[[], Tensor], tuple[Tensor, ...]]:
    """Run all blocks of a ModernBERT but the last; and a function that runs that one, unless an energy replaces it."""
    entering, last = [], _Deferred(encoder.layers[-1])
    first = _with_modules(encoder, final_norm=nn.Identity())
    del first._modules["layers"]
    first.layers = [*(_Watched(block, entering) for block in encoder.layers[:-1]), last]
    entering.append(first(input_ids=x_t, attention_mask=attention_mask, return_dict=True).last_hidden_state)
    return lambda: encoder.final_norm(last.block(entering[-1], **last.options)), tuple(entering)


class _Layer:
    """A block in a list of blocks; no module, since a pass makes them anew."""

    def __init__(self, block: nn.Module):
        self.block = block
        self.attention_type = block.attention_type


class _Watched(_Layer):
    """A block that notes the states that enter it."""

    def __init__(self, block: nn.Module, entering: list[Tensor]):
        super().__init__(block)
        self.entering = entering

    def __call__(self, hidden_states: Tensor, **options: Any) -> Tensor:
        self.entering.append(hidden_states)
        return self.block(hidden_states, **options)


class _Deferred(_Layer):
    """A block that notes what it is called with beside the states, which leave it as they enter."""

    options: dict[str, Any]

    def __call__(self, hidden_states: Tensor, **options: Any) -> Tensor:
        self.options = options
        return hidden_states


def _with_modules(model: PreTrainedModel, /, **modules: nn.Module) -> PreTrainedModel:
    """A shallow copy that shares all weights, with some of its modules replaced."""
    other = copy.copy(model)
    other._modules = {**model._modules, **modules}
    return other


def _recognizes(checkpoint: Checkpoint) -> bool:
    return checkpoint.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _load(checkpoint: Checkpoint, options: LoadOptions) -> MaskedLMDenoiser:
    loading = {"trust_remote_code": options.trust_remote_code, "output_loading_info": True}
    with reading(checkpoint.path, "hold a masked LM"):
        model, report = AutoModelForMaskedLM.from_pretrained(checkpoint.path, dtype=torch.float32, **loading)
    if missing := sorted(report["missing_keys"]):  # transformers draws them at random
        raise ValueError(f"{checkpoint.path}: weights missing {missing[:5]}; a denoiser needs its output layer too")
    tokenizer = checkpoint.tokenizer(options.tokenizer)
    denoiser = MaskedLMDenoiser(model, tokenizer, mask_token_id=options.mask_token_id, name=checkpoint.name)
    return denoiser.to(options.dtype)  # a cast keeps the identity, which rounded weights would change


FAMILY = Family("masked_lm", _recognizes, _load, MaskedLMDenoiser)
