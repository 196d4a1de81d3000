"""Imports point one way, down the list of the house."""

import ast
from pathlib import Path

import pytest

import edlm

ROOT = Path(edlm.__file__).parent
HOUSE = ["numerics", "corpus", "diffusion", "denoisers", "energies", "sampler"]
HOUSE += ["config", "training", "evaluation", "commands", "cli"]
ENTRANCES = {"__init__", "__main__"}  # they may see everything
FILES = sorted(ROOT.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def is_type_checking(node: ast.AST) -> bool:
    test = node.test if isinstance(node, ast.If) else None
    return getattr(test, "id", getattr(test, "attr", None)) == "TYPE_CHECKING"


def imported(tree: ast.AST, package: tuple[str, ...]) -> set[str]:
    """Parts of edlm that a module imports, inside functions too; what only type checkers see is exempt."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node):
            names = [part for other in node.orelse for part in imported(ast.Module([other], []), package)]
        elif isinstance(node, ast.Import):
            names = [_part(alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
            base = base if node.level else node.module
            names = [_part(base)] if base != "edlm" else [_part(f"edlm.{alias.name}") for alias in node.names]
        else:
            names = imported(node, package)
        found.update(names)
    return found - {"", "__version__"}


def _part(name: str) -> str:
    parts = name.split(".")
    if parts[0] != "edlm":
        return ""
    return parts[1] if len(parts) > 1 else "edlm itself"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_what_stands_above_it(path):
    part = part_of(path)
    if part in ENTRANCES:
        return
    assert part in HOUSE, f"{part} has no place in the house: {HOUSE}"
    package = ("edlm", *path.relative_to(ROOT).parent.parts)
    for other in imported(ast.parse(path.read_text()), package):
        if other == "edlm itself":
            other = "the names of edlm"
        assert other in HOUSE, f"{path.name} imports {other}: import the module that defines it"
        assert HOUSE.index(other) <= HOUSE.index(part), f"{part} imports {other}, which stands below it"


def test_every_part_of_the_house_is_looked_at():
    assert set(HOUSE) | ENTRANCES >= {part_of(path) for path in FILES} >= set(HOUSE)
    assert "diffusion" in imported(ast.parse((ROOT / "sampler" / "sampler.py").read_text()), ("edlm", "sampler"))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from edlm.sampler.window import Times", {"sampler"}),
        ("import edlm.energies.base as b, torch", {"energies"}),
        ("from edlm import cli, __version__", {"cli"}),
        ("from . import reveal", {"diffusion"}),
        ("from .slots import Slots", {"diffusion"}),
        ("from ..energies import base", {"energies"}),
        ("from .. import cli", {"cli"}),
        ("def f():\n    from edlm.training import trainer", {"training"}),
        ("if TYPE_CHECKING:\n    from edlm.cli import main", set()),
        ("import typing\nif typing.TYPE_CHECKING:\n    import edlm.cli\nelse:\n    import edlm.sampler", {"sampler"}),
        ("try:\n    import edlm.sampler\nexcept ImportError:\n    import edlm.cli", {"sampler", "cli"}),
        ("import torch\nfrom torch import nn\nfrom edlmore import x", set()),
    ],
)
def test_what_counts_as_an_import(source, expected):
    assert imported(ast.parse(source), ("edlm", "diffusion")) == expected
