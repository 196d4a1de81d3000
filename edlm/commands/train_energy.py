"""``edlm train energy``: a residual head or a sequence energy for a frozen denoiser."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

import torch
from accelerate import PartialState

from edlm.corpus.prepared import PreparedCorpus
from edlm.denoisers.identity import weights_fingerprint
from edlm.denoisers.loading import load_denoiser
from edlm.denoisers.masked_lm import MaskedLMDenoiser
from edlm.energies.loading import load_energy
from edlm.energies.pretrained import PretrainedEnergy
from edlm.energies.residual_head import ResidualHead
from edlm.energies.sequence import SequenceEnergy
from edlm.training.objectives import EnergyObjective, EnergyObjectiveConfig
from edlm.training.trainer import TrainerConfig, train


@dataclass(frozen=True)
class HeadConfig:
    """Shape of a residual head; see ``ResidualHead.from_denoiser``.

    Args:
        form: "normalized" (token by token, Z = 1) or "unnormalized" (a scalar for a group).
        num_blocks: Transformer blocks.
        start: "warm" (copies of the denoiser's last blocks) or "cold" (new blocks of any size).
        blind: The control that does not see the step's other tokens.
        width: Cold start only: size of a token's state.
        num_heads: Cold start only: attention heads.
        intermediate_size: Cold start only: of the feed-forward layers.
    """

    form: Literal["normalized", "unnormalized"] = "normalized"
    num_blocks: int = 1
    start: Literal["warm", "cold"] = "warm"
    blind: bool = False
    width: int | None = None
    num_heads: int | None = None
    intermediate_size: int | None = None


@dataclass(frozen=True)
class TrainEnergyConfig:
    """What is trained on what.

    Args:
        corpus: Folder made by ``edlm prepare corpus``.
        denoiser: The frozen denoiser: a folder, a hub id or a shipped name.
        trainer: The run.
        kind: "residual_head", or "sequence" for the paper's network of a denoiser's size.
        head: Shape of a residual head.
        objective: Loss and kinds of decisions.
        start_from: Folder of an energy of this kind and shape to train further.
    """

    corpus: str
    denoiser: str
    trainer: TrainerConfig
    kind: Literal["residual_head", "sequence"] = "residual_head"
    head: HeadConfig = field(default_factory=HeadConfig)
    objective: EnergyObjectiveConfig = field(default_factory=EnergyObjectiveConfig)
    start_from: str | None = None


def run(config: TrainEnergyConfig) -> None:
    """Build the energy, train it, leave it in ``output_dir/final``."""
    _check(config)
    corpus = PreparedCorpus.load(config.corpus)
    denoiser = load_denoiser(config.denoiser)
    corpus.check_tokenizer(denoiser.tokenizer)
    torch.manual_seed(config.trainer.seed)
    if config.kind == "sequence":
        energy = SequenceEnergy.from_denoiser(denoiser)
    else:
        energy = ResidualHead.from_denoiser(denoiser, **vars(config.head))
    identity = {
        "denoiser": asdict(denoiser.identity),
        "kind": config.kind,
        "head": asdict(config.head),
        "objective": asdict(config.objective),
    }
    if config.start_from is not None:
        _start_from(energy, denoiser, config.start_from)
        identity["start_from"] = weights_fingerprint(energy)
    path = train(
        energy,
        EnergyObjective(denoiser, config.objective, reads_hidden=energy.reads_hidden),
        corpus.train.tokens,
        corpus.valid.tokens,
        config.trainer,
        save=lambda trained, folder: trained.save_pretrained(folder),
        identity=identity,
    )
    size, reference = (sum(p.numel() for p in module.parameters()) for module in (energy, denoiser))
    PartialState().print(f"energy of {size:,} parameters, {size / reference:.0%} of the denoiser's, in {path}")


def _start_from(energy: PretrainedEnergy, denoiser: MaskedLMDenoiser, path: str) -> None:
    """Give ``energy`` the weights saved at ``path``."""
    found = load_energy(path)
    found.check_denoiser(denoiser)
    if (type(found), found.settings()) != (type(energy), energy.settings()):
        raise ValueError(
            f"start_from must hold a {type(energy).__name__} of settings {energy.settings()}, "
            f"got a {type(found).__name__} of {found.settings()}"
        )
    energy.load_state_dict(found.state_dict())


def _check(config: TrainEnergyConfig) -> None:
    objective = config.objective
    normalized = config.kind == "residual_head" and config.head.form == "normalized"
    if objective.loss == "likelihood" and not normalized:
        raise ValueError("objective.loss 'likelihood' needs a normalized head: use 'ranking' or 'binary'")
    if (config.kind == "sequence") != (objective.scope == "sequence"):
        raise ValueError(f"kind {config.kind!r} needs another objective.scope than {objective.scope!r}")
