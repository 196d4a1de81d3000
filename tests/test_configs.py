"""Every shipped config is one of its command's, down to the last key, and leads where it says."""

from __future__ import annotations

import importlib
from dataclasses import is_dataclass
from pathlib import Path

import pytest
import yaml

from edlm.cli import COMMANDS, command_of, load_config

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "configs").glob("**/*.yaml"))


def load(path: Path):
    module, _, name = COMMANDS[command_of(path)].config.partition(":")
    return load_config(path, getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_config_is_read_to_the_last_key(path):
    config = load(path)
    assert path.read_text().startswith(
        f"# edlm {command_of(path)} --config configs/{path.relative_to(ROOT / 'configs')}\n"
    )
    _same(config, yaml.safe_load(path.read_text()), path.stem)


def _same(found, written, where: str) -> None:
    if is_dataclass(found):
        for key, value in written.items():
            _same(getattr(found, key), value, f"{where}.{key}")
    elif isinstance(written, dict):
        assert set(found) == set(written), where
        for key, value in written.items():
            _same(found[key], value, f"{where}.{key}")
    elif isinstance(written, list):
        assert len(found) == len(written), where
        for i, (one, other) in enumerate(zip(found, written, strict=True)):
            _same(one, other, f"{where}[{i}]")
    else:
        assert found == written, where


def test_there_are_configs_and_the_runs_that_they_read_are_written_by_others():
    configs = {path.stem: load(path) for path in FILES}
    assert len(configs) >= 14
    written = {config.output_dir for config in configs.values() if hasattr(config, "output_dir")}
    written |= {f"{config.trainer.output_dir}/final" for config in configs.values() if hasattr(config, "trainer")}
    read = {
        getattr(config, key)
        for config in configs.values()
        for key in ("corpus", "denoiser", "energy")
        if hasattr(config, key)
    }
    exported = configs["tinystories_export"].energies
    read |= set(exported.values())
    read |= {item.energy for c in configs.values() for item in getattr(c, "methods", ())}
    read |= {item.energy for item in configs["markov_truth"].energies}
    # What the autoregressive run leaves, as an energy; and what is shipped.
    written |= {f"{path}/energy" for path in written} | {f"tinystories/{name}" for name in exported}
    installed = {name for name in read if name and name.startswith("package:")}
    assert read - {None, "tinystories"} - installed <= written


def test_a_head_its_control_and_its_rival_differ_in_nothing_else():
    """The blind control sees the same data and updates as the head that it is held against."""
    for name in ("tinystories_head", "markov_head"):
        head, blind = (yaml.safe_load((ROOT / "configs" / f"{name}{end}.yaml").read_text()) for end in ("", "_blind"))
        assert blind["head"].pop("blind") is True
        assert blind["trainer"].pop("output_dir") == head["trainer"].pop("output_dir") + "_blind"
        assert blind == head
