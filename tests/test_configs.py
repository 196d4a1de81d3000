"""Every shipped config is read to the last key by the commands of its first lines, and reads what others write."""

import shlex
from dataclasses import is_dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig

from edlm.commands.parsing import parse
from edlm.denoisers.loading import SHIPPED
from edlm.pipeline.config import PipelineConfig

ROOT = Path(__file__).resolve().parents[1]
LAUNCHES = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))
FILES = sorted({*(ROOT / "configs").rglob("*.yaml")} - {*LAUNCHES})


def commands(path: Path) -> list[list[str]]:
    """Words after `edlm` of the file's first lines, one or more: `# edlm COMMAND --config FILE ...`."""
    return [shlex.split(line)[2:] for line in takewhile(lambda line: line.startswith("# edlm "), path.open())]


@pytest.fixture(scope="module")
def configs() -> dict[tuple[Path, int], Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return {(path, i): parse(words)[1] for path in FILES for i, words in enumerate(commands(path))}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_config_is_read_to_the_last_key(configs, path):
    assert commands(path)
    for i, words in enumerate(commands(path)):
        files = [word for word, before in zip(words[1:], words, strict=False) if before == "--config"]
        assert files[-1] == str(path.relative_to(ROOT))
        _check_same(configs[path, i], yaml.safe_load(path.read_text()), path.stem)


@pytest.mark.parametrize("path", LAUNCHES, ids=lambda path: path.stem)
def test_a_launch_config_is_one_of_accelerate(path):
    options = ClusterConfig.from_yaml_file(str(path))  # refuses unknown keys
    assert options.distributed_type == "FSDP" and options.fsdp_config["fsdp_version"] == 2
    assert options.num_processes == 8 * options.num_machines
    assert f"accelerate launch --config_file {path.relative_to(ROOT)} " in path.read_text()


def _check_same(value: Any, written: Any, where: str) -> None:
    if isinstance(written, dict):
        for key, item in written.items():
            _check_same(getattr(value, key) if is_dataclass(value) else value[key], item, f"{where}.{key}")
    elif isinstance(written, list):
        assert len(value) == len(written), where
        for i, (one, other) in enumerate(zip(value, written, strict=True)):
            _check_same(one, other, f"{where}[{i}]")
    else:
        assert value == written, where


def test_runs_that_configs_read_are_written_by_other_configs(configs):
    shipped = {f"tinystories/{path.parent.name}" for path in (SHIPPED / "tinystories").glob("*/energy.json")}
    written = {c.output_dir for c in configs.values() if hasattr(c, "output_dir")}
    written |= {f"{c.trainer.output_dir}/final" for c in configs.values() if hasattr(c, "trainer")}
    written |= {path for c in configs.values() if isinstance(c, PipelineConfig) for path in _stages(c)}
    written |= {f"{path}/energy" for path in written} | shipped | {path.name for path in SHIPPED.iterdir()}
    read = {getattr(c, key, None) for c in configs.values() for key in ("corpus", "denoiser", "energy", "start_from")}
    read |= {item.energy for c in configs.values() for key in ("methods", "energies") for item in _items(c, key)}
    missing = read - written - {None, ()}
    assert {name for name in missing if "package:" not in name} == set()


def _stages(pipeline: PipelineConfig) -> list[str]:
    """Folders that the stages of a pipeline leave."""
    ends = {name: "/final" if stage.command.startswith("train ") else "" for name, stage in pipeline.stages.items()}
    return [f"{pipeline.output}/{name}{end}" for name, end in ends.items()]


def _items(config: Any, key: str) -> list[Any]:
    return [item for item in getattr(config, key, ()) if hasattr(item, "energy")]
