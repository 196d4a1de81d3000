"""Options of a training run."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from edlm.rules import MAX_COUNT, check_options

_FREE_TO_CHANGE = (
    "output_dir batch_size gradient_accumulation max_minutes log_every valid_every valid_batches checkpoint_every "
    "keep_checkpoints resume wandb wandb_project"
).split()

_MAX_BATCH = 2**20
_COUNTS = "batch_size gradient_accumulation log_every valid_every valid_batches checkpoint_every keep_checkpoints"
_RULES: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("output_dir", "the name of a folder", bool),
    (_COUNTS, ">= 1", lambda value: value >= 1),
    ("batch_size gradient_accumulation", f"<= {_MAX_BATCH}", lambda value: value <= _MAX_BATCH),
    ("num_steps", "None or >= 1", lambda value: value is None or value >= 1),
    (f"{_COUNTS} num_steps", f"<= {MAX_COUNT}", lambda value: value is None or value <= MAX_COUNT),
    ("warmup_steps weight_decay seed", ">= 0", lambda value: value >= 0),
    ("learning_rate", "> 0 and finite", lambda value: 0 < value < math.inf),
    ("max_grad_norm", "> 0", lambda value: value > 0),
    ("max_minutes", "None or > 0", lambda value: value is None or value > 0),
    ("ema_decay", "in [0, 1)", lambda value: 0 <= value < 1),
    ("betas", "two numbers in [0, 1)", lambda value: all(0 <= beta < 1 for beta in value)),
)


@check_options
@dataclass(frozen=True)
class TrainerConfig:
    """Options of a training run.

    Args:
        output_dir: Holds ``config.yaml``, ``log.jsonl``, ``checkpoints/`` and ``final/``.
        num_steps: Optimizer updates, >= 1; None for as many as ``max_minutes`` allow, or 3000 without a limit.
        batch_size: Sequences per process and forward pass, >= 1. An update has processes x ``batch_size`` x
            ``gradient_accumulation`` sequences: its global batch. Runs of equal global batches compute the same, but
            for rounding and dropout, and may resume each other.
        gradient_accumulation: Forward passes per process and update, >= 1.
        learning_rate: Peak of the schedule, > 0.
        warmup_steps: Updates of linear warm-up, whose first has ``learning_rate / warmup_steps``.
        decay: After warm-up: "cosine" to 10 % of the peak, "linear" to 0, or "none"; over ``num_steps``, or without
            them over the share of ``max_minutes`` that is used, so that the run ends annealed on any machine.
        weight_decay: AdamW's, >= 0; never on parameters with fewer than two dimensions.
        betas: AdamW's, each in [0, 1).
        max_grad_norm: Gradients are clipped to this norm, > 0; ``.inf`` for no clipping.
        ema_decay: Of the averaged weights that are validated and saved, in [0, 1); 0 for no
            averaging. After n updates it is ``min(ema_decay, (1 + n) / (10 + n))``.
        mixed_precision: "no", "bf16", "fp16", or "auto" for bf16 on a CUDA device that has it, else none.
        max_minutes: Wall-clock minutes, > 0: the first update that ends later is the last, and leaves a checkpoint to
            resume from and the final model. None for no limit. With ``num_steps`` they are those of this call, without
            those of all calls that resume each other.
        log_every: Updates between log lines; each has means over those updates.
        valid_every: Updates between validation passes.
        valid_batches: Global batches per validation pass: the same rows and noise each time; of few rows, some again
            with other noise. Of an energy there are at least as many as a mixture of its decisions has values, each of
            which they see.
        checkpoint_every: Updates between checkpoints.
        keep_checkpoints: Number of newest checkpoints that are kept.
        resume: Resume from the newest checkpoint in ``output_dir`` if there is one.
        seed: Of the data order and the noise, >= 0.
        wandb: "off", "offline" (a folder under ``output_dir``) or "online".
        wandb_project: The project's name there.

    Raises:
        ValueError: a value breaks its rule.
    """

    output_dir: str
    num_steps: int | None = None
    batch_size: int = 32
    gradient_accumulation: int = 1
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    decay: Literal["cosine", "linear", "none"] = "cosine"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    max_minutes: float | None = None
    log_every: int = 20
    valid_every: int = 500
    valid_batches: int = 8
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    resume: bool = True
    seed: int = 0
    wandb: Literal["off", "offline", "online"] = "off"
    wandb_project: str = "edlm"

    def __post_init__(self) -> None:
        for names, rule, holds in _RULES:
            for name in names.split():
                if not holds(getattr(self, name)):
                    raise ValueError(f"{name} must be {rule}, got {getattr(self, name)!r}")
        if self.num_steps is None and self.max_minutes is None:
            object.__setattr__(self, "num_steps", 3000)

    def identity(self) -> dict[str, Any]:
        """The fields that change the maths of a run, so that a resumed run must keep them, beside its global batch."""
        return {name: value for name, value in asdict(self).items() if name not in _FREE_TO_CHANGE}
