"""What each number is said to be: its direction, its own error, and what it is the mean of; the same in wandb."""

import importlib.util
import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from edlm.evaluation.experiment.measurement import Measurement
from edlm.evaluation.experiment.metrics import METRICS, described_metrics
from edlm.evaluation.report.wandb import check_wandb, summary_of

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "example_report" / "results.json"
HIGH = {"gain_nats_per_token", "tokens_per_second", "mauve"}  # is good
OF_ROWS = {"bound_nats_per_token", "perplexity", "bits_per_char", "perplexity_per_word", "gain_nats_per_token"}
COUNTED = {"seconds_per_sequence", "tokens_per_second", "flops_per_sequence", "peak_memory_bytes"}
COUNTED |= {"denoiser_passes", "energy_passes"}


def test_which_way_is_good():
    for name, metric in METRICS.items():
        way = "high = good" if name in HIGH else "low = "
        assert metric.direction.startswith(way), name
    repetitive = {name for name, metric in METRICS.items() if metric.direction == "low = repetitive"}
    assert repetitive == {"entropy_nats", "distinct_2"}  # of which neither end is good


def test_each_number_has_its_own_error_and_says_of_how_many_it_is():
    known = {field.name for field in fields(Measurement)}
    for name, metric in METRICS.items():
        own = re.sub("_(nats_per_token|nats|rate)$", "", name) + "_stderr"
        assert metric.error == (own if own in known else None), name
        assert metric.n == ("n" if name in OF_ROWS else None if name in COUNTED else "num_samples"), name
    assert set(METRICS) <= known and described_metrics()["mauve"]["estimator"] == METRICS["mauve"].estimator
    with_errors = {name for name in known if name.endswith("_stderr")}
    assert with_errors == {metric.error for metric in METRICS.values()} - {None}


def test_seconds_are_of_batches_whose_number_no_field_holds():
    """The size of a batch is not how many were timed."""
    seconds = METRICS["seconds_per_sequence"]
    assert seconds.n is None and "timed batches (seconds_of_batches)" in seconds.estimator


def test_wandb_gets_every_number_and_error_of_every_setting():
    result = json.loads(EXAMPLE.read_text())
    numbers = summary_of(result)
    assert numbers.pop("verdict") == result["verdict"]
    expected = {}
    for s in result["settings"]:
        for name in {*METRICS, *(metric.error for metric in METRICS.values())} - {None}:
            if s[name] is not None:
                expected[f"{s['name']}/{s['order']}/{s['num_steps']}/{name}"] = s[name]
    assert numbers == expected and len(expected) > 100


def test_wandb_is_needed_only_where_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_wandb("off")
    with pytest.raises(ImportError, match="wandb must be installed, or 'off'; got 'offline' without it"):
        check_wandb("offline")
