import pytest

import edlm.sampler.sampler
from tests.chance import BulkStreams


@pytest.fixture
def bulk_streams(monkeypatch):
    """Draws for 200,000 rows at once; the rows' own streams are tested in ``test_streams.py``."""
    monkeypatch.setattr(edlm.sampler.sampler, "RowStreams", BulkStreams)
