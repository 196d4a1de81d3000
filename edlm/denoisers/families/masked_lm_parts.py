"""Parts of a masked language model of transformers that run apart: its output layer, and its last block."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from edlm.modules import apply_output_layer


class OutputLayer:
    """The model's forward with its encoder replaced by "features are given": just the output layer.

    Works for every family whose forward is ``head(encoder(...))``, without knowing the head's name.
    """

    def __init__(self, model: PreTrainedModel):
        self._model = model
        self._given = _GivenFeatures()
        self._split: tuple[nn.Module, OutputLayer | None] | None = None  # of the layer that it was made for
        self._head = _with_modules(model, **{model.base_model_prefix: self._given})

    def __call__(self, features: Tensor) -> Tensor:
        """Logits ``[..., vocab_size]`` of features ``[..., width]``."""
        self._given.features = features.flatten(0, -2)[None]
        unused = torch.zeros(self._given.features.shape[:2], dtype=torch.long, device=features.device)
        try:
            logits = self._head(input_ids=unused, return_dict=True).logits[0]
        finally:
            self._given.features = None  # a kept graph could be neither freed nor copied
        return logits.view(*features.shape[:-1], logits.shape[-1])

    @property
    def parts(self) -> tuple[Callable[[Tensor], Tensor], nn.Linear] | None:
        """What comes before the last linear layer, and that layer; None of a head that is not known to end in one."""
        layer = self._model.get_output_embeddings()
        if self._split is None or self._split[0] is not layer:
            self._split = (layer, self._before(layer))
        before = self._split[1]
        return None if before is None else (before, layer)

    def _before(self, layer: nn.Module) -> OutputLayer | None:
        path = next((name for name, module in self._model.named_modules() if module is layer), None)
        if not isinstance(layer, nn.Linear) or path is None:
            return None
        before = OutputLayer(_with_identity(self._model, path.split(".")))
        trial = torch.linspace(-1, 1, 2 * layer.in_features, device=layer.weight.device).view(2, -1).to(layer.weight)
        try:
            with torch.no_grad():
                agree = torch.allclose(layer(before(trial)), self(trial), rtol=1e-2, atol=1e-2)
        except (AttributeError, RuntimeError):  # the head reads the layer's weights, or features of another width
            return None
        return before if agree else None


class ModernBertOutputLayer:
    """The same of a ModernBERT, without the detour."""

    def __init__(self, model: PreTrainedModel):
        self._model = model

    @property
    def parts(self) -> tuple[Callable[[Tensor], Tensor], nn.Linear]:
        return self._model.head, self._model.decoder

    def __call__(self, features: Tensor) -> Tensor:
        return apply_output_layer(self._model.decoder, self._model.head(features))


class _GivenFeatures(nn.Module):
    features: Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> _EncoderOutput:
        return _EncoderOutput(self.features)


class _EncoderOutput(NamedTuple):
    """The part of transformers' outputs that heads read, much faster to make; all else in them is None."""

    last_hidden_state: Tensor

    def __getattr__(self, name: str) -> None:
        return None


def run_in_two_parts(
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


def _with_modules(model: nn.Module, /, **modules: nn.Module) -> nn.Module:
    """A shallow copy that shares all weights, with some of its modules replaced."""
    other = copy.copy(model)
    vars(other).pop("forward", None)  # that of a hook of accelerate, which would run the model itself
    other._modules = {**model._modules, **modules}
    return other


def _with_identity(model: nn.Module, path: list[str]) -> nn.Module:
    """A copy that shares all weights, in which the module at a path passes on what it is given."""
    name, *rest = path
    return _with_modules(model, **{name: _with_identity(model._modules[name], rest) if rest else nn.Identity()})
