"""``edlm train denoiser``: a masked diffusion model on a prepared corpus, from scratch or from a checkpoint."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from accelerate import PartialState

from edlm.corpus.prepared import PreparedCorpus
from edlm.denoisers.families.masked_lm import MaskedLMDenoiser
from edlm.denoisers.families.replacement import replace_vocabulary
from edlm.denoisers.loading import load_denoiser
from edlm.diffusion.schedule import TIMES, get_schedule
from edlm.training.objectives import DenoiserObjective
from edlm.training.trainer import TrainerConfig, train


@dataclass(frozen=True)
class TrainDenoiserConfig:
    """Data, model and run of `edlm train denoiser`.

    Args:
        corpus: Folder made by ``edlm prepare corpus``.
        trainer: The run.
        model_type: Architecture, by its transformers name.
        model: Its settings (``hidden_size`` and so on), as in its transformers config.
        schedule: Masking schedule.
        times: Times that training draws: "uniform" for the bound itself, or "bell" for mostly middle ones.
        start_from: Checkpoint to train further: its architecture and weights, in place of ``model``.
        replace_vocabulary: Give ``start_from``, a masked LM of transformers, the corpus's tokenizer: each of its tokens
            starts as the mean of the checkpoint's tokens that spell it.

    Raises:
        ValueError: ``model`` is given with ``start_from``, which has an architecture; or ``replace_vocabulary`` without
            it.
    """

    corpus: str
    trainer: TrainerConfig
    model_type: str = "modernbert"
    model: dict[str, Any] = field(default_factory=dict)
    schedule: Literal["log_linear", "cosine", "polynomial"] = "log_linear"
    times: Literal["uniform", "bell"] = "uniform"
    start_from: str | None = None
    replace_vocabulary: bool = False

    def __post_init__(self) -> None:
        if self.start_from is not None and self.model:
            raise ValueError(f"model must be empty with start_from, which has an architecture, got {self.model}")
        if self.replace_vocabulary and self.start_from is None:
            raise ValueError("replace_vocabulary must be false without start_from, got true")


def run(config: TrainDenoiserConfig) -> None:
    """Build or load the network, train it, save it in ``output_dir/final``."""
    corpus = PreparedCorpus.load(config.corpus)
    identity = {"schedule": config.schedule}
    if config.times != "uniform":
        identity["times"] = config.times
    torch.manual_seed(config.trainer.seed)  # weights that a checkpoint lacks are drawn, too
    if config.start_from is not None:
        denoiser = load_denoiser(config.start_from)
        identity["start_from"] = denoiser.identity.revision
        if config.replace_vocabulary:
            denoiser = replace_vocabulary(denoiser, corpus.tokenizer)
            identity["replace_vocabulary"] = True
        corpus.check_tokenizer(denoiser.tokenizer)
    else:
        denoiser = MaskedLMDenoiser.from_config(corpus.tokenizer, model_type=config.model_type, **config.model)
        identity |= {"model_type": config.model_type, "model": config.model}
    objective = DenoiserObjective(get_schedule(config.schedule), denoiser.mask_token_id, TIMES[config.times])
    path = train(
        denoiser,
        objective,
        corpus.train.tokens,
        corpus.valid.tokens,
        config.trainer,
        save=lambda trained, folder: trained.save_pretrained(folder),
        identity=identity,
    )
    PartialState().print(f"denoiser of {sum(p.numel() for p in denoiser.parameters()):,} parameters in {path}")
