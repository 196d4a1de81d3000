"""The objects of a training run, built or restored."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from edlm.training.batches import GlobalBatches
from edlm.training.checkpoints import Checkpoints, RunState, fingerprint
from edlm.training.optimization import averaged, learning_rate_factor, parameter_groups
from edlm.training.sharding import replicated
from edlm.training.trainer_config import TrainerConfig


class Run(NamedTuple):
    """The objects of a training run.

    Args:
        accelerator: Precision, accumulation, processes.
        batches: Rows and noise of updates and of validation.
        model: As accelerate wrapped it.
        trained: Its parameters that require gradients.
        optimizer: As accelerate wrapped it.
        scheduler: Of the learning rate; stepped once per update.
        ema: Average of `trained`, or None.
        state: Step, seconds and running means.
        checkpoints: Saves and restores all of these.
    """

    accelerator: Accelerator
    batches: GlobalBatches
    model: nn.Module
    trained: nn.ParameterList
    optimizer: torch.optim.Optimizer
    scheduler: LambdaLR
    ema: AveragedModel | None
    state: RunState
    checkpoints: Checkpoints

    def update(self, values: dict[str, float]) -> None:
        """Apply the gradients to weights, learning rate and average, and count the update."""
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update_parameters(self.trained)
        self.state.add(values)


def prepare(model: nn.Module, train_blocks: Tensor, config: TrainerConfig, identity: dict[str, Any]) -> Run:
    """Build a run, or restore the newest checkpoint in ``config.output_dir``, if it is of the same identity.

    Raises:
        ValueError: nothing to train, or a checkpoint of a run with other maths.
        FileExistsError: ``config.resume`` is False and there is a checkpoint.
    """
    AcceleratorState._reset_state()  # a second run in this process may ask for another precision
    with replicated():  # a frozen part alone is sharded
        accelerator = Accelerator(
            mixed_precision=_precision(config.mixed_precision),
            gradient_accumulation_steps=config.gradient_accumulation,
            log_with=None if config.wandb == "off" else "wandb",
            # An objective may call the model twice, and a broadcast between changes buffers in place.
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
    model.zero_grad()  # an earlier run may have stopped between two micro-steps
    groups = parameter_groups(model, config.weight_decay)
    fused = accelerator.device.type == "cuda" or None  # None: torch's choice
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=fused)
    # Not passed to prepare: accelerate would step it once per process.
    state = RunState()
    scheduler = LambdaLR(optimizer, lambda step: learning_rate_factor(step, config, state.seconds))
    model, optimizer = accelerator.prepare(model, optimizer)
    _checkpoint_unwrapped(accelerator)
    batches = GlobalBatches(config, accelerator)
    trained = nn.ParameterList(x for x in model.parameters() if x.requires_grad)
    ema = averaged(trained, config.ema_decay) if config.ema_decay else None
    accelerator.register_for_checkpointing(scheduler, state, *([] if ema is None else [ema]))
    identity = {name: value for name, value in identity.items() if name != "about"}
    everything = config.identity() | {
        "global_batch_size": batches.size,
        "train_blocks": fingerprint(train_blocks),
        **identity,
    }
    checkpoints = _open_checkpoints(accelerator, everything, config)
    return Run(accelerator, batches, model, trained, optimizer, scheduler, ema, state, checkpoints)


def _checkpoint_unwrapped(accelerator: Accelerator) -> None:
    """Checkpoints hold the weights under the model's own names, whatever wraps it: another number of processes."""

    def save(models: list[nn.Module], weights: list[dict[str, Tensor]], folder: str) -> None:
        weights[:] = [accelerator.get_state_dict(model) for model, _ in zip(models, weights, strict=False)]

    def load(models: list[nn.Module], folder: str) -> None:
        models[:] = [accelerator.unwrap_model(model) for model in models]

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def _precision(requested: str) -> str:
    if requested == "fp16" and not torch.cuda.is_available():  # accelerate would train in float32 without a word
        raise ValueError("mixed_precision must be 'auto', 'no' or 'bf16' without a CUDA device, got 'fp16'")
    if requested != "auto":
        return requested
    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"


def _open_checkpoints(accelerator: Accelerator, identity: dict[str, Any], config: TrainerConfig) -> Checkpoints:
    folder = Path(config.output_dir) / "checkpoints"
    checkpoints = Checkpoints(accelerator, folder, identity, config.keep_checkpoints)
    newest = checkpoints.newest()
    if newest is not None and not config.resume:
        raise FileExistsError(f"without resume, output_dir must hold no checkpoint, got {newest}")
    if newest is not None:
        checkpoints.load(newest)
    return checkpoints
