"""Rows that are done are kept for the very measurement that they are of."""

import torch

from edlm.evaluation.experiment.unfinished import Unfinished

NATS = torch.tensor([[1.0, 2.0], [3.0, 4.5]], dtype=torch.float64)


def test_what_is_kept_comes_back_until_it_is_cleared(tmp_path):
    path = tmp_path / "deep" / "a.safetensors"
    Unfinished(path, {"seed": 0}).keep([["a", (1, 2)]], NATS[:, :1])
    kept = Unfinished(path, {"seed": 0})
    assert torch.equal(kept.of([["a", [1, 2]]]), NATS[:, :1])
    kept.keep([["a", (1, 2)]], NATS)
    assert torch.equal(kept.of([["a", [1, 2]]]), NATS) and [file.name for file in path.parent.iterdir()] == [path.name]
    assert kept.of([["b", [1, 2]]]) is None and Unfinished(path, {"seed": 1}).of([["a", [1, 2]]]) is None
    kept.keep([["b", [1, 2]]], NATS + 1)
    assert torch.equal(kept.of([["a", [1, 2]]]), NATS) and torch.equal(kept.of([["b", [1, 2]]]), NATS + 1)
    kept.clear()
    assert kept.of([["a", [1, 2]]]) is None and not path.exists()
    kept.clear()
