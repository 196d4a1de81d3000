"""The processes that `torchrun` or `accelerate launch` starts for one job: they begin, fail and end together."""

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path

import psutil
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

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


@contextmanager
def on_main_process(context: AbstractContextManager) -> Iterator[None]:
    """Enter a context on the main process alone; if that fails, all processes raise its error."""
    errors: list[Exception | None] = [None]
    with ExitStack() as stack:
        if PartialState().is_main_process:
            try:
                stack.enter_context(context)
            except Exception as error:
                errors = [error]
        broadcast_object_list(errors)
        if errors[0] is not None:
            raise errors[0]
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
