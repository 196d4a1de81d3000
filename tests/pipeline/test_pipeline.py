"""Pipelines: what stages need, how minutes are divided, what an interruption leaves, and a whole one on a language."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from edlm.commands.parsing import parse
from edlm.commands.train_all import run as train_all
from edlm.denoisers.loading import load_denoiser
from edlm.energies.loading import load_energy
from edlm.pipeline import run as loop
from edlm.pipeline.config import PipelineConfig, StageConfig
from edlm.pipeline.run import StageError, run
from edlm.pipeline.stage import check_stages, options_of

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "configs/pipeline/tiny.yaml"

TRAINER = {"batch_size": 4, "log_every": 1, "valid_batches": 1}
CORPUS = StageConfig("prepare corpus", {"language": {"kind": "markov", "vocab_size": 6}, "length": 8, "num_train": 32})
MODEL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
DENOISER = StageConfig("train denoiser", {"corpus": "${corpus}", "model": MODEL, "trainer": TRAINER}, share=1)


class Clock:
    """Stands in for processes and time: each stage takes the minutes that it is granted, and `start_up` more."""

    def __init__(self, monkeypatch, start_up: float = 0.0, corpus: float = 1.0, failing: str | None = None):
        self.now, self.granted, self.together = 0.0, {}, []
        self.start_up, self.corpus, self.failing = start_up, corpus, failing
        monkeypatch.setattr(loop, "start", self.start)
        monkeypatch.setattr(loop, "START_UP", start_up)
        monkeypatch.setattr(loop, "last_words", lambda log: "its last words")
        monkeypatch.setattr(loop.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(loop.time, "sleep", self.sleep)
        self.running = []

    def start(self, name, stage, output, minutes):
        self.granted[name] = minutes
        taken = 0 if name == self.failing else self.start_up + (self.corpus if minutes is None else minutes)
        process = Process(self, name, self.now + 60 * taken)
        self.running.append(process)
        return process

    def sleep(self, seconds):
        self.together.append([p.name for p in self.running if p.returncode is None])
        self.now = min(p.end for p in self.running if p.returncode is None)


class Process:
    def __init__(self, clock, name, end):
        self.clock, self.name, self.end, self.returncode = clock, name, end, None

    def poll(self):
        if self.clock.now >= self.end:
            self.returncode = int(self.name == self.clock.failing)
        return self.returncode

    def wait(self):
        return self.returncode

    def terminate(self):
        self.returncode = -15


def stages() -> dict[str, StageConfig]:
    trained = {"corpus": "${corpus}"}
    return {
        "corpus": StageConfig("prepare corpus"),
        "denoiser": StageConfig("train denoiser", trained, share=4),
        "lm": StageConfig("train autoregressive", trained, share=2),
        "head": StageConfig("train energy", {**trained, "denoiser": "${denoiser}/final"}, share=1),
        "evaluate": StageConfig("evaluate", {"denoiser": "${denoiser}/final", "plot": "${lm} ${head}"}, share=1),
    }


def test_minutes_are_divided_by_the_shares_of_what_is_left(tmp_path, monkeypatch):
    clock = Clock(monkeypatch, corpus=2.0)
    progress = run(PipelineConfig(str(tmp_path), stages(), max_minutes=18, side_by_side=False))
    assert clock.granted == pytest.approx({"corpus": None, "denoiser": 8.0, "lm": 4.0, "head": 2.0, "evaluate": 2.0})
    assert progress.seconds == pytest.approx(18 * 60)


def test_minutes_leave_room_for_what_stages_take_to_start(tmp_path, monkeypatch):
    clock = Clock(monkeypatch, start_up=0.5, corpus=1.5)
    progress = run(PipelineConfig(str(tmp_path), stages(), max_minutes=20, side_by_side=False))
    assert progress.seconds / 60 == pytest.approx(20, abs=0.6)
    assert clock.granted["denoiser"] > 7


def test_stages_side_by_side_each_have_the_time_of_all(tmp_path, monkeypatch):
    clock = Clock(monkeypatch, corpus=0.0)
    progress = run(PipelineConfig(str(tmp_path), stages(), max_minutes=16, side_by_side=True))
    assert clock.granted == pytest.approx({"corpus": None, "denoiser": 12.0, "lm": 12.0, "head": 2.0, "evaluate": 2.0})
    assert clock.together == [["corpus"], ["denoiser", "lm"], ["head"], ["evaluate"]]
    assert progress.seconds == pytest.approx(16 * 60)


def test_a_failed_stage_is_named_and_the_same_call_continues_there(tmp_path, monkeypatch):
    config = PipelineConfig(str(tmp_path), stages(), max_minutes=18, side_by_side=False)
    Clock(monkeypatch, corpus=2.0, failing="lm")
    with pytest.raises(StageError, match=r"stage lm failed \(1\): its last words; see .*lm.log"):
        run(config)
    clock = Clock(monkeypatch)
    run(config)
    assert clock.granted == pytest.approx({"lm": 4.0, "head": 2.0, "evaluate": 2.0})
    assert run(config).minutes.keys() == stages().keys() and clock.granted.keys() == {"lm", "head", "evaluate"}


@pytest.mark.parametrize(("changed", "rule"), [
    ({"corpus": StageConfig("plot logs")}, "command of stage corpus must start with one of"),
    ({"corpus": StageConfig("prepare corpus", share=1)}, "stage corpus .* must have no share"),
    ({"denoiser": StageConfig("train denoisers", {"corpus": "${corpus}"}, 1)}, "stage denoiser: unknown command"),
    ({"denoiser": StageConfig("train denoiser", {"corpus": "a", "modle": 1}, 1)}, "stage denoiser: unknown key"),
    ({"denoiser": StageConfig("train denoiser", {"trainer": {}}, 1)}, "stage denoiser: .* required: corpus"),
])  # fmt: skip
def test_a_stage_that_cannot_run_is_refused_before_any_runs(changed, rule):
    config = PipelineConfig("runs/p", {"corpus": CORPUS, "denoiser": DENOISER, **changed})
    with pytest.raises(ValueError, match=rule):
        check_stages(config, parse)


def test_references_that_lead_nowhere_or_around_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"stage denoiser must refer to other stages, got \['corpus'\]"):
        PipelineConfig("runs/p", {"denoiser": DENOISER})
    circle = {"a": StageConfig("export", {"x": "${b}"}), "b": StageConfig("export", {"x": "${a}"})}
    with pytest.raises(ValueError, match="in a circle, got a <- b <- a|b <- a <- b"):
        run(PipelineConfig(str(tmp_path), circle))
    for wrong in (0.0, -1.0):
        with pytest.raises(ValueError, match="share must be null or > 0"):
            StageConfig("evaluate", share=wrong)
        with pytest.raises(ValueError, match="max_minutes must be > 0"):
            PipelineConfig("runs/p", {}, max_minutes=wrong)


def test_options_hold_folders_of_stages_and_their_own():
    options = options_of("denoiser", DENOISER, Path("runs/p"), 2.5)
    assert options["corpus"] == "runs/p/corpus" and options["model"] == MODEL
    assert options["trainer"] == {**TRAINER, "output_dir": "runs/p/denoiser", "max_minutes": 2.5, "num_steps": None}


def test_training_without_a_share_makes_its_own_updates(tmp_path, monkeypatch):
    fixed = StageConfig("train denoiser", {"corpus": "${corpus}", "trainer": {"num_steps": 7}})
    check_stages(PipelineConfig("runs/p", {"corpus": CORPUS, "denoiser": fixed}), parse)
    trainer = options_of("denoiser", fixed, Path("runs/p"), None)["trainer"]
    assert trainer == {"num_steps": 7, "output_dir": "runs/p/denoiser"}
    clock = Clock(monkeypatch, corpus=1.0)
    run(PipelineConfig(str(tmp_path), {**stages(), "denoiser": fixed}, max_minutes=10, side_by_side=False))
    assert clock.granted == pytest.approx({"corpus": None, "denoiser": None, "lm": 4.0, "head": 2.0, "evaluate": 2.0})


@pytest.mark.slow
def test_a_signal_saves_the_stage_under_way_and_a_second_call_resumes(tmp_path):
    config = tmp_path / "config.yaml"
    stages = {"corpus": vars(CORPUS), "denoiser": vars(DENOISER)}
    config.write_text(yaml.safe_dump({"stages": stages, "output": str(tmp_path / "out"), "max_minutes": 0.3}))
    command = [sys.executable, str(ROOT / "training/pipeline.py"), "--config", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    log = tmp_path / "out/denoiser/log.jsonl"
    while process.poll() is None and not log.is_file():
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)  # to this process alone
    printed = process.communicate()[0]
    assert process.returncode == 130 and "the same call resumes" in printed
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert not (tmp_path / "out/denoiser/final").exists()
    train_all(parse(["train", "all", "--config", str(config), "--max_minutes", "0.01"])[1])
    resumed = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert resumed[: len(steps)] == steps and (tmp_path / "out/denoiser/final").is_dir()
    assert "| denoiser |" in (tmp_path / "out/SUMMARY.md").read_text()


@pytest.mark.slow
def test_the_rehearsal_trains_and_measures_everything(tmp_path):
    words = ["train", "all", "--config", str(TINY), "--output", str(tmp_path), "--max_minutes", "1.7"]
    train_all(parse(words)[1])
    results = json.loads((tmp_path / "evaluate/results.json").read_text())
    bounds = {(row["name"], row["order"], row["num_steps"]): row["bound_nats_per_token"] for row in results["settings"]}
    assert {name for name, _, _ in bounds} >= {"base", "head_exact"}
    summary = (tmp_path / "SUMMARY.md").read_text()
    assert all(f"| {name} |" in summary for name in yaml.safe_load(TINY.read_text())["stages"])
    denoiser = load_denoiser(tmp_path / "export/denoiser")
    for name in ("head", "head_blind", "head_random", "sequence_energy", "autoregressive"):
        load_energy(tmp_path / "export" / name).check_denoiser(denoiser)
    rates = [
        json.loads(line).get("learning_rate") for line in (tmp_path / "denoiser/log.jsonl").read_text().splitlines()
    ]
    rates = [rate for rate in rates if rate is not None]
    assert rates[-1] < 0.1 * max(rates), "the run ends annealed"
