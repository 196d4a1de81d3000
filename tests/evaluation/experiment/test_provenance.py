"""Where a result came from."""

import subprocess

import pytest
import torch

from edlm.evaluation.experiment.provenance import provenance, revision_of


def test_revision_is_dirty_only_where_the_package_is(tmp_path):
    package, name = tmp_path / "package", ["-c", "user.name=a", "-c", "user.email=a@b"]

    def git(*words):
        subprocess.run(["git", "-C", tmp_path, *name, *words], check=True, capture_output=True)

    def revision():
        revision_of.cache_clear()
        return revision_of(package)

    package.mkdir()
    assert revision() is None
    git("init")
    for file in (package / "code.py", tmp_path / "report.json"):
        file.write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    clean = revision()
    assert clean and not clean.endswith("-dirty")
    (tmp_path / "report.json").unlink()
    (tmp_path / "other.txt").write_text("2")
    assert revision() == clean
    (package / "code.py").write_text("2")
    assert revision() == f"{clean}-dirty"
    git("checkout", "package")
    (package / "more.py").write_text("3")
    assert revision() == f"{clean}-dirty"


def test_revision_of_an_untracked_package_is_none(tmp_path):
    """Installed in the environment of some project, ignored there or not."""
    project, name = tmp_path / "project", ["-c", "user.name=a", "-c", "user.email=a@b"]
    package = project / ".venv" / "lib" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("1")
    (project / "own.py").write_text("1")
    for words in (["init"], ["add", "own.py"], ["commit", "-m", "first"]):
        subprocess.run(["git", "-C", project, *name, *words], check=True, capture_output=True)
    for ignored in ("", ".venv/"):
        (project / ".gitignore").write_text(ignored)
        revision_of.cache_clear()
        assert revision_of(package) is None
    assert revision_of(project) is not None


@pytest.mark.parametrize("used", [True, False])
def test_provenance_names_a_gpu_only_if_it_was_used(monkeypatch, used):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: used)
    assert provenance()["machine"]["gpu"] == ("a GPU" if used else None)
