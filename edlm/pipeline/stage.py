"""A stage as a command line: its folder, its minutes, its process."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from string import Template
from tempfile import NamedTemporaryFile
from typing import Any

import yaml

from edlm.files import write_atomically
from edlm.pipeline.config import PipelineConfig, StageConfig

# The key of each command that names its output, and the key of its minutes, if it takes any.
_OUTPUTS = {"prepare": "output_dir", "train": "trainer.output_dir", "export": "output_dir", "evaluate": "output"}
_MINUTES = {"train": "trainer.max_minutes", "evaluate": "max_minutes"}


def check_stages(config: PipelineConfig, parse: Callable[[Sequence[str]], Any]) -> None:
    """Refuse stages that cannot run, before any does.

    Args:
        config: The pipeline.
        parse: Raises ValueError for words after `edlm` that are no command or have unknown or wrong options.

    Raises:
        ValueError: names the stage; of its command it is not known where the output goes, it takes no minutes but has
            a share, or its options are wrong.
    """
    for name, stage in config.stages.items():
        kind = stage.command.partition(" ")[0]
        if kind not in _OUTPUTS:
            raise ValueError(f"command of stage {name} must start with one of {sorted(_OUTPUTS)}, got {stage.command}")
        if stage.share is not None and kind not in _MINUTES:
            raise ValueError(f"stage {name} ({stage.command}) must have no share of the minutes, got {stage.share}")
        with NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(options_of(name, stage, Path(config.output), None if stage.share is None else 1.0), file)
            file.flush()
            try:
                parse([*stage.command.split(), "--config", file.name])
            except ValueError as error:
                raise ValueError(f"stage {name}: {error}") from error


def options_of(name: str, stage: StageConfig, output: Path, minutes: float | None) -> dict[str, Any]:
    """All keys of a stage's command: with folders in place of references, and with its own folder and minutes."""
    folders = {needed: str(output / needed) for needed in stage.needs}
    options = yaml.safe_load(Template(yaml.safe_dump(stage.options)).safe_substitute(folders))
    kind = stage.command.partition(" ")[0]
    _put(options, _OUTPUTS[kind], str(output / name))
    if minutes is not None:
        _put(options, _MINUTES[kind], minutes)
        if kind == "train":
            _put(options, "trainer.num_steps", None)  # as many as the minutes allow
    return options


def start(name: str, stage: StageConfig, output: Path, minutes: float | None) -> subprocess.Popen:
    """Start a stage; its words go to ``output/NAME.log``, its keys to ``output/NAME.yaml``."""
    options = yaml.safe_dump(options_of(name, stage, output, minutes), sort_keys=False)
    write_atomically(output / f"{name}.yaml", f"# edlm {stage.command} --config {name}.yaml\n{options}")
    command = [sys.executable, "-m", "edlm", *stage.command.split(), "--config", str(output / f"{name}.yaml")]
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    with (output / f"{name}.log").open("a", encoding="utf-8") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def last_words(log: Path) -> str:
    """The last line of a log, which of a failed command is its error."""
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").strip().splitlines()
    return lines[-1] if lines else "no output"


def _put(options: dict[str, Any], key: str, value: Any) -> None:
    *groups, last = key.split(".")
    for group in groups:
        options = options.setdefault(group, {})
    options[last] = value
