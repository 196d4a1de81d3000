"""LLaDA: a Llama whose weights have the names of OLMo, without causal mask; predicts tokens in their place."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from edlm.denoisers.base import Denoiser
from edlm.denoisers.checkpoint import Checkpoint
from edlm.denoisers.decoder import DecoderDenoiser, build_network, rename
from edlm.denoisers.families.family import Family, LoadOptions, first_given, unwrap_logits
from edlm.denoisers.logits import LogitsDenoiser, unused_columns
from edlm.denoisers.own_code import wants_own_code, wrap_own_code
from edlm.denoisers.unpadded import run_unpadded

MASK, EOS = 126336, 126081
# What the published models have; a network with another setting would be another function.
_FIXED: dict[str, Any] = {
    "block_type": "llama",
    "layer_norm_type": "rms",
    "activation_type": "silu",
    "rope": True,
    "alibi": False,
    "attention_layer_norm": False,
    "input_emb_norm": False,
    "scale_logits": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "bias_for_layer_norm": False,
    "block_group_size": 1,
}
_OUTER = {
    "model.transformer.wte.": "model.embed_tokens.",
    "model.transformer.ln_f.": "model.norm.",
    "model.transformer.ff_out.": "lm_head.",
}
_INNER = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}


def _load(checkpoint: Checkpoint, options: LoadOptions) -> Denoiser:
    if wants_own_code(checkpoint, options):
        return wrap_own_code(checkpoint, options, wrap)
    given, tokenizer = checkpoint.config, checkpoint.tokenizer(options.tokenizer)
    config = _as_llama(given, checkpoint)
    names = dict(_OUTER)
    for i in range(config.num_hidden_layers):
        names |= {f"model.transformer.blocks.{i}.{old}.": f"model.layers.{i}.{new}." for old, new in _INNER.items()}
    weights = rename(checkpoint.weights(), names)
    network = build_network(LlamaForCausalLM, config, weights, options.dtype, checkpoint.path)
    return DecoderDenoiser(
        network,
        mask_token_id=_mask(options.mask_token_id, given.get("mask_token_id"), tokenizer),
        tokenizer=tokenizer,
        name=checkpoint.name,
        max_length=config.max_position_embeddings,
        eos_token_id=first_given(given.get("eos_token_id"), EOS, of="eos_token_id"),
    )


def _as_llama(given: dict[str, Any], checkpoint: Checkpoint) -> LlamaConfig:
    missing = [name for name in ("d_model", "n_heads", "n_layers") if name not in given]
    if missing:
        raise ValueError(f"a LLaDA config must say {missing}, got {checkpoint.describe()}")
    for name, wanted in _FIXED.items():
        if given.get(name, wanted) not in (wanted, None):
            raise ValueError(f"a LLaDA config must have {name} = {wanted!r}, got {given[name]!r}")
    vocab_size = first_given(given.get("embedding_size"), given.get("vocab_size"), of="vocab_size")
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=given["d_model"],
        intermediate_size=given.get("mlp_hidden_size") or given.get("mlp_ratio", 4) * given["d_model"],
        num_hidden_layers=given["n_layers"],
        num_attention_heads=given["n_heads"],
        num_key_value_heads=given.get("n_kv_heads") or (1 if given.get("multi_query_attention") else given["n_heads"]),
        max_position_embeddings=given.get("max_sequence_length", 4096),
        rms_norm_eps=given.get("rms_norm_eps", 1e-5),
        rope_parameters={"rope_type": "default", "rope_theta": given.get("rope_theta", 10000.0)},
        tie_word_embeddings=given.get("weight_tying", False),
        pad_token_id=None,
    )


def wrap(module: nn.Module, tokenizer: Any = None, *, mask_token_id: int | None = None) -> Denoiser:
    """A denoiser of a module built by LLaDA's own code.

    Rows are run in groups of equal length, without an attention mask: versions of that code ignore it, or turn
    it into a causal one (ML-GSAI/LLaDA issues 89 and 90).
    """
    config = module.config
    vocab_size = first_given(
        getattr(config, "embedding_size", None), getattr(config, "vocab_size", None), of="vocab_size"
    )

    def call(x_t: Tensor, t: Tensor, attention_mask: Tensor | None) -> Tensor:
        return run_unpadded(lambda rows, _: unwrap_logits(module(rows)), x_t, t, attention_mask)

    return LogitsDenoiser(
        module,
        call,
        mask_token_id=_mask(mask_token_id, getattr(config, "mask_token_id", None), tokenizer),
        vocab_size=vocab_size,
        impossible_token_ids=unused_columns(tokenizer, vocab_size),
        tokenizer=tokenizer,
        max_length=getattr(config, "max_sequence_length", None),
        eos_token_id=first_given(getattr(config, "eos_token_id", None), EOS, of="eos_token_id"),
    )


def _mask(given: int | None, of_config: int | None, tokenizer: Any) -> int:
    return first_given(given, of_config, getattr(tokenizer, "mask_token_id", None), MASK, of="mask_token_id")


FAMILY = Family("llada", lambda checkpoint: checkpoint.model_type == "llada", _load, wrap)
