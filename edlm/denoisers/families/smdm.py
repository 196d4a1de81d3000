"""SMDM: a Llama of lit-gpt without causal mask; its mask has an input embedding, but no column in the logits."""

import re
from typing import Any

from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from edlm.denoisers.base import Denoiser
from edlm.denoisers.checkpoint import Checkpoint
from edlm.denoisers.decoder import DecoderDenoiser, build_network, rename
from edlm.denoisers.families.family import Family, LoadOptions, unwrap_logits
from edlm.denoisers.logits import LogitsDenoiser, unpadded
from edlm.denoisers.vocabulary import Vocabulary, token_id

MAX_LENGTH = 2048
_NAMES = {"transformer.wte.": "model.embed_tokens.", "transformer.ln_f.": "model.norm."}
_INNER = {
    "norm_1": "input_layernorm",
    "attn.proj": "self_attn.o_proj",
    "norm_2": "post_attention_layernorm",
    "mlp.swiglu.w1": "mlp.gate_proj",
    "mlp.swiglu.w2": "mlp.up_proj",
    "mlp.swiglu.w3": "mlp.down_proj",
}
_MARKS = {"transformer.wte.weight", "transformer.h.0.attn.attn.weight", "transformer.h.0.mlp.swiglu.w1.weight"}


class _Rotary(LlamaRotaryEmbedding):
    """Angles rounded to bfloat16, as the published networks were trained with."""

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(part.to(x.dtype) for part in (p.bfloat16() for p in super().forward(x.float(), position_ids)))


class _Network(LlamaForCausalLM):
    """A Llama with one more embedding than columns: that of the mask."""

    def __init__(self, config: LlamaConfig):
        super().__init__(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size - 1, bias=False)
        self.model.rotary_emb = _Rotary(config)


def _load(checkpoint: Checkpoint, options: LoadOptions) -> Denoiser:
    weights, tokenizer = _weights_of(checkpoint), checkpoint.tokenizer(options.tokenizer)
    config = _config_of(weights, checkpoint)
    names = dict(_NAMES)
    for i in range(config.num_hidden_layers):
        names |= {f"transformer.h.{i}.{old}.": f"model.layers.{i}.{new}." for old, new in _INNER.items()}
    weights = rename(_unpack(weights, config), names)
    network = build_network(_Network, config, weights, options.dtype, checkpoint.path)
    vocabulary = _vocabulary(config.vocab_size - 1, tokenizer, options.mask_token_id)
    return DecoderDenoiser(network, vocabulary, name=checkpoint.name, max_length=MAX_LENGTH)


def _config_of(weights: dict[str, Tensor], checkpoint: Checkpoint) -> LlamaConfig:
    """The network's shape from the weights; the published table gives the number of heads for each width.

    References:
        ``lit_gpt/config.py`` of ML-GSAI/SMDM, ``Diff_LLaMA_6M`` to ``Diff_LLaMA_2121M``.
    """
    lacking = sorted({*_MARKS, "lm_head.weight"} - weights.keys())
    if lacking:
        raise ValueError(f"an SMDM checkpoint must hold {lacking}, got {checkpoint.describe()}")
    rows, width = weights["transformer.wte.weight"].shape
    columns, inner = len(weights["lm_head.weight"]), len(weights["transformer.h.0.mlp.swiglu.w1.weight"])
    if rows != columns + 1:
        raise ValueError(
            f"an SMDM checkpoint must have one embedding more than columns, that of the mask, got {rows} and {columns}"
        )
    blocks = {int(match[1]) for name in weights if (match := re.match(r"transformer\.h\.(\d+)\.", name))}
    head_size = 80 if (width, inner) == (640, 1600) else 64 if width <= 1024 else 128
    if width % head_size:
        raise ValueError(f"an SMDM checkpoint must have a width of heads of {head_size}, got {width}")
    return LlamaConfig(
        vocab_size=rows,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=len(blocks),
        num_attention_heads=width // head_size,
        max_position_embeddings=MAX_LENGTH,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=False,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )


def _unpack(weights: dict[str, Tensor], config: LlamaConfig) -> dict[str, Tensor]:
    """Weights with the packed queries, keys and values of lit-gpt (head by head) in three matrices."""
    unpacked = {}
    for name, weight in weights.items():
        match = re.fullmatch(r"transformer\.h\.(\d+)\.attn\.attn\.weight", name)
        if not match or weight.shape != (3 * config.hidden_size, config.hidden_size):
            unpacked[name] = weight
            continue
        parts = weight.view(config.num_attention_heads, 3, -1, config.hidden_size).unbind(1)
        for letter, part in zip("qkv", parts, strict=True):
            unpacked[f"model.layers.{match[1]}.self_attn.{letter}_proj.weight"] = part.flatten(0, 1).contiguous()
    return unpacked


def wrap(module: nn.Module, tokenizer: Any = None, *, mask_token_id: int | None = None) -> Denoiser:
    """A denoiser of a ``TransEncoder``, which takes tokens only: rows are run in groups of equal length."""
    run = unpadded(lambda x_t, t: unwrap_logits(module(x_t)))
    max_length = getattr(getattr(module, "config", None), "block_size", MAX_LENGTH)
    vocabulary = _vocabulary(len(module.lm_head.weight), tokenizer, mask_token_id)
    return LogitsDenoiser(module, run, vocabulary, max_length=max_length)


def _vocabulary(size: int, tokenizer: Any, mask_token_id: int | None) -> Vocabulary:
    if mask_token_id not in (None, size):
        raise ValueError(f"mask_token_id of SMDM must be its vocab_size ({size}), got {mask_token_id}")
    return Vocabulary.of(tokenizer, size, size, eos_token_id=token_id(tokenizer, "eos"))


def _weights_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Those of a training file, next to the optimiser's state, or of a file of weights alone."""
    training = _training_weights(checkpoint)
    return checkpoint.weights() if training is None else training


def _training_weights(checkpoint: Checkpoint) -> dict[str, Tensor] | None:
    """What one pickle holds under ``model``; None if it is no such file."""
    if len(checkpoint.weight_files) != 1 or "model" not in checkpoint.weight_names or not checkpoint.pickles:
        return None
    weights = checkpoint.pickles[0]["model"]
    if not isinstance(weights, dict):
        return None
    return {str(name): weight for name, weight in weights.items() if isinstance(weight, Tensor)}


def _recognizes(checkpoint: Checkpoint) -> bool:
    training = _training_weights(checkpoint)
    return (checkpoint.weight_names if training is None else training.keys()) >= _MARKS


FAMILY = Family("smdm", _recognizes, _load, wrap)
