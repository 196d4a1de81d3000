"""Rows and noise of each update, the same however they are divided over processes and forward passes."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from edlm.diffusion.streams import BatchStreams, generator_of, seed_of
from edlm.training.trainer_config import TrainerConfig

_TRAIN_ORDER, _TRAIN_NOISE, _VALID_ORDER, _VALID_NOISE, _DROPOUT = range(5)


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


@dataclass(frozen=True)
class GlobalBatches:
    """The batches of updates and of validation, of ``size`` rows, each divided over processes and forward passes.

    Rows and noise of a batch depend on the seed and on the number of the update alone, so any division gives the same
    batch, and resuming needs no state.

    Args:
        config: Its ``batch_size``, ``gradient_accumulation`` and ``seed``.
        accelerator: Its processes and device.
    """

    config: TrainerConfig
    accelerator: Accelerator

    @property
    def size(self) -> int:
        """Rows of a batch: processes x ``batch_size`` x ``gradient_accumulation``."""
        return self.accelerator.num_processes * self.config.batch_size * self.config.gradient_accumulation

    def train(self, blocks: Tensor, step: int) -> Iterator[tuple[Tensor, BatchStreams]]:
        """This process's parts of the batch of an update, one for each forward pass.

        Args:
            blocks: Tokens, an integer dtype, shape ``[N, length]``.
            step: Finished updates.

        Yields:
            Tokens, int64, shape ``[batch_size, length]``, and the streams of their noise.

        Note:
            Seeds torch's global generators before each part, for dropout, which no other division repeats.
        """
        for micro_step, part in enumerate(self._parts(blocks, step, _TRAIN_ORDER, _TRAIN_NOISE)):
            seed = seed_of(self.config.seed, _DROPOUT, step, micro_step, self.accelerator.process_index)
            torch.manual_seed(seed)
            yield part

    def valid(self, blocks: Tensor) -> Iterator[tuple[Tensor, BatchStreams]]:
        """This process's parts of all validation batches, as `train`; the same at each pass.

        There are ``valid_batches``, which repeat rows, with other noise, where there are too few; they are a series, so
        that together they see all of a mixture.
        """
        for index in range(self.config.valid_batches):
            yield from self._parts(blocks, index, _VALID_ORDER, _VALID_NOISE, self.config.valid_batches)

    def _parts(
        self, blocks: Tensor, number: int, order: int, noise: int, series: int | None = None
    ) -> Iterator[tuple[Tensor, BatchStreams]]:
        """Parts of batch `number`; the numbers of the order and the noise are parts of their seeds."""
        count, seed = self.config.batch_size, self.config.seed
        for micro_step in range(self.config.gradient_accumulation):
            first = (micro_step * self.accelerator.num_processes + self.accelerator.process_index) * count
            rows = rows_at(number * self.size + first, count, len(blocks), seed, order).to(blocks.device)
            drawn = range(first, first + count)
            streams = BatchStreams((seed, noise, number), self.size, blocks.shape[1], drawn, series)
            yield blocks[rows].to(self.accelerator.device, torch.long), streams
