"""Checkpoints are read without running what they hold."""

import argparse
import builtins
import collections
import functools
import io
import operator
import os
import pickle
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edlm.denoisers.pickles import load_pickle
from edlm.denoisers.standins import Global, StandIn, plain

# Made with omegaconf 2.3.1, torch 2.13 and transformers 5.23 by torch.save of {"hyper_parameters": {"config":
# OmegaConf.create({...}), "tokenizer": PreTrainedTokenizerFast(...)}, "weight": torch.tensor([1.5, 2.0])}.
FIXTURE = Path(__file__).parent / "data" / "mdlm_hparams.pt"
formats = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


class Call:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def save(content, path, zipped=True, **options):
    torch.save(content, path, _use_new_zipfile_serialization=zipped, **options)
    return path


@formats
@pytest.mark.parametrize("protocol", [2, 4])
def test_tensors_and_plain_containers_come_as_they_are(tmp_path, zipped, protocol):
    shared = torch.arange(6.0)
    content = {
        "state_dict": collections.OrderedDict(a=shared.view(2, 3), b=shared[2:4], c=torch.ones(2).bfloat16()),
        "parameter": nn.Parameter(torch.tensor([1.0, 2.0]), requires_grad=False),
        "plain": [1, 2.5, None, True, "x", b"\x00\xff", (1, {2}), frozenset({3}), complex(1, 2), 10**30],
        "torch": (torch.Size([2, 3]), torch.float16, torch.device("cpu")),
        "counts": collections.defaultdict(list, {"a": [1]}),
    }
    got = load_pickle(save(content, tmp_path / "a.pt", zipped, pickle_protocol=protocol))
    assert torch.equal(got["state_dict"]["a"], content["state_dict"]["a"])
    assert torch.equal(got["state_dict"]["b"], shared[2:4]) and got["state_dict"]["c"].dtype == torch.bfloat16
    assert got["state_dict"]["b"].data_ptr() == got["state_dict"]["a"].data_ptr() + 8
    assert torch.equal(got["parameter"], content["parameter"])
    assert got["plain"] == content["plain"] and got["torch"] == content["torch"] and got["counts"] == {"a": [1]}


def test_objects_of_known_packages_come_as_names(tmp_path):
    content = {"args": argparse.Namespace(size=3), "number": np.float64(2.0), "path": Path("a/b"), "kind": np.ndarray}
    got = load_pickle(save(content, tmp_path / "a.pt"))
    assert isinstance(got["args"], StandIn) and got["args"].name == "argparse.Namespace"
    assert got["args"].state == {"size": 3}
    assert got["number"].name.endswith("multiarray.scalar") and got["path"].args == ("a", "b")
    assert got["kind"] == Global("numpy.ndarray") and not callable(got["kind"]) and not callable(got["args"])


def test_a_real_omegaconf_configuration_becomes_plain():
    got = load_pickle(FIXTURE)
    assert torch.equal(got["weight"], torch.tensor([1.5, 2.0]))
    held = plain(got["hyper_parameters"])
    assert held["tokenizer"].name.startswith("transformers.")
    assert held["config"] == {
        "backbone": "dit",
        "parameterization": "subs",
        "time_conditioning": False,
        "T": 0,
        "model": {"type": "ddit", "hidden_size": 8, "cond_dim": 6, "length": 16, "n_blocks": 2, "n_heads": 2},
        "noise": {"type": "loglinear", "sigma_min": 1e-4},
        "callbacks": ["a", {"every": 3}, None],
        "data": {"cache_dir": "${model.type}/cache", "missing": "???"},
    }


MALICIOUS = {  # under the names that protocol 2 writes
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
def test_code_is_refused_and_not_run(tmp_path, name, nested, zipped):
    trace = tmp_path / "trace"
    evil = MALICIOUS[name](trace)
    content = {"hyper_parameters": {"config": [{"deep": evil}]}} if nested else evil
    path = save(content, tmp_path / "evil.ckpt", zipped)
    refused = "getattr" if name == "pathlib.Path.touch" else name  # as methods are pickled
    with pytest.raises(ValueError, match=rf"evil.ckpt must hold tensors and plain containers only: .*{refused}"):
        load_pickle(path)
    assert not trace.exists()


def raw_zip(path, data, names=("data.pkl",)):
    """A file of torch's zip format around a pickle that torch.save would not write."""
    torch.save({}, path)
    with zipfile.ZipFile(path) as archive:
        prefix = archive.namelist()[0].partition("/")[0]
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(f"{prefix}/{name}", data)
        archive.writestr(f"{prefix}/version", "3\n")
        archive.writestr(f"{prefix}/byteorder", "little")
    return path


OPCODES = {
    "INST": b"(S'touch'\niposix\nsystem\n.",
    "OBJ": b"(cposix\nsystem\nS'touch'\no.",
    "dotted": b"\x80\x04\x8c\x08builtins\x8c\x08str.join\x93.",
    "nested in a harmless module": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x05touch\x85R.",
    "state of a tensor": b"\x80\x02c__builtin__\nset\n)R}b.",
    "state of a class": b"\x80\x02c__builtin__\nobject\n}b.",
    "items of a tuple": b"\x80\x02)]a.",
    "a call of a stand-in": b"\x80\x02ctransformers\nX\n)R)R.",
    "a call of a string": b"\x80\x02X\x02\x00\x00\x00os)R.",
    "arguments that are no tuple": b"\x80\x02c__builtin__\nint\n]R.",
    "extension": b"\x80\x02\x82\x01.",
    "text persistent id": b"Pmodule\n.",
    "module persistent id": b"\x80\x02(X\x06\x00\x00\x00moduleX\x01\x00\x00\x00aK\x01K\x01tQ.",
    "persistent id without a storage": b"\x80\x02(X\x07\x00\x00\x00storageX\x01\x00\x00\x00aX\x01\x00\x00\x000tQ.",
    "persistent id with a stand-in": b"\x80\x02(X\x07\x00\x00\x00storagecomegaconf\nX\nK\x01K\x01tQ.",
    "storage class called": b"\x80\x02ctorch\nFloatStorage\n)R.",
    "Storage by another name": b"\x80\x02cos\nsystemStorage\n)R.",
    "cut off": b"\x80\x02}",
    "empty": b"",
}


@pytest.mark.parametrize("name", OPCODES)
def test_no_opcode_gets_around(tmp_path, name, monkeypatch):
    ran = []
    monkeypatch.setattr(os, "system", ran.append)
    monkeypatch.setattr(builtins, "eval", ran.append)
    zipped = raw_zip(tmp_path / "raw.ckpt", OPCODES[name])
    bare = tmp_path / "bare.ckpt"
    header = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    bare.write_bytes(b"".join(pickle.dumps(part, 2) for part in header) + OPCODES[name])
    for path in (zipped, bare):
        with pytest.raises(ValueError, match=f"{path.name} must hold tensors and plain containers only"):
            load_pickle(path)
    assert ran == []


def test_a_stand_in_is_made_whatever_the_name_says(tmp_path):
    data = b"\x80\x04}\x8c\x01a\x8c\x0ctransformers\x8c\tos.system\x93\x8c\x05touch\x85Rs."
    got = load_pickle(raw_zip(tmp_path / "raw.ckpt", data))["a"]
    assert got.name == "transformers.os.system" and got.args == ("touch",)
    from_newobj = b"\x80\x02}X\x01\x00\x00\x00acomegaconf.x\nA\n)\x81}X\x01\x00\x00\x00kK\x01sbs."
    got = load_pickle(raw_zip(tmp_path / "raw.ckpt", from_newobj))["a"]
    assert got.name == "omegaconf.x.A" and got.state == {"k": 1}


def test_other_archives_are_refused(tmp_path):
    torch.jit.script(nn.Linear(1, 1)).save(str(tmp_path / "script.pt"))
    with pytest.raises(ValueError, match="it is a TorchScript archive"):
        load_pickle(tmp_path / "script.pt")
    with tarfile.open(tmp_path / "old.pt", "w") as archive:
        member = tarfile.TarInfo("pickle")
        member.size = 1
        archive.addfile(member, io.BytesIO(b"."))
    with pytest.raises(ValueError, match="it is a tar archive"):
        load_pickle(tmp_path / "old.pt")
    # Python finds the zip archive at its end, torch looks at the beginning.
    both = tmp_path / "both.pt"
    both.write_bytes((tmp_path / "old.pt").read_bytes() + (tmp_path / "script.pt").read_bytes())
    with pytest.raises(ValueError, match="it is a tar archive"):
        load_pickle(both)


def test_what_holds_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_pickle(tmp_path / "none.pt")
    with pytest.raises(ValueError, match="must hold a dictionary, got list"):
        load_pickle(save([1], tmp_path / "list.pt"))
    (tmp_path / "text.pt").write_text("no pickle")
    with pytest.raises(ValueError, match="text.pt must hold tensors and plain containers only"):
        load_pickle(tmp_path / "text.pt")
