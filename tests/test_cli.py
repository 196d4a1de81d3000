"""The command line: commands are found, configs are read, mistakes are named."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edlm import cli

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {
    "training/plot_logs.py": "plot logs",
    "training/prepare_corpus.py": "prepare corpus",
    "training/train_denoiser.py": "train denoiser",
    "training/train_autoregressive.py": "train autoregressive",
    "training/train_energy.py": "train energy",
    "sampling/generate.py": "sample",
    "sampling/evaluate.py": "evaluate",
    "sampling/benchmark.py": "benchmark",
}


@dataclass(frozen=True)
class Trainer:
    """How to train.

    Args:
        learning_rate: Peak rate.
        num_steps: Number of updates.
    """

    learning_rate: float = 1e-3
    num_steps: int = 10

    def __post_init__(self):
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be >= 1, got {self.num_steps}")


@dataclass(frozen=True)
class Config:
    """A config with a field of every kind.

    Args:
        output: Where to write.
        trainer: How to train.
        second: How to train again, if at all.
        parts: Several trainers.
        extra: Anything.
    """

    output: str
    trainer: Trainer = field(default_factory=lambda: Trainer(num_steps=7))
    second: Trainer | None = None
    parts: list[Trainer] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def ran(monkeypatch) -> list[Config]:
    """Configs that the fake commands ran with."""
    configs: list[Config] = []
    fake = SimpleNamespace(Config=Config, run=configs.append)
    monkeypatch.setitem(sys.modules, "fake_command", fake)
    for name in ("train fake", "fake"):
        monkeypatch.setitem(cli.COMMANDS, name, cli.Command("fake_command:Config", "does nothing"))
    return configs


@pytest.fixture
def write(tmp_path):
    """Writes a YAML file and returns its path."""

    def _write(text: str, name: str = "config.yaml") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return _write


def test_every_documented_command_has_its_own_module_and_class():
    assert {name: command.config for name, command in cli.COMMANDS.items()} == {
        "demo": "edlm.commands.demo:DemoConfig",
        "sample": "edlm.commands.sample:SampleConfig",
        "evaluate": "edlm.commands.evaluate:EvaluateConfig",
        "compare": "edlm.commands.compare:CompareConfig",
        "benchmark": "edlm.commands.benchmark:BenchmarkConfig",
        "languages oracle": "edlm.commands.languages:OracleConfig",
        "languages truth": "edlm.commands.languages:TruthConfig",
        "languages errors": "edlm.commands.language_errors:ErrorsConfig",
        "info": "edlm.commands.info:InfoConfig",
        "export": "edlm.commands.export:ExportConfig",
        "plot logs": "edlm.commands.plot_logs:PlotLogsConfig",
        "prepare corpus": "edlm.commands.prepare_corpus:PrepareCorpusConfig",
        "train denoiser": "edlm.commands.train_denoiser:TrainDenoiserConfig",
        "train autoregressive": "edlm.commands.train_autoregressive:TrainAutoregressiveConfig",
        "train energy": "edlm.commands.train_energy:TrainEnergyConfig",
    }


@pytest.mark.parametrize("name", ["fake", "train fake"])
def test_a_command_runs_with_its_defaults(ran, name):
    assert cli.main([*name.split(), "--output", "here"]) == 0
    assert ran == [Config("here", Trainer(1e-3, 7))]


def test_files_beat_defaults_and_overrides_beat_files_wherever_they_stand(ran, write):
    first = write("output: a\ntrainer:\n  learning_rate: 2e-4\n  num_steps: 3\n", "first.yaml")
    second = write("output: b\nextra: {k: [1, x]}\n", "second.yaml")
    override = ["--trainer.num_steps", "5"]
    expected = Config("b", Trainer(2e-4, 5), extra={"k": [1, "x"]})
    assert cli.main(["fake", "--config", first, f"--config={second}", *override]) == 0
    assert cli.main(["fake", *override, "--config", first, "--config", second]) == 0
    assert ran == [expected, expected]


def test_values_may_stand_without_their_keys(ran, monkeypatch, capsys):
    monkeypatch.setitem(cli.COMMANDS, "fake", cli.Command("fake_command:Config", "does nothing", ("output",)))
    assert cli.main(["fake", "here"]) == 0
    assert cli.main(["fake", "here", "--trainer.num_steps", "2"]) == 0
    assert cli.main(["fake", "--output", "there"]) == 0
    assert [(config.output, config.trainer.num_steps) for config in ran] == [("here", 7), ("here", 2), ("there", 7)]
    assert cli.main(["fake", "here", "too"]) == 2
    assert "unknown command 'fake here too'; did you mean 'fake'?" in capsys.readouterr().err
    assert cli.main(["--help"]) == 0
    assert "fake OUTPUT " in capsys.readouterr().out


def test_optional_groups_lists_dicts_and_group_files(ran, write):
    path = write("output: a\nsecond: {num_steps: 2}\nparts: [{num_steps: 3}, {num_steps: 4}]\n")
    group = write("num_steps: 6\n", "group.yaml")
    args = ["--trainer", group, "--trainer.learning_rate=5", "--extra.k", "1"]
    assert cli.main(["fake", "--config", path, *args]) == 0
    parts = [Trainer(1e-3, 3), Trainer(1e-3, 4)]
    assert ran == [Config("a", Trainer(5.0, 6), Trainer(1e-3, 2), parts, {"k": 1})]
    assert cli.main(["fake", "--config", path, "--second", "null"]) == 0
    assert ran[1].second is None


def test_a_file_of_comments_alone_changes_nothing(ran, write):
    assert cli.main(["fake", "--output", "a", "--config", write("# edlm fake\n")]) == 0
    assert ran == [Config("a", Trainer(1e-3, 7))]


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("outputs: a", "outputs", "output"),
        ("output: a\ntrainer: {learning_rat: 1}", "trainer.learning_rat", "trainer.learning_rate"),
        ("output: a\ntrainer.num_step: 1", "trainer.num_step", "trainer.num_steps"),
        ("output: a\nsecond: {num_step: 1}", "second.num_step", "second.num_steps"),
        ("output: a\nparts: [{num_step: 1}]", "parts.num_step", "parts.num_steps"),
    ],
)
def test_an_unknown_key_in_a_file_names_the_file_and_the_nearest(ran, write, capsys, text, key, nearest):
    path = write(text)
    assert cli.main(["fake", "--config", path]) == 2
    said = f"edlm: error: {path}: unknown key '{key}'; did you mean '{nearest}'?\n"
    assert capsys.readouterr().err == said
    assert ran == []


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("outputs", "output"),
        ("trainer.learning_rat", "trainer.learning_rate"),  # no abbreviations
        ("trainer.learning-rate", "trainer.learning_rate"),
        ("second.num_step", "second.num_steps"),
        ("trainer.num_steps.x", "trainer.num_steps"),
    ],
)
@pytest.mark.parametrize("form", ["--{} 1", "--{}=1"])
def test_an_unknown_key_on_the_command_line_names_the_nearest(ran, capsys, word, nearest, form):
    assert cli.main(["fake", "--output", "a", *form.format(word).split()]) == 2
    said = f"edlm: error: unknown key '{word}'; did you mean '{nearest}'?\n"
    assert capsys.readouterr().err == said
    assert ran == []


def test_an_unknown_key_in_a_group_file_names_the_nearest(ran, write, capsys):
    assert cli.main(["fake", "--output", "a", "--trainer", write("num_step: 1")]) == 2
    assert "'trainer.num_step'; did you mean 'trainer.num_steps'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("output: a\ntrainer: {num_steps: 3.5}", 'key "trainer.num_steps": Expected a int. Got'),
        ("output: 3", 'key "output": Expected a str. Got value: 3'),
        ("output: a\ntrainer: 3", "trainer must map keys to values, got 3"),
        ("output: a\ntrainer:", "trainer must map keys to values, got None"),
        ("- output", "the file must map keys to values, got ['output']"),
        ("output: [a", "must be valid YAML"),
        ("trainer: {num_steps: 3}", "required: output"),
        ("output: a\ntrainer: {num_steps: 0}", "num_steps must be >= 1, got 0"),
    ],
)
def test_a_wrong_value_is_one_clear_line(ran, write, capsys, text, said):
    assert cli.main(["fake", "--config", write(text)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("edlm: error: ") and error.count("\n") == 1 and said in error
    assert ran == []


def test_a_missing_file_and_a_stray_word_are_errors(ran, capsys):
    assert cli.main(["fake", "--config", "nowhere.yaml"]) == 2
    assert "a config file must exist, got 'nowhere.yaml'" in capsys.readouterr().err
    assert cli.main(["fake", "--output", "a", "stray"]) == 2
    assert "unrecognized arguments: stray" in capsys.readouterr().err.replace("command ", "")


def test_load_config_reads_one_file_and_raises(write):
    path = write("# edlm train energy --config x.yaml\noutput: a\ntrainer: {num_steps: 2}\n")
    assert cli.load_config(path, Config) == Config("a", Trainer(1e-3, 2))
    with pytest.raises(ValueError, match="unknown key 'outpt'; did you mean 'output'"):
        cli.load_config(write("outpt: a"), Config)
    with pytest.raises(FileNotFoundError, match="nowhere.yaml"):
        cli.load_config("nowhere.yaml", Config)


def test_a_config_file_names_its_command(write):
    assert cli.command_of(write("# edlm train energy --config x.yaml\na: 1\n")) == "train energy"
    assert cli.command_of(write("# edlm demo\n")) == "demo"
    with pytest.raises(ValueError, match="line 1 must be '# edlm COMMAND"):
        cli.command_of(write("a: 1\n"))
    with pytest.raises(ValueError, match="unknown command 'train energi'; did you mean"):
        cli.command_of(write("# edlm train energi --config x.yaml\n"))


def test_print_config_can_be_read_back(ran, write, capsys):
    args = ["--output", "a", "--trainer.num_steps", "5", "--extra", "{k: 1}"]
    assert cli.main(["fake", *args, "--print_config"]) == 0
    assert ran == []
    assert cli.main(["fake", "--config", write(capsys.readouterr().out)]) == 0
    assert ran == [Config("a", Trainer(1e-3, 5), extra={"k": 1})]


def test_help_shows_the_docstrings(ran, capsys):
    assert cli.main(["train", "fake", "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: edlm train fake")
    assert "--trainer.learning_rate" in shown and "Peak rate. (type: float" in shown
    assert ran == []


@pytest.mark.parametrize(("argv", "code"), [(["--help"], 0), ([], 2), (["train", "-h"], 0), (["train"], 2)])
def test_a_group_of_commands_lists_them(capsys, argv, code):
    assert cli.main(argv) == code
    shown = capsys.readouterr().out
    assert "train energy" in shown and ("benchmark" in shown) == ("train" not in argv)


@pytest.mark.parametrize(
    ("argv", "name", "nearest"),
    [
        (["sampel"], "sampel", "sample"),
        (["train", "energi", "--seed", "1"], "train energi", "train energy"),
    ],
)
def test_an_unknown_command_names_the_nearest(capsys, argv, name, nearest):
    assert cli.main(argv) == 2
    said = f"edlm: error: unknown command '{name}'; did you mean '{nearest}'?\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError])
def test_a_users_error_is_one_line_unless_debugging(ran, monkeypatch, capsys, error):
    def run(config):
        raise error("the rule,\n  got this")

    monkeypatch.setattr(sys.modules["fake_command"], "run", run)
    monkeypatch.delenv("EDLM_DEBUG", raising=False)
    assert cli.main(["fake", "--output", "a"]) == 2
    assert capsys.readouterr().err == "edlm: error: the rule, got this\n"
    monkeypatch.setenv("EDLM_DEBUG", "1")
    with pytest.raises(error):
        cli.main(["fake", "--output", "a"])


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (RuntimeError, None)])
def test_an_interrupt_exits_130_and_a_bug_keeps_its_traceback(ran, monkeypatch, error, code):
    def run(config):
        raise error

    monkeypatch.setattr(sys.modules["fake_command"], "run", run)
    if code is None:
        with pytest.raises(error):
            cli.main(["fake", "--output", "a"])
    else:
        assert cli.main(["fake", "--output", "a"]) == code


def test_the_overview_is_quick_and_imports_no_torch():
    code = (
        "import json, sys; from edlm.cli import main; main(['--help']);"
        "print(json.dumps(sorted(m for m in sys.modules if m.partition('.')[0] in"
        " ('edlm', 'torch', 'transformers', 'datasets', 'accelerate', 'jsonargparse'))))"
    )
    start = time.monotonic()
    done = _python("-c", code)
    assert time.monotonic() - start < 10  # about 0.2 s; torch alone takes several
    assert json.loads(done.stdout.splitlines()[-1]) == ["edlm", "edlm.cli"]


def test_python_m_edlm_passes_the_exit_code():
    assert _python("-m", "edlm", "--help").stdout.startswith("usage: edlm COMMAND")
    done = _python("-m", "edlm", "sampel")
    assert done.returncode == 2 and "did you mean 'sample'?" in done.stderr


@pytest.mark.parametrize(("script", "command"), SCRIPTS.items())
def test_a_script_is_its_command(monkeypatch, script, command):
    calls = []
    monkeypatch.setattr(cli, "main", lambda argv: calls.append(argv) or 3)
    monkeypatch.setattr(sys, "argv", [script, "--seed", "1"])
    with pytest.raises(SystemExit, match="3"):
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert calls == [[*command.split(), "--seed", "1"]]
    assert command in cli.COMMANDS


def test_every_script_is_tested_above():
    found = [*ROOT.glob("training/*.py"), *ROOT.glob("sampling/*.py")]
    assert {str(path.relative_to(ROOT)) for path in found} == set(SCRIPTS)


def _python(*args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *args]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)
