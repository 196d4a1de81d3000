"""Output of a run: a progress bar, ``log.jsonl``, ``config.yaml``, and wandb if requested."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator
from tqdm.auto import tqdm

from edlm.disk import naming_what_is_full
from edlm.files import reading, write_atomically
from edlm.packages import check_wandb
from edlm.training.checkpoints import RunState
from edlm.training.trainer_config import TrainerConfig

_TIMED_UPDATES = 10


class RunLog:
    """The main process's bar, ``log.jsonl`` with an object per event, ``config.yaml``, and trackers.

    Lines after the step that a run resumes from are dropped, so that no step is logged twice. Used as
    a context.

    Args:
        accelerator: Built with ``log_with="wandb"`` unless ``config.wandb`` is "off".
        config: Its ``output_dir``, ``num_steps``, ``wandb`` and ``wandb_project``.
        state: Read at every event.
        about: JSON values that ``config.yaml`` holds next to those of ``config``.

    Raises:
        ValueError: ``log.jsonl`` is damaged.
        ImportError: ``config.wandb`` is not "off" and wandb is not installed.
    """

    def __init__(
        self, accelerator: Accelerator, config: TrainerConfig, state: RunState, about: Mapping[str, Any]
    ) -> None:
        self.accelerator, self.config, self.state = accelerator, config, state
        self.path = Path(config.output_dir) / "log.jsonl"
        check_wandb(config.wandb)
        if accelerator.is_main_process and self.path.exists():
            with reading(self.path, "hold the log of a run"):
                lines = self.path.read_text(encoding="utf-8").splitlines()
            write_atomically(self.path, "".join(f"{x}\n" for x in lines if _step(x) <= state.step))
        if accelerator.is_main_process:
            everything = {**asdict(config), "betas": list(config.betas), **about}
            write_atomically(self.path.with_name("config.yaml"), yaml.safe_dump(everything, sort_keys=False))

    def __enter__(self) -> RunLog:
        if self.config.wandb != "off":
            place = Path(self.config.output_dir)
            options = {"mode": self.config.wandb, "dir": str(place), "name": place.name}
            self.accelerator.init_trackers(self.config.wandb_project, asdict(self.config), {"wandb": options})
        hidden = not self.accelerator.is_main_process
        self.bar = tqdm(total=self.config.num_steps, initial=self.state.step, disable=hidden)
        self._first_step, self._started = self.state.step, time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()
        for tracker in self.accelerator.trackers:
            tracker.finish()  # end_training would end the process group too: a script may train on

    def progress(self, loss: float, learning_rate: float) -> None:
        """Move the bar by one update."""
        self.bar.set_postfix(loss=f"{loss:.4f}", lr=f"{learning_rate:.2e}", refresh=False)
        self.bar.update()
        if self.state.step - self._first_step == _TIMED_UPDATES:
            self.say(self._duration())

    def _duration(self) -> str:
        """How long the updates take that are left, at the speed of this call's first ones."""
        seconds = (time.monotonic() - self._started) / _TIMED_UPDATES
        left = (self.config.num_steps or math.inf) - self.state.step
        left = min(left, 60 * (self.config.max_minutes or math.inf) / seconds - _TIMED_UPDATES)
        return f"about {left * seconds / 60:.1f} minutes to step {self.state.step + left:,.0f}"

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self.accelerator.is_main_process:
            tqdm.write(line, file=sys.stderr)

    def write(self, split: str, values: dict[str, float], **extra: float) -> None:
        """Write one event.

        Args:
            split: "train" or "valid".
            values: "loss", and the metrics by name.
            extra: Written next to the loss, not among the metrics.
        """
        metrics = {name: value for name, value in values.items() if name != "loss"}
        record = {"step": self.state.step, "split": split, "loss": values["loss"]}
        record |= {"metrics": metrics, **extra, "seconds": self.state.seconds}
        if self.accelerator.is_main_process:
            with naming_what_is_full(self.path), self.path.open("a") as file:
                file.write(json.dumps(_finite(record), allow_nan=False) + "\n")
        if split == "valid":
            gain = next((value for name, value in metrics.items() if name.startswith("gain")), math.inf)
            words = "" if gain >= 0.001 else "; no gain over the denoiser alone so far, in these decisions"
            numbers = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            self.say(f"step {self.state.step}: validation loss {values['loss']:.4f}, {numbers}{words}")
        named = {f"{split}/{name}": value for name, value in {**values, **extra}.items()}
        self.accelerator.log(named, step=self.state.step)


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):  # the run was killed within this line, or it is of something else
        return math.inf


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    infinite = isinstance(value, float) and not math.isfinite(value)
    return None if infinite else value  # JSON has no infinity
