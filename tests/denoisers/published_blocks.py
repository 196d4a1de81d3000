"""Tiny random checkpoints of the decoders of `edlm.denoisers.families.decoders` and of LLaDA2.0, and laws by hand.

Names and shapes are those of the published files; heads are wider than a share of the width where the family allows it.
`logits_by_hand` computes from the raw tensors by name, one row at a time, and shares no code with the package or with
transformers.
"""

import json
import math
from dataclasses import dataclass, field

import torch
from safetensors.torch import save_file

WIDTH, INNER, EXPERT, HEADS, KV, LAYERS, VOCAB = 24, 20, 12, 4, 2, 3, 40
MASK, END = 36, 35
EXPERTS, CHOSEN, THETA = 8, 3, 300.0


@dataclass(frozen=True)
class Shape:
    """What the law of a family depends on.

    Attributes:
        config: Of its ``config.json``.
        head: Size of a head; the first ``rotary`` of it are turned.
        block: Tokens that see each other, or None.
        options: Of `load_denoiser`.
    """

    config: dict
    head: int = 16
    rotary: int = 16
    bias: bool = False
    qk_norm: bool = False
    tied: bool = False
    experts: bool = False
    eps: float = 1e-6
    block: int | None = None
    shift: bool = False
    mask: int = MASK
    options: dict = field(default_factory=lambda: {"mask_token_id": MASK})
    folder: str = "tiny"


def _config(kind, architecture, **others):
    config = {"model_type": kind, "architectures": [architecture], "vocab_size": VOCAB, "hidden_size": WIDTH}
    config |= {"intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    config |= {"num_key_value_heads": KV, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": THETA}
    config |= {"max_position_embeddings": 48, "tie_word_embeddings": False, "rope_scaling": None, "use_cache": True}
    config |= {"bos_token_id": 34, "eos_token_id": END, "torch_dtype": "bfloat16", "transformers_version": "4.52.4"}
    return config | others


_QWEN = {"head_dim": 16, "use_sliding_window": False, "sliding_window": None, "max_window_layers": LAYERS}
_QWEN |= {"attention_bias": False, "attention_dropout": 0.0}
_MOE = {"num_experts": EXPERTS, "num_experts_per_tok": CHOSEN, "moe_intermediate_size": EXPERT}
_MOE |= {"decoder_sparse_step": 1, "mlp_only_layers": [], "router_aux_loss_coef": 0.001}
_LLADA_MOE = {"dense_intermediate_size": INNER, "expert_intermediate_size": EXPERT, "qk_layernorm": True}
_LLADA_MOE |= {"num_experts": EXPERTS, "num_experts_per_tok": CHOSEN, "norm_topk_prob": None, "clip_qkv": None}
_LLADA_MOE |= {"moe_layer_freq": [0, 1, 1], "moe_router_enable_expert_bias": False, "partial_rotary_factor": 1}
_LLADA_MOE |= {"moe_router_score_function": "softmax", "shared_expert_intermediate_size": None}
_LLADA_MOE |= {"rms_norm_eps": 1e-5, "attention_bias": False, "routed_scaling_factor": 1}
_LLADA2 = {"head_dim": 16, "partial_rotary_factor": 0.5, "rotary_dim": 8, "use_qk_norm": True, "use_qkv_bias": False}
_LLADA2 |= {"use_bias": False, "num_experts": EXPERTS, "num_experts_per_tok": CHOSEN, "num_shared_experts": 2}
_LLADA2 |= {"n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5, "moe_intermediate_size": EXPERT}
_LLADA2 |= {"first_k_dense_replace": 1, "score_function": "sigmoid", "moe_router_enable_expert_bias": True}
_LLADA2 |= {"norm_topk_prob": True, "norm_head": False, "router_dtype": "fp32", "attention_dropout": 0.0}

SHAPES = {
    "sdar": Shape(_config("sdar", "SDARForCausalLM", **_QWEN), qk_norm=True, block=4),
    "sdar_moe": Shape(
        _config("sdar_moe", "SDARMoeForCausalLM", **_QWEN, **_MOE, norm_topk_prob=True, block_size=3),
        qk_norm=True,
        experts=True,
        block=3,
    ),
    "a2d-qwen2": Shape(_config("a2d-qwen2", "A2DQwen2LMHeadModel"), head=6, rotary=6, bias=True),
    "a2d-qwen3": Shape(_config("a2d-qwen3", "A2DQwen3LMHeadModel", **_QWEN), qk_norm=True),
    "a2d-qwen3-bd3lm": Shape(
        _config("a2d-qwen3", "A2DQwen3LMHeadModel", **_QWEN),
        qk_norm=True,
        block=5,
        options={"mask_token_id": MASK, "block_size": 5},
        folder="Qwen3-tiny-diffusion-bd3lm",
    ),
    "a2d-llama": Shape(_config("a2d-llama", "A2DLlamaLMHeadModel", tie_word_embeddings=True), 6, 6, tied=True),
    "illada": Shape(
        _config("illada", "ILLaDAForCausalLM", tie_word_embeddings=True, bos_token_id=0, eos_token_id=2),
        head=6,
        rotary=6,
        tied=True,
        mask=5,
        options={},
    ),
    "lladamoe": Shape(_config("llada", "LLaDAMoEModelLM", **_LLADA_MOE), 6, 6, qk_norm=True, experts=True, eps=1e-5),
    "rnd1": Shape(
        _config("rnd1", "RND1LM", **_QWEN, **_MOE, norm_topk_prob=True, mask_token_id=MASK, moe_backend="hf"),
        qk_norm=True,
        experts=True,
        shift=True,
        options={},
    ),
    "open_dcoder": Shape(
        _config("qwen2", "Qwen2ForCausalLM", bos_token_id=END),
        head=6,
        rotary=6,
        bias=True,
        shift=True,
        folder="open-dcoder-tiny",
    ),
    "fast_dllm": Shape(
        _config("Fast_dLLM_Qwen", "Fast_dLLM_QwenForCausalLM", bd_size=6), 6, 6, bias=True, shift=True, block=6
    ),
    "stable_diffcoder": Shape(
        _config("llama", "StableDiffcoderForCausalLM", mlp_bias=False, attention_bias=False),
        head=6,
        rotary=6,
        block=4,
        mask=5,
        options={},
    ),
    "llada2": Shape(
        _config("llada2_moe", "LLaDA2MoeModelLM", **_LLADA2),
        rotary=8,
        qk_norm=True,
        experts=True,
        block=7,
        options={"mask_token_id": MASK, "block_size": 7},
    ),
    "decoder": Shape(
        _config("qwen3", "Qwen3ForCausalLM", **_QWEN),
        qk_norm=True,
        shift=True,
        block=5,
        options={"mask_token_id": MASK, "block_size": 5, "shift": True, "family": "decoder"},
    ),
}


def _new(*shape, scale=1.0, mean=0.0):
    return mean + scale * torch.randn(*shape)


def _norm(size=WIDTH):
    return _new(size, scale=0.3, mean=1.0)


def _linear(out, into, scale=1.5):
    return _new(out, into, scale=scale / math.sqrt(into))


def _swiglu_weights(name, inner):
    weights = {f"{name}.{x}_proj.weight": _linear(inner, WIDTH) for x in ("gate", "up")}
    return weights | {f"{name}.down_proj.weight": _linear(WIDTH, inner)}


def random_weights(family, seed=0):
    """Tensors under their published names."""
    torch.manual_seed(seed)
    shape, packed = SHAPES[family], family == "llada2"
    weights = {f"model.{'word_embeddings' if packed else 'embed_tokens'}.weight": _new(VOCAB, WIDTH)}
    weights["model.norm.weight"] = _norm()
    if not shape.tied:
        weights["lm_head.weight"] = _linear(VOCAB, WIDTH, 3.0)
    rows = {"q": HEADS * shape.head, "k": KV * shape.head, "v": KV * shape.head}
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        weights |= {at + "input_layernorm.weight": _norm(), at + "post_attention_layernorm.weight": _norm()}
        if packed:
            weights[at + "attention.query_key_value.weight"] = _linear(sum(rows.values()), WIDTH)
            weights[at + "attention.dense.weight"] = _linear(WIDTH, rows["q"])
            weights |= {at + f"attention.{x}_layernorm.weight": _norm(shape.head) for x in ("query", "key")}
        else:
            weights |= {f"{at}self_attn.{x}_proj.weight": _linear(n, WIDTH) for x, n in rows.items()}
            weights[at + "self_attn.o_proj.weight"] = _linear(WIDTH, rows["q"])
            if shape.bias:
                weights |= {f"{at}self_attn.{x}_proj.bias": _new(n, scale=0.3) for x, n in rows.items()}
            if shape.qk_norm:
                weights |= {f"{at}self_attn.{x}_norm.weight": _norm(shape.head) for x in "qk"}
        if not has_experts(family, i):
            weights |= _swiglu_weights(at + "mlp", INNER)
            continue
        weights[at + "mlp.gate.weight"] = _linear(EXPERTS, WIDTH)
        for j in range(EXPERTS):
            weights |= _swiglu_weights(f"{at}mlp.experts.{j}", EXPERT)
        if packed:
            weights[at + "mlp.gate.expert_bias"] = _new(EXPERTS, scale=0.5)
            weights |= _swiglu_weights(at + "mlp.shared_experts", 2 * EXPERT)
    return weights


def has_experts(family, layer):
    return SHAPES[family].experts and not (family in ("lladamoe", "llada2") and layer == 0)


def write(family, folder, weights=None, **config):
    """A checkpoint under ``folder``, as published, without settings that are ``...``; gives its path."""
    path = folder / SHAPES[family].folder
    path.mkdir(exist_ok=True)
    said = {name: value for name, value in {**SHAPES[family].config, **config}.items() if value is not ...}
    (path / "config.json").write_text(json.dumps(said))
    save_file(random_weights(family) if weights is None else weights, path / "model.safetensors")
    return path


def _rms(x, weight, eps):
    return weight * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def _turn(x, size, theta, factor):
    """``x[length, heads, head]``: of the first ``size``, pairs (j, j + size / 2) turned by their angles."""
    rate = theta ** (-torch.arange(0, size, 2) / size) / factor
    angle = (torch.arange(len(x))[:, None] * rate)[:, None]
    a, b = x[..., : size // 2], x[..., size // 2 : size]
    turned = [a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin(), x[..., size:]]
    return torch.cat(turned, -1)


def _attend(q, k, v, block):
    k, v = (x.repeat_interleave(HEADS // KV, 1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
    if block is not None:
        number = torch.arange(len(q)) // block
        scores[:, number[:, None] < number] = -math.inf
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1)


def _swiglu(x, w, name):
    a = x @ w[name + ".gate_proj.weight"].T
    return (a * a.sigmoid() * (x @ w[name + ".up_proj.weight"].T)) @ w[name + ".down_proj.weight"].T


def _chosen(family, scores, w, at):
    """Experts of one token and their weights."""
    if family != "llada2":
        p = scores.softmax(-1)
        weights, experts = p.topk(CHOSEN)
        return experts.tolist(), weights if family == "lladamoe" else weights / weights.sum()
    p = scores.sigmoid()
    biased = p + w[at + "mlp.gate.expert_bias"]
    groups = [range(g * 2, g * 2 + 2) for g in range(4)]
    best = sorted(groups, key=lambda group: -sum(biased[j] for j in group))[:2]
    experts = sorted((j for group in best for j in group), key=lambda j: -biased[j])[:CHOSEN]
    return experts, 2.5 * p[experts] / p[experts].sum()


def _mixture(x, w, at, family):
    out = torch.zeros_like(x)
    for i, token in enumerate(x):
        experts, weights = _chosen(family, w[at + "mlp.gate.weight"] @ token, w, at)
        for expert, weight in zip(experts, weights, strict=True):
            out[i] += weight * _swiglu(token, w, f"{at}mlp.experts.{expert}")
    return out + _swiglu(x, w, at + "mlp.shared_experts") if family == "llada2" else out


def _heads(y, w, at, family):
    shape = SHAPES[family]
    if family == "llada2":
        packed = (y @ w[at + "attention.query_key_value.weight"].T).view(len(y), -1, shape.head)
        q, k, v = packed[:, :HEADS], packed[:, HEADS : HEADS + KV], packed[:, HEADS + KV :]
        names = ("attention.query_layernorm", "attention.key_layernorm")
    else:
        named = ((f"{at}self_attn.{x}_proj", n) for x, n in zip("qkv", (HEADS, KV, KV), strict=True))
        parts = [(y @ w[x + ".weight"].T + w.get(x + ".bias", 0)).view(len(y), n, shape.head) for x, n in named]
        (q, k, v), names = parts, ("self_attn.q_norm", "self_attn.k_norm")
    if shape.qk_norm:
        q, k = (_rms(x, w[f"{at}{name}.weight"], shape.eps) for x, name in zip((q, k), names, strict=True))
    return q, k, v


def logits_by_hand(family, w, tokens, theta=THETA, factor=1.0):
    """What the authors' network gives for one row ``tokens[length]``, not shifted: ``[length, vocab]``."""
    shape = SHAPES[family]
    table = w.get("model.embed_tokens.weight", w.get("model.word_embeddings.weight"))
    x = table[tokens]
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        q, k, v = _heads(_rms(x, w[at + "input_layernorm.weight"], shape.eps), w, at, family)
        q, k = (_turn(part, shape.rotary, theta, factor) for part in (q, k))
        out = w[at + ("attention.dense.weight" if family == "llada2" else "self_attn.o_proj.weight")]
        x = x + _attend(q, k, v, shape.block) @ out.T
        y = _rms(x, w[at + "post_attention_layernorm.weight"], shape.eps)
        x = x + (_mixture(y, w, at, family) if has_experts(family, i) else _swiglu(y, w, at + "mlp"))
    return _rms(x, w["model.norm.weight"], shape.eps) @ w.get("lm_head.weight", table).T


def log_probs_by_hand(family, w, tokens, **rope):
    """``log p(. | x_t)`` of one row at its masked positions, in order: ``[masked, vocab]``."""
    shape, logits = SHAPES[family], logits_by_hand(family, w, tokens, **rope)
    if shape.shift:
        logits = torch.cat([logits[:1], logits[:-1]])
    logits[:, shape.mask] = -math.inf
    return logits[tokens == shape.mask].log_softmax(-1)
