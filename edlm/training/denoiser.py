"""Train a masked diffusion model on a prepared corpus, from scratch or from a checkpoint."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from accelerate import PartialState

from edlm.corpus.prepared import PreparedCorpus
from edlm.denoisers.architecture import preset
from edlm.denoisers.base import Denoiser
from edlm.denoisers.families.masked_lm import MaskedLMDenoiser
from edlm.denoisers.families.replacement import replace_vocabulary
from edlm.denoisers.framing import check_blocks
from edlm.denoisers.loading import load_denoiser
from edlm.diffusion.schedule import TIMES, get_schedule
from edlm.training.objectives import DenoiserObjective
from edlm.training.options import describe, split_options
from edlm.training.text import corpus_of
from edlm.training.trainer import TrainerConfig, train


@dataclass(frozen=True)
class TrainDenoiserConfig:
    """Data, model and run of `edlm train denoiser`.

    Args:
        corpus: Folder made by ``edlm prepare corpus``; or text, such as its ``source``, for which a tokenizer is
            trained, unless ``start_from`` has one.
        trainer: The run.
        model_type: Architecture, by its transformers name.
        model: Its settings (``hidden_size`` and so on), as in its transformers config; or a size: "tiny", "small" or
            "base", of about 2, 15 and 110 million parameters.
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
    model: Literal["tiny", "small", "base"] | dict[str, Any] = field(default_factory=dict)
    schedule: Literal["log_linear", "cosine", "polynomial"] = "log_linear"
    times: Literal["uniform", "bell"] = "uniform"
    start_from: str | None = None
    replace_vocabulary: bool = False

    def __post_init__(self) -> None:
        if self.start_from is not None and self.model:
            raise ValueError(f"model must be empty with start_from, which has an architecture, got {self.model}")
        if "model_type" in self.model:
            raise ValueError(f"model must hold no model_type, which is an option of its own, got {self.model}")
        if self.replace_vocabulary and self.start_from is None:
            raise ValueError("replace_vocabulary must be false without start_from, got true")


def train_denoiser(corpus: str | PreparedCorpus, trainer: TrainerConfig | None = None, **options: Any) -> Denoiser:
    """What `edlm train denoiser` does.

    Args:
        corpus: A prepared corpus, its folder, or text, see `corpus_of`.
        trainer: The run; by default of the ``options`` that are `TrainerConfig`'s, such as ``output_dir``.
        options: Fields of `TrainDenoiserConfig`.

    Returns:
        The denoiser with its averaged weights, as it is saved in ``output_dir/final``.

    Raises:
        ValueError: an unknown option, or a value that breaks its rule.
    """
    trainer, options = split_options(TrainDenoiserConfig, trainer, options)
    return run_config(TrainDenoiserConfig(corpus, trainer, **options))


def run_config(config: TrainDenoiserConfig) -> Denoiser:
    """Build or load the network, train it, save it in ``output_dir/final``, and load that."""
    identity = {"schedule": config.schedule}
    if config.times != "uniform":
        identity["times"] = config.times
    torch.manual_seed(config.trainer.seed)  # weights that a checkpoint lacks are drawn, too
    if config.start_from is not None:
        denoiser = load_denoiser(config.start_from)
        if not isinstance(denoiser, MaskedLMDenoiser):
            got = f"a {type(denoiser).__name__}"
            raise ValueError(f"start_from must be a masked LM of transformers, which can be saved again, got {got}")
        corpus = corpus_of(config.corpus, None if config.replace_vocabulary else denoiser)
        identity["start_from"] = denoiser.identity.revision
        if config.replace_vocabulary:
            denoiser = replace_vocabulary(denoiser, corpus.tokenizer)
            identity["replace_vocabulary"] = True
    else:
        corpus, model = corpus_of(config.corpus), config.model
        if isinstance(model, str):
            model = preset(model, config.model_type, corpus.train.tokens.shape[1])
        denoiser = MaskedLMDenoiser.from_config(corpus.tokenizer, config.model_type, **model)
        identity |= {"model_type": config.model_type, "model": model}
    check_blocks(denoiser, corpus.train, corpus.valid)
    objective = DenoiserObjective(denoiser, get_schedule(config.schedule), TIMES[config.times])
    path = train(
        denoiser,
        objective,
        corpus.train.tokens,
        corpus.valid.tokens,
        config.trainer,
        save=lambda trained, folder: trained.save_pretrained(folder),
        identity={**identity, "about": describe(config)},
    )
    PartialState().print(f"denoiser of {sum(p.numel() for p in denoiser.parameters()):,} parameters in {path}")
    return load_denoiser(path)
