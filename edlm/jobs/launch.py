"""The processes that `torchrun` or `accelerate launch` starts for one job."""

import os
from datetime import timedelta

from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

_LONGEST = timedelta(days=30)  # that a process waits for the others, whose shares may take longer


def join() -> PartialState:
    """Join the other processes of the job, if there are any.

    Raises:
        ValueError: a launcher started several processes that would not know of each other.
    """
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=_LONGEST)
    started = int(os.environ.get("WORLD_SIZE", 1))
    if state.num_processes != started:
        raise ValueError(
            f"all {started} processes of a launch (WORLD_SIZE) must work together, got {state.num_processes} alone; "
            "where there is no GPU, set ACCELERATE_USE_CPU=true"
        )
    return state
