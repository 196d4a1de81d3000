"""No number changes: the numbers of the code as it is, against those of ``numbers.json``.

Those of tables were written at revision d4ba5e9, before the redesign (``untrusted``, decided on all rows, later); those
of networks in November 2026, when they became float64 so that all processors agree (within 1e-4 of those before); those
of the shipped models with the models. ``python -m tests.golden.write BEGINNING`` writes entries anew, for
a change that is meant to change numbers. Tokens, counts and texts must be equal; other numbers to 1e-9 of themselves,
and to 1e-6 where a network has a part in them. Options whose defaults may change are all given.
"""

import pytest

from tests.golden.cases import small_numbers
from tests.golden.numbers import differences, load
from tests.golden.shipped import shipped_numbers

GOLDEN = load()
SHIPPED = [name for name in GOLDEN if name.startswith("shipped/")]
SMALL = [name for name in GOLDEN if name not in SHIPPED]


@pytest.fixture(scope="module")
def small():
    return small_numbers()


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    return shipped_numbers(tmp_path_factory.mktemp("golden"))


def check(name, measured):
    assert name in measured, f"{name} is no longer measured"
    different = differences(name, GOLDEN[name], measured[name])
    assert not different, "\n".join([name, *different])


@pytest.mark.parametrize("name", SMALL)
def test_no_number_of_the_small_world_changes(small, name):
    check(name, small)


@pytest.mark.parametrize("name", SHIPPED)
def test_no_number_of_the_shipped_models_changes(shipped, name):
    check(name, shipped)


def test_every_measured_number_is_compared(small, shipped):
    assert [*small, *shipped] == list(GOLDEN)


def test_differences_name_their_place_and_size():
    golden = {"tokens": [[1, 2]], "bound": [1.0, float("inf")], "kept": 3, "texts": []}
    assert differences("world/a", golden, {**golden, "bound": [1.0 + 1e-12, float("inf")], "new": 1}) == []
    measured = {"tokens": [[1, 3]], "bound": [1.5, float("nan")], "texts": ["a"]}
    assert differences("world/a", golden, measured) == [
        "/tokens/0/1 is 3, was 2",
        "/bound/0 is 1.5, was 1.0, by 0.5",
        "/bound/1 is nan, was inf, by nan",
        "/kept is gone, was 3",
        "/texts is gone, was 'empty'",
    ]
