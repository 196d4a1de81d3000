"""The optimizer's groups, the learning rate, and the averaged weights."""

import contextlib
import math
from collections.abc import Iterator

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from edlm.training.trainer_config import TrainerConfig


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Trainable parameters for AdamW: decay on matrices, none on vectors and scalars.

    Raises:
        ValueError: no parameter requires a gradient.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError("model must have a parameter that requires a gradient, got none")
    matrices = [parameter for parameter in trained if parameter.ndim >= 2]
    others = [parameter for parameter in trained if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def learning_rate_factor(step: int, config: TrainerConfig, seconds: float = 0.0) -> float:
    """Factor on the peak learning rate for the update that follows `step` finished ones.

    Args:
        step: Finished updates, >= 0.
        config: Its ``warmup_steps``, ``decay``, and ``num_steps``: the decay ends, at 0.1 ("cosine") or 0 ("linear"),
            after them, or without them after ``max_minutes``.
        seconds: Time that the run has used.

    Example:
        >>> config = TrainerConfig("runs/a", num_steps=4, warmup_steps=2, decay="linear")
        >>> [learning_rate_factor(step, config) for step in range(5)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
        >>> config = TrainerConfig("runs/a", max_minutes=1, warmup_steps=2, decay="linear")
        >>> [learning_rate_factor(step, config, seconds) for step, seconds in [(0, 0), (1, 45), (99, 45), (100, 60)]]
        [0.5, 0.25, 0.25, 0.0]
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.num_steps is None:
        done = seconds / (60 * config.max_minutes)
    else:
        done = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
    done = min(1.0, max(0.0, done))
    cosine = 0.55 + 0.45 * math.cos(math.pi * done)
    return min(warmup, {"cosine": cosine, "linear": 1 - done, "none": 1.0}[config.decay])


def averaged(trained: nn.ParameterList, decay: float) -> AveragedModel:
    """Exponential moving average of `trained` alone, so frozen submodules are not copied.

    ema_1 = w_1;  ema_{n+1} = d_n ema_n + (1 - d_n) w_{n+1},  d_n = min(decay, (1 + n) / (10 + n))

    Args:
        trained: Parameters to average; pass them to ``update_parameters`` after every update.
        decay: Limit of d_n, in (0, 1).

    Returns:
        torch's averaged model around a copy of `trained`.
    """

    def update(averages: list[Tensor], currents: list[Tensor], count: Tensor | int) -> None:
        warmed = min(decay, (1 + int(count)) / (10 + int(count)))
        get_ema_multi_avg_fn(warmed)(averages, currents, count)

    return AveragedModel(trained, multi_avg_fn=update).requires_grad_(False)


@contextlib.contextmanager
def averaged_weights(trained: nn.ParameterList, ema: AveragedModel | None) -> Iterator[None]:
    """Within the block `trained` holds the averages; without an `ema` it stays as it is."""

    def swap() -> None:
        for parameter, average in zip(trained, ema.module, strict=True):
            parameter.data, average.data = average.data, parameter.data

    if ema is None:
        yield
        return
    swap()
    try:
        yield
    finally:
        swap()


def set_train_mode(model: nn.Module) -> None:
    """Train mode, but eval for submodules whose parameters are all frozen: no dropout there."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()
