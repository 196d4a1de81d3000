"""Masked language models of transformers."""

from transformers import AutoModelForMaskedLM
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from edlm.denoisers.checkpoint import Checkpoint
from edlm.denoisers.families.family import Family, LoadOptions
from edlm.denoisers.masked_lm import MaskedLMDenoiser


def _recognizes(checkpoint: Checkpoint) -> bool:
    return checkpoint.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _load(checkpoint: Checkpoint, options: LoadOptions) -> MaskedLMDenoiser:
    model = AutoModelForMaskedLM.from_pretrained(
        checkpoint.path, dtype=options.dtype, trust_remote_code=options.trust_remote_code
    )
    return MaskedLMDenoiser(
        model, checkpoint.tokenizer(options.tokenizer), mask_token_id=options.mask_token_id, name=checkpoint.name
    )


FAMILY = Family("masked_lm", _recognizes, _load, MaskedLMDenoiser)
