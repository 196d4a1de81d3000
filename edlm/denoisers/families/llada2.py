"""LLaDA2.0: a mixture of experts that sees block by block; its network, with tensors under their published names."""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.phi.modeling_phi import PhiRotaryEmbedding
from transformers.models.qwen3_moe.modeling_qwen3_moe import (
    Qwen3MoeExperts,
    Qwen3MoeMLP,
    Qwen3MoeRMSNorm,
    eager_attention_forward,
    rotate_half,
)

from edlm.denoisers.families.decoder_family import DecoderFamily
from edlm.denoisers.visibility import added_to_scores


@strict
class LLaDA2Config(PretrainedConfig):
    """Settings under their published names; defaults are those of the published code."""

    model_type = "llada2_moe"
    vocab_size: int = 157184
    hidden_size: int = 2048
    intermediate_size: int = 5120
    num_hidden_layers: int = 20
    num_attention_heads: int = 16
    num_key_value_heads: int = 4
    head_dim: int | None = None
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-5
    max_position_embeddings: int = 16384
    rope_parameters: dict[str, Any] | None = None
    use_qkv_bias: bool = False
    use_qk_norm: bool = True
    use_bias: bool = True
    tie_word_embeddings: bool = False
    num_experts: int | None = 16
    num_shared_experts: int | None = 0
    num_experts_per_tok: int = 2
    n_group: int = 8
    topk_group: int = 4
    routed_scaling_factor: float = 2.5
    moe_intermediate_size: int | None = None
    first_k_dense_replace: int = 0


class _Attention(nn.Module):
    is_causal = False

    def __init__(self, config: LLaDA2Config, layer_idx: int):
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim or config.hidden_size // heads
        self.parts = (heads, kv_heads, kv_heads)  # of the packed projection, in heads
        self.num_key_value_groups = heads // kv_heads
        self.query_key_value = nn.Linear(config.hidden_size, sum(self.parts) * self.head_dim, bias=config.use_qkv_bias)
        if config.use_qk_norm:
            self.query_layernorm = Qwen3MoeRMSNorm(self.head_dim, eps=config.rms_norm_eps)
            self.key_layernorm = Qwen3MoeRMSNorm(self.head_dim, eps=config.rms_norm_eps)
        self.dense = nn.Linear(heads * self.head_dim, config.hidden_size, bias=config.use_bias)

    def forward(
        self, states: Tensor, angles: tuple[Tensor, Tensor], mask: Tensor | None, cache: Cache | None
    ) -> Tensor:
        packed = self.query_key_value(states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        query, key, value = packed.split(self.parts, 1)
        if self.config.use_qk_norm:
            query, key = self.query_layernorm(query), self.key_layernorm(key)
        query, key = _rotate(query, angles), _rotate(key, angles)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        read, _ = attend(self, query, key, value, mask, dropout=0.0, scaling=self.head_dim**-0.5)
        return self.dense(read.flatten(2))


def _rotate(heads: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """``heads[n, heads, length, size]`` with the first part of each turned, as wide as the angles."""
    cos, sin = (part[:, None] for part in angles)
    turned, kept = heads.split((cos.shape[-1], heads.shape[-1] - cos.shape[-1]), -1)
    return torch.cat([turned * cos + rotate_half(turned) * sin, kept], -1)


class _Router(nn.Module):
    """Chooses experts by sigmoid scores plus a bias, in the best groups only; weighs them by the scores alone."""

    def __init__(self, config: LLaDA2Config):
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))
        self.register_buffer("expert_bias", torch.zeros(config.num_experts))

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Experts and their weights, each ``[tokens, num_experts_per_tok]``, of states ``[tokens, hidden_size]``."""
        config = self.config
        scores = F.linear(states.float(), self.weight.float()).sigmoid()
        grouped = (scores + self.expert_bias).unflatten(-1, (config.n_group, -1))
        best = grouped.topk(2, -1).values.sum(-1).topk(config.topk_group, -1).indices
        outside = torch.ones_like(grouped[..., 0], dtype=torch.bool).scatter(-1, best, False)
        chosen = grouped.masked_fill(outside[..., None], -torch.inf).flatten(1)
        experts = chosen.topk(config.num_experts_per_tok, -1).indices
        weights = scores.gather(-1, experts)
        if config.num_experts_per_tok > 1:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return experts, weights * config.routed_scaling_factor


class _Experts(nn.Module):
    def __init__(self, config: LLaDA2Config):
        super().__init__()
        self.gate = _Router(config)
        self.experts = Qwen3MoeExperts(config)
        if config.num_shared_experts:
            self.shared_experts = Qwen3MoeMLP(config, config.moe_intermediate_size * config.num_shared_experts)

    def forward(self, states: Tensor) -> Tensor:
        tokens = states.flatten(0, 1)
        experts, weights = self.gate(tokens)
        mixed = self.experts(tokens, experts, weights.to(tokens.dtype)).view_as(states)
        return mixed + self.shared_experts(states) if hasattr(self, "shared_experts") else mixed


class _Layer(nn.Module):
    def __init__(self, config: LLaDA2Config, layer_idx: int):
        super().__init__()
        self.attention = _Attention(config, layer_idx)
        has_experts = config.num_experts is not None and layer_idx >= config.first_k_dense_replace
        self.mlp = _Experts(config) if has_experts else Qwen3MoeMLP(config)
        self.input_layernorm = Qwen3MoeRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = Qwen3MoeRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self, states: Tensor, angles: tuple[Tensor, Tensor], mask: Tensor | None, cache: Cache | None
    ) -> Tensor:
        states = states + self.attention(self.input_layernorm(states), angles, mask, cache)
        return states + self.mlp(self.post_attention_layernorm(states))


class _PreTrained(PreTrainedModel):
    config_class = LLaDA2Config
    base_model_prefix = "model"
    _no_split_modules = ("_Layer",)
    _supports_sdpa = True
    _supports_attention_backend = True


class LLaDA2Model(_PreTrained):
    """The network without its output layer; sees both sides unless a mask says otherwise."""

    def __init__(self, config: LLaDA2Config):
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(_Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = Qwen3MoeRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = PhiRotaryEmbedding(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.word_embeddings = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool = False,
        **unused: Any,
    ) -> BaseModelOutputWithPast:
        """As a decoder of transformers.

        Args:
            input_ids: Tokens ``[n, queries]``.
            inputs_embeds: Their embeddings, instead.
            attention_mask: Bool, or added to scores, ``[n or 1, 1, queries, keys]``; None: everything is read.
            position_ids: ``[n or 1, queries]``; by default those after what is cached.
            past_key_values: Keys and values of earlier tokens; those of these are added.
            output_hidden_states: Keep the states that enter the layers, and the last.
            unused: Options of other decoders, such as ``use_cache``: a cache is used if there is one.
        """
        states = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            before = 0 if past_key_values is None else past_key_values.get_seq_length()
            position_ids = torch.arange(before, before + states.shape[1], device=states.device)[None]
        if attention_mask is not None and attention_mask.dtype == torch.bool:
            attention_mask = added_to_scores(attention_mask, states.shape[1], states)
        angles, entering = self.rotary_emb(states, position_ids), []
        for layer in self.layers:
            entering.append(states)
            states = layer(states, angles, attention_mask, past_key_values)
        states = self.norm(states)
        kept = (*entering, states) if output_hidden_states else None
        return BaseModelOutputWithPast(last_hidden_state=states, past_key_values=past_key_values, hidden_states=kept)


class LLaDA2ForMaskedLM(_PreTrained):
    """The network with its output layer: logits of tokens in their own place."""

    def __init__(self, config: LLaDA2Config):
        super().__init__(config)
        self.model = LLaDA2Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.word_embeddings

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def forward(self, *inputs: Tensor, **options: Any) -> CausalLMOutputWithPast:
        """Arguments as for `LLaDA2Model`; logits ``[n, queries, vocab_size]``."""
        output = self.model(*inputs, **options)
        logits = self.lm_head(output.last_hidden_state)
        return CausalLMOutputWithPast(
            logits=logits, past_key_values=output.past_key_values, hidden_states=output.hidden_states
        )


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    heads = config.get("num_key_value_heads") or config.get("num_attention_heads")
    return {"partial_rotary_factor": 0.5, **config, "num_key_value_heads": heads}


ROW = DecoderFamily(
    name="llada2",
    title="LLaDA2.0",
    model_types={"llada2_moe": (LLaDA2ForMaskedLM, LLaDA2Config)},
    mask=156895,
    end=156892,
    block_size=32,
    options=frozenset({"block_size"}),
    fixed={
        "score_function": "sigmoid",
        "norm_head": False,
        "tie_word_embeddings": False,
        "moe_router_enable_expert_bias": True,
    },
    settings=_settings,
)
FAMILY = ROW.family
