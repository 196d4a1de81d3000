"""LLaDA: a Llama whose weights have the names of OLMo, without causal mask; predicts tokens in their place."""

from typing import Any

from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from edlm.denoisers.base import Denoiser
from edlm.denoisers.checkpoint import Checkpoint
from edlm.denoisers.decoder import DecoderDenoiser, build_network, rename
from edlm.denoisers.families.family import Family, LoadOptions, setting_of, unwrap_logits
from edlm.denoisers.logits import LogitsDenoiser, unpadded
from edlm.denoisers.vocabulary import Vocabulary, first_given, token_id

MASK, EOS = 126336, 126081
# Settings of the published models; with another value the network would be another function.
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
    tokenizer, config = checkpoint.tokenizer(options.tokenizer), _as_llama(checkpoint)
    names = dict(_OUTER)
    for i in range(config.num_hidden_layers):
        names |= {f"model.transformer.blocks.{i}.{old}.": f"model.layers.{i}.{new}." for old, new in _INNER.items()}
    weights = rename(checkpoint.weights(), names)
    network = build_network(LlamaForCausalLM, config, weights, options.dtype, checkpoint.path)
    return DecoderDenoiser(
        network,
        _vocabulary(checkpoint.config, tokenizer, options.mask_token_id),
        name=checkpoint.name,
        max_length=config.max_position_embeddings,
    )


def _as_llama(checkpoint: Checkpoint) -> LlamaConfig:
    settings = checkpoint.config
    missing = [name for name in ("d_model", "n_heads", "n_layers") if name not in settings]
    if missing:
        raise ValueError(f"a LLaDA config must say {missing}, got {checkpoint.describe()}")
    for name, wanted in _FIXED.items():
        if settings.get(name, wanted) not in (wanted, None):
            raise ValueError(f"a LLaDA config must have {name} = {wanted!r}, got {settings[name]!r}")
    heads = settings["n_heads"]
    return LlamaConfig(
        vocab_size=_width(settings),
        hidden_size=settings["d_model"],
        intermediate_size=settings.get("mlp_hidden_size") or settings.get("mlp_ratio", 4) * settings["d_model"],
        num_hidden_layers=settings["n_layers"],
        num_attention_heads=heads,
        num_key_value_heads=settings.get("n_kv_heads") or (1 if settings.get("multi_query_attention") else heads),
        max_position_embeddings=settings.get("max_sequence_length", 4096),
        rms_norm_eps=settings.get("rms_norm_eps", 1e-5),
        rope_parameters={"rope_type": "default", "rope_theta": settings.get("rope_theta", 10000.0)},
        tie_word_embeddings=settings.get("weight_tying", False),
        pad_token_id=None,
    )


def wrap(module: nn.Module, tokenizer: Any = None, *, mask_token_id: int | None = None) -> Denoiser:
    """A denoiser of a module built by LLaDA's own code.

    Rows are run in groups of equal length, without an attention mask: versions of that code ignore it, or turn
    it into a causal one (ML-GSAI/LLaDA issues 89 and 90).
    """
    run = unpadded(lambda x_t, t: unwrap_logits(module(x_t)))
    max_length = getattr(module.config, "max_sequence_length", None)
    return LogitsDenoiser(module, run, _vocabulary(module.config, tokenizer, mask_token_id), max_length=max_length)


def _width(config: Any) -> int:
    return first_given(setting_of(config, "embedding_size"), setting_of(config, "vocab_size"), of="vocab_size")


def _vocabulary(config: Any, tokenizer: Any, mask_token_id: int | None) -> Vocabulary:
    mask = setting_of(config, "mask_token_id")
    mask = first_given(mask_token_id, mask, token_id(tokenizer, "mask"), MASK, of="mask_token_id")
    eos = first_given(setting_of(config, "eos_token_id"), EOS, of="eos_token_id")
    return Vocabulary.of(tokenizer, _width(config), mask, eos_token_id=eos)


FAMILY = Family("llada", lambda checkpoint: checkpoint.model_type == "llada", _load, wrap, has_own_code=True)
