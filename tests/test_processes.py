"""What one process knows of a launch; whole launches are in tests/training/test_processes.py."""

import json
import sys
from contextlib import contextmanager

import pytest

from edlm import processes
from edlm.cli import main


def test_a_process_that_should_be_one_of_several_but_is_not_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"all 2 processes of a launch \(WORLD_SIZE\) must work together, got one by"):
        processes.join()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert processes.join().num_processes == 1


def test_a_context_of_the_main_process_is_entered_and_left_and_may_fail():
    events = []

    @contextmanager
    def context(fails: bool):
        events.append("entered")
        if fails:
            raise OSError("no")
        yield
        events.append("left")

    with processes.on_main_process(context(False)):
        events.append("inside")
    assert events == ["entered", "inside", "left"]
    with pytest.raises(OSError, match="no"), processes.on_main_process(context(True)):
        events.append("not inside")
    assert events[-1] == "entered"


def test_an_error_of_a_command_is_left_to_torchrun(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    monkeypatch.setattr(processes.time, "sleep", lambda seconds: None)
    assert main(["tain"]) == 2
    recorded = json.loads((tmp_path / "error.json").read_text())["message"]["message"]
    assert recorded == "ValueError: " + capsys.readouterr().err.removeprefix("edlm: error: ").strip()


@pytest.mark.parametrize(
    ("parent", "is_launcher"),
    [
        ("python /venv/bin/torchrun --nproc_per_node 2 a.py", True),
        ("python -u -m torch.distributed.run --standalone a.py", True),
        ("python /venv/bin/accelerate launch a.py", True),
        ("python -m accelerate.commands.launch a.py", True),
        ("bash accelerate_all.sh", False),
        ("python -m edlm train all", False),
    ],
)
def test_a_launcher_is_known_by_its_command_line(monkeypatch, parent, is_launcher):
    monkeypatch.setattr(processes.psutil.Process, "cmdline", lambda self: parent.split())
    monkeypatch.setattr(processes, "_launcher", processes._launcher.__wrapped__)
    monkeypatch.setattr(sys, "argv", ["/venv/bin/edlm", "train", "energy", "--config", "my file.yaml"])
    assert processes.command() == (parent if is_launcher else "edlm train energy --config 'my file.yaml'")
