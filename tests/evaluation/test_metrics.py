"""What is said of each number: fields that are there, and counts of what it is the mean of."""

from dataclasses import fields

from edlm.evaluation.measurement import Measurement
from edlm.evaluation.metrics import METRICS


def test_errors_and_counts_are_fields_of_a_measurement():
    names = {field.name for field in fields(Measurement)}
    for name, metric in METRICS.items():
        assert {name, metric.error or name, metric.n or name} <= names
        assert metric.n in (None, "n", "num_samples")


def test_seconds_are_of_batches_whose_number_no_field_holds():
    """The size of a batch is not how many were timed."""
    seconds = METRICS["seconds_per_sequence"]
    assert seconds.n is None and "timed batches (seconds_of_batches)" in seconds.estimator
