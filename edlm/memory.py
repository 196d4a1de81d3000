"""Out-of-memory errors, detected on every device; batches are halved until they fit; sizes of parts."""

import gc
import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor

logger = logging.getLogger(__name__)
_ENTRIES_OF_CPU = 2**22  # about what its cache holds
_ENTRIES_OF_DEVICES = 2**26  # 256 MiB in float32
_TOKENS_OF_CPU, _TOKENS_OF_DEVICES = 2**11, 2**14  # of a pass of an energy's network
_Result = TypeVar("_Result")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the machine, has no memory left."""
    of_torch = isinstance(error, torch.OutOfMemoryError) or "std::bad_alloc" in str(error)
    return isinstance(error, MemoryError) or of_torch or should_reduce_batch_size(error)


def rows_at_once(width: int, device: torch.device, of_cpu: int = _ENTRIES_OF_CPU) -> int:
    """Rows of a table of this width that are computed together.

    On a CPU they have ``of_cpu`` entries, since small parts stay in its cache. Other devices are fast at few large
    operations: there 256 MiB.
    """
    return max(1, (of_cpu if device.type == "cpu" else _ENTRIES_OF_DEVICES) // width)


def tokens_at_once(device: torch.device, limit: int | None = None) -> int:
    """Tokens of a pass of an energy's network: the limit, if given; else 2,048 on a CPU, where more are no faster."""
    if limit is not None:
        return limit
    return _TOKENS_OF_CPU if device.type == "cpu" else _TOKENS_OF_DEVICES


def parts_of_table(rows: int, width: int, device: torch.device) -> tuple[Tensor, ...]:
    """Numbers of rows of a table ``[rows, width]`` that are computed together, so that it is never there as a whole."""
    return torch.arange(rows, device=device).split(rows_at_once(width, device))


def in_batches(compute: Callable[[slice], _Result], rows: range, batch_size: int) -> Iterator[tuple[slice, _Result]]:
    """Batches of rows, and what is computed of each; where memory does not suffice, they are half as long from there.

    Args:
        compute: Must depend on the rows alone, not on which are computed together.
        rows: Consecutive numbers.
        batch_size: Rows of the first batches.

    Raises:
        RuntimeError: memory does not suffice for a single row; it is the function's error.
    """
    start = rows.start
    while start < rows.stop:
        batch = slice(start, min(start + batch_size, rows.stop))
        try:
            result = compute(batch)
        except (RuntimeError, MemoryError) as error:
            if batch_size == 1 or not is_out_of_memory(error):
                raise
            batch_size = max(1, min(batch_size, batch.stop - start) // 2)
            logger.warning("memory did not suffice: from here on, batch_size is %d", batch_size)
        else:
            yield batch, result
            start = batch.stop
            continue
        gc.collect()  # outside of the handler, whose error holds the frames, and by them the tensors
        clear_device_cache()
