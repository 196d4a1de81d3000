"""Published families of decoders that denoise, on the architectures of transformers: one row each."""

from functools import partial
from typing import Any

from edlm.denoisers.families.calls import (
    as_dream,
    with_block_size,
    with_boolean_mask,
    without_mask,
    without_mask_unless_blocks,
)
from edlm.denoisers.families.decoder_family import LLAMA, QWEN2, QWEN3, QWEN3_MOE, DecoderFamily

_BLOCK = frozenset({"block_size"})


def _of_llada_moe(config: dict[str, Any]) -> dict[str, Any]:
    """Its config under the names of a Qwen3-MoE; ``moe_layer_freq`` is 0 where a layer has no experts."""
    named = {**config, "moe_intermediate_size": config.get("expert_intermediate_size"), "norm_topk_prob": False}
    named["intermediate_size"] = config.get("dense_intermediate_size") or config.get("expert_intermediate_size")
    named["mlp_only_layers"] = [i for i, one in enumerate(config.get("moe_layer_freq") or []) if not one]
    if config.get("hidden_size") and config.get("num_attention_heads"):
        named["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    named["num_key_value_heads"] = config.get("num_key_value_heads") or config.get("num_attention_heads")
    return named


DREAM = DecoderFamily(
    name="dream",
    title="Dream",
    model_types={"Dream": QWEN2},
    mask=151666,
    begin=151665,
    end=151643,
    never=(151667,),  # DreamOn's <|expand|> is an instruction to its own sampler; DiffuCoder has its padding there
    shift=True,
    call=as_dream,
)
SDAR = DecoderFamily(
    name="sdar",
    title="SDAR",
    model_types={"sdar": QWEN3, "sdar_moe": QWEN3_MOE},
    mask=151669,
    mask_text="<|MASK|>",
    block_size=4,
    options=_BLOCK,
    call=with_boolean_mask,
)
A2D = DecoderFamily(
    name="a2d",
    title="dllm A2D",
    model_types={"a2d-qwen3": QWEN3, "a2d-qwen2": QWEN2, "a2d-llama": LLAMA},
    options=_BLOCK,
    call=without_mask_unless_blocks,
)
ILLADA = DecoderFamily(
    name="illada",
    title="iLLaDA",
    model_types={"illada": LLAMA},
    mask=5,
    mask_text="<[MASK_TOKEN]>",
    end=2,
    settings=lambda config: {"tie_word_embeddings": True, **config},
    call=without_mask,
)
LLADA_MOE = DecoderFamily(
    name="lladamoe",
    title="LLaDA-MoE",
    model_types={"lladamoe": QWEN3_MOE, "llada_moe": QWEN3_MOE, "llada": QWEN3_MOE},
    mark="moe",
    mask=156895,
    end=156892,
    fixed={
        "qk_layernorm": True,
        "clip_qkv": None,
        "shared_expert_intermediate_size": None,
        "moe_router_score_function": "softmax",
        "moe_router_enable_expert_bias": False,
        "partial_rotary_factor": 1,
    },
    settings=_of_llada_moe,
    call=without_mask,
)
RND1 = DecoderFamily(
    name="rnd1",
    title="RND1",
    model_types={"rnd1": QWEN3_MOE},
    mask=151669,
    end=151645,
    shift=True,
    settings=lambda config: {"head_dim": 128, **config},
    call=without_mask,
)
OPEN_DCODER = DecoderFamily(
    name="open_dcoder",
    title="Open-dCoder",
    model_types={"qwen2": QWEN2},
    mark="dcoder",
    mask_text="[MASK]",
    shift=True,
    call=partial(without_mask, is_causal=False),
)
FAST_DLLM = DecoderFamily(
    name="fast_dllm",
    title="Fast-dLLM v2",
    model_types={"Fast_dLLM_Qwen": QWEN2},
    mask=151665,
    mask_text="|<MASK>|",
    end=151645,
    shift=True,
    block_size=32,
    options=_BLOCK,
    call=with_block_size,
)
STABLE_DIFFCODER = DecoderFamily(
    name="stable_diffcoder",
    title="Stable-DiffCoder",
    model_types={"llama": LLAMA},
    mark="diffcoder",
    mask=5,
    mask_text="<[MASK_TOKEN]>",
    end=2,
    block_size=4,
    options=_BLOCK,
)
DECODER = DecoderFamily(  # for what has no family of its own: asked for by its name only
    name="decoder",
    title="decoder",
    model_types={"llama": LLAMA, "qwen2": QWEN2, "qwen3": QWEN3, "qwen3_moe": QWEN3_MOE},
    mark=None,
    options=frozenset({"block_size", "shift"}),
)
ROWS = (LLADA_MOE, DREAM, SDAR, A2D, ILLADA, RND1, OPEN_DCODER, FAST_DLLM, STABLE_DIFFCODER, DECODER)
FAMILIES = tuple(row.family for row in ROWS)
