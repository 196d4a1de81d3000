import pytest

import edlm.sampler.bounds
import edlm.sampler.sampler
from tests.chance import BulkStreams


@pytest.fixture
def bulk_streams(monkeypatch):
    """Draws for 200,000 rows at once; the rows' own streams are tested in ``test_streams.py``."""
    for module in (edlm.sampler.sampler, edlm.sampler.bounds):
        monkeypatch.setattr(module, "RowStreams", BulkStreams)
