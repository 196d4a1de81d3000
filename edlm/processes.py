"""The processes that `torchrun` or `accelerate launch` starts for one job: they begin, fail and end together."""

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psutil
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

T = TypeVar("T")
V = TypeVar("V")

_PARENT = os.getppid()
_GRACE = 30  # seconds for saving, as many as torchrun gives


def join(*, in_step: bool = True) -> PartialState:
    """Join the other processes of the job, if there are any; and end with their launcher, even if it is killed.

    When the launcher is gone, this process is sent SIGTERM, and after 30 seconds SIGKILL.

    Args:
        in_step: Whether the processes meet often, so that one that is not met for 10 minutes is an error; else they
            wait for each other for days.

    Raises:
        ValueError: a launcher started several processes that would not know of each other.
    """
    waiting = {} if in_step else {"timeout": timedelta(days=30)}
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU")  # which is read for Accelerator alone
    state = PartialState(cpu, **waiting)
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started > 1 and state.num_processes == 1:
        raise ValueError(
            f"all {started} processes of a launch (WORLD_SIZE) must work together, got one by itself; "
            "where there is no GPU, set ACCELERATE_USE_CPU=true"
        )
    _watch_launcher()
    return state


class Share(Protocol):
    """A way to make values of items, batches of rows say: `alone`, or `together` with other processes."""

    def __call__(self, items: Sequence[T], make: Callable[[T], V]) -> Iterable[V]:
        """``make`` of each item, in their order, one after the other."""


def alone(items: Sequence[T], make: Callable[[T], V]) -> Iterator[V]:
    """All of them by this process."""
    return map(make, items)


def together(items: Sequence[T], make: Callable[[T], V]) -> Iterator[V]:
    """Each by one of the processes, and known to all, which call this alike; values can be pickled."""
    state = PartialState()
    for first in range(0, len(items), state.num_processes):
        mine = items[first + state.process_index : first + state.process_index + 1]
        yield from gather_object([make(item) for item in mine])


def from_main_process(make: Callable[[], T]) -> T:
    """What the main process alone makes, known to all; if that fails, all raise its error. Both can be pickled."""
    outcome: list[Any] = [None, None]
    if PartialState().is_main_process:
        try:
            outcome[0] = make()
        except Exception as error:
            outcome[1] = error
    value, error = broadcast_object_list(outcome)
    if error is not None:
        raise error
    return value


@contextmanager
def on_main_process(context: AbstractContextManager) -> Iterator[None]:
    """Enter a context on the main process alone; if that fails, all processes raise its error."""

    def enter() -> None:
        stack.enter_context(context)

    with ExitStack() as stack:
        from_main_process(enter)
        yield


def record_failure(error: BaseException) -> None:
    """Leave the error that is being handled to torchrun, which prints the earliest one of all processes at its end."""
    get_error_handler().record_exception(error)
    time.sleep(1.1)  # it counts in seconds; this process's end then causes later errors in the others


def command() -> str:
    """The command line that started this process, or its launcher."""
    program = ["edlm"] if Path(sys.argv[0]).name in ("edlm", "__main__.py") else ["python", sys.argv[0]]
    return shlex.join(_launcher() or [*program, *sys.argv[1:]])


@cache
def _launcher() -> list[str]:
    """The command line of the parent process if it is a launcher; else empty."""
    try:
        words = psutil.Process(_PARENT).cmdline()
    except psutil.Error:
        return []
    program = {Path(word).name for word in words[:4]}  # python -u -m torch.distributed.run
    modules = ("torch.distributed.", "accelerate.commands.")
    return words if program & {"torchrun", "accelerate"} or any(x.startswith(modules) for x in program) else []


@cache
def _watch_launcher() -> None:
    if _launcher():
        threading.Thread(target=_end_with_launcher, daemon=True).start()


def _end_with_launcher() -> None:
    while os.getppid() == _PARENT:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os.kill(os.getpid(), signal.SIGKILL)
