"""``model.generate`` of transformers, with the sampler in place of its loop."""

from collections.abc import Sequence
from dataclasses import fields
from inspect import Parameter, Signature
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation import GenerateDecoderOnlyOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from edlm.denoisers.base import Denoiser
from edlm.denoisers.families import FAMILIES
from edlm.denoisers.loading import wrap_denoiser
from edlm.rules import check
from edlm.sampler.options import SamplerOptions
from edlm.sampler.sampler import EnergySampler

_PROPOSAL = ("temperature", "top_p", "top_k")  # transformers' own, in its generation config
_SAMPLING = tuple(option.name for option in fields(SamplerOptions) if option.name not in _PROPOSAL)
_OWN = ("energy", "denoiser", "family", "mask_token_id", "seed")
_UNDERSTOOD = {"TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper"}
_UNDERSTOOD |= {"MaxLengthCriteria", "EosTokenCriteria"}


def hf_generate(
    model: PreTrainedModel,
    input_ids: Tensor,
    generation_config: GenerationConfig,
    logits_processor: Sequence[Any] = (),
    stopping_criteria: Sequence[Any] = (),
    attention_mask: Tensor | None = None,
    **options: Any,
) -> Tensor | GenerateDecoderOnlyOutput:
    """Continue prompts by denoising: ``model.generate(input_ids, custom_generate=edlm.hf_generate, energy=...)``.

    transformers prepares the arguments. Of its generation config, ``max_new_tokens``, ``eos_token_id``,
    ``pad_token_id``, ``num_return_sequences`` and ``return_dict_in_generate`` mean what they mean there. Tokens are
    always drawn, by torch's global generator if there is no ``seed``: from the denoiser's marginals, or, under
    ``do_sample=True``, from these at ``temperature``, ``top_k`` and ``top_p``.

    Args:
        model: A masked LM, a module of a family of ``edlm.denoisers.loading.FAMILIES``, or the network of ``denoiser``.
        input_ids: Prompts, padded on either side where ``attention_mask`` is 0, shape ``[batch, length]``.
        generation_config: As transformers prepared it.
        logits_processor: Those that make up ``temperature``, ``top_k`` and ``top_p``; no others are understood.
        stopping_criteria: Those of the length and the end of a text; no others are understood.
        attention_mask: 0 at padding, shape ``[batch, length]``.
        options: Given to ``model.generate`` by name: ``energy``; ``denoiser``, of this very model; or ``family`` and
            ``mask_token_id`` as for `wrap_denoiser`, by default those of the model's config; ``seed`` as for
            `EnergySampler.generate`; and options of `SamplerOptions`, where ``num_steps`` is by default the number of
            tokens of a block: one a pass.

    Returns:
        Prompts with their continuations, padded on the right after the end of a text, int64, shape
        ``[batch * num_return_sequences, new_length]``; or these as ``sequences`` of an output object.

    Raises:
        ValueError: the model is no denoiser that is known, or something is asked for that only transformers' own loops
            do, such as beams; and errors of `EnergySampler`.
    """
    own = {name: options.pop(name, None) for name in _OWN}
    sampling = {name: options[name] for name in _SAMPLING if name in options}
    _check_understood(generation_config, [*logits_processor, *stopping_criteria])
    denoiser = _denoiser_of(model, own["denoiser"], own["family"], own["mask_token_id"])
    max_new_tokens = generation_config.max_length - input_ids.shape[1]
    sampling = {"num_steps": sampling.get("block_length") or denoiser.block_size or max_new_tokens, **sampling}
    if generation_config.do_sample:
        given = {name: getattr(generation_config, name) for name in _PROPOSAL}
        sampling |= {name: value for name, value in given.items() if value is not None and value != 0}
    ends = _ids(generation_config.eos_token_id)
    real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    prompts = [row[kept.bool()].tolist() for row, kept in zip(input_ids, real, strict=True)]
    sampler = EnergySampler(denoiser, own["energy"], **sampling)
    output = sampler.generate(prompts, max_new_tokens, eos_token_id=ends, seed=own["seed"])
    framed = len(denoiser.suffix_ids) if denoiser.is_framed else 0
    new = torch.stack([row[len(row) - framed - max_new_tokens : len(row) - framed] for row in output.tokens])
    new = _padded_after_end(new, ends, _ids(generation_config.pad_token_id))
    sequences = torch.cat([input_ids, new.to(input_ids.device)], 1)
    return GenerateDecoderOnlyOutput(sequences) if generation_config.return_dict_in_generate else sequences


# transformers hands over those options that the signature names.
hf_generate.__signature__ = Signature(
    [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in ("model", "input_ids")]
    + [Parameter(name, Parameter.KEYWORD_ONLY) for name in ("generation_config", *_OWN, *_SAMPLING)]
    + [Parameter("options", Parameter.VAR_KEYWORD)]
)


def _check_understood(config: GenerationConfig, parts: Sequence[Any]) -> None:
    if (config.num_beams or 1) > 1:
        raise ValueError(f"num_beams must be 1: a denoiser has no beams, got {config.num_beams}")
    if others := [type(part).__name__ for part in parts if type(part).__name__ not in _UNDERSTOOD]:
        raise ValueError(f"hf_generate understands temperature, top_k, top_p, a length and ends of texts, got {others}")


def _denoiser_of(model: PreTrainedModel, denoiser: Any, family: str | None, mask_token_id: int | None) -> Denoiser:
    """The given denoiser, or the model wrapped as one."""
    denoiser = check("denoiser", denoiser, Denoiser | None)
    if denoiser is not None:
        if getattr(denoiser, "network", model) is not model:
            raise ValueError(f"denoiser must run the model whose generate is called, got that of {denoiser.name!r}")
        return denoiser
    kind = model.config.model_type
    if family is None and kind.lower() in FAMILIES:
        family = kind.lower()
    if family is None and kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        family = "masked_lm"
    if family is None:
        known = "family, one of those of wrap_denoiser, or denoiser, such as load_denoiser gives,"
        raise ValueError(f"{known} must be given: model_type {kind!r} does not say how the model denoises")
    if mask_token_id is None:
        mask_token_id = getattr(model.config, "mask_token_id", None)
    return wrap_denoiser(model, family=family, mask_token_id=mask_token_id)


def _ids(token: Any) -> list[int]:
    """One token, several, or none, as a list."""
    return [] if token is None else [int(one) for one in (token if isinstance(token, Sequence) else [token])]


def _padded_after_end(new: Tensor, ends: list[int], pad: list[int]) -> Tensor:
    """Padding after the first end of each row ``[batch, length]``; columns that are padding in all rows are cut."""
    is_end = torch.isin(new, torch.tensor(ends, dtype=new.dtype))
    after = is_end.cumsum(1) - is_end.long() > 0
    new = new.masked_fill(after, [*pad, *ends, 0][0])
    return new[:, : int((~after).sum(1).max())]
