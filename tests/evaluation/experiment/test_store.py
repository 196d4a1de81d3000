"""The store: values come back, of the same identity and makers only; an interrupt leaves what was finished."""

import math

import pytest
import torch

from edlm import files
from edlm.evaluation.experiment.store import Entry, Store

IDENTITY = {"denoiser": "a1", "data": "b2", "seed": 7}


def test_store_returns_what_was_put(tmp_path):
    path, tensors = tmp_path / "deep" / "a.safetensors", {"x": torch.arange(6).view(2, 3).T, "y": torch.ones(0)}
    Store(path, IDENTITY, {"revision": "r1"}).put("key/1", ["a", (1, 2)], Entry([math.inf, None, "x"], tensors))
    store = Store(path, IDENTITY, {"revision": "r2"})
    entry = store.find("key/1", ["a", [1, 2]])
    assert entry.value == [math.inf, None, "x"] and entry.origin == '{"revision": "r1"}'
    assert torch.equal(entry.tensors["x"], tensors["x"]) and entry.tensors["y"].shape == (0,)
    assert store.find("key/2", ["a", [1, 2]]) is None


def test_store_makes_again_only_what_is_made_from_something_else(tmp_path):
    path, made = tmp_path / "a.safetensors", []

    def make():
        made.append(len(made))
        return Entry(len(made))

    for of, expected in (({"k": 3}, 1), ({"k": 3}, 1), ({"k": 4}, 2), ({"k": 4}, 2), ({"k": 3}, 3)):
        assert Store(path, IDENTITY).get("key", of, make).value == expected
    assert len(made) == 3


@pytest.mark.parametrize("changed", [{"seed": 8}, {"data": "b3"}, {"more": 1}])
def test_store_refuses_another_identity(tmp_path, changed):
    path = tmp_path / "a.safetensors"
    Store(path, IDENTITY).put("key", 1, Entry(1))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="same denoiser, data and seed"):
        Store(path, {**IDENTITY, **changed})
    assert path.read_bytes() == before


def test_store_without_a_path_keeps_values_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store(None, IDENTITY)
    store.put("key", 1, Entry(1))
    assert store.find("key", 1).value == 1 and not [*tmp_path.iterdir()]
    store.drop("key")
    store.drop("key")
    assert store.find("key", 1) is None


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_store_is_the_old_one_after_an_interrupted_write(tmp_path, monkeypatch, at):
    path = tmp_path / "a.safetensors"
    Store(path, IDENTITY).put("old", 1, Entry(1))
    place = files.os if at == "fsync" else files.Path
    monkeypatch.setattr(place, at, lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        Store(path, IDENTITY).put("new", 1, Entry(1))
    monkeypatch.undo()
    again = Store(path, IDENTITY)
    assert again.find("old", 1).value == 1 and again.find("new", 1) is None
    assert again.put("new", 1, Entry(2)).value == Store(path, IDENTITY).find("new", 1).value == 2
