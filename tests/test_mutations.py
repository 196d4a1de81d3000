"""The faults that `tests.mutations` plants by hand can be planted: their lines are there."""

import pytest

from tests.mutations import FAULTS, ROOT


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.truth for fault in FAULTS])
def test_the_line_of_a_fault_stands_once_in_its_file(fault):
    assert (ROOT / fault.path).read_text().count(fault.line) == 1
