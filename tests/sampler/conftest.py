import pytest

import edlm.sampler.bounds
import edlm.sampler.one_step
import edlm.sampler.sampler
from edlm import EnergySampler, load_denoiser, load_energy
from tests.chance import BulkStreams


@pytest.fixture
def bulk_streams(monkeypatch):
    """Draws for 200,000 rows at once; the rows' own streams are tested in ``test_streams.py``."""
    for module in (edlm.sampler.sampler, edlm.sampler.bounds):
        monkeypatch.setattr(module, "RowStreams", BulkStreams)
    streams = {}  # one for all steps of a loop
    monkeypatch.setattr(
        edlm.sampler.one_step, "RowStreams", lambda seeds: streams.setdefault(len(seeds), BulkStreams(seeds))
    )


@pytest.fixture(scope="session")
def stories() -> EnergySampler:
    """The shipped pair, with exact decisions."""
    options = {"num_steps": 2, "num_candidates": None, "order": "dilated"}
    return EnergySampler(load_denoiser("tinystories"), load_energy("tinystories"), **options)
