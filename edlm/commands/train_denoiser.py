"""``edlm train denoiser``: a masked diffusion model from scratch, on a prepared corpus."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from accelerate import PartialState

from edlm.corpus.prepared import PreparedCorpus
from edlm.denoisers.masked_lm import MaskedLMDenoiser
from edlm.diffusion.schedule import get_schedule
from edlm.training.objectives import DenoiserObjective
from edlm.training.trainer import TrainerConfig, train


@dataclass(frozen=True)
class TrainDenoiserConfig:
    """What is trained on what.

    Args:
        corpus: Folder made by ``edlm prepare corpus``.
        trainer: The run.
        model_type: Architecture, by its transformers name.
        model: Its settings (``hidden_size`` and so on), as in its transformers config.
        schedule: Masking schedule.
    """

    corpus: str
    trainer: TrainerConfig
    model_type: str = "modernbert"
    model: dict[str, Any] = field(default_factory=dict)
    schedule: Literal["log_linear", "cosine", "polynomial"] = "log_linear"


def run(config: TrainDenoiserConfig) -> None:
    """Build the network, train it, leave it in ``output_dir/final``."""
    corpus = PreparedCorpus.load(config.corpus)
    torch.manual_seed(config.trainer.seed)
    denoiser = MaskedLMDenoiser.from_config(corpus.tokenizer, model_type=config.model_type, **config.model)
    objective = DenoiserObjective(get_schedule(config.schedule), denoiser.mask_token_id)
    path = train(
        denoiser,
        objective,
        corpus.train.tokens,
        corpus.valid.tokens,
        config.trainer,
        save=lambda trained, folder: trained.save_pretrained(folder),
        identity={"model_type": config.model_type, "model": config.model, "schedule": config.schedule},
    )
    PartialState().print(f"denoiser of {sum(p.numel() for p in denoiser.parameters()):,} parameters in {path}")
