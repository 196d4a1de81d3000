"""Decoder architectures of transformers (Llama, Qwen2, GPT-2), run with both sides or block by block in view."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from edlm.denoisers.cache import Past
from edlm.denoisers.caching import CachingDenoiser
from edlm.denoisers.checkpoint import load_strictly
from edlm.denoisers.network import HiddenDenoiser
from edlm.denoisers.visibility import added_to_scores
from edlm.denoisers.vocabulary import Vocabulary
from edlm.modules import apply_output_layer

# Old versions of transformers saved these, which are computed.
_COMPUTED = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")


class DecoderDenoiser(HiddenDenoiser, CachingDenoiser):
    """A causal language model of transformers that was trained to denoise: it sees both sides, or blocks up to its own.

    Attention gets a mask of four dimensions, which every version and every implementation of attention in
    transformers takes as it is; ``is_causal`` of its layers then has no effect. The output layer is applied only
    at the positions requested.

    Args:
        network: A model with a language-modelling head.
        vocabulary: Its tokens.
        network_mask_token_id: The token that the network takes for a mask, where it is an ordinary one that text
            may hold; the vocabulary's mask then lies outside the logits and represents it.
        options: ``name`` and traits, as for `NetworkDenoiser`.

    Raises:
        ValueError: a mask token is none of the network's embeddings.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        vocabulary: Vocabulary,
        *,
        network_mask_token_id: int | None = None,
        **options: Any,
    ):
        super().__init__(network, vocabulary, **options)
        rows = len(network.get_input_embeddings().weight)
        fed = vocabulary.mask_token_id if network_mask_token_id is None else network_mask_token_id
        if not 0 <= fed < rows:
            raise ValueError(f"the mask token must be one of the network's {rows} embeddings, got {fed}")
        self.network_mask_token_id = fed

    def run(
        self,
        tokens: Tensor,
        t: Tensor,
        visible: Tensor | None,
        positions: Tensor | None = None,
        past: Past | None = None,
        keep_hidden: bool = False,
    ) -> tuple[Callable[[], Tensor], tuple[Tensor, ...] | None]:
        options = {} if past is None else {"past_key_values": past, "position_ids": positions}
        output = self.network.base_model(
            input_ids=self._as_fed(tokens),
            attention_mask=added_to_scores(visible, tokens.shape[1], self.network.get_input_embeddings().weight),
            use_cache=past is not None,
            output_hidden_states=keep_hidden,
            return_dict=True,
            **options,
        )
        states = output.last_hidden_state
        return lambda: states, output.hidden_states[:-1] if keep_hidden else None

    def decode(self, features: Tensor) -> Tensor:
        return apply_output_layer(self.network.get_output_embeddings(), features)

    @property
    def output_layer(self) -> tuple[Callable[[Tensor], Tensor], nn.Linear] | None:
        return nn.Identity(), self.network.get_output_embeddings()

    def embed(self, tokens: Tensor) -> Tensor:
        return super().embed(self._as_fed(tokens))

    def _as_fed(self, tokens: Tensor) -> Tensor:
        if self.network_mask_token_id == self.mask_token_id:
            return tokens
        return tokens.masked_fill(tokens == self.mask_token_id, self.network_mask_token_id)


def build_network(
    architecture: type[PreTrainedModel],
    config: PretrainedConfig,
    weights: dict[str, Tensor],
    dtype: torch.dtype,
    source: object,
) -> PreTrainedModel:
    """A network that takes over these weights: nothing is initialised, and nothing copied but for another dtype.

    Weights have the names of ``architecture``; of tied ones, one is enough. Errors are those of `load_strictly`.
    """
    with torch.device("meta"):
        network = architecture(config)
    weights = {name: weight.to(dtype) for name, weight in weights.items() if not name.endswith(_COMPUTED)}
    if config.tie_word_embeddings:
        tied = [name for name in network.state_dict() if name.endswith(("embed_tokens.weight", "wte.weight"))]
        pair = {*tied, "lm_head.weight"}
        given = [weights[name] for name in sorted(pair - {"lm_head.weight"}) + ["lm_head.weight"] if name in weights]
        weights |= dict.fromkeys(pair, given[0]) if given else {}
    load_strictly(network, weights, source, assign=True)
    network.tie_weights()
    if hasattr(network.base_model, "rotary_emb"):  # its frequencies are computed, not loaded
        network.base_model.rotary_emb = type(network.base_model.rotary_emb)(config)
    return network.requires_grad_(True)


def rename(weights: dict[str, Tensor], prefixes: dict[str, str]) -> dict[str, Tensor]:
    """Weights with the first prefix that fits replaced; other names stay as they are, to be named in errors."""

    def new(name: str) -> str:
        return next((to + name.removeprefix(old) for old, to in prefixes.items() if name.startswith(old)), name)

    return {new(name): weight for name, weight in weights.items()}
