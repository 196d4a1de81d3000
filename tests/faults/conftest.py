"""A world of small files, and what cases and disks are tried with."""

import pytest

from tests.faults.cases import Judge
from tests.faults.forks import InProcess
from tests.faults.table import bench
from tests.faults.world import build


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    build(folder)
    return folder


@pytest.fixture
def judge(world, tmp_path, monkeypatch):
    """Runs cases in this process."""
    monkeypatch.delenv("EDLM_DEBUG", raising=False)
    return Judge(InProcess(), world, tmp_path)


@pytest.fixture(scope="session")
def tried():
    """Judge and disks whose commands run in processes of their own, within limits."""
    with bench() as made:
        yield made
