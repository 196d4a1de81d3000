"""LLaDA: a Llama whose weights have the names of OLMo, without causal mask; predicts tokens in their place."""

from typing import Any

from edlm.denoisers.families.calls import without_mask
from edlm.denoisers.families.decoder_family import LLAMA, DecoderFamily

# Of the published models; with another value the network would be another function.
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
_SETTINGS = {"d_model": "hidden_size", "n_heads": "num_attention_heads", "n_layers": "num_hidden_layers"}
_SETTINGS |= {"max_sequence_length": "max_position_embeddings", "weight_tying": "tie_word_embeddings"}
_DEFAULTS = {"max_sequence_length": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "weight_tying": False}
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


def _as_llama(config: dict[str, Any]) -> dict[str, Any]:
    said = _DEFAULTS | {name: value for name, value in config.items() if value is not None}
    missing = [name for name in ("d_model", "n_heads", "n_layers") if name not in said]
    if missing:
        raise ValueError(f"a LLaDA config must say {missing}, got {sorted(config)}")
    heads, rope = said["n_heads"], {name: said[name] for name in ("rope_scaling", "rope_parameters") if name in said}
    return {
        **{new: said[old] for old, new in _SETTINGS.items()},
        "vocab_size": said.get("embedding_size", said.get("vocab_size")),
        "intermediate_size": said.get("mlp_hidden_size") or said.get("mlp_ratio", 4) * said["d_model"],
        "num_key_value_heads": said.get("n_kv_heads") or (1 if said.get("multi_query_attention") else heads),
        "rms_norm_eps": said["rms_norm_eps"],
        "rope_theta": said["rope_theta"],
        **rope,
    }


def _names(num_layers: int) -> dict[str, str]:
    inner = {
        f"model.transformer.blocks.{i}.{old}.": f"model.layers.{i}.{new}."
        for i in range(num_layers)
        for old, new in _INNER.items()
    }
    return _OUTER | inner


# Rows run without an attention mask: versions of its code ignore it, or turn it into a causal one (ML-GSAI/LLaDA
# issues 89 and 90).
ROW = DecoderFamily(
    name="llada",
    title="LLaDA",
    model_types={"llada": LLAMA},
    mask=126336,
    mask_text="<|mdm_mask|>",
    end=126081,
    fixed=_FIXED,
    settings=_as_llama,
    names=_names,
    call=without_mask,
)
FAMILY = ROW.family
