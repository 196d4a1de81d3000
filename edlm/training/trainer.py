"""A one-screen training loop on accelerate: any number of processes, exact resume, EMA weights."""

import math
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from edlm.training.batches import near_device, train_batch, valid_batch
from edlm.training.checkpoints import deferred_signals
from edlm.training.log import RunLog
from edlm.training.optimization import averaged_weights, set_train_mode
from edlm.training.run import Run, prepare
from edlm.training.trainer_config import TrainerConfig

__all__ = ["NonFiniteLossError", "Objective", "TrainerConfig", "train"]


class NonFiniteLossError(RuntimeError):
    """The loss or the gradient norm stopped being finite; nothing was saved from that state."""


class Objective(Protocol):
    """A loss to minimise."""

    def __call__(self, model: nn.Module, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch.

        Args:
            model: The module as accelerate wrapped it; call it through ``forward`` only.
            batch: Tokens, int64, shape ``[batch, length]``, on the model's device.
            generator: On the CPU, seeded for this batch; the only source of noise.

        Returns:
            The loss (scalar, differentiable) and named scalars: the same names each time, and none
            of them "loss".
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
        NonFiniteLossError: a loss is not finite, or a gradient is not (in fp16 the scaler skips
            such an update instead).

    Note:
        Rows and noise are functions of (seed, step, micro-step, process), so a resumed run is
        exact; torch's global seed is set before each batch. SIGINT and SIGTERM wait until the
        update under way has ended and is saved.
    """
    _check_blocks(train_blocks=train_blocks, valid_blocks=valid_blocks)
    started, num_steps = time.monotonic(), config.num_steps or math.inf
    run = prepare(model, train_blocks, config, identity or {})
    accelerator, state, earlier = run.accelerator, run.state, run.state.seconds
    size, blocks = sum(x.numel() for x in run.trained), " blocks of ".join(f"{x:,}" for x in train_blocks.shape)
    accelerator.print(f"{size:,} trained parameters, {blocks} tokens, on {accelerator.device}; {config.output_dir}")
    train_blocks = near_device(train_blocks, accelerator.device)
    limit = 60 * (config.max_minutes or math.inf) + (earlier if config.num_steps else 0)
    late = earlier >= limit
    with deferred_signals() as received, RunLog(accelerator, config, state) as log:
        set_train_mode(run.model)
        while state.step < num_steps and not late:
            tick, sums = time.monotonic(), {}
            for micro_step in range(config.gradient_accumulation):
                drawn = train_batch(train_blocks, state.step, micro_step, config, accelerator)
                with accelerator.accumulate(run.model):
                    loss, metrics = objective(run.model, *drawn)
                    accelerator.backward(loss)
                _add(sums, {**metrics, "loss": loss}, 1 / config.gradient_accumulation)
            grad_norm = float(accelerator.clip_grad_norm_(run.trained, config.max_grad_norm))
            flags = {"_signals": len(received), "_seconds": time.monotonic() - started}
            values = _mean_over_processes(accelerator, {**sums, **flags})
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
                speed = state.count * _tokens_per_update(run, train_blocks, config) / state.busy
                extra = {"grad_norm": grad_norm, "tokens_per_second": speed}
                log.write("train", state.means(), learning_rate=learning_rate, **extra)
            if state.step % config.log_every == 0:
                state.clear()
            if valid_blocks is not None and (last or state.step % config.valid_every == 0):
                log.write("valid", _validate(run, objective, valid_blocks, config))
            if last or interrupted or state.step % config.checkpoint_every == 0:
                run.checkpoints.save(state.step)
            if interrupted:
                program = ["edlm"] if Path(sys.argv[0]).name in ("edlm", "__main__.py") else ["python", sys.argv[0]]
                command = shlex.join([*program, *sys.argv[1:]])
                log.say(f"interrupted: step {state.step} is saved; the same command resumes: {command}")
                raise KeyboardInterrupt(f"stopped after step {state.step}, which is saved")
        final = Path(config.output_dir) / "final"
        with averaged_weights(run.trained, run.ema):
            if accelerator.is_main_process:
                final.mkdir(exist_ok=True)
                save(accelerator.unwrap_model(run.model, keep_fp32_wrapper=False), final)
            accelerator.wait_for_everyone()
    return final


@torch.no_grad()
def _validate(run: Run, objective: Objective, blocks: Tensor, config: TrainerConfig) -> dict:
    """Means with the averaged weights over full batches; rows are repeated only if no batch is full."""
    sums: dict[str, Tensor] = {}
    full = len(blocks) // (config.batch_size * run.accelerator.num_processes)
    batches = max(1, min(config.valid_batches, full))
    run.model.eval()
    with averaged_weights(run.trained, run.ema):
        for index in range(batches):
            drawn = valid_batch(blocks, index, config, run.accelerator)
            loss, metrics = objective(run.model, *drawn)
            _add(sums, {**metrics, "loss": loss}, 1 / batches)
    set_train_mode(run.model)
    return _mean_over_processes(run.accelerator, sums)


def _add(sums: dict[str, Tensor], values: dict[str, Tensor], weight: float) -> None:
    for name, value in values.items():
        sums[name] = sums.get(name, 0.0) + weight * torch.as_tensor(value).detach().float()


def _mean_over_processes(accelerator: Accelerator, values: dict) -> dict[str, float]:
    """One reduction and one transfer for all values; a value that is not finite in any process stays so."""
    device = accelerator.device
    scalars = [torch.as_tensor(x, dtype=torch.float32, device=device) for x in values.values()]
    means = accelerator.reduce(torch.stack(scalars), "mean")
    return dict(zip(values, means.tolist(), strict=True))


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


def _tokens_per_update(run: Run, blocks: Tensor, config: TrainerConfig) -> int:
    sequences = config.batch_size * config.gradient_accumulation * run.accelerator.num_processes
    return sequences * blocks.shape[1]
