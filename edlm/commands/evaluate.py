"""``edlm evaluate``: the likelihood bound of samplers on held-out text, beside the base's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edlm.commands.terminal import console
from edlm.config import SamplerConfig
from edlm.corpus.text import load_blocks
from edlm.denoisers.loading import SHIPPED, load_denoiser
from edlm.energies.pretrained import load_energy
from edlm.evaluation.provenance import write_result
from edlm.evaluation.table import Setting, as_json, as_table, measure


@dataclass(frozen=True)
class MethodConfig:
    """A way of deciding that is measured beside the base.

    Args:
        name: What the table calls it.
        energy: Folder of an energy, or a shipped name.
        num_candidates: Candidates k; null decides token by token, exactly.
        scope: What a candidate fills.
        group_size: Tokens decided together; null for all of a step.
    """

    name: str = "head_exact"
    energy: str = "tinystories"
    num_candidates: int | None = None
    scope: Literal["step", "sequence"] = "step"
    group_size: int | None = None


@dataclass(frozen=True)
class EvaluateConfig:
    """What is measured on what: every method and the base, at every number of steps, in every order.

    Args:
        denoiser: Folder, hub id or shipped name.
        data: Held-out blocks (a file made by ``edlm prepare corpus``); the shipped ones by default.
        num_rows: Blocks to use, from the first.
        methods: Ways of deciding.
        num_steps: Denoiser passes.
        orders: Reveal orders.
        seed: Of orders and candidates.
        batch_size: Rows at a time.
        timed_batch_size: Sequences sampled at a time for the seconds.
        timed_repeats: Timed batches; 0 for no timing (time nothing on a busy machine).
        output: JSON file to write; none by default.
    """

    denoiser: str = "tinystories"
    data: str | None = None
    num_rows: int = 256
    methods: tuple[MethodConfig, ...] = (MethodConfig(),)
    num_steps: tuple[int, ...] = (4, 8, 16)
    orders: tuple[Literal["ancestral", "random", "dilated", "left_to_right", "confidence"], ...] = field(
        default=("random", "dilated")
    )
    seed: int = 0
    batch_size: int = 32
    timed_batch_size: int = 16
    timed_repeats: int = 2
    output: str | None = None

    def __post_init__(self) -> None:
        if self.num_rows < 1:
            raise ValueError(f"num_rows must be >= 1, got {self.num_rows}")


def run(config: EvaluateConfig) -> None:
    """Measure, print a table, write JSON after each row of it."""
    denoiser = load_denoiser(config.denoiser)
    blocks = load_blocks(config.data or SHIPPED / "tinystories" / "valid.safetensors")
    rows = blocks.tokens[: config.num_rows]
    energies = {method.energy: load_energy(method.energy) for method in config.methods}
    settings = [
        Setting(name, energy, SamplerConfig(num_steps=num_steps, order=order, **how))
        for order in config.orders
        for num_steps in config.num_steps
        for name, energy, how in [
            ("base", None, {}),
            *(
                (m.name, energies[m.energy], {key: vars(m)[key] for key in ("num_candidates", "scope", "group_size")})
                for m in config.methods
            ),
        ]
    ]
    measured = []

    def keep(measurement) -> None:
        measured.append(measurement)
        if config.output:
            write_result(config.output, config, settings=as_json(measured))

    measure(
        denoiser,
        settings,
        rows,
        seed=config.seed,
        batch_size=config.batch_size,
        timed_batch_size=config.timed_batch_size,
        repeats=config.timed_repeats,
        characters_per_token=blocks.characters_per_token,
        on_measured=keep,
    )
    console().print(as_table(measured))
