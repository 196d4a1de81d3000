"""Sizes of the parts in which tables are computed."""

import pytest
import torch

from edlm.memory import parts_of_table, rows_at_once

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("width", "device", "of_cpu", "rows"),
    [(8, CPU, 64, 8), (8, CPU, 7, 1), (50258, CPU, 8 * 50258, 8), (2**20, CUDA, 1, 64), (2**30, CUDA, 1, 1)],
)
def test_rows_fit_in_the_entries_of_their_device(width, device, of_cpu, rows):
    assert rows_at_once(width, device, of_cpu) == rows


def test_parts_are_all_rows_in_order():
    parts = parts_of_table(5, 2**21, CPU)
    assert [part.tolist() for part in parts] == [[0, 1], [2, 3], [4]]
