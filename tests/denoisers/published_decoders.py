"""Tiny random checkpoints in the formats of LLaDA, Dream, DiffuLLaMA, DiffuGPT and SMDM, and their laws by hand.

Names and shapes are those of the published files. `Plain` computes logits from the raw tensors by name, one row at a
time and without padding, and shares no code with the package.
"""

import json
import math

import torch
from safetensors.torch import save_file

WIDTH, INNER, HEADS, BLOCKS, VOCAB = 128, 48, 2, 3, 40  # heads of 64, as in SMDM's table
MASK = {"llada": 37, "dream": 36, "diffullama": 31, "diffugpt": 39, "smdm": VOCAB}
SHIFTED = {"dream", "diffullama", "diffugpt"}
FAMILIES = tuple(MASK)


def _new(*shape, scale=1.0, mean=0.0):
    return mean + scale * torch.randn(*shape)


def _norm():
    return _new(WIDTH, scale=0.3, mean=1.0)


def _linear(out, into):
    return _new(out, into, scale=1.5 / math.sqrt(into))


def llada_weights():
    p = "model.transformer."
    weights = {p + "wte.weight": _new(VOCAB, WIDTH), p + "ln_f.weight": _norm()}
    weights[p + "ff_out.weight"] = _linear(VOCAB, WIDTH)
    for i in range(BLOCKS):
        b = f"{p}blocks.{i}."
        weights |= {b + "attn_norm.weight": _norm(), b + "ff_norm.weight": _norm()}
        weights |= {b + "q_proj.weight": _linear(WIDTH, WIDTH), b + "attn_out.weight": _linear(WIDTH, WIDTH)}
        weights |= {b + f"{x}_proj.weight": _linear(WIDTH // HEADS, WIDTH) for x in "kv"}  # one group of heads
        weights |= {b + f"{x}.weight": _linear(INNER, WIDTH) for x in ("ff_proj", "up_proj")}
        weights |= {b + "ff_out.weight": _linear(WIDTH, INNER)}
    return weights


def llama_weights(has_bias, embed="model.embed_tokens", inside="model.", kv=WIDTH // HEADS):
    weights = {embed + ".weight": _new(VOCAB, WIDTH), inside + "norm.weight": _norm()}
    weights["lm_head.weight"] = _linear(VOCAB, WIDTH)
    for i in range(BLOCKS):
        b = f"{inside}layers.{i}."
        weights |= {b + "input_layernorm.weight": _norm(), b + "post_attention_layernorm.weight": _norm()}
        for x, rows in (("q", WIDTH), ("k", kv), ("v", kv), ("o", WIDTH)):
            weights[f"{b}self_attn.{x}_proj.weight"] = _linear(rows, WIDTH)
            if has_bias and x != "o":
                weights[f"{b}self_attn.{x}_proj.bias"] = _new(rows, scale=0.3)
        weights |= {b + f"mlp.{x}_proj.weight": _linear(INNER, WIDTH) for x in ("gate", "up")}
        weights[b + "mlp.down_proj.weight"] = _linear(WIDTH, INNER)
    return weights


def gpt2_weights():
    p = "denoise_model."
    weights = {"embed_tokens.weight": _new(VOCAB, WIDTH, scale=0.5), p + "wpe.weight": _new(32, WIDTH)}
    weights |= {p + "ln_f.weight": _norm(), p + "ln_f.bias": _new(WIDTH, scale=0.3)}
    shapes = {"attn.c_attn": (WIDTH, 3 * WIDTH), "attn.c_proj": (WIDTH, WIDTH)}
    shapes |= {"mlp.c_fc": (WIDTH, 4 * WIDTH), "mlp.c_proj": (4 * WIDTH, WIDTH)}
    for i in range(BLOCKS):
        for x in ("ln_1", "ln_2"):
            weights |= {f"{p}h.{i}.{x}.weight": _norm(), f"{p}h.{i}.{x}.bias": _new(WIDTH, scale=0.3)}
        for x, (into, out) in shapes.items():
            weights[f"{p}h.{i}.{x}.weight"] = _linear(out, into).T.contiguous()
            weights[f"{p}h.{i}.{x}.bias"] = _new(out, scale=0.3)
    return weights


def smdm_weights():
    weights = {"transformer.wte.weight": _new(VOCAB + 1, WIDTH), "transformer.ln_f.weight": _norm()}
    weights["lm_head.weight"] = _linear(VOCAB, WIDTH)
    for i in range(BLOCKS):
        b = f"transformer.h.{i}."
        weights |= {b + "norm_1.weight": _norm(), b + "norm_2.weight": _norm()}
        weights |= {b + "attn.attn.weight": _linear(3 * WIDTH, WIDTH), b + "attn.proj.weight": _linear(WIDTH, WIDTH)}
        weights |= {b + f"mlp.swiglu.w{k}.weight": _linear(INNER, WIDTH) for k in (1, 2)}
        weights[b + "mlp.swiglu.w3.weight"] = _linear(WIDTH, INNER)
    return weights


LLADA = {"model_type": "llada", "architectures": ["LLaDAModelLM"], "d_model": WIDTH, "n_heads": HEADS, "n_kv_heads": 1}
LLADA |= {"n_layers": BLOCKS, "mlp_hidden_size": INNER, "vocab_size": VOCAB, "embedding_size": VOCAB, "rope": True}
LLADA |= {"rope_theta": 500.0, "rms_norm_eps": 1e-5, "weight_tying": False, "max_sequence_length": 32}
LLADA |= {"mask_token_id": MASK["llada"], "eos_token_id": 35, "pad_token_id": 35, "block_type": "llama", "alibi": False}
LLADA |= {"activation_type": "silu", "layer_norm_type": "rms", "include_bias": False, "multi_query_attention": None}
HF = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": BLOCKS, "num_attention_heads": HEADS}
HF |= {"num_key_value_heads": 1, "vocab_size": VOCAB, "max_position_embeddings": 32, "hidden_act": "silu"}
HF |= {"tie_word_embeddings": False, "rope_scaling": None, "bos_token_id": 34, "eos_token_id": 35}
DREAM = {**HF, "model_type": "Dream", "architectures": ["DreamModel"], "rms_norm_eps": 1e-6, "rope_theta": 700.0}
DREAM |= {"mask_token_id": MASK["dream"], "pad_token_id": 35}
LLAMA = {**HF, "model_type": "llama", "architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-5, "rope_theta": 300.0}
GPT2 = {"model_type": "gpt2", "n_embd": WIDTH, "n_head": HEADS, "n_layer": BLOCKS, "n_positions": 32, "n_ctx": 32}
GPT2 |= {"vocab_size": VOCAB - 1, "bos_token_id": 34, "eos_token_id": 34}  # before the mask was added

CONFIGS = {"llada": LLADA, "dream": DREAM, "diffullama": LLAMA, "diffugpt": GPT2}
WEIGHTS = {
    "llada": llada_weights,
    "dream": lambda: llama_weights(has_bias=True),
    "diffullama": lambda: llama_weights(has_bias=False),
    "diffugpt": gpt2_weights,
    "smdm": smdm_weights,
}


def random_weights(family, seed=0):
    torch.manual_seed(seed)
    return WEIGHTS[family]()


def write(family, folder, weights=None, **config):
    """A checkpoint under ``folder``, as published; gives its path."""
    weights = random_weights(family) if weights is None else weights
    path = folder / f"{family}-tiny"
    path.mkdir(exist_ok=True)
    if family == "smdm":
        save_file(weights, path / "mdm-170M-100e18-rsl-0.01.safetensors")
        return path / "mdm-170M-100e18-rsl-0.01.safetensors"
    (path / "config.json").write_text(json.dumps({**CONFIGS[family], **config}))
    if family == "dream":  # in two files
        names = sorted(weights)
        save_file({n: weights[n] for n in names[::2]}, path / "model-00001-of-00002.safetensors")
        save_file({n: weights[n] for n in names[1::2]}, path / "model-00002-of-00002.safetensors")
    else:
        save_file(weights, path / "model.safetensors")
    return path


def _rms(x, weight, eps):
    return weight * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def _layer_norm(x, weight, bias):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt() * weight + bias


def _rotate(x, theta, rounded=False, factor=1.0):
    """``x[length, heads, size]``: pairs (j, j + size / 2) turned by position / factor * theta ** (-2 j / size)."""
    size = x.shape[-1]
    angle = torch.arange(len(x))[:, None] / factor / theta ** (torch.arange(0, size, 2) / size)
    cos, sin = (f(angle)[:, None] for f in (torch.cos, torch.sin))
    if rounded:
        cos, sin = cos.bfloat16().float(), sin.bfloat16().float()
    a, b = x[..., : size // 2], x[..., size // 2 :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def _attend(q, k, v):
    """Everything sees everything: ``[length, heads, size]``."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    weights = (torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v).flatten(1)


def _swiglu(x, gate, up, down):
    a = x @ gate.T
    return (a * a.sigmoid() * (x @ up.T)) @ down.T


def _llama(tokens, w, names, eps, theta, *, qkv, rounded=False, factor=1.0):
    x = w[names["wte"]][tokens]
    for i in range(BLOCKS):
        at = {key: w[name.format(i)] for key, name in names.items() if "{}" in name}
        y = _rms(x, at["norm_1"], eps)
        q, k, v = qkv(y, i)
        q, k = (_rotate(part, theta, rounded, factor) for part in (q, k))
        x = x + _attend(q, k, v) @ at["o"].T
        x = x + _swiglu(_rms(x, at["norm_2"], eps), at["gate"], at["up"], at["down"])
    return _rms(x, w[names["norm"]], eps) @ w[names["head"]].T


def _separate(w, names, heads=(HEADS, 1, 1)):
    def qkv(y, i):
        parts = []
        for letter, n in zip("qkv", heads, strict=True):
            name = names[letter].format(i)
            bias = w.get(name.replace("weight", "bias"), torch.zeros(len(w[name])))
            parts.append((y @ w[name].T + bias).view(len(y), n, -1))
        return parts

    return qkv


HF_NAMES = {"wte": "model.embed_tokens.weight", "norm": "model.norm.weight", "head": "lm_head.weight"}
HF_NAMES |= {"norm_1": "model.layers.{}.input_layernorm.weight"}
HF_NAMES |= {"norm_2": "model.layers.{}.post_attention_layernorm.weight"}
HF_NAMES |= {x: f"model.layers.{{}}.self_attn.{x}_proj.weight" for x in "qkvo"}
HF_NAMES |= {x: f"model.layers.{{}}.mlp.{x}_proj.weight" for x in ("gate", "up", "down")}
_T = "model.transformer."
LLADA_NAMES = {"wte": _T + "wte.weight", "norm": _T + "ln_f.weight", "head": _T + "ff_out.weight"}
_PARTS = {"norm_1": "attn_norm", "norm_2": "ff_norm", "q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "attn_out"}
_PARTS |= {"gate": "ff_proj", "up": "up_proj", "down": "ff_out"}
LLADA_NAMES |= {key: f"{_T}blocks.{{}}.{name}.weight" for key, name in _PARTS.items()}
_PARTS = {"norm_1": "norm_1", "norm_2": "norm_2", "o": "attn.proj"}
_PARTS |= {"gate": "mlp.swiglu.w1", "up": "mlp.swiglu.w2", "down": "mlp.swiglu.w3"}
SMDM_NAMES = {"wte": "transformer.wte.weight", "norm": "transformer.ln_f.weight", "head": "lm_head.weight"}
SMDM_NAMES |= {key: f"transformer.h.{{}}.{name}.weight" for key, name in _PARTS.items()}


def _gpt2(tokens, w):
    x = w["embed_tokens.weight"][tokens] + w["denoise_model.wpe.weight"][: len(tokens)]
    for i in range(BLOCKS):
        at = {n.removeprefix(f"denoise_model.h.{i}."): t for n, t in w.items() if n.startswith(f"denoise_model.h.{i}.")}
        y = _layer_norm(x, at["ln_1.weight"], at["ln_1.bias"])
        qkv = (y @ at["attn.c_attn.weight"] + at["attn.c_attn.bias"]).view(len(y), 3, HEADS, -1).unbind(1)
        x = x + _attend(*qkv) @ at["attn.c_proj.weight"] + at["attn.c_proj.bias"]
        y = _layer_norm(x, at["ln_2.weight"], at["ln_2.bias"]) @ at["mlp.c_fc.weight"] + at["mlp.c_fc.bias"]
        y = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        x = x + y @ at["mlp.c_proj.weight"] + at["mlp.c_proj.bias"]
    x = _layer_norm(x, w["denoise_model.ln_f.weight"], w["denoise_model.ln_f.bias"])
    return x @ w["embed_tokens.weight"].T


def logits_by_hand(family, w, tokens, factor=1.0):
    """What the network's authors' code gives for one row ``tokens[length]``, not shifted: ``[length, vocab]``."""
    if family == "llada":
        return _llama(tokens, w, LLADA_NAMES, 1e-5, 500.0, qkv=_separate(w, LLADA_NAMES), factor=factor)
    if family == "dream":
        return _llama(tokens, w, HF_NAMES, 1e-6, 700.0, qkv=_separate(w, HF_NAMES), factor=factor)
    if family == "diffullama":
        return _llama(tokens, w, HF_NAMES, 1e-5, 300.0, qkv=_separate(w, HF_NAMES), factor=factor)
    if family == "diffugpt":
        return _gpt2(tokens, w)

    def qkv(y, i):  # lit-gpt: query, key and value of a head lie side by side
        packed = (y @ w[f"transformer.h.{i}.attn.attn.weight"].T).view(len(y), HEADS, 3, -1)
        return packed.unbind(2)

    return _llama(tokens, w, SMDM_NAMES, 1e-5, 10000.0, qkv=qkv, rounded=True)


def log_probs_by_hand(family, w, tokens, **rope):
    """``log p(. | x_t)`` of one row at its masked positions, in order: ``[masked, vocab]``."""
    logits = logits_by_hand(family, w, tokens, **rope)
    if family in SHIFTED:
        logits = torch.cat([logits[:1], logits[:-1]])
    if MASK[family] < VOCAB:
        logits[:, MASK[family]] = -math.inf
    return logits[tokens == MASK[family]].log_softmax(-1)
