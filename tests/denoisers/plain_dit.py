"""The network of the MDLM code base, position by position and head by head, in float64: what ours must give."""

import cmath
import math

import torch

from tests.denoisers.published import BLOCKS, HEADS, SIZE


def plain_logits(weights, tokens, sigma=None, reads=lambda i, j: True):
    """Logits ``[length, rows]`` of one row of tokens; ``sigma`` None: without a condition."""
    w = {name: weight.double() for name, weight in weights.items()}
    states = [w["vocab_embed.embedding"][token] for token in tokens]
    c = None if sigma is None else condition(w, sigma)
    for i in range(BLOCKS):
        states = block(w, f"blocks.{i}.", states, c, reads)
    shift, scale = (0.0, 0.0) if c is None else linear(w, "output_layer.adaLN_modulation", c).split(SIZE)
    rows = [norm(x) * w["output_layer.norm_final.weight"] * (1 + scale) + shift for x in states]
    return torch.stack([linear(w, "output_layer.linear", row) for row in rows])


def linear(w, name, x):
    y = torch.einsum("oi,i->o", w[name + ".weight"], x)
    return y + w[name + ".bias"] if name + ".bias" in w else y


def norm(x):
    return (x - x.mean()) / ((x - x.mean()).square().mean() + 1e-5).sqrt()


def silu(x):
    return x / (1 + (-x).exp())


def gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def condition(w, sigma):
    angles = [sigma * 10000 ** (-i / 128) for i in range(128)]
    waves = torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles], dtype=torch.float64)
    return silu(linear(w, "sigma_map.mlp.2", silu(linear(w, "sigma_map.mlp.0", waves))))


def block(w, name, states, c, reads):
    shift_1 = scale_1 = shift_2 = scale_2 = 0.0
    gate_1 = gate_2 = 1.0
    if c is not None:
        modulation = linear(w, name + "adaLN_modulation", c).split(SIZE)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation
    packed = [
        linear(w, name + "attn_qkv", norm(x) * w[name + "norm1.weight"] * (1 + scale_1) + shift_1) for x in states
    ]
    after = []
    for x, read in zip(states, attention(packed, reads), strict=True):
        x = x + gate_1 * linear(w, name + "attn_out", read)
        inner = norm(x) * w[name + "norm2.weight"] * (1 + scale_2) + shift_2
        after.append(x + gate_2 * linear(w, name + "mlp.2", gelu(linear(w, name + "mlp.0", inner))))
    return after


def attention(packed, reads):
    size, outputs = SIZE // HEADS, [[] for _ in packed]
    for h in range(HEADS):
        part = slice(h * size, (h + 1) * size)
        query, key, value = (
            [p[k * SIZE : (k + 1) * SIZE][part] for p in packed] for k in range(3)
        )  # packed as (three, heads, size)
        query, key = ([turned(v, position) for position, v in enumerate(side)] for side in (query, key))
        for i, out in enumerate(outputs):
            seen = [j for j in range(len(packed)) if reads(i, j)]
            weights = torch.stack([(query[i] * key[j]).sum() / math.sqrt(size) for j in seen]).softmax(0)
            out.append(sum(weight * value[j] for weight, j in zip(weights, seen, strict=True)))
    return [torch.cat(heads) for heads in outputs]


def turned(vector, position):
    """Components i and i + half are a complex number, turned by position times its frequency."""
    half = len(vector) // 2
    numbers = [
        complex(vector[i], vector[i + half]) * cmath.exp(1j * position * 10000 ** (-i / half)) for i in range(half)
    ]
    return torch.tensor([z.real for z in numbers] + [z.imag for z in numbers], dtype=torch.float64)
