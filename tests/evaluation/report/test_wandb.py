"""wandb gets the numbers of the results."""

import importlib.util
import json
from pathlib import Path

import pytest

from edlm.evaluation.experiment.metrics import METRICS
from edlm.evaluation.report.wandb import check_wandb, summary_of

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "example_report" / "results.json"


def test_wandb_gets_every_number_and_error_of_every_setting():
    result = json.loads(EXAMPLE.read_text())
    numbers = summary_of(result)
    assert numbers.pop("verdict") == result["verdict"]
    expected = {}
    for s in result["settings"]:
        for name in {*METRICS, *(metric.error_name for metric in METRICS.values())} - {None}:
            if s.get(name) is not None:
                expected[f"{s['name']}/{s['order']}/{s['num_steps']}/{name}"] = s[name]
    assert numbers == expected and len(expected) > 100


def test_wandb_is_needed_only_where_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_wandb("off")
    with pytest.raises(ImportError, match="wandb must be installed, or 'off'; got 'offline' without it"):
        check_wandb("offline")
