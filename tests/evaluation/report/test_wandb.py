"""wandb gets the numbers of the results."""

import importlib.util

import pytest

from edlm.evaluation.report.wandb import check_wandb, summary_of

BASE = {"name": "base", "order": "random", "num_steps": 4, "energy": None}


def test_summary_holds_every_number_and_error():
    settings = [{**BASE, "bound_nats_per_token": 4.0, "bound_stderr": 0.5, "distinct_2": 0.25, "mauve": None}]
    assert summary_of({"verdict": "no gain", "settings": settings}) == {
        "verdict": "no gain",
        "base/random/4/bound_nats_per_token": 4.0,
        "base/random/4/bound_stderr": 0.5,
        "base/random/4/distinct_2": 0.25,
    }


def test_wandb_must_be_installed_only_if_used(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_wandb("off")
    with pytest.raises(ImportError, match="wandb must be installed"):
        check_wandb("offline")
