"""The README's Python blocks run as they stand, and its shell blocks name commands that exist."""

import re
from pathlib import Path

import pytest

from edlm.cli import COMMANDS

README = Path(__file__).parent.parent / "README.md"


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_there_are_python_blocks_to_run():
    assert len(python_blocks()) >= 2


@pytest.mark.parametrize("block", python_blocks(), ids=lambda block: block.strip().splitlines()[0])
def test_python_block_runs(block):
    names = {}
    exec(block, names)  # noqa: S102
    tokens = names["output"].tokens if "output" in names else names["tokens"]
    assert tokens.ndim == 2 and len(tokens) == 2


def test_shell_commands_exist():
    lines = re.findall(r"^    (edlm .*)$", README.read_text(), re.MULTILINE)
    assert lines
    for line in lines:
        words = line.split()
        assert " ".join(words[1:3]) in COMMANDS or words[1] in COMMANDS, line
