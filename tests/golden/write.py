"""Write golden numbers anew: ``python -m tests.golden.write shipped/evaluate``. Only where a number is meant to change.

The argument is the beginning of the entries' names; all others stay as they are, and entries that are no longer
measured go.
"""

import sys
import tempfile
from pathlib import Path

from tests.golden.cases import small_numbers
from tests.golden.numbers import load, save
from tests.golden.shipped import shipped_numbers

if __name__ == "__main__":
    (beginning,) = sys.argv[1:]
    known = load()
    with tempfile.TemporaryDirectory() as folder:
        measured = small_numbers() | shipped_numbers(Path(folder))
    save({name: new if name.startswith(beginning) else known[name] for name, new in measured.items()})
