"""What all tests share."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def corpora_are_not_kept(tmp_path_factory):
    """Trainings on text keep their corpora in a folder of the test run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
