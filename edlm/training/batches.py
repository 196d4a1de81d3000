"""Rows and noise of each micro-step, as functions of its number, so that resuming needs no state."""

import functools

import torch
from accelerate import Accelerator
from torch import Tensor

from edlm.diffusion.streams import generator_of, seed_of
from edlm.training.trainer_config import TrainerConfig

_TRAIN_ORDER, _TRAIN_NOISE, _VALID_ORDER, _VALID_NOISE = range(4)


@functools.lru_cache(maxsize=4)
def _permutation(size: int, *key: int) -> Tensor:
    return torch.randperm(size, generator=generator_of(*key))


def rows_at(start: int, count: int, size: int, *key: int) -> Tensor:
    """Rows at positions ``start .. start + count`` of an endless sequence of shuffled epochs.

    Position p is entry ``p % size`` of the permutation of epoch ``p // size``.

    Args:
        start: First position, >= 0.
        count: Number of rows.
        size: Rows in the data, >= 1.
        key: Seeds the permutations, together with the epoch.

    Returns:
        Row numbers, int64, shape ``[count]``.

    Example:
        >>> sorted(torch.cat([rows_at(0, 2, 5, 7), rows_at(2, 3, 5, 7)]).tolist())
        [0, 1, 2, 3, 4]
    """
    pieces, end = [], start + count
    while start < end:
        epoch, offset = divmod(start, size)
        pieces.append(_permutation(size, *key, epoch)[offset : offset + end - start])
        start += len(pieces[-1])
    return torch.cat(pieces)


def near_device(blocks: Tensor, device: torch.device) -> Tensor:
    """`blocks` on a CUDA device, if they are at most 1 GiB there; else where they are."""
    return blocks.int().to(device) if device.type == "cuda" and blocks.numel() <= 2**28 else blocks


def train_batch(
    blocks: Tensor, step: int, micro_step: int, config: TrainerConfig, accelerator: Accelerator
) -> tuple[Tensor, torch.Generator]:
    """This process's share of a micro-step.

    Args:
        blocks: Tokens, an integer dtype, shape ``[N, length]``.
        step: Finished updates.
        micro_step: Finished forward passes of this update.
        config: Its ``batch_size``, ``gradient_accumulation`` and ``seed``.
        accelerator: Its processes and device.

    Returns:
        Tokens, int64, shape ``[batch_size, length]``, and the generator of their noise.

    Note:
        Seeds torch's global generators as well, for dropout.
    """
    micro_steps = step * config.gradient_accumulation + micro_step
    turn = micro_steps * accelerator.num_processes + accelerator.process_index
    start = turn * config.batch_size
    rows = rows_at(start, config.batch_size, len(blocks), config.seed, _TRAIN_ORDER)
    key = (config.seed, _TRAIN_NOISE, step, micro_step, accelerator.process_index)
    torch.manual_seed(seed_of(*key))
    return blocks[rows.to(blocks.device)].to(accelerator.device, torch.long), generator_of(*key)


def valid_batch(
    blocks: Tensor, index: int, config: TrainerConfig, accelerator: Accelerator
) -> tuple[Tensor, torch.Generator]:
    """This process's share of validation batch `index`, as `train_batch`; the same at each pass."""
    process = accelerator.process_index
    start = (index * accelerator.num_processes + process) * config.batch_size
    rows = rows_at(start, config.batch_size, len(blocks), config.seed, _VALID_ORDER)
    generator = generator_of(config.seed, _VALID_NOISE, index, process)
    return blocks[rows.to(blocks.device)].to(accelerator.device, torch.long), generator
