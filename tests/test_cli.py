"""The command line: commands are found, configs composed, mistakes named."""

import io
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from rich.console import Console
from rich.table import Table

from edlm import __version__, cli
from edlm.commands.parsing import parse
from edlm.commands.table import COMMANDS, Command
from edlm.commands.terminal import show

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {
    "training/pipeline.py": "train all",
    "training/plot_logs.py": "plot logs",
    "training/prepare_corpus.py": "prepare corpus",
    "training/train_denoiser.py": "train denoiser",
    "training/train_autoregressive.py": "train autoregressive",
    "training/train_energy.py": "train energy",
    "sampling/generate.py": "generate",
    "sampling/evaluate.py": "evaluate",
    "sampling/rerank.py": "rerank",
    "sampling/score.py": "score",
    "sampling/benchmark.py": "benchmark",
}


@dataclass(frozen=True)
class Rates:
    """Rates."""

    learning_rate: float = 1e-3
    """Peak rate."""


@dataclass(frozen=True)
class Trainer(Rates):
    """How to train.

    Args:
        num_steps: Number of updates.
    """

    num_steps: int = 10

    def __post_init__(self):
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be >= 1, got {self.num_steps}")


@dataclass(frozen=True)
class Config:
    """A config with a field of every kind."""

    output: str
    trainer: Trainer = field(default_factory=lambda: Trainer(num_steps=7))
    second: Trainer | None = None
    parts: list[Trainer] = field(default_factory=list)
    text: str | None = None
    texts: str | tuple[str, ...] | None = None
    name: str | None = "shipped"
    count: int | None = None
    mode: Literal["sample", "best"] | Literal["auto"] = "auto"
    modes: tuple[Literal["sample", "best"], ...] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    quick: bool = False


FAKE = ("--output a", '--output a --trainer.num_steps 3 --text "# b"', "--output a --quick")


@pytest.fixture
def ran(monkeypatch) -> list[Config]:
    """Configs that the fake commands ran with."""
    configs: list[Config] = []

    def run(config: Config) -> None:
        if config.output == "interrupt":
            raise KeyboardInterrupt
        if config.output in ("wrong", "bug"):
            raise {"wrong": ValueError, "bug": RuntimeError}[config.output]("the rule,\n  got this")
        configs.append(config)

    monkeypatch.setitem(sys.modules, "edlm.commands.fake", SimpleNamespace(run=run))
    monkeypatch.setitem(COMMANDS, "train fake", Command("fake:run", "does nothing", FAKE))
    monkeypatch.setitem(COMMANDS, "fake", Command("fake:run", "does nothing", ("a", "", ""), positional=True))
    monkeypatch.delenv("EDLM_DEBUG", raising=False)
    return configs


@pytest.fixture
def write(tmp_path):
    """Writes a YAML file and returns its path."""

    def write_text(text: str, name: str = "config.yaml") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write_text


def test_cli_keys_override_files_and_later_files_earlier_ones(ran, write):
    first = write("output: a\ntrainer:\n  learning_rate: 2e-4\n  num_steps: 3\nextra: {j: 1}\n", "first.yaml")
    second = write("output: b\nextra: {k: [1, x]}\nparts: [{num_steps: 3}]\nsecond: {num_steps: 2}", "second.yaml")
    files, key = ["--config", first, f"--config={second}"], ["--trainer.num_steps", "5", "--quick"]
    parts = {"second": Trainer(num_steps=2), "parts": [Trainer(num_steps=3)]}
    expected = Config("b", Trainer(2e-4, 5), **parts, extra={"k": [1, "x"]}, quick=True)
    assert cli.main(["train", "fake", *files, *key]) == cli.main(["train", "fake", *key, *files]) == 0
    assert ran == [expected, expected]


def test_cli_takes_required_keys_of_a_positional_command_by_position(ran, capsys):
    assert cli.main(["fake", "here", "--trainer.num_steps", "2", "--second", "null", "--extra.k", "1"]) == 0
    assert ran == [Config("here", Trainer(num_steps=2), extra={"k": 1})]
    assert cli.main(["fake", "here", "too"]) == cli.main(["fake", "--output", "here", "too"]) == 2
    assert capsys.readouterr().err.count("unrecognized arguments: too") == 2
    assert cli.main(["fake", "--quick", "--output", "here"]) == cli.main(["fake", "--output=here", "--quick"]) == 0
    assert ran[1:] == [Config("here", quick=True)] * 2


def test_cli_prints_a_config_that_can_be_read_back(ran, write, capsys):
    assert cli.main(["train", "fake", "--output", "a", "--extra", "{k: 1}", "--print_config"]) == 0 and ran == []
    assert cli.main(["train", "fake", "--config", write(capsys.readouterr().out)]) == 0
    assert ran == [Config("a", Trainer(1e-3, 7), extra={"k": 1})]


def test_cli_help_shows_docstrings_of_fields_also_inherited_ones(ran, capsys):
    assert cli.main(["train", "fake", "--help-all"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("usage: edlm train fake --output OUTPUT [--key value ...]\n")
    assert "--trainer.learning_rate" in printed and "--print_config" in printed
    assert "Peak rate. (type: float" in printed and "Number of updates. (type: int" in printed


def test_cli_help_shows_examples_and_the_keys_in_them(ran, capsys):
    assert cli.main(["train", "fake", "--help"]) == 0
    printed = capsys.readouterr().out
    examples = "".join(f"  edlm train fake {example}\n" for example in FAKE)
    assert f"does nothing\n\nexamples:\n{examples}\n" in printed and "--help-all shows all keys" in printed
    keys = re.findall(r"^ +(--[\w.]+)", printed, re.MULTILINE)
    assert keys == ["--output", "--text", "--quick", "--trainer.num_steps"]
    assert cli.main(["fake", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: edlm fake OUTPUT [--key value ...]\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_of_a_command_can_be_parsed(monkeypatch, name):
    monkeypatch.chdir(ROOT)
    for example in COMMANDS[name].examples:
        assert parse([*name.split(), *shlex.split(example)])[0] == name


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("argv", [[], ["train"], ["demo"], ["compare"]], ids=" ".join)
def test_help_fits_a_terminal_but_for_examples(monkeypatch, capsys, argv, width):
    monkeypatch.setenv("COLUMNS", str(width))
    assert cli.main([*argv, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("  edlm ") for line in lines) == 3
    assert [line for line in lines if len(line) > width and not line.startswith(("usage: ", "  edlm "))] == []


@pytest.mark.parametrize("width", [20, 60])
def test_a_table_that_is_wider_than_the_screen_is_printed_as_lines(width):
    screen = Console(width=width, file=io.StringIO())
    table = Table("method", "seconds per sequence", title="times")
    table.add_row("base", "0.1")
    show(screen, table)
    printed = screen.file.getvalue()
    assert ("method: base seconds per sequence: 0.1" in " ".join(printed.split())) == (width == 20)
    assert ("│ base " in printed) == (width == 60)


TEXTS = ["# Chapter one", "#tag", "#include <stdio.h>", "null", "~", "[1]", "{a: 1}", "- b", "3"]


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_typed_for_a_text_is_that_text(ran, text):
    for given in (["--text", text, "--name", text], [f"--text={text}", f"--name={text}"]):
        assert cli.main(["train", "fake", "--output", text, *given]) == 0
        assert (ran[-1].output, ran[-1].text) == (text, text)
        assert ran[-1].name == (None if text == "null" else text)  # which replaces a default
    assert cli.main(["train", "fake", "--output", "a", "--texts", text, "--count", "null"]) == 0
    assert ran[-1].texts == text and ran[-1].count is None
    assert cli.parse_config(["--text", text, "--output", "a"], Config).text == text


def test_a_text_of_a_file_may_be_null_and_words_override_it(ran, write):
    file = write("output: a\ntext: null\nname: ~\ntexts: '#'\n")
    assert cli.main(["train", "fake", "--config", file]) == 0
    assert (ran[0].text, ran[0].name, ran[0].texts) == (None, None, "#")
    assert cli.main(["train", "fake", "--text", "~", "--texts", "[a, b]", "--config", file]) == 0
    assert (ran[1].text, ran[1].texts) == ("~", ("a", "b"))


@pytest.mark.parametrize("text", TEXTS)
def test_a_printed_text_is_read_back(ran, write, capsys, text):
    assert cli.main(["train", "fake", "--output", text, "--text", text, "--print_config"]) == 0 and ran == []
    assert cli.main(["train", "fake", "--config", write(capsys.readouterr().out)]) == 0
    assert ran == [Config(text, text=text)]


def test_dashes_in_keys_are_underscores(ran):
    words = ["--trainer.num-steps=3", "--second.learning-rate", "1", "--extra.a-b", "1", "--extra.c_d", "2"]
    assert cli.main(["train", "fake", "--output", "a-b", *words]) == 0
    expected = {"trainer": Trainer(num_steps=3), "second": Trainer(1.0), "extra": {"a-b": 1, "c_d": 2}}
    assert ran == [Config("a-b", **expected)]


def test_edlm_says_its_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"edlm {__version__}\n"


MISTAKES = {  # what is wrong in a file, or behind `fake`, or in the command's name
    "outputs: a": "unknown key 'outputs'; did you mean 'output'?",
    "trainer: {learning_rat: 1}": "unknown key 'trainer.learning_rat'; did you mean 'trainer.learning_rate'?",
    "output: a\nsecond: {num_step: 1}": "unknown key 'second.num_step'; did you mean 'second.num_steps'?",
    "output: a\nparts: [{num_step: 1}]": "unknown key 'parts.num_step'; did you mean 'parts.num_steps'?",
    "output: a\ntrainer: {num_steps: 3.5}": "trainer.num_steps must be an integer, got 3.5",
    "output: a\ntrainer: {num_steps: 0}": "num_steps must be >= 1, got 0",
    "output: a\ntrainer: 3": "mapping",
    "output: [a": "config.yaml must hold YAML, got while parsing a flow sequence",
    "output: a\nmodes: [sample, bets]": "modes must be a list of 'sample' or 'best' or None, got bets; did you",
    "output: a\nparts: [{num_steps: x}]": "parts.num_steps must be an integer, got x",
    "output: a\nsecond: {num_steps: x}": "second.num_steps must be an integer, got x",
    "output: a\nparts: 3": "parts must be a list, got 3",
    "fake a --trainer 3": "trainer must be a mapping, got 3",
    "fake a --quick maybe": "quick must be True or False, got maybe",
    "fake a --count x": "count must be an integer or None, got x",
    "fake a --mode bets": "mode must be 'sample', 'best' or 'auto', got bets; did you mean 'best'?",
    "fake a --modes [bets]": "modes must be a list of 'sample' or 'best' or None, got [bets]; did you mean 'best'?",
    "fake a --num-steps 3": "unknown key 'num-steps'; did you mean 'trainer.num_steps'?",
    "num_steps: 3": "unknown key 'num_steps'; did you mean 'trainer.num_steps'?",
    "output: a\nlearning_rat: 3": "unknown key 'learning_rat'; did you mean 'trainer.learning_rate'?",
    "trainer: {num_steps: 3}": "required: output",
    "fake a --outputs 1": "unknown key 'outputs'; did you mean 'output'?",
    "fake a --trainer.learning_rat=1": "unknown key 'trainer.learning_rat'; did you mean 'trainer.learning_rate'?",
    "fake a --second.num_step 1": "unknown key 'second.num_step'; did you mean 'second.num_steps'?",
    "fake a --config nowhere.yaml": "nowhere.yaml",
    "fake wrong": "the rule, got this",
    "sampel": "unknown command 'sampel'; did you mean 'sample'?",
    "infoo tinystories": "unknown command 'infoo'; did you mean 'info'?",
    "train energi --seed 1": "unknown command 'train energi'; did you mean 'train energy'?",
}


@pytest.mark.parametrize("wrong", MISTAKES)
def test_cli_names_a_mistake_in_one_line(ran, write, capsys, wrong):
    assert cli.main(["train", "fake", "--config", write(wrong)] if ":" in wrong else wrong.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("edlm: error: ") and error.count("\n") == 1 and MISTAKES[wrong] in error
    assert ran == []


def test_cli_shows_tracebacks_of_bugs_and_with_edlm_debug_of_all(ran, monkeypatch):
    assert cli.main(["fake", "interrupt"]) == 130
    with pytest.raises(RuntimeError):
        cli.main(["fake", "bug"])
    monkeypatch.setenv("EDLM_DEBUG", "1")
    with pytest.raises(ValueError, match="the rule"):
        cli.main(["fake", "wrong"])


@pytest.mark.parametrize(("argv", "code"), [(["--help"], 0), ([], 2), (["train", "-h"], 0), (["train"], 2)])
def test_cli_lists_the_commands_of_a_group(capsys, argv, code):
    assert cli.main(argv) == code
    printed = capsys.readouterr().out
    assert ("benchmark" in printed, "autoregressive" in printed) == (("train" not in argv), ("train" in argv))


def test_cli_help_imports_no_torch_and_m_edlm_passes_the_exit_code():
    code = (
        "import json, sys; from edlm.cli import main; main(['--help']);"
        "print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules} & {'torch', 'transformers', 'numpy'})))"
    )
    assert json.loads(_python("-c", code).stdout.splitlines()[-1]) == []
    done = _python("-m", "edlm", "sampel")
    assert done.returncode == 2 and "did you mean 'sample'?" in done.stderr


@pytest.mark.parametrize(("script", "command"), SCRIPTS.items())
def test_a_script_is_its_command(monkeypatch, script, command):
    calls = []
    monkeypatch.setattr(cli, "main", lambda argv: calls.append(argv) or 3)
    monkeypatch.setattr(sys, "argv", [script, "--seed", "1"])
    with pytest.raises(SystemExit, match="3"):
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert calls == [[*command.split(), "--seed", "1"]] and command in COMMANDS


def test_every_script_is_tested_above_and_every_command_can_be_loaded():
    scripts = [*ROOT.glob("training/*.py"), *ROOT.glob("sampling/*.py")]
    assert {str(path.relative_to(ROOT)) for path in scripts} == set(SCRIPTS)
    for command in COMMANDS.values():
        function, config_class = command.load()
        assert function.__module__.startswith("edlm.commands.") and is_dataclass(config_class)


def _python(*args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, cwd=ROOT, env=env)


@pytest.mark.parametrize(
    "words",
    [
        ["--energy", "a", "--energy", "b"],
        ["--energy", "a", "b"],
        ["--energy=a", "--energy=b"],
        ["--energy", "[a, b]"],
        ["--energy", "[a]", "b"],
    ],
)
def test_several_values_of_a_key_are_a_list(words):
    _, config = parse(["evaluate", "--denoiser", "d", *words, "--num_steps", "2", "4", "--seed", "1", "--seed", "2"])
    assert [method.energy for method in config.methods] == ["a", "b"]
    assert config.num_steps == (2, 4) and config.seed == 2


def test_several_texts_stay_texts_also_where_they_look_like_numbers():
    _, config = parse(["prepare", "corpus", "--source", "2020", "1.5", "--output_dir", "c"])
    assert config.source == ("2020", "1.5")
    _, config = parse(["evaluate", "--denoiser", "d", "--orders", "random", "bisecting"])
    assert config.orders == ("random", "bisecting")


def test_one_word_is_a_list_of_one_and_what_is_no_list_is_text():
    _, config = parse(["evaluate", "--denoiser", "d", "--num_steps", "4", "--orders", "random"])
    assert config.num_steps == (4,) and config.orders == ("random",)
    _, config = parse(["choose", "--text", "the <mask>", "--options", "[a", "[1] first", "c: d"])
    assert config.options == ("[a", "[1] first", "c: d")
    wrong = {"--num_steps 2 []": "num_steps must not be empty", "--energy a ''": "energy must hold no empty text"}
    for words, message in wrong.items():
        with pytest.raises(ValueError, match=message):
            parse(["evaluate", "--denoiser", "d", *shlex.split(words)])
