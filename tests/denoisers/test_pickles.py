"""Checkpoints are read without running what they hold."""

import argparse
import collections
import functools
import operator
import os
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edlm.denoisers.pickles import StandIn, load_pickle, plain

# Made with omegaconf 2.3.1, torch 2.13 and transformers 5.23 by torch.save of {"hyper_parameters": {"config":
# OmegaConf.create({...}), "tokenizer": PreTrainedTokenizerFast(...)}, "weight": torch.tensor([1.5, 2.0])}.
FIXTURE = Path(__file__).parent / "data" / "mdlm_hparams.pt"
REFUSED = "must hold tensors and plain containers only"
formats = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


class Call:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def save(content, path, zipped=True):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@formats
def test_load_pickle_returns_tensors_and_plain_containers(tmp_path, zipped):
    shared = torch.arange(6.0)
    content = {
        "state_dict": collections.OrderedDict(a=shared.view(2, 3), b=shared[2:4], c=torch.ones(2).bfloat16()),
        "parameter": nn.Parameter(torch.tensor([1.0, 2.0]), requires_grad=False),
        "plain": [1, 2.5, None, True, "x", b"\x00\xff", (1, {2}), frozenset({3}), complex(1, 2), 10**30],
        "torch": (torch.Size([2, 3]), torch.float16, torch.device("cpu")),
        "counts": collections.defaultdict(list, {"a": [1]}),
    }
    loaded = load_pickle(save(content, tmp_path / "a.pt", zipped))
    weights = loaded["state_dict"]
    assert torch.equal(weights["a"], shared.view(2, 3)) and torch.equal(weights["b"], shared[2:4])
    assert weights["c"].dtype == torch.bfloat16 and weights["b"].data_ptr() == weights["a"].data_ptr() + 8
    assert torch.equal(loaded["parameter"], content["parameter"]) and type(loaded["counts"]) is dict
    assert {key: loaded[key] for key in ("plain", "torch", "counts")} == {
        key: content[key] for key in ("plain", "torch", "counts")
    }


@formats
def test_load_pickle_keeps_names_and_states_of_objects(tmp_path, zipped):
    content = {"args": argparse.Namespace(size=3), "number": np.float64(2.0), "path": Path("a/b"), "kind": np.ndarray}
    loaded = load_pickle(save(content, tmp_path / "a.pt", zipped))
    assert isinstance(loaded["args"], StandIn) and loaded["args"].name == "argparse.Namespace"
    assert loaded["args"].state == {"size": 3}
    assert loaded["number"].name.endswith("multiarray.scalar") and loaded["path"].args == ("a", "b")
    assert loaded["kind"].name == "numpy.ndarray" and issubclass(loaded["kind"], StandIn)


def test_plain_reads_a_real_omegaconf_configuration():
    content = load_pickle(FIXTURE)
    assert torch.equal(content["weight"], torch.tensor([1.5, 2.0]))
    parameters = plain(content["hyper_parameters"])
    assert parameters["tokenizer"].name.startswith("transformers.")
    assert parameters["config"] == {
        "backbone": "dit",
        "parameterization": "subs",
        "time_conditioning": False,
        "T": 0,
        "model": {"type": "ddit", "hidden_size": 8, "cond_dim": 6, "length": 16, "n_blocks": 2, "n_heads": 2},
        "noise": {"type": "loglinear", "sigma_min": 1e-4},
        "callbacks": ["a", {"every": 3}, None],
        "data": {"cache_dir": "${model.type}/cache", "missing": "???"},
    }


MALICIOUS = {  # by the function that each would call
    "posix.system": lambda trace: Call(os.system, f"touch {trace}"),
    "builtins.exec": lambda trace: Call(exec, f"open({str(trace)!r}, 'w')"),
    "builtins.eval": lambda trace: Call(eval, f"open({str(trace)!r}, 'w')"),
    "io.open": lambda trace: Call(open, str(trace), "w"),
    "builtins.getattr": lambda trace: Call(getattr, "text", "upper"),
    "builtins.__import__": lambda trace: Call(__import__, "os"),
    "itertools.imap": lambda trace: Call(map, len, "x"),
    "builtins.type": lambda trace: Call(type, "A", (), {}),
    "commands.Popen": lambda trace: Call(subprocess.Popen, ["touch", str(trace)]),
    "functools.partial": lambda trace: functools.partial(os.system, f"touch {trace}"),
    "operator.attrgetter": lambda trace: Call(operator.attrgetter, "system"),
    "pathlib.Path.touch": lambda trace: Call(Path.touch, trace),
    "torch.serialization.load": lambda trace: Call(torch.load, str(trace)),
    "torch.hub.load": lambda trace: Call(torch.hub.load, str(trace), "x"),
    "torch.nn.modules.linear.Linear": lambda trace: nn.Linear(1, 1),
    "pickle.loads": lambda trace: Call(pickle.loads, pickle.dumps(Call(os.system, f"touch {trace}"))),
}


@formats
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", MALICIOUS)
def test_load_pickle_refuses_and_does_not_run_code(tmp_path, name, nested, zipped):
    trace = tmp_path / "trace"
    evil = MALICIOUS[name](trace)
    content = {"hyper_parameters": {"config": [{"deep": evil}]}} if nested else evil
    with pytest.raises(ValueError, match=rf"{REFUSED}: .*GLOBAL"):
        load_pickle(save(content, tmp_path / "evil.ckpt", zipped))
    assert not trace.exists()


def test_load_pickle_never_imports_what_a_stand_in_names(tmp_path):
    # Protocol 2 in the legacy format: the global "system" of "transformers.os", called.
    header = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    call = b"\x80\x02}X\x01\x00\x00\x00actransformers.os\nsystem\nX\x05\x00\x00\x00touch\x85Rs."
    parts = [*(pickle.dumps(part, 2) for part in header), call, pickle.dumps([], 2)]
    (tmp_path / "a.ckpt").write_bytes(b"".join(parts))
    loaded = load_pickle(tmp_path / "a.ckpt")["a"]
    assert loaded.name == "transformers.os.system" and loaded.args == ("touch",)


@formats
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9])
def test_load_pickle_refuses_truncated_files_in_one_line(tmp_path, zipped, kept):
    path = save({"a": torch.ones(100), "b": ["text"] * 100}, tmp_path / "whole.pt", zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=REFUSED) as error:
        load_pickle(path)
    assert "\n" not in str(error.value)


def test_load_pickle_refuses_files_that_hold_no_dictionary(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_pickle(tmp_path / "none.pt")
    with pytest.raises(ValueError, match="must hold a dictionary, got list"):
        load_pickle(save([1], tmp_path / "list.pt"))
    torch.jit.script(nn.Linear(1, 1)).save(str(tmp_path / "script.pt"))
    with pytest.raises(ValueError, match=REFUSED):
        load_pickle(tmp_path / "script.pt")
