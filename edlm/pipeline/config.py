"""Options of a pipeline: its stages, and what each needs of the others."""

import re
from dataclasses import dataclass, field
from typing import Any

from edlm.rules import Config

_REFERENCE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class StageConfig:
    """A command of `edlm` in a pipeline.

    Args:
        command: Such as "train denoiser".
        options: Its keys, as in its config files. ``${NAME}`` stands for the folder of stage NAME, which then comes
            first. Its own folder and its minutes are set by the pipeline.
        share: Its part of the minutes, relative to the others', > 0; null for a stage that takes what it takes:
            training then makes the ``num_steps`` updates of its options.

    Raises:
        ValueError: another share.
    """

    command: str
    options: dict[str, Any] = field(default_factory=dict)
    share: float | None = None

    def __post_init__(self) -> None:
        if self.share is not None and not self.share > 0:
            raise ValueError(f"share must be null or > 0, got {self.share} of {self.command!r}")

    @property
    def needs(self) -> set[str]:
        """Stages that its options refer to."""
        return set(_REFERENCE.findall(str(self.options)))


@dataclass(frozen=True)
class PipelineConfig(Config):
    """Stages that share a number of minutes.

    Args:
        output: Folder: a folder for each stage, ``pipeline.json``, ``SUMMARY.md``. The same call resumes what it holds.
        stages: By name. A stage runs once those that its options refer to are finished.
        max_minutes: For all stages together, over all calls that resume each other; those with a share divide what the
            others leave.
        side_by_side: Run stages that do not need each other at once; each then has the time of them all. null: on
            CUDA, where small models leave most of the device idle.

    Raises:
        ValueError: an unknown stage is referred to, or the minutes are not positive.
    """

    output: str
    stages: dict[str, StageConfig]
    max_minutes: float = 60.0
    side_by_side: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.max_minutes > 0:
            raise ValueError(f"max_minutes must be > 0, got {self.max_minutes}")
        for name, stage in self.stages.items():
            if unknown := stage.needs - (self.stages.keys() - {name}):
                raise ValueError(f"options of stage {name} must refer to other stages, got {sorted(unknown)}")
