"""Metrics: which way is good, their keys, and the one formatter."""

import math

from edlm.evaluation.estimates.estimate import Estimate
from edlm.evaluation.experiment.metrics import METRICS, format_estimate

HIGH = {"gain_nats_per_token", "tokens_per_second", "mauve", "spans_recovered", "tokens_recovered"}
NEITHER = {"entropy_nats", "distinct_2", "judge_nats_per_token"}


def test_metrics_say_which_way_is_good():
    ways = {name: metric.direction for name, metric in METRICS.items()}
    assert {name for name, way in ways.items() if way == "high"} == HIGH
    assert {name for name, way in ways.items() if way == "none"} == NEITHER


def test_metrics_have_keys_of_their_own():
    keys = [key for metric in METRICS.values() for key in metric.names.values() if key not in ("n", "num_samples")]
    assert len(keys) == len(set(keys))
    for name, metric in METRICS.items():
        assert "n" in metric.names or metric.error_name is None, name  # an error is one of a mean


def test_format_estimate_leaves_out_what_is_not_known():
    assert format_estimate(Estimate(-0.25, math.nan, 1), 2) == "-0.25"
    assert format_estimate(Estimate(math.nan, math.nan, 1), 2) == "–"
    assert format_estimate(Estimate(0.25, 0.125, 3), 3, signed=True) == "+0.250 ± 0.125"
    assert format_estimate(Estimate(1.0, None, 3, 0.5, math.inf), 1) == "1.0 [0.5, ∞]"
    assert format_estimate(Estimate(-math.inf, math.nan, 1), 1) == "-∞"
