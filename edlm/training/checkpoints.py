"""Resumable runs: their state, checkpoints that are written whole, and signals that wait for an update."""

import contextlib
import json
import re
import shutil
import signal
import threading
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from edlm.disk import naming_what_is_full, sync, sync_names
from edlm.files import read_json, reading, write_atomically

_CHECKSUMS = "checksums.json"  # of the other files of a checkpoint
_ROWS = 2**13  # of the data, that are read at a time


@dataclass
class RunState:
    """Progress of a run; saved with every checkpoint through ``register_for_checkpointing``.

    Attributes:
        step: Finished updates.
        seconds: Wall-clock seconds so far, those of earlier processes included.
        sums: Per name, the sum of its values over the updates since the last log line.
        count: Updates in ``sums``.
        busy: Seconds spent on those updates alone.
    """

    step: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0
    busy: float = 0.0

    def add(self, values: dict[str, float]) -> None:
        """Count one finished update and its values."""
        self.step, self.count = self.step + 1, self.count + 1
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in values.items()}

    def means(self) -> dict[str, float]:
        """Means over the updates since the last log line."""
        return {name: total / self.count for name, total in self.sums.items()}

    def clear(self) -> None:
        """Reset the means, after a log line."""
        self.sums, self.count, self.busy = {}, 0, 0.0

    def state_dict(self) -> dict[str, Any]:
        """For ``Accelerator.save_state``."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """For ``Accelerator.load_state``."""
        if state.keys() != asdict(self).keys():
            raise ValueError(f"the state of a run must hold {[*asdict(self)]}, got {[*state]}")
        self.__dict__.update(state)


@dataclass(frozen=True)
class Checkpoints:
    """Folders ``step_00000500``, each written under another name and renamed when complete.

    Args:
        accelerator: Holds the model, the optimizer and everything that is registered for checkpointing.
        directory: Holds the folders.
        identity: JSON values that change the maths of a run; they must be equal for it to resume.
        keep: Number of newest folders that are kept, >= 1.
    """

    accelerator: Accelerator
    directory: Path
    identity: dict[str, Any]
    keep: int

    def whole(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        folders = self.directory.iterdir() if self.directory.is_dir() else ()
        return sorted(folder for folder in folders if re.fullmatch(r"step_\d{8}", folder.name))

    def newest(self) -> Path | None:
        """The newest complete checkpoint, or None."""
        return next(reversed(self.whole()), None)

    def save(self, step: int) -> Path:
        """Write the checkpoint of `step` if there is none, drop the oldest; for all processes."""
        target = self.directory / f"step_{step:08d}"
        partial = self.directory / f"partial_{step:08d}"
        self.accelerator.wait_for_everyone()
        if target.is_dir():
            return target
        if self.accelerator.is_main_process:
            for leftover in self.directory.glob("partial_*"):
                shutil.rmtree(leftover)
            partial.mkdir(parents=True)
            write_atomically(partial / "identity.json", json.dumps(self.identity, indent=2))
        self.accelerator.wait_for_everyone()
        with naming_what_is_full(target):
            self.accelerator.save_state(str(partial))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            with naming_what_is_full(target):
                sums = {file.relative_to(partial).as_posix(): _checksum(file) for file in sync(partial)}
                write_atomically(partial / _CHECKSUMS, json.dumps(sums, indent=2))
                partial.rename(target)
                sync_names(self.directory)
            for old in self.whole()[: -self.keep]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()
        return target

    def load(self, folder: Path) -> None:
        """Restore everything that was saved in `folder`.

        Raises:
            ValueError: `folder` is damaged, or of a run with another identity; the message names the file or the
                fields. Or it is of a version of edlm that drew other noise.
        """
        then = read_json(folder / "identity.json")
        if "global_batch_size" not in then:
            raise ValueError(
                f"a run must be resumed by a version of edlm that draws the same noise, got {folder} of an older one: "
                "choose another output_dir, or finish the run with that version"
            )
        _check_files(folder)
        now = json.loads(json.dumps(self.identity))
        differing = [
            f"{name} (checkpoint: {then.get(name)!r}, now: {now.get(name)!r})"
            for name in {**then, **now}
            if then.get(name) != now.get(name) and not _longer(name, then.get(name), now.get(name))
        ]
        if differing:
            raise ValueError(
                f"a resumed run must keep the settings that change its maths; those of {folder} "
                f"differ in {', '.join(differing)}"
            )
        try:
            with reading(folder, "hold a checkpoint of this run"):
                self.accelerator.load_state(str(folder))
        except (OSError, ValueError) as error:
            raise ValueError(f"{error}; remove {folder}, and the run resumes from the one before, or anew") from error
        self.accelerator.step = 0  # forward passes of the update; those saved are of another gradient_accumulation


def _check_files(folder: Path) -> None:
    """Refuse a checkpoint whose files are not those that were saved, if that is known; earlier versions did not say."""
    if not (folder / _CHECKSUMS).exists():
        return
    for name, expected in read_json(folder / _CHECKSUMS).items():
        file = folder / name
        if not file.is_file() or _checksum(file) != expected:
            got = "other content" if file.is_file() else "none"
            raise ValueError(
                f"{file} must be as it was saved, got {got}: remove {folder}, and the run resumes from the one before, "
                "or anew"
            )


def _checksum(path: Path) -> str:
    """Size in bytes and CRC-32."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            crc = zlib.crc32(block, crc)
        return f"{file.tell()} {crc:08x}"


def _longer(name: str, then: Any, now: Any) -> bool:
    """Whether a run is only made longer, which it may be when it resumes."""
    return name == "num_steps" and then is not None and now is not None and now > then


def fingerprint(blocks: Tensor) -> str:
    """Shape and CRC-32 of the data, so that a run never resumes silently with other data."""
    checksum = 0
    for rows in blocks.split(_ROWS):
        checksum = zlib.crc32(rows.cpu().long().contiguous().numpy(), checksum)
    return f"{list(blocks.shape)} {checksum:08x}"


@contextlib.contextmanager
def deferred_signals() -> Iterator[list[int]]:
    """Hold back SIGINT and SIGTERM: note the first, and deliver it when the block is left.

    A second signal raises KeyboardInterrupt at once. Outside the main thread, where Python allows
    no handlers, nothing is held back.

    Yields:
        The signals received so far, empty at first.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(signum: int, frame: object) -> None:
        received.append(signum)
        if len(received) > 1:
            raise KeyboardInterrupt

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if received:
            signal.raise_signal(received[0])
