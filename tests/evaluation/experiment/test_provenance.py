"""Where a result came from."""

import subprocess

import pytest
import torch

from edlm.evaluation.experiment.provenance import provenance, revision_of


def git(folder, *words):
    name = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", folder, *name, *words], check=True, capture_output=True)


def revision(package):
    revision_of.cache_clear()
    return revision_of(package)


def test_revision_is_dirty_only_where_the_package_is(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    assert revision(package) is None
    git(tmp_path, "init")
    for file in (package / "code.py", tmp_path / "report.json"):
        file.write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    clean = revision(package)
    assert clean and not clean.endswith("-dirty")
    (tmp_path / "report.json").unlink()
    (tmp_path / "other.txt").write_text("2")
    assert revision(package) == clean
    for changed in ("code.py", "more.py"):
        (package / changed).write_text("2")
        assert revision(package) == f"{clean}-dirty"
        git(tmp_path, "checkout", "package")


def test_revision_of_an_untracked_package_is_none(tmp_path):
    """Installed in the environment of some project, ignored there or not."""
    package = tmp_path / ".venv" / "lib" / "package"
    package.mkdir(parents=True)
    for file in (package / "__init__.py", tmp_path / "own.py"):
        file.write_text("1")
    for words in (["init"], ["add", "own.py"], ["commit", "-m", "first"]):
        git(tmp_path, *words)
    for ignored in ("", ".venv/"):
        (tmp_path / ".gitignore").write_text(ignored)
        assert revision(package) is None
    assert revision(tmp_path) is not None


@pytest.mark.parametrize("used", [True, False])
def test_provenance_names_a_gpu_only_if_it_was_used(monkeypatch, used):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: used)
    assert provenance()["machine"]["gpu"] == ("a GPU" if used else None)
