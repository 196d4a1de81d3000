"""``edlm train energy``: a residual head or a sequence energy for a frozen denoiser."""

from dataclasses import asdict, dataclass, field
from typing import Literal

import torch
from accelerate import PartialState

from edlm.corpus.prepared import PreparedCorpus
from edlm.denoisers.families.masked_lm import MaskedLMDenoiser
from edlm.denoisers.identity import weights_fingerprint
from edlm.denoisers.loading import load_denoiser
from edlm.energies.card import TrainedFor
from edlm.energies.head_body import Head
from edlm.energies.head_settings import HeadOptions
from edlm.energies.loading import load_energy
from edlm.energies.pretrained import PretrainedEnergy
from edlm.energies.residual_head import ResidualHead
from edlm.energies.scalar_head import ScalarHead
from edlm.energies.sequence import SequenceEnergy
from edlm.training.objectives import EnergyObjective, EnergyObjectiveConfig
from edlm.training.trainer import TrainerConfig, train

FORMS: dict[str, type[Head]] = {"normalized": ResidualHead, "unnormalized": ScalarHead}


@dataclass(frozen=True, kw_only=True)
class HeadConfig(HeadOptions):
    """Shape of a head.

    Args:
        form: "normalized" (token by token, Z = 1) or "unnormalized" (a scalar for a group).
    """

    form: Literal["normalized", "unnormalized"] = "normalized"


@dataclass(frozen=True)
class TrainEnergyConfig:
    """Data, model and run of `edlm train energy`.

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
    """Build the energy, train it, save it in ``output_dir/final``."""
    _check(config)
    corpus = PreparedCorpus.load(config.corpus)
    denoiser = load_denoiser(config.denoiser)
    corpus.check_tokenizer(denoiser.tokenizer)
    torch.manual_seed(config.trainer.seed)
    if config.kind == "sequence":
        energy = SequenceEnergy.from_denoiser(denoiser)
    else:
        options = asdict(config.head)
        energy = FORMS[options.pop("form")].from_denoiser(denoiser, **options)
    mixture = config.objective
    num_candidates = None if mixture.loss == "likelihood" else mixture.num_candidates
    energy.trained_for = TrainedFor(mixture.orders, mixture.num_steps, mixture.group_sizes, num_candidates)
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
    """Load the weights saved at ``path`` into ``energy``, with the record of what they were trained for."""
    start = load_energy(path)
    start.check_denoiser(denoiser)
    if (type(start), start.settings()) != (type(energy), energy.settings()):
        raise ValueError(
            f"start_from must hold a {type(energy).__name__} of settings {energy.settings()}, "
            f"got a {type(start).__name__} of {start.settings()}"
        )
    energy.load_state_dict(start.state_dict())
    if start.trained_for is not None:
        energy.trained_for = energy.trained_for.after(start.trained_for)


def _check(config: TrainEnergyConfig) -> None:
    objective = config.objective
    normalized = config.kind == "residual_head" and config.head.form == "normalized"
    if objective.loss == "likelihood" and not normalized:
        raise ValueError("objective.loss must be 'ranking' or 'binary' without a normalized head, got 'likelihood'")
    if (config.kind == "sequence") != (objective.scope == "sequence"):
        raise ValueError(f"kind {config.kind!r} needs another objective.scope than {objective.scope!r}")
