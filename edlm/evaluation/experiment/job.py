"""One thing that an evaluation measures."""

from collections.abc import Callable
from typing import Any, NamedTuple

from edlm.evaluation.experiment.plan import Setting
from edlm.evaluation.experiment.store import Entry
from edlm.processes import from_main_process


class Job(NamedTuple):
    """One value that is measured.

    Attributes:
        key: In the store.
        made_from: JSON values of all that it depends on in addition to denoiser, data and seed.
        make: Measures it.
        setting: Whose row it belongs to; None for a value of the whole evaluation.
        is_shared: Whether ``make`` shares its batches among all processes, which call it alike; else the main one
            measures alone, as time must be.
    """

    key: str
    made_from: Any
    make: Callable[[], Entry]
    setting: Setting | None = None
    is_shared: bool = False

    def measured(self) -> Entry:
        """The value, known to all processes."""
        return self.make() if self.is_shared else from_main_process(self.make)
