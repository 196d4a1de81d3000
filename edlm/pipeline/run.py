"""The loop over stages: minutes are divided as they are used, and what is finished is not run again."""

import json
import time
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import torch

from edlm.files import write_atomically
from edlm.pipeline.config import PipelineConfig
from edlm.pipeline.stage import last_words, start

START_UP = 0.1  # minutes that a stage takes to start and to write, until one has shown it
_LEAST = 0.02  # minutes; a stage that comes too late makes a few updates all the same


class StageError(ValueError):
    """A stage failed; what is finished stays, and the same call continues."""


@dataclass
class Progress:
    """What ``pipeline.json`` holds.

    Attributes:
        minutes: Used so far by each finished stage, or by all stages that ran beside it.
        granted: Minutes that each stage with a share was started with; an interrupted one keeps them.
        seconds: Used by all calls.
    """

    path: Path
    minutes: dict[str, float] = field(default_factory=dict)
    granted: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def load(cls, path: Path) -> "Progress":
        """Of a file, or of nothing."""
        return cls(path, **json.loads(path.read_text())) if path.exists() else cls(path)

    def save(self) -> None:
        """Write the file whole."""
        record = {"minutes": self.minutes, "granted": self.granted, "seconds": self.seconds}
        write_atomically(self.path, json.dumps(record, indent=2) + "\n")


def run(config: PipelineConfig) -> Progress:
    """Run all stages that are not finished.

    Raises:
        ValueError: stages need each other in a circle.
        StageError: a stage failed.
        KeyboardInterrupt: after the stages under way have stopped; training is saved.
    """
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    progress = Progress.load(output / "pipeline.json")
    side_by_side = torch.cuda.is_available() if config.side_by_side is None else config.side_by_side
    waves = [[name for name in wave if name not in progress.minutes] for wave in _waves(config, side_by_side)]
    waves = [wave for wave in waves if wave]
    for i, wave in enumerate(waves):
        _run_wave(config, wave, progress, len(waves) - i)
    return progress


def _waves(config: PipelineConfig, side_by_side: bool) -> list[list[str]]:
    """Stages that run at once, one after the other: each after those that it needs, else as the config has them."""
    sorter, waves = TopologicalSorter({name: stage.needs for name, stage in config.stages.items()}), []
    try:
        sorter.prepare()
    except CycleError as error:
        raise ValueError(f"stages must not need each other in a circle, got {' <- '.join(error.args[1])}") from error
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=[*config.stages].index)
        waves += [ready] if side_by_side else [[name] for name in ready]
        sorter.done(*ready)
    return waves


def _run_wave(config: PipelineConfig, wave: list[str], progress: Progress, num_waves: int) -> None:
    """Run stages at once, for their share of the minutes that are left for so many waves."""
    output, began, before = Path(config.output), time.monotonic(), progress.seconds
    minutes = _share_of_rest(config, wave, progress, num_waves)
    for name in wave:
        if config.stages[name].share is not None:
            progress.granted.setdefault(name, minutes)
    processes = {}
    try:
        for name in wave:
            granted = progress.granted.get(name)
            limit = "" if granted is None else f", {granted:.2f} minutes"
            print(f"[{before / 60:6.2f}] {name}: edlm {config.stages[name].command}{limit}", flush=True)
            processes[name] = start(name, config.stages[name], output, granted)
        while unfinished := [
            name for name in wave if name not in progress.minutes and processes[name].returncode is None
        ]:
            time.sleep(0.2)
            progress.seconds = before + time.monotonic() - began
            for name in unfinished:
                if processes[name].poll() == 0:
                    progress.minutes[name] = (progress.seconds - before) / 60
            progress.save()  # often: a kill loses no time
    finally:
        for process in processes.values():  # after an interrupt: let them save
            if process.poll() is None:
                process.terminate()
        for process in processes.values():
            process.wait()
    for name, process in processes.items():
        if process.returncode:
            log = output / f"{name}.log"
            raise StageError(
                f"stage {name} failed ({process.returncode}): {last_words(log)}; see {log}; "
                "the same call continues from there"
            )


def _share_of_rest(config: PipelineConfig, wave: list[str], progress: Progress, num_waves: int) -> float:
    """Minutes for each stage of a wave: its share of those left, less what waves take to start and to write."""
    rest = {name: stage.share or 0.0 for name, stage in config.stages.items() if name not in progress.minutes}
    overheads = [
        minutes - progress.granted[name] for name, minutes in progress.minutes.items() if name in progress.granted
    ]
    left = config.max_minutes - progress.seconds / 60 - min(overheads, default=START_UP) * num_waves
    return max(_LEAST, left * sum(rest[name] for name in wave) / (sum(rest.values()) or 1.0))
