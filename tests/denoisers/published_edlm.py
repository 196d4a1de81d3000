"""A tiny random checkpoint of EDLM's own code, and its energy written out position by position, in float64."""

import torch

from tests.denoisers.plain_dit import block, condition, linear, norm
from tests.denoisers.published import BLOCKS, COND, ROWS, SIZE, backbone_weights, write_mdlm_lightning


def energy_weights(seed=5):
    """Weights by published name, in the order of the official module.

    Its output layer takes the place of the diffusion network's; what is new comes last.
    """
    weights = backbone_weights(seed)
    shapes = {"output_layer.linear.weight": (SIZE, SIZE), "output_layer.linear.bias": (SIZE,)}
    shapes |= {"vocab_proj.weight": (SIZE, 2 * SIZE), "vocab_proj.bias": (SIZE,)}
    shapes |= {"energy_head.0.weight": (SIZE, SIZE), "energy_head.0.bias": (SIZE,), "energy_head.2.weight": (1, SIZE)}
    draw = torch.Generator().manual_seed(100 + seed)
    for name, shape in shapes.items():
        weights[name] = torch.randn(shape, generator=draw) * 0.4
    return weights


def energy_order():
    """Names of the averaged tensors, as the official module lists its parameters."""
    names = ["vocab_embed.embedding", *(f"sigma_map.mlp.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias"))]
    inner = "norm1.weight attn_qkv.weight attn_out.weight norm2.weight mlp.0.weight mlp.0.bias mlp.2.weight mlp.2.bias"
    inner += " adaLN_modulation.weight adaLN_modulation.bias"
    names += [f"blocks.{i}.{name}" for i in range(BLOCKS) for name in inner.split()]
    names += ["output_layer.norm_final.weight", "output_layer.linear.weight", "output_layer.linear.bias"]
    names += ["output_layer.adaLN_modulation.weight", "output_layer.adaLN_modulation.bias"]
    return [*names, "vocab_proj.weight", "vocab_proj.bias", *energy_head()]


def energy_head():
    return ["energy_head.0.weight", "energy_head.0.bias", "energy_head.2.weight"]


def shadows_of(weights):
    return [weights[name] for name in energy_order()]


def write_edlm(path, denoiser=None, raw=None, averaged=None, **config):
    """A file with the denoiser's weights (its network came from the hub), and the energy's twice."""
    energy = energy_weights(seed=6) if raw is None else raw
    shadows = shadows_of(energy_weights()) if averaged is None else averaged
    extra = {f"{prefix}ebm.{name}": weight for name, weight in energy.items() for prefix in ("backbone.", "")}
    weights = {f"backbone.{name}": weight for name, weight in (denoiser or backbone_weights()).items()}
    config = {"ebm_backbone": "hf_dit", **config}
    return write_mdlm_lightning(path.with_suffix(".ckpt"), weights, shadows, extra=extra, **config)


def plain_energy(weights, x_t, x_0, sigma=0.0):
    """The energy of one row of tokens."""
    w = {name: weight.double() for name, weight in weights.items()}
    table, c = w["vocab_embed.embedding"], condition(w, sigma)
    pairs = zip(x_t, x_0, strict=True)
    states = [linear(w, "vocab_proj", torch.cat([table[noisy], table[clean]])) for noisy, clean in pairs]
    for i in range(BLOCKS):
        states = block(w, f"blocks.{i}.", states, c, lambda i, j: True)
    shift, scale = linear(w, "output_layer.adaLN_modulation", c).split(SIZE)
    rows = [norm(x) * w["output_layer.norm_final.weight"] * (1 + scale) + shift for x in states]
    pooled = sum(linear(w, "output_layer.linear", row) for row in rows) / len(rows)
    return linear(w, "energy_head.2", linear(w, "energy_head.0", pooled).clamp(min=0))[0].item()


def preferring(token, strength=60.0):
    """Weights of an energy that falls with each ``token`` in a candidate."""
    weights = {name: torch.zeros_like(weight) for name, weight in energy_weights().items()}
    weights["rotary_emb.inv_freq"] = backbone_weights()["rotary_emb.inv_freq"]
    weights["vocab_embed.embedding"] = torch.eye(ROWS, SIZE)
    weights["vocab_proj.weight"][:, SIZE:] = torch.eye(SIZE)  # the second half is the candidate's
    weights["output_layer.norm_final.weight"].fill_(1.0)
    weights["output_layer.linear.weight"] = torch.eye(SIZE)
    weights["energy_head.0.weight"][0, token] = 1.0
    weights["energy_head.0.bias"].fill_(1.0)  # away from the corner of the ReLU
    weights["energy_head.2.weight"][0, 0] = -strength
    assert weights["sigma_map.mlp.2.weight"].shape == (COND, COND)
    return weights
