"""Dream: a Qwen2 without causal mask whose output at position i - 1 predicts token i."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from edlm.denoisers.base import Denoiser
from edlm.denoisers.checkpoint import Checkpoint
from edlm.denoisers.decoder import DecoderDenoiser, build_network
from edlm.denoisers.families.family import Family, LoadOptions, setting_of, unwrap_logits
from edlm.denoisers.logits import LogitsDenoiser
from edlm.denoisers.vocabulary import Vocabulary, first_given, token_id

MASK, BOS, EOS = 151666, 151665, 151643
_SETTINGS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
_SETTINGS += ("vocab_size", "hidden_act", "rms_norm_eps", "max_position_embeddings", "tie_word_embeddings")


def _load(checkpoint: Checkpoint, options: LoadOptions) -> Denoiser:
    tokenizer, config = checkpoint.tokenizer(options.tokenizer), _as_qwen2(checkpoint)
    network = build_network(Qwen2ForCausalLM, config, checkpoint.weights(), options.dtype, checkpoint.path)
    return DecoderDenoiser(
        network,
        _vocabulary(checkpoint.config, config.vocab_size, tokenizer, options.mask_token_id),
        name=checkpoint.name,
        max_length=config.max_position_embeddings,
        shift=True,
    )


def _as_qwen2(checkpoint: Checkpoint) -> Qwen2Config:
    settings = checkpoint.config
    missing = [name for name in _SETTINGS[:6] if name not in settings]
    if missing:
        raise ValueError(f"a Dream config must say {missing}, got {checkpoint.describe()}")
    rope = {"rope_type": "default", "rope_theta": settings.get("rope_theta", 10000.0)}
    rope |= settings.get("rope_scaling") or {}
    return Qwen2Config(
        **{"tie_word_embeddings": False, "rms_norm_eps": 1e-6, "max_position_embeddings": 131072}
        | {name: settings[name] for name in _SETTINGS if name in settings},
        rope_parameters=settings.get("rope_parameters") or rope,
        use_sliding_window=False,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )


def wrap(module: nn.Module, tokenizer: Any = None, *, mask_token_id: int | None = None) -> Denoiser:
    """A denoiser of a module built by Dream's own code.

    It gets ``attention_mask="full"``, or, with padding, which keys are real, bool ``[n, 1, length, length]``.
    """

    def call(x_t: Tensor, t: Tensor, attention_mask: Tensor | None) -> Tensor:
        positions = torch.arange(x_t.shape[1], device=x_t.device).expand_as(x_t)
        if attention_mask is None or attention_mask.all():
            return unwrap_logits(module(x_t, attention_mask="full", position_ids=positions))
        length = x_t.shape[1]
        real = attention_mask.bool()[:, None, None].expand(-1, 1, length, length)
        return unwrap_logits(module(x_t, attention_mask=real, position_ids=positions))

    vocabulary = _vocabulary(module.config, module.config.vocab_size, tokenizer, mask_token_id)
    max_length = getattr(module.config, "max_position_embeddings", None)
    return LogitsDenoiser(module, call, vocabulary, max_length=max_length, shift=True)


def _vocabulary(config: Any, size: int, tokenizer: Any, mask_token_id: int | None) -> Vocabulary:
    mask, bos, eos = (setting_of(config, f"{kind}_token_id") for kind in ("mask", "bos", "eos"))
    mask = first_given(mask_token_id, mask, token_id(tokenizer, "mask"), MASK, of="mask_token_id")
    # The tokenizer's first: the config's bos is left over from Qwen2, where it is the eos.
    bos = first_given(token_id(tokenizer, "bos"), bos if bos != eos else None, BOS, of="bos_token_id")
    eos = first_given(eos, token_id(tokenizer, "eos"), EOS, of="eos_token_id")
    return Vocabulary.of(tokenizer, size, mask, prefix_ids=(bos,), is_framed=True, eos_token_id=eos)


FAMILY = Family("dream", lambda checkpoint: checkpoint.model_type == "Dream", _load, wrap, has_own_code=True)
