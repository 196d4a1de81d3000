"""Write the golden numbers anew: ``python -m tests.golden.write``. Only where a number is meant to change."""

import tempfile
from pathlib import Path

from tests.golden.cases import small_numbers
from tests.golden.numbers import save
from tests.golden.shipped import shipped_numbers

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        save(small_numbers() | shipped_numbers(Path(folder)))
