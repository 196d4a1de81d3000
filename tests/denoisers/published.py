"""Tiny random checkpoints of the MDLM code base's families, in the formats in which they are published."""

import contextlib
import json
import sys
import types

import torch
from safetensors.torch import save_file

ROWS, SIZE, BLOCKS, HEADS, COND, LENGTH = 12, 16, 3, 2, 6, 32
MASK = ROWS - 1


def backbone_weights(seed=0, conditioned=True, rows=ROWS):
    """Weights by published name, in the order in which the official modules define them."""
    shapes = {"vocab_embed.embedding": (rows, SIZE)}
    if conditioned:
        shapes |= {"sigma_map.mlp.0.weight": (COND, 256), "sigma_map.mlp.0.bias": (COND,)}
        shapes |= {"sigma_map.mlp.2.weight": (COND, COND), "sigma_map.mlp.2.bias": (COND,)}
    shapes["rotary_emb.inv_freq"] = (SIZE // HEADS // 2,)
    for i in range(BLOCKS):
        block = {"norm1.weight": (SIZE,), "attn_qkv.weight": (3 * SIZE, SIZE), "attn_out.weight": (SIZE, SIZE)}
        block |= {"norm2.weight": (SIZE,), "mlp.0.weight": (4 * SIZE, SIZE), "mlp.0.bias": (4 * SIZE,)}
        block |= {"mlp.2.weight": (SIZE, 4 * SIZE), "mlp.2.bias": (SIZE,)}
        if conditioned:
            block |= {"adaLN_modulation.weight": (6 * SIZE, COND), "adaLN_modulation.bias": (6 * SIZE,)}
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    shapes |= {"output_layer.norm_final.weight": (SIZE,)}
    shapes |= {"output_layer.linear.weight": (rows, SIZE), "output_layer.linear.bias": (rows,)}
    if conditioned:
        shapes |= {"output_layer.adaLN_modulation.weight": (2 * SIZE, COND)}
        shapes |= {"output_layer.adaLN_modulation.bias": (2 * SIZE,)}
    draw = torch.Generator().manual_seed(seed)
    weights = {name: torch.randn(shape, generator=draw) * 0.4 for name, shape in shapes.items()}
    head = SIZE // HEADS
    weights["rotary_emb.inv_freq"] = torch.tensor([10000 ** (-2 * i / head) for i in range(head // 2)])
    return weights


def shadow_params(weights):
    return [weight for name, weight in weights.items() if name != "rotary_emb.inv_freq"]


def hub_config(model_type, **changes):
    sizes = {"vocab_size": ROWS, "model_length": LENGTH, "hidden_dim": SIZE, "cond_dim": COND}
    sizes |= {"n_blocks": BLOCKS, "n_heads": HEADS, "dropout": 0.1, "time_conditioning": False}
    return {"model_type": model_type, **sizes, **changes}


def write_folder(path, config, weights):
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


def prefixed(weights):
    return {f"backbone.{name}": weight for name, weight in weights.items()}


def write_mdlm_hub(path, weights=None, **config):
    return write_folder(path, hub_config("mdlm", **config), prefixed(weights or backbone_weights()))


def write_bd3lm(path, weights=None, block_size=4, **config):
    weights = prefixed(weights or backbone_weights())
    weights |= {"sampling_eps_min": torch.tensor(1e-3), "sampling_eps_max": torch.tensor(0.999)}
    config = {"block_size": block_size, "cross_attn": True, "adaln": True, "causal": False, **config}
    return write_folder(path, hub_config("bd3lm", **config), weights)


def sedd_config(**changes):
    model = {"hidden_size": SIZE, "n_heads": HEADS, "n_blocks": BLOCKS, "cond_dim": COND}
    model |= {"scale_by_sigma": True, "length": LENGTH, "dropout": 0.1, "type": "ddit", "name": "tiny"}
    graph, noise = {"type": "absorb", "file": "data"}, {"type": "loglinear", "sigma_min": 1e-4, "sigma_max": 20}
    return {"ngpus": 1, "tokens": ROWS - 1, "graph": graph, "noise": noise, "model": model, **changes}


def write_sedd(path, weights=None, **config):
    return write_folder(path, sedd_config(**config), weights or backbone_weights())


def write_sedd_run(path, weights, averaged):
    (path / "checkpoints-meta").mkdir(parents=True)
    (path / ".hydra").mkdir()
    (path / ".hydra" / "config.yaml").write_text(json.dumps(sedd_config()))  # JSON is YAML
    ema = {"decay": 0.999, "num_updates": 7, "shadow_params": shadow_params(averaged)}
    torch.save({"model": weights, "ema": ema, "step": 3, "optimizer": {}}, path / "checkpoints-meta" / "checkpoint.pth")
    return path


def lightning_config(**changes):
    model = {"hidden_size": SIZE, "n_heads": HEADS, "n_blocks": BLOCKS, "cond_dim": COND, "length": LENGTH}
    config = {"backbone": "dit", "parameterization": "subs", "time_conditioning": False, "model": model}
    config |= {"noise": {"type": "loglinear"}, "data": {"tokenizer_name_or_path": "gpt2"}, "T": 0}
    return {**config, **changes}


def write_mdlm_lightning(
    path, weights=None, averaged=None, compiled=False, legacy=False, extra=None, whole=None, ema=True, **config
):
    weights = weights or backbone_weights()
    prefix = "backbone._orig_mod." if compiled else "backbone."
    state = {prefix + name: weight for name, weight in weights.items()}
    state |= {"noise.sigma_max": torch.tensor(6.9), "valid_metrics.nll.weight": torch.tensor(0.0), **(extra or {})}
    content = {"state_dict": state, "loops": {"fit_loop": {}}, "sampler": {"random_state": None}, "epoch": 2}
    if averaged is not None and ema:
        shadows = averaged if isinstance(averaged, list) else shadow_params(averaged)
        content["ema"] = {"decay": 0.9999, "num_updates": 9, "shadow_params": shadows}
    with fake_packages() as (as_omegaconf, tokenizer):
        content["hyper_parameters"] = {
            "config": as_omegaconf(whole or lightning_config(**config)),
            "tokenizer": tokenizer,
        }
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def algo_config(name, noise="loglinear", **algo):
    """Settings as BD3-LM's and DUO's code keeps them: some in a section of their own."""
    config = lightning_config(noise={"type": noise, "eps": 1e-3})
    parts = {key: config.pop(key) for key in ("backbone", "parameterization", "time_conditioning", "T")}
    return {**config, "algo": {"name": name, **parts, "causal_attention": False, **algo}}


def write_algo(path, name, block_size=None, noise="loglinear", config=None, **options):
    """A Lightning file of BD3-LM's code, where ``block_size`` is given, or of DUO's."""
    algo = {key: options.pop(key) for key in list(options) if key not in ("weights", "averaged", "compiled", "extra")}
    whole = {**algo_config(name, noise, **algo), **(config or {})}
    if block_size is not None:
        whole["block_size"] = block_size
        whole["algo"] |= {"cross_attn": name == "bd3lm", "ignore_bos": True, "var_min": True, "sampler": "semi_ar"}
        bounds = {"sampling_eps_min": torch.tensor(1e-3), "sampling_eps_max": torch.tensor(0.999)}
        options["extra"] = {**bounds, **(options.get("extra") or {})}
    return write_mdlm_lightning(path.with_suffix(".ckpt"), whole=whole, **options)


def write_lightning(path, **options):
    return write_mdlm_lightning(path.with_suffix(".ckpt"), **options)


def write_run(path):
    return write_sedd_run(path, backbone_weights(seed=1), averaged=backbone_weights())


def write_ar_ckpt(path, weights=None, **options):
    weights = weights or backbone_weights(conditioned=False)
    return write_mdlm_lightning(path, weights, backbone="ar", parameterization="ar", **options)


@contextlib.contextmanager
def fake_packages():
    """Classes that pickle under the names of omegaconf's and transformers'; state as of omegaconf 2.3."""
    names = {"omegaconf.dictconfig": ["DictConfig"], "omegaconf.listconfig": ["ListConfig"]}
    names |= {"omegaconf.nodes": ["AnyNode"], "transformers.models.gpt2.tokenization_gpt2_fast": ["GPT2TokenizerFast"]}
    names |= {name.rpartition(".")[0]: [] for name in names if name.rpartition(".")[0] not in sys.modules}
    made, before = {}, {name: sys.modules.get(name) for name in names}
    for module, classes in names.items():
        sys.modules[module] = types.ModuleType(module)
        for name in classes:
            made[name] = type(name, (), {"__module__": module})
            setattr(sys.modules[module], name, made[name])

    def as_omegaconf(value):
        kind = {dict: "DictConfig", list: "ListConfig"}.get(type(value), "AnyNode")
        node = made[kind]()
        if isinstance(value, dict):
            node._content = {key: as_omegaconf(held) for key, held in value.items()}
        elif isinstance(value, list):
            node._content = [as_omegaconf(held) for held in value]
        else:
            node._val = value
        return node

    try:
        yield as_omegaconf, made["GPT2TokenizerFast"]()
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
