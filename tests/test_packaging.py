"""What is installed: the distribution's name, its address, its files, and what the documents say of them."""

import re
from email.message import Message
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import yaml

from edlm import __version__, packages
from edlm.packages import install_line

tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = SETTINGS["project"]
INSTALLED = re.compile(r'pip install "edlm-rerank(?:\[(\w+)\])? @ git\+(URL|\{address\})"')


def test_every_install_line_is_that_of_the_distribution():
    assert PROJECT["name"] == packages.DISTRIBUTION == "edlm-rerank"
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("edlm/**/*.py"), *ROOT.glob("configs/**/*.yaml")]
    lines = [line for page in pages for line in page.read_text().splitlines() if re.search(r"pip install.*edlm", line)]
    assert lines and all(INSTALLED.search(line) for line in lines), lines
    extras = {match for line in lines for match in INSTALLED.findall(line)}
    assert {extra for extra, _ in extras if extra} <= PROJECT["optional-dependencies"].keys()
    assert not [page.name for page in pages if "edlm[" in page.read_text()]


def test_the_address_is_written_once_and_error_messages_have_it(monkeypatch):
    (address,) = PROJECT["urls"].values()
    assert not [page for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")) if address in page.read_text()]
    installed = Message()
    installed["Project-URL"] = f"Repository, {address}"
    monkeypatch.setattr(packages, "metadata", lambda name: installed)
    assert install_line("plots") == f'pip install "edlm-rerank[plots] @ git+{address}"'

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(packages, "metadata", missing)
    assert install_line("plots") == 'pip install "edlm-rerank[plots] @ git+URL"'


def test_every_file_of_the_package_is_installed():
    patterns = SETTINGS["tool"]["setuptools"]["package-data"]["edlm"]
    package = ROOT / "edlm"
    installed = {path for pattern in patterns for path in package.glob(pattern)}
    files = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in files if path.suffix != ".py"} <= installed
    assert any("-of-" in path.name for path in installed)  # sharded weights


def test_citation_and_distribution_have_the_version_of_the_package():
    assert SETTINGS["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "edlm.__version__"}
    assert str(yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]) == __version__
