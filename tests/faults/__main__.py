"""``make faults``: everything that is tried, as one table; exit code 1 where anything is wrong."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

from tests.faults.forks import ROOT
from tests.faults.inputs import KINDS
from tests.faults.table import DISK_KINDS, Row, bench, damage_row, disk_row, table

TESTS = {  # of pytest, that kill processes, or draw what they try
    "kills: jobs": ["tests/jobs", "-k", "kill or torn"],
    "kills: training": ["tests/training/test_processes.py", "tests/training/test_trainer.py", "-k", "kill or signal"],
    "properties": ["tests/faults/test_properties.py"],
}


def main(only: str = "") -> int:
    """Run the kinds whose names hold a text; all without."""
    rows = []

    def add(row: Row) -> None:
        rows.append(row)
        print("\n".join([" ".join(row.cells), *row.wrong]), file=sys.stderr, flush=True)

    with bench() as (judge, disks):
        for kind in KINDS:
            if only in kind:
                add(damage_row(judge, kind))
        for kind in DISK_KINDS:
            if only in f"disk: {kind}":
                add(disk_row(disks, kind))
    for kind, words in TESTS.items():
        if only in kind:
            add(_tested(kind, words))
    print(table(rows))
    return int(any(row.wrong for row in rows))


def _tested(kind: str, words: list[str]) -> Row:
    """Tests, slow ones included; one that fails is counted as a traceback."""
    row, started = Row(kind), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "slow or not slow", *words, f"--junitxml={report}"]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
        cases = [*ElementTree.parse(report).iter("testcase")]
    failed = [case.get("name") for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    row.cases, row.tracebacks, row.wrong = len(cases) - skipped, len(failed), [f"{kind}: {name}" for name in failed]
    row.seconds = time.monotonic() - started
    return row


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
