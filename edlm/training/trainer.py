"""A one-screen training loop on accelerate: any number of processes, exact resume, EMA weights."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from edlm.diffusion.streams import BatchStreams
from edlm.lock import locked
from edlm.processes import command, join, on_main_process
from edlm.training.batches import near_device
from edlm.training.checkpoints import deferred_signals
from edlm.training.log import RunLog
from edlm.training.means import Mean, add, sum_over_processes
from edlm.training.optimization import averaged_weights, set_train_mode
from edlm.training.run import Run, prepare
from edlm.training.trainer_config import TrainerConfig

__all__ = ["NonFiniteLossError", "Objective", "TrainerConfig", "train"]


class NonFiniteLossError(ValueError):
    """The loss or the gradient norm stopped being finite; nothing was saved from that state."""


class Objective(Protocol):
    """A loss to minimise."""

    def __call__(self, model: nn.Module, batch: Tensor, streams: BatchStreams) -> tuple[Mean, dict[str, Mean]]:
        """Loss of a part of a batch.

        Args:
            model: The module as accelerate wrapped it; call it through ``forward`` only.
            batch: Tokens, int64, shape ``[rows, length]``, on the model's device.
            streams: The only source of noise, of these rows of the global batch.

        Returns:
            The loss, whose total is differentiable, and named means: the same names each time, and none of them
            "loss". What is minimised is the sum of the totals of all parts over the sum of their counts.
        """


def train(
    model: nn.Module,
    objective: Objective,
    train_blocks: Tensor,
    valid_blocks: Tensor | None,
    config: TrainerConfig,
    save: Callable[[nn.Module, Path], None],
    identity: dict[str, Any] | None = None,
) -> Path:
    """Minimise `objective` over the parameters that require gradients.

    Args:
        model: Trained in place, on accelerate's device; submodules that are frozen as a whole stay
            in eval mode. Afterwards it holds the last weights, not their average.
        objective: Loss and metrics of a batch.
        train_blocks: Tokens, an integer dtype, shape ``[N, length]``.
        valid_blocks: Tokens, shape ``[M, length]``, or None for no validation.
        config: Options of the run.
        save: Called once, on the main process, with the unwrapped model holding its averaged
            weights and with ``output_dir/final``.
        identity: JSON values of everything else that changes the maths of the run (model, objective): it is resumed
            only if they are the same, or ``num_steps`` has grown. Its ``about`` is only written to ``config.yaml``.

    Returns:
        ``output_dir/final``.

    Raises:
        ValueError: no data, nothing to train, or a checkpoint of a run with other maths.
        FileExistsError: ``config.resume`` is False and ``output_dir`` holds a checkpoint.
        LockedError: another run writes to ``output_dir``.
        NonFiniteLossError: a loss is not finite, or a gradient is not (in fp16 the scaler skips
            such an update instead).

    Note:
        Rows and noise are functions of (seed, step, row of the global batch), so a resumed run is exact, and any number
        of processes computes the same; torch's global seed is set before each forward pass. SIGINT and SIGTERM wait
        until the update under way has ended and is saved.
    """
    _check_blocks(train_blocks=train_blocks, valid_blocks=valid_blocks)
    started, num_steps = time.monotonic(), config.num_steps or math.inf
    join()
    with deferred_signals() as received, on_main_process(locked(config.output_dir)):
        run = prepare(model, train_blocks, config, identity or {})
        accelerator, state, earlier = run.accelerator, run.state, run.state.seconds
        size, blocks = sum(x.numel() for x in run.trained), " blocks of ".join(f"{x:,}" for x in train_blocks.shape)
        accelerator.print(f"{size:,} trained parameters, {blocks} tokens, on {accelerator.device}; {config.output_dir}")
        train_blocks = near_device(train_blocks, accelerator.device)
        limit = 60 * (config.max_minutes or math.inf) + (earlier if config.num_steps else 0)
        late = earlier >= limit
        with RunLog(accelerator, config, state, (identity or {}).get("about", {})) as log:
            set_train_mode(run.model)
            while state.step < num_steps and not late:
                tick = time.monotonic()
                sums = _add_gradients(run, objective, train_blocks)
                sums |= {"_signals": Mean(len(received), 1), "_seconds": Mean(time.monotonic() - started, 1)}
                values, grad_norm = _average(run, sums, train_blocks, config.max_grad_norm)
                interrupted, seconds = values.pop("_signals") > 0, values.pop("_seconds")
                state.seconds = earlier + seconds
                late = state.seconds >= limit
                _check_finite(values["loss"], grad_norm, run)
                learning_rate = run.scheduler.get_last_lr()[0]
                run.update(values)
                state.busy += time.monotonic() - tick
                log.progress(values["loss"], learning_rate)

                last = (late or state.step == num_steps) and not interrupted
                if last or state.step % config.log_every == 0:
                    speed = state.count * run.batches.size * train_blocks.shape[1] / state.busy
                    extra = {"grad_norm": grad_norm, "tokens_per_second": speed}
                    log.write("train", state.means(), learning_rate=learning_rate, **extra)
                if state.step % config.log_every == 0:
                    state.clear()
                if valid_blocks is not None and (last or state.step % config.valid_every == 0):
                    log.write("valid", _validate(run, objective, valid_blocks))
                if last or interrupted or state.step % config.checkpoint_every == 0:
                    run.checkpoints.save(state.step)
                if interrupted:
                    log.say(f"interrupted: step {state.step} is saved; the same command resumes: {command()}")
                    raise KeyboardInterrupt(f"stopped after step {state.step}, which is saved")
        final = Path(config.output_dir) / "final"
        with averaged_weights(run.trained, run.ema):
            if accelerator.is_main_process:
                final.mkdir(exist_ok=True)
                save(accelerator.unwrap_model(run.model, keep_fp32_wrapper=False), final)
            accelerator.wait_for_everyone()
    return final


def _add_gradients(run: Run, objective: Objective, blocks: Tensor) -> dict[str, Mean]:
    """Forward and backward passes of an update; this process's sums of the loss and the metrics."""
    sums: dict[str, Mean] = {}
    for batch, streams in run.batches.train(blocks, run.state.step):
        with run.accelerator.accumulate(run.model):
            loss, metrics = objective(run.model, batch, streams)
            run.accelerator.backward(loss.total / batch.numel())
        add(sums, {**metrics, "loss": loss})
    return sums


def _average(run: Run, sums: dict[str, Mean], blocks: Tensor, max_norm: float) -> tuple[dict[str, float], float]:
    """Means over the global batch; gradients become those of its mean loss, clipped. Returns their norm, too."""
    summed = sum_over_processes(run.accelerator, sums)
    # So far they are those of the sum over all tokens' number: the number of the loss's terms was not known.
    scale = run.batches.size * blocks.shape[1] / max(summed["loss"].count, 1)
    for parameter in run.trained:
        if parameter.grad is not None:
            parameter.grad.mul_(scale)
    grad_norm = float(run.accelerator.clip_grad_norm_(run.trained, max_norm))
    return {name: mean.value for name, mean in summed.items()}, grad_norm


@torch.no_grad()
def _validate(run: Run, objective: Objective, blocks: Tensor) -> dict[str, float]:
    """Means with the averaged weights over all validation batches."""
    sums: dict[str, Mean] = {}
    run.model.eval()
    with averaged_weights(run.trained, run.ema):
        for batch, streams in run.batches.valid(blocks):
            loss, metrics = objective(run.model, batch, streams)
            add(sums, {**metrics, "loss": loss})
    set_train_mode(run.model)
    return {name: mean.value for name, mean in sum_over_processes(run.accelerator, sums).items()}


def _check_finite(loss: float, grad_norm: float, run: Run) -> None:
    scaled = run.accelerator.scaler is not None  # fp16: the scaler skips such an update
    if not math.isfinite(loss) or not (scaled or math.isfinite(grad_norm)):
        raise NonFiniteLossError(
            f"loss and gradient norm must be finite, got {loss} and {grad_norm} at step "
            f"{run.state.step + 1}; last good checkpoint: {run.checkpoints.newest()}"
        )


def _check_blocks(**named: Tensor | None) -> None:
    for name, blocks in named.items():
        if blocks is None:
            continue
        if blocks.ndim != 2 or not blocks.numel() or blocks.is_floating_point():
            got = f"{blocks.dtype} {list(blocks.shape)}"
            raise ValueError(f"{name} must be integers of shape [N, length], N >= 1, got {got}")
