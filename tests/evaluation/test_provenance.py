"""Where a result came from."""

import subprocess

from edlm.evaluation.provenance import revision_of


def test_a_revision_is_dirty_where_the_package_is_and_nowhere_else(tmp_path):
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
