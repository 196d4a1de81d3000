"""Rows and results that were not measured, for tests of what follows from them."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from edlm.evaluation.estimates.estimate import mean_of
from edlm.evaluation.experiment.results import Results
from edlm.evaluation.experiment.rows import Row, row_of_flat

RECORD = {"identity": {"seed": 0}, "judge": None, "earlier": [], "data": {"rows": 7, "length": 3}}


def row_of(name: str, order: str = "bisecting", num_steps: int = 2, **values: Any) -> Row:
    """A row of flat values, those of options and of metrics; all but the base have an energy of their name."""
    energy = None if name == "base" else name
    return row_of_flat(
        {"schedule": "log_linear", "energy": energy, "name": name, "order": order, "num_steps": num_steps, **values}
    )


def results_of(nats: Sequence[tuple[Row, Tensor]], controls: Sequence[str] = (), **about: Any) -> Results:
    """Results of the nats per token of each row's held-out rows."""
    rows = [
        Row(row.options, {"bound_nats_per_token": mean_of(values), **row.metrics}, row.notes) for row, values in nats
    ]
    record = {**RECORD, "controls": [*controls]}
    return Results(record, rows, {row.key: values for row, values in nats}, **about)
