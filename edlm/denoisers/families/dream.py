"""Dream: a Qwen2 without causal mask whose output at position i - 1 predicts token i."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from edlm.denoisers.base import Denoiser
from edlm.denoisers.checkpoint import Checkpoint
from edlm.denoisers.decoder import DecoderDenoiser, build_network
from edlm.denoisers.families.family import Family, LoadOptions, first_given, unwrap_logits
from edlm.denoisers.logits import LogitsDenoiser, unused_columns
from edlm.denoisers.own_code import wants_own_code, wrap_own_code

MASK, BOS, EOS = 151666, 151665, 151643
_TAKEN = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
_TAKEN += ("vocab_size", "hidden_act", "rms_norm_eps", "max_position_embeddings", "tie_word_embeddings")


def _load(checkpoint: Checkpoint, options: LoadOptions) -> Denoiser:
    if wants_own_code(checkpoint, options):
        return wrap_own_code(checkpoint, options, wrap)
    given, tokenizer = checkpoint.config, checkpoint.tokenizer(options.tokenizer)
    config = _as_qwen2(given, checkpoint)
    network = build_network(Qwen2ForCausalLM, config, checkpoint.weights(), options.dtype, checkpoint.path)
    return DecoderDenoiser(
        network,
        mask_token_id=_mask(options.mask_token_id, given.get("mask_token_id"), tokenizer),
        tokenizer=tokenizer,
        name=checkpoint.name,
        max_length=config.max_position_embeddings,
        **_special(given.get("eos_token_id"), given.get("bos_token_id"), tokenizer),
    )


def _as_qwen2(given: dict[str, Any], checkpoint: Checkpoint) -> Qwen2Config:
    missing = [name for name in _TAKEN[:6] if name not in given]
    if missing:
        raise ValueError(f"a Dream config must say {missing}, got {checkpoint.describe()}")
    rope = {"rope_type": "default", "rope_theta": given.get("rope_theta", 10000.0), **(given.get("rope_scaling") or {})}
    return Qwen2Config(
        **{"tie_word_embeddings": False, "rms_norm_eps": 1e-6, "max_position_embeddings": 131072}
        | {name: given[name] for name in _TAKEN if name in given},
        rope_parameters=given.get("rope_parameters") or rope,
        use_sliding_window=False,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )


def wrap(module: nn.Module, tokenizer: Any = None, *, mask_token_id: int | None = None) -> Denoiser:
    """A denoiser of a module built by Dream's own code.

    It gets ``attention_mask="full"``, or, with padding, which keys are real, bool ``[n, 1, length, length]``.
    """
    config = module.config

    def call(x_t: Tensor, t: Tensor, attention_mask: Tensor | None) -> Tensor:
        positions = torch.arange(x_t.shape[1], device=x_t.device).expand_as(x_t)
        if attention_mask is None or attention_mask.all():
            return unwrap_logits(module(x_t, attention_mask="full", position_ids=positions))
        length = x_t.shape[1]
        real = attention_mask.bool()[:, None, None].expand(-1, 1, length, length)
        return unwrap_logits(module(x_t, attention_mask=real, position_ids=positions))

    return LogitsDenoiser(
        module,
        call,
        mask_token_id=_mask(mask_token_id, getattr(config, "mask_token_id", None), tokenizer),
        vocab_size=config.vocab_size,
        impossible_token_ids=unused_columns(tokenizer, config.vocab_size),
        tokenizer=tokenizer,
        max_length=getattr(config, "max_position_embeddings", None),
        **_special(getattr(config, "eos_token_id", None), getattr(config, "bos_token_id", None), tokenizer),
    )


def _mask(given: int | None, of_config: int | None, tokenizer: Any) -> int:
    return first_given(given, of_config, getattr(tokenizer, "mask_token_id", None), MASK, of="mask_token_id")


def _special(eos: int | None, bos: int | None, tokenizer: Any) -> dict[str, Any]:
    # The tokenizer's: the config's bos is left over from Qwen2, where it is the eos.
    bos = first_given(getattr(tokenizer, "bos_token_id", None), bos if bos != eos else None, BOS, of="bos_token_id")
    eos = first_given(eos, getattr(tokenizer, "eos_token_id", None), EOS, of="eos_token_id")
    return {"shift": True, "prefix_ids": (bos,), "is_framed": True, "eos_token_id": eos}


FAMILY = Family("dream", lambda checkpoint: checkpoint.model_type == "Dream", _load, wrap)
