"""A job: its items, shared out among processes; what is finished is found again."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from edlm.jobs.manifest import Manifest, check_manifest, plain
from edlm.jobs.parts import Key, Parts
from edlm.processes import join

Finished = Sequence[tuple[Key, Any]]
"""Items that are made, JSON values by key."""


@dataclass(frozen=True)
class Job:
    """Work items, of which each is made once and kept in a folder, whatever is killed and started again.

    Args:
        folder: Of the part files and the manifest; all processes see it.
        identity: JSON values that decide what the items are.
        keys: One for each item, in the order of `values`.
    """

    folder: Path
    identity: Mapping[str, Any]
    keys: Sequence[Key]

    def run(
        self, make: Callable[[Sequence[Key]], Iterable[Any]], at_a_time: int = 1, title: str | None = None
    ) -> list[Key]:
        """Make this process's share of the items that are missing, and wait until all processes have made theirs.

        Args:
            make: The values of some items, JSON. Must depend on their keys alone, not on which are made together.
            at_a_time: Items that are made and put on disk together.
            title: Of the main process's progress bar; none without.

        Returns:
            Keys of the items that were missing.

        Raises:
            ValueError: the folder is of another job, or damaged.
            OSError: the folder cannot be written.
        """

        def in_groups(keys: Sequence[Key]) -> Iterator[Finished]:
            for start in range(0, len(keys), at_a_time):
                some = keys[start : start + at_a_time]
                yield [*zip(some, make(some), strict=True)]

        return self.collect(in_groups, title)

    def collect(self, finished: Callable[[Sequence[Key]], Iterable[Finished]], title: str | None = None) -> list[Key]:
        """As `run`, with items that are made elsewhere.

        Args:
            finished: Of some keys, their items, in any order, some at a time: these are put on disk together.
            title: As in `run`.
        """
        processes, parts = join(in_step=False), Parts(self.folder)
        check_manifest(self.folder, self.identity)
        places = parts.find()
        missing = [key for key in self.keys if key not in places]
        processes.wait_for_everyone()  # none writes before all have seen the same items missing
        if processes.is_main_process and missing:
            self._manifest({}).save(self.folder)
        mine = missing[processes.process_index :: processes.num_processes]
        hidden = None if title and processes.is_main_process else True
        with parts.writing(f"{processes.process_index:05d}") as keep, tqdm(mine, title, disable=hidden) as bar:
            for items in finished(mine):
                keep(items)
                bar.update(len(items))
        processes.wait_for_everyone()
        if processes.is_main_process:
            self._manifest(parts.checksums()).save(self.folder)
        return missing

    def values(self) -> Iterator[Any]:
        """The values of all items, in the order of their keys.

        Raises:
            ValueError: an item is missing.
        """
        parts = Parts(self.folder)
        places = parts.find()
        if missing := [key for key in self.keys if key not in places]:
            raise ValueError(
                f"{self.folder} must hold all {len(self.keys)} items, from processes that share it, "
                f"got none of key {missing[0]!r}"
            )
        return parts.read(places[key] for key in self.keys)

    def _manifest(self, checksums: Mapping[str, str]) -> Manifest:
        return Manifest(plain(self.identity), len(self.keys), checksums)
