"""Trainings by one and by two real processes, started as in the guide; launches that fail, are killed, or are wrong."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from edlm.cli import main

ROOT = Path(__file__).resolve().parents[2]
MODEL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
MODERNBERT = {**MODEL, "max_position_embeddings": 16, "global_attn_every_n_layers": 1}
TRAINER = {"num_steps": 20, "log_every": 1, "warmup_steps": 5, "valid_every": 10, "valid_batches": 2, "batch_size": 8}
TRAINER |= {"checkpoint_every": 4, "decay": "none", "learning_rate": 1e-3}
LONG = {"num_steps": 100_000, "checkpoint_every": 100_000, "valid_every": 100_000}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
FAILING = """
import sys
from edlm.cli import main
from edlm.training.objectives import AutoregressiveObjective
from accelerate import PartialState
call, calls = AutoregressiveObjective.__call__, []

def failing(*arguments):
    calls.append(1)
    if len(calls) == 3 and PartialState().process_index == 1:
        raise {error}
    return call(*arguments)

AutoregressiveObjective.__call__ = failing
sys.exit(main(["train", "autoregressive", *sys.argv[1:]]))
"""
pytestmark = pytest.mark.slow


def words(options: dict) -> list[str]:
    """Keys, nested by dots, and JSON values of a command."""
    pairs = [(name.replace("__", "."), x if isinstance(x, str) else json.dumps(x)) for name, x in options.items()]
    return [word for name, value in pairs for word in (f"--{name}", value)]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A corpus of a Markov chain, and a denoiser."""
    path = tmp_path_factory.mktemp("made")
    language = {"language__kind": "markov", "language__vocab_size": 6, "num_train": 200, "num_valid": 40, "length": 16}
    assert main(["prepare", "corpus", *words({**language, "output_dir": str(path / "corpus")})]) == 0
    trainer = {f"trainer__{key}": value for key, value in TRAINER.items()}
    trainer["trainer__output_dir"] = str(path / "denoiser")
    assert main(["train", "denoiser", *words({"corpus": str(path / "corpus"), "model": MODERNBERT, **trainer})]) == 0
    return path


def options_of(kind: str, made: Path, output_dir: Path, **trainer) -> tuple[str, list[str]]:
    """The script of a kind of training, and its options."""
    options = {"corpus": str(made / "corpus")}
    if kind == "denoiser":
        options |= {"model": MODERNBERT}
    elif kind == "autoregressive":
        options |= {"model": {**MODEL, "num_key_value_heads": 2, "max_position_embeddings": 17}}
    else:
        options |= {"denoiser": str(made / "denoiser" / "final"), "kind": kind}
    options |= {f"trainer__{key}": value for key, value in {**TRAINER, **trainer}.items()}
    script = "train_energy.py" if "kind" in options else f"train_{kind}.py"
    return f"training/{script}", words({**options, "trainer__output_dir": str(output_dir)})


def start(command: list[str], *, launcher: list[str] = TORCHRUN, **environment: str | None) -> subprocess.Popen:
    """Start a script with its options, by two processes unless it has another launcher."""
    defaults = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    values = {**os.environ, **defaults, "ACCELERATE_USE_CPU": "true", **environment}
    values = {name: value for name, value in values.items() if value is not None}
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([*launcher, *command], cwd=ROOT, env=values, text=True, **pipes)


def finish(process: subprocess.Popen, code: int | None = 0) -> str:
    """Wait for the end and its exit code (None: any but 0); returns all that was printed."""
    printed = "".join(process.communicate(timeout=240))
    assert process.returncode == code if code is not None else process.returncode != 0, printed[-4000:]
    return printed


def read_log(folder: Path) -> list[dict]:
    path = folder / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def started(process: subprocess.Popen, folder: Path) -> list[psutil.Process]:
    """Wait until a launch has made a few updates; returns its two processes."""
    while len(read_log(folder)) < 3:
        assert process.poll() is None, "".join(process.communicate())[-4000:]
        time.sleep(0.2)
    return [child for child in psutil.Process(process.pid).children() if "train" in " ".join(child.cmdline())]


def assert_equal(one: Path, other: Path) -> None:
    """Losses, metrics and final weights of two runs agree to float32."""
    lines = zip(read_log(one), read_log(other), strict=True)
    for left, right in lines:
        assert [left[key] for key in ("step", "split")] == [right[key] for key in ("step", "split")]
        assert left["loss"] == pytest.approx(right["loss"], abs=1e-5)
        assert left["metrics"] == pytest.approx(right["metrics"], abs=1e-5)
    files = sorted(path.relative_to(one) for path in (one / "final").rglob("*.safetensors"))
    assert files
    for file in files:
        left, right = load_file(one / file), load_file(other / file)
        assert left.keys() == right.keys()
        assert max((left[name] - right[name]).abs().max().item() for name in left) < 1e-4


@pytest.mark.parametrize("kind", ["denoiser", "autoregressive", "head", "nce", "scalar"])
def test_two_processes_equal_one_with_twice_the_batch(made, tmp_path, kind):
    script, options = options_of(kind, made, tmp_path / "two", batch_size=8)
    finish(start([script, *options]))
    _, options = options_of(kind, made, tmp_path / "one", batch_size=16)
    command = Path(script).stem.replace("_", " ").split()  # train energy
    assert main([*command, *options]) == 0
    assert len(read_log(tmp_path / "one")) == 22
    assert_equal(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_launcher_saves_and_one_process_goes_on(made, tmp_path, signum):
    script, options = options_of("head", made, tmp_path / "a", **LONG)
    launched = start([script, *options])
    started(launched, tmp_path / "a")
    launched.send_signal(signum)
    printed = finish(launched, code=None)
    (saved,) = (tmp_path / "a" / "checkpoints").iterdir()
    step = int(saved.name.removeprefix("step_"))
    command = shlex.join([*TORCHRUN, script, *options])
    assert printed.count(f"interrupted: step {step} is saved; the same command resumes: {command}\n") == 1
    assert not (tmp_path / "a" / ".lock").exists()
    last = {**LONG, "num_steps": step + 1, "batch_size": 16}
    for folder, trainer in [("a", {**last, **LONG, "max_minutes": 1e-9}), ("whole", last)]:
        assert main(["train", "energy", *options_of("head", made, tmp_path / folder, **trainer)[1]]) == 0
    assert read_log(tmp_path / "a")[-1]["step"] == step + 1
    assert_equal(tmp_path / "whole", tmp_path / "a")


def test_a_killed_launcher_takes_its_processes_along_and_they_save(made, tmp_path):
    script, options = options_of("nce", made, tmp_path / "a", **LONG)
    launched = start([script, *options])
    processes = started(launched, tmp_path / "a")
    assert len(processes) == 2
    launched.send_signal(signal.SIGKILL)
    launched.wait()
    assert not psutil.wait_procs(processes, timeout=60)[1]
    (saved,) = (tmp_path / "a" / "checkpoints").iterdir()
    assert saved.name == f"step_{read_log(tmp_path / 'a')[-1]['step']:08d}"


def test_a_killed_process_ends_the_other_and_the_launcher(made, tmp_path):
    script, options = options_of("denoiser", made, tmp_path, **{**LONG, "checkpoint_every": 2})
    launched = start([script, *options])
    processes = started(launched, tmp_path)
    processes[1].kill()
    assert "Signal 9 (SIGKILL)" in finish(launched, code=None)[-800:]
    assert not psutil.wait_procs(processes, timeout=60)[1]
    script, options = options_of("denoiser", made, tmp_path, **{**LONG, "checkpoint_every": 2}, max_minutes=1e-9)
    last = read_log(tmp_path)[-1]["step"]
    finish(start([script, *options]))  # the dead processes' lock is taken over
    assert last - 2 <= read_log(tmp_path)[-1]["step"] <= last + 1


@pytest.mark.parametrize("error", ["RuntimeError('broken here')", "ValueError('broken here')"])
def test_the_error_of_one_process_ends_both_and_is_printed_last(made, tmp_path, error):
    script = tmp_path / "failing.py"
    script.write_text(FAILING.format(error=error))
    _, options = options_of("autoregressive", made, tmp_path / "a")
    printed = finish(start([str(script), *options]), code=None)
    cause = printed[printed.rindex("Root Cause (first observed failure)") :]
    assert "rank      : 1" in cause
    assert cause.rstrip("\n= ").splitlines()[-1].strip() == error.replace("('", ": ").removesuffix("')")
    assert [line["step"] for line in read_log(tmp_path / "a")] == [1, 2]


def test_processes_that_would_not_know_of_each_other_are_refused(made, tmp_path):
    script, options = options_of("head", made, tmp_path / "a")
    printed = finish(start([script, *options], ACCELERATE_USE_CPU=None), code=None)
    rule = "all 2 processes of a launch (WORLD_SIZE) must work together, got one by itself"
    assert f"edlm: error: {rule}; where there is no GPU, set ACCELERATE_USE_CPU=true" in printed
    assert not (tmp_path / "a").exists()


def test_a_second_launch_into_a_folder_is_refused_and_the_first_goes_on(made, tmp_path):
    script, options = options_of("autoregressive", made, tmp_path, **LONG)
    launched = start([script, *options])
    processes = started(launched, tmp_path)
    before = len(read_log(tmp_path))
    names = [f"process {process.pid} on {socket.gethostname()} writes to it" for process in processes]
    for launcher in ([sys.executable], TORCHRUN):
        printed = finish(start([script, *options], launcher=launcher), code=None)
        assert any(f"edlm: error: {tmp_path} must have one writer, got a second: {name}" in printed for name in names)
    launched.send_signal(signal.SIGTERM)
    finish(launched, code=None)
    steps = [line["step"] for line in read_log(tmp_path)]
    assert len(steps) > before and steps == list(range(1, len(steps) + 1))
