"""The public names; imports point one way and in no circle; lengths of files, parameter lists and test names."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import edlm

ROOT = Path(__file__).resolve().parents[1]
HOUSE = """
rules verdicts modules packages disk lock files processes memory hub numerics corpus diffusion denoisers energies
testing sampler integrations jobs training evaluation pipeline commands cli
""".split()
EVALUATION = "estimates likelihood samples languages experiment plots report evaluation".split()
ENTRANCES = {"edlm", "edlm.__main__"}  # they may see everything
PUBLIC = """
EnergySampler SamplerOptions RerankLogits DreamLogitsHook Denoiser FunctionDenoiser load_denoiser wrap_denoiser
Energy AutoregressiveEnergy CallableEnergy ResidualHead SequenceEnergy TextEnergy load_energy
audit corpus denoisers diffusion energies evaluation hf_generate integrations rerank rerank_step sampler training
"""


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {name_of(path): path for path in sorted((ROOT / "edlm").rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def imported(name: str, tree: ast.AST, is_package: bool = False) -> set[str]:
    """Modules of edlm that a module imports: inside functions, and for type checkers alone, too."""
    package = name.split(".") if is_package else name.split(".")[:-1]
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [alias.name for alias in node.names if alias.name != "__version__"]
            modules.update(f"{base}.{name}" if f"{base}.{name}" in FILES else base for name in names)
    return {module for module in modules if module.partition(".")[0] == "edlm"}


GRAPH = {name: imported(name, tree, FILES[name].name == "__init__.py") for name, tree in TREES.items()}


def edges() -> Iterator[tuple[str, str]]:
    return ((name, other) for name in GRAPH if name not in ENTRANCES for other in GRAPH[name])


def test_edlm_exports_its_public_names():
    assert sorted(PUBLIC.split()) == edlm.__all__ == dir(edlm)
    assert all(getattr(edlm, name).__name__.removeprefix("edlm.") == name for name in edlm.__all__)


def test_imports_have_no_cycle():
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_imports_point_down_the_house_only():
    assert {name.split(".")[1] for name in FILES if name not in ENTRANCES} <= set(HOUSE)
    assert any("edlm.sampler." in name and "edlm.diffusion." in other for name, other in edges())
    for name, other in edges():
        assert other != "edlm", f"{name} imports a name of edlm: import the module that defines it"
        assert HOUSE.index(name.split(".")[1]) >= HOUSE.index(other.split(".")[1]), f"{name} imports {other}"


def test_imports_inside_evaluation_point_one_way_and_harness_is_apart():
    inside = [[name.split(".")[2] for name in pair] for pair in edges() if all("edlm.evaluation." in n for n in pair)]
    assert {part for pair in inside for part in pair} == {*EVALUATION, "harness"}
    for part, other in inside:
        if "harness" in (part, other):
            assert part == "harness", f"{part} imports {other}"
        else:
            assert EVALUATION.index(part) >= EVALUATION.index(other), f"{part} imports {other}"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from edlm.energies.proposal import Proposal", {"edlm.energies.proposal"}),
        ("import edlm.energies.base as b, torch", {"edlm.energies.base"}),
        ("from edlm import cli, __version__", {"edlm.cli"}),
        ("from .slots import Slots", {"edlm.diffusion.slots"}),
        ("from ..energies import base", {"edlm.energies.base"}),
        ("def f():\n    from edlm.training import trainer", {"edlm.training.trainer"}),
        ("if TYPE_CHECKING:\n    from edlm.cli import main", {"edlm.cli"}),
        ("import torch\nfrom torch import nn\nfrom edlmore import x", set()),
    ],
)
def test_imported_finds_modules_of_edlm(source, expected):
    assert imported("edlm.diffusion.schedule", ast.parse(source)) == expected


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_no_file_of_edlm_is_above_260_lines():
    lengths = {name: len(path.read_text().splitlines()) for name, path in FILES.items()}
    assert {name: length for name, length in lengths.items() if length > 260} == {}


def test_no_function_has_more_than_7_parameters():
    def count(arguments: ast.arguments) -> int:
        names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        return len([name for name in names if name not in ("self", "cls")])

    counts = {f"{name}.{f.name}": count(f.args) for name, tree in TREES.items() for f in functions(tree)}
    assert {name: number for name, number in counts.items() if number > 7} == {}


def test_names_of_tests_have_at_most_70_characters():
    names = [f.name for path in (ROOT / "tests").rglob("test_*.py") for f in functions(ast.parse(path.read_text()))]
    assert [name for name in names if name.startswith("test_") and len(name) > 70] == []
