"""DiffuLLaMA and DiffuGPT: a Llama or GPT-2 without causal mask whose output at position i - 1 predicts token i.

The mask is an ordinary token of most of these models. By default it is only a mask: it gets no mass. Text that holds
it needs ``mask_token_id = vocab_size``: then that id, outside the vocabulary, is the mask, the network is fed the
token that it was trained with, and the token itself keeps its mass (as in the authors' own sampler).
"""

from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from edlm.denoisers.base import Denoiser
from edlm.denoisers.checkpoint import Checkpoint
from edlm.denoisers.decoder import DecoderDenoiser, build_network, rename
from edlm.denoisers.families.family import Family, LoadOptions, unwrap_logits
from edlm.denoisers.logits import LogitsDenoiser
from edlm.denoisers.visibility import added_to_scores, visible_positions
from edlm.denoisers.vocabulary import Vocabulary, token_id

LLAMA_MASK, GPT2_SMALL_MASK, GPT2_VOCABULARY = 811, 10541, 50257
_ARCHITECTURES = {
    "llama": (LlamaForCausalLM, LlamaConfig, {"denoise_model.": "model.", "embed_tokens.": "model.embed_tokens."}),
    "gpt2": (GPT2LMHeadModel, GPT2Config, {"denoise_model.": "transformer.", "embed_tokens.": "transformer.wte."}),
}


def _recognizes(checkpoint: Checkpoint, family: str, model_type: str) -> bool:
    if checkpoint.model_type != model_type:
        return False
    return family in checkpoint.name.lower() or any(n.startswith("denoise_model.") for n in checkpoint.weight_names)


def _load(checkpoint: Checkpoint, options: LoadOptions, model_type: str) -> Denoiser:
    if checkpoint.model_type != model_type:
        raise ValueError(f"{checkpoint.path} must have model_type {model_type!r}, got {checkpoint.describe()}")
    architecture, config_class, prefixes = _ARCHITECTURES[model_type]
    weights, tokenizer = rename(checkpoint.weights(), prefixes), checkpoint.tokenizer(options.tokenizer)
    tables = [weights[name] for name in ("lm_head.weight", prefixes["embed_tokens."] + "weight") if name in weights]
    if not tables:
        raise ValueError(f"{checkpoint.path} must hold token embeddings, got {checkpoint.describe()}")
    vocab_size = len(tables[0])  # a mask token may have been added to the config's
    config = config_class.from_dict({**checkpoint.config, "vocab_size": vocab_size, "pad_token_id": None})
    network = build_network(architecture, config, weights, options.dtype, checkpoint.path)
    vocabulary, fed = _vocabulary(model_type, config, vocab_size, tokenizer, options.mask_token_id)
    return DecoderDenoiser(
        network,
        vocabulary,
        network_mask_token_id=fed,
        name=checkpoint.name,
        max_length=config.max_position_embeddings,
        shift=True,
    )


def _wrap(module: nn.Module, tokenizer: Any = None, *, mask_token_id: int | None = None, model_type: str) -> Denoiser:
    """A denoiser of a ``DiscreteDiffusionModel`` (with its authors' attention patch), or of a plain causal LM."""
    vocab_size = len(module.lm_head.weight)
    vocabulary, fed = _vocabulary(model_type, module.config, vocab_size, tokenizer, mask_token_id)

    def call(x_t: Tensor, t: Tensor, attention_mask: Tensor | None) -> Tensor:
        tokens = x_t.masked_fill(x_t == vocabulary.mask_token_id, fed)
        visible = visible_positions(tokens.shape[1], None, attention_mask, tokens.device)
        both_sides = added_to_scores(visible, tokens.shape[1], like=module.lm_head.weight)
        return unwrap_logits(module(tokens, attention_mask=both_sides.expand(len(tokens), -1, -1, -1)))

    max_length = getattr(module.config, "max_position_embeddings", None)
    return LogitsDenoiser(module, call, vocabulary, max_length=max_length, shift=True)


def _vocabulary(
    model_type: str, config: Any, size: int, tokenizer: Any, mask_token_id: int | None
) -> tuple[Vocabulary, int]:
    """The tokens of ``x_t``, and the token that the network is fed for a mask."""
    trained = token_id(tokenizer, "mask")
    if trained is None and model_type == "llama":
        trained = LLAMA_MASK
    elif trained is None:
        trained = GPT2_SMALL_MASK if size == GPT2_VOCABULARY else GPT2_VOCABULARY  # medium: an added token
    mask = trained if mask_token_id is None else mask_token_id
    bos, eos = token_id(tokenizer, "bos"), token_id(tokenizer, "eos")
    bos, eos = config.bos_token_id if bos is None else bos, config.eos_token_id if eos is None else eos
    prefix = () if bos is None else (bos,)
    vocabulary = Vocabulary.of(tokenizer, size, mask, prefix_ids=prefix, is_framed=True, eos_token_id=eos)
    return vocabulary, trained if mask == size else mask


def _family_of(name: str, model_type: str) -> Family:
    return Family(
        name,
        partial(_recognizes, family=name, model_type=model_type),
        partial(_load, model_type=model_type),
        partial(_wrap, model_type=model_type),
    )


FAMILY, DIFFUGPT = _family_of("diffullama", "llama"), _family_of("diffugpt", "gpt2")
