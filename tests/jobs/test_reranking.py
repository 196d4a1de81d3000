"""Reranking by several processes writes the same file."""

import json

import pytest


@pytest.mark.parametrize("processes", [2, 3])
def test_bytes_are_the_same_for_all_numbers_of_processes(models, launcher, tmp_path, processes):
    rows = [
        {"prompt": "the cat"[: i % 7], "texts": [" sat" * (j % 3 + 1) for j in range(i % 4 + 1)]} for i in range(50)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    written = []
    for number in (1, processes):
        output = tmp_path / f"{number}.jsonl"
        argv = ["rerank", tmp_path / "rows.jsonl", "--energy", f"causal:{models / 'judge'}", "--output", output]
        codes = launcher.run([str(word) for word in argv], tmp_path / "log", number)
        assert codes == [0] * number, (tmp_path / "log").read_text()
        written.append(output.read_bytes())
    assert written[0] == written[1] and len(written[0].splitlines()) == 50
    assert (tmp_path / "log").read_text().count("reranked by") == 2
