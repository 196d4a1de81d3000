"""Train an energy for a frozen denoiser."""

import json
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState

from edlm.corpus.prepared import PreparedCorpus
from edlm.denoisers.base import Denoiser
from edlm.denoisers.identity import weights_fingerprint
from edlm.denoisers.loading import load_denoiser
from edlm.energies.card import TrainedFor
from edlm.energies.chain_head import ChainHead
from edlm.energies.exact import ExactEnergy
from edlm.energies.gains import SettingGain
from edlm.energies.head_settings import HeadOptions
from edlm.energies.loading import load_energy
from edlm.energies.markov_head import MarkovHead
from edlm.energies.neighbour_head import NeighbourHead, NeighbourOptions
from edlm.energies.pretrained import PretrainedEnergy
from edlm.energies.residual_head import ResidualHead
from edlm.energies.scalar_head import ScalarHead
from edlm.energies.sequence import SequenceEnergy
from edlm.processes import from_main_process
from edlm.training.gains import LEAST_ROWS, measure_gains
from edlm.training.mixtures import EnergyObjectiveConfig
from edlm.training.objectives import EnergyObjective
from edlm.training.options import describe, split_options
from edlm.training.text import corpus_of
from edlm.training.trainer import TrainerConfig, train

Kind = Literal["nce", "head", "scalar", "markov", "chain"]
KINDS: dict[str, type[PretrainedEnergy]] = {
    "nce": SequenceEnergy,
    "head": ResidualHead,
    "scalar": ScalarHead,
    "markov": MarkovHead,
    "chain": ChainHead,
}


@dataclass(frozen=True)
class TrainEnergyConfig:
    """Data, model and run of `edlm train energy`.

    Args:
        corpus: Folder made by ``edlm prepare corpus``; or text, such as its ``source``.
        denoiser: The frozen denoiser: a folder, a hub id or a shipped name.
        trainer: The run.
        kind: "head" (a small network that corrects a step token by token; its weights need no normalisation), "scalar"
            (the same with one energy for a group of tokens), "markov" or "chain" (tokens see their left neighbour, for
            almost nothing beside a pass: normalised token by token, or over all tokens of a step), or "nce" (the
            paper's energy of whole sequences, a network of a denoiser's size, by noise-contrastive estimation).
        head: Shape of a "head" or "scalar".
        neighbours: Shape of a "markov" or "chain".
        objective: Loss and kinds of decisions; by default those of the kind.
        start_from: Folder of an energy of this kind and shape to train further; ``num_listed`` of a head may differ.
        denoiser_tokenizer: Folder or hub id of a tokenizer, for a denoiser whose checkpoint has none.
        denoiser_dtype: Of the weights of a denoiser that is loaded: "bfloat16" halves its memory, and rounds.
    """

    corpus: str
    denoiser: str
    trainer: TrainerConfig
    kind: Kind = "head"
    head: HeadOptions = field(default_factory=HeadOptions)
    neighbours: NeighbourOptions = field(default_factory=NeighbourOptions)
    objective: EnergyObjectiveConfig = field(default_factory=EnergyObjectiveConfig)
    start_from: str | None = None
    denoiser_tokenizer: str | None = None
    denoiser_dtype: Literal["float32", "bfloat16"] = "float32"


def train_energy(
    denoiser: str | Denoiser,
    corpus: str | PreparedCorpus,
    kind: Kind = "head",
    trainer: TrainerConfig | None = None,
    **options: Any,
) -> PretrainedEnergy:
    """What `edlm train energy` does.

    Args:
        denoiser: The denoiser, which is frozen and stays as it is, or where it is.
        corpus: A prepared corpus, its folder, or text, see `corpus_of`.
        kind: See `TrainEnergyConfig`.
        trainer: The run; by default of the ``options`` that are `TrainerConfig`'s, such as ``output_dir``.
        options: Other fields of `TrainEnergyConfig`; those of ``head``, ``neighbours`` and ``objective`` as dicts, too.

    Returns:
        The energy with its averaged weights, as it is saved in ``output_dir/final``.

    Raises:
        ValueError: an unknown kind, or a value that breaks its rule.
    """
    trainer, options = split_options(TrainEnergyConfig, trainer, options)
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {list(KINDS)}, got {kind!r}")
    return run_config(TrainEnergyConfig(corpus, denoiser, trainer, kind, **options))


def run_config(config: TrainEnergyConfig) -> PretrainedEnergy:
    """Build the energy, train it, save it in ``output_dir/final``, and load that."""
    config = replace(config, objective=(mixture := config.objective.of_kind(config.kind)))
    _check(config.kind, mixture)
    denoiser, dtype = config.denoiser, config.denoiser_dtype
    if not isinstance(denoiser, Denoiser):
        denoiser = load_denoiser(denoiser, tokenizer=config.denoiser_tokenizer, dtype=dtype)
    corpus = corpus_of(config.corpus, denoiser)
    torch.manual_seed(config.trainer.seed)
    shape = asdict(config.neighbours if issubclass(KINDS[config.kind], NeighbourHead) else config.head)
    energy = KINDS[config.kind].from_denoiser(denoiser, **({} if config.kind == "nce" else shape))
    num_candidates = None if mixture.loss == "likelihood" else mixture.num_candidates
    energy.trained_for = TrainedFor(mixture.orders, mixture.num_steps, mixture.group_sizes, num_candidates)
    identity = {
        "denoiser": asdict(denoiser.identity),
        "kind": config.kind,
        "head": shape,
        "objective": asdict(mixture),
        "about": describe(config),
    }
    if dtype != "float32":
        identity["denoiser_dtype"] = dtype
    if config.start_from is not None:
        _start_from(energy, denoiser, config.start_from)
        identity["start_from"] = weights_fingerprint(energy)
    valid_batches = max(config.trainer.valid_batches, mixture.most_values)
    path = train(
        energy,
        EnergyObjective(denoiser, mixture, reads_hidden=energy.reads_hidden),
        corpus.train.tokens,
        corpus.valid.tokens,
        replace(config.trainer, valid_batches=valid_batches),
        save=_save,
        identity=identity,
    )
    size, reference = (sum(p.numel() for p in module.parameters()) for module in (energy, denoiser))
    PartialState().print(f"energy of {size:,} parameters, {size / reference:.0%} of the denoiser's, in {path}")
    energy = PretrainedEnergy.from_pretrained(path)
    if isinstance(energy, ExactEnergy):
        PartialState().print("measuring what it gains, for about as long as a hundred updates take")
        _record_gains(energy, measure_gains(energy, denoiser, mixture, corpus.valid, config.trainer.batch_size), path)
    return energy.cpu()


def _record_gains(energy: PretrainedEnergy, gains: tuple[SettingGain, ...], path: Path) -> None:
    """Keep with a saved energy what it gains; all processes call this alike."""
    if not gains:
        PartialState().print(f"gains are not measured: fewer than {LEAST_ROWS} held-out blocks of different documents")
        return
    energy.trained_for = replace(energy.trained_for, gains=gains)
    PartialState().wait_for_everyone()  # until all have read it
    from_main_process(partial(energy.save_pretrained, path))
    PartialState().print("\n".join(["gain, nats per token; that of the steps that use it:", *map(str, gains)]))


def _save(energy: PretrainedEnergy, folder: Path) -> None:
    """Save an energy with its gain on validation rows, which the run's log ends with."""
    log = [json.loads(line) for line in (folder.parent / "log.jsonl").read_text().splitlines()]
    gains = [next(iter(line["metrics"].values())) for line in log if line["split"] == "valid"]
    energy.trained_for = replace(energy.trained_for, valid_gain_nats=gains[-1] if gains else None)
    energy.save_pretrained(folder)


def _start_from(energy: PretrainedEnergy, denoiser: Denoiser, path: str) -> None:
    """Load the weights saved at ``path`` into ``energy``, with the record of what they were trained for."""
    start = load_energy(path)
    start.check_denoiser(denoiser)
    if not energy.can_start_from(start):
        raise ValueError(
            f"start_from must hold a {type(energy).__name__} of settings {energy.settings()}, "
            f"got a {type(start).__name__} of {start.settings()}"
        )
    energy.load_state_dict(start.state_dict(), strict=False)
    if start.trained_for is not None:
        energy.trained_for = energy.trained_for.after(start.trained_for)


def _check(kind: str, objective: EnergyObjectiveConfig) -> None:
    exact = issubclass(KINDS[kind], ExactEnergy)
    if (objective.loss == "likelihood") != exact:
        losses = "'likelihood'" if exact else "'ranking' or 'binary'"
        raise ValueError(f"objective.loss must be {losses} for kind {kind!r}, got {objective.loss!r}")
    if (objective.scope == "sequence") != (kind == "nce"):
        raise ValueError(f"kind {kind!r} needs another objective.scope than {objective.scope!r}")
    if objective.soft_targets and kind != "head":
        raise ValueError(f"objective.soft_targets must be 0 for kind {kind!r}, got {objective.soft_targets}")
    if exact and not KINDS[kind].draws_in_rounds and set(objective.group_sizes) != {None}:
        sizes = list(objective.group_sizes)
        raise ValueError(
            f"objective.group_sizes must be [null] for kind {kind!r}, which draws a step at once, got {sizes}"
        )
