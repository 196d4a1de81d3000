"""Train a causal LM on a prepared corpus, as energy and as judge."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from torch import nn
from transformers import AutoModelForCausalLM

from edlm.corpus.prepared import PreparedCorpus
from edlm.denoisers.architecture import building, new_config, preset, try_out
from edlm.denoisers.checkpoint import filling_with_weights
from edlm.energies.autoregressive import AutoregressiveEnergy
from edlm.training.objectives import AutoregressiveObjective
from edlm.training.options import describe, split_options
from edlm.training.text import corpus_of
from edlm.training.trainer import TrainerConfig, train


@dataclass(frozen=True)
class TrainAutoregressiveConfig:
    """Data, model and run of `edlm train autoregressive`.

    Args:
        corpus: Folder made by ``edlm prepare corpus``; or text, such as its ``source``. The token before the first one
            is its tokenizer's bos, else eos, cls, sep or mask token.
        trainer: The run.
        model_type: Architecture, by its transformers name.
        model: Its settings, as in its transformers config; or a size: "tiny", "small" or "base" (about 2, 15, 110M
            parameters).
    """

    corpus: str
    trainer: TrainerConfig
    model_type: str = "llama"
    model: Literal["tiny", "small", "base"] | dict[str, Any] = "small"


def train_autoregressive(
    corpus: str | PreparedCorpus, trainer: TrainerConfig | None = None, **options: Any
) -> AutoregressiveEnergy:
    """What `edlm train autoregressive` does; options and errors as for `train_denoiser`.

    Returns:
        The energy as it is saved in ``output_dir/final/energy``.
    """
    trainer, options = split_options(TrainAutoregressiveConfig, trainer, options)
    return run_config(TrainAutoregressiveConfig(corpus, trainer, **options))


def run_config(config: TrainAutoregressiveConfig) -> AutoregressiveEnergy:
    """Build the network, train it, save it in ``output_dir/final``, and load that."""
    corpus = corpus_of(config.corpus)
    tokenizer = corpus.tokenizer
    starts = (getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "cls", "sep", "mask"))
    bos = next(token for token in starts if token is not None)  # a corpus has a separator, cls or mask
    torch.manual_seed(config.trainer.seed)
    special = {"bos_token_id": bos, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    length, model = corpus.train.tokens.shape[1], config.model
    if isinstance(model, str):
        model = preset(model, config.model_type, length)
    settings = new_config(config.model_type, model, vocab_size=len(tokenizer), **special)
    positions = getattr(settings, "max_position_embeddings", None)
    if positions is not None and positions < length:
        raise ValueError(f"max_position_embeddings must be >= the corpus's block length {length}, got {positions}")
    with building(config.model_type):
        network = AutoModelForCausalLM.from_config(settings)
        try_out(network)

    def save(trained: nn.Module, folder: Path) -> None:
        with filling_with_weights(folder) as new:
            trained.save_pretrained(new)
            tokenizer.save_pretrained(new)
        AutoregressiveEnergy(trained, bos_token_id=bos, tokenizer=tokenizer).save_pretrained(folder / "energy")

    path = train(
        network,
        AutoregressiveObjective(bos),
        corpus.train.tokens,
        corpus.valid.tokens,
        config.trainer,
        save=save,
        identity={"model_type": config.model_type, "model": model, "about": describe(config)},
    )
    PartialState().print(f"causal LM of {sum(p.numel() for p in network.parameters()):,} parameters in {path}")
    return AutoregressiveEnergy.from_pretrained(path / "energy")
