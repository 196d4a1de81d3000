"""Evaluation by several processes: the same figures, whatever the processes, the kills and the restarts."""

import itertools
import json
import random

import pytest

from edlm.cli import main
from edlm.lock import locked

MEASURES = ["bounds", "samples", "judge", "frontier", "continuous", "energies"]


def words(models, output):
    options = {
        "output": output,
        "denoiser": models / "denoiser",
        "energy": models / "head",
        "data": models / "text.txt",
    }
    options |= {"samples.judge": models / "judge"}
    options |= {"measure": MEASURES, "report": "false", "length": 16}
    options |= {"num_rows": 11, "batch_size": 2, "num_steps": [1, 2], "orders": ["bisecting"], "given": "middle_third"}
    options |= {"samples.judged": 5, "samples.batch_size": 2, "frontier.temperatures": [0.8, 1.0]}
    options |= {"continuous.num_rows": 5, "continuous.num_draws": 2}
    return ["evaluate", *(f"--{name}={value}" for name, value in options.items())]


def figures(output):
    """All that is written but where and by what command."""
    record = json.loads(output.read_text())
    del record["command"], record["config"]["output"]
    return record, output.with_suffix(".rows.safetensors").read_bytes()


@pytest.fixture(scope="module")
def expected(models, launcher, tmp_path_factory):
    """The figures of one process that is not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    codes = launcher.run(words(models, folder / "a.json"), folder / "log")
    assert codes == [0], (folder / "log").read_text()
    record, rows = figures(folder / "a.json")
    assert {"continuous", "energy_spreads", "judge", "held_out_text"} <= set(record) and len(record["settings"]) == 4
    measured = {"bound_nats_per_token", "spans_recovered", "entropy_nats", "judge_nats_per_token"}
    assert all(measured <= set(setting) for setting in record["settings"]) and len(record["frontier"]) == 4
    return record, rows


@pytest.mark.parametrize("processes", [2, 3])
def test_figures_are_the_same_for_all_numbers_of_processes(models, launcher, tmp_path, expected, processes):
    codes = launcher.run(words(models, tmp_path / "a.json"), tmp_path / "log", processes)
    assert codes == [0] * processes, (tmp_path / "log").read_text()
    assert figures(tmp_path / "a.json") == expected
    assert (tmp_path / "log").read_text().count("likelihood bound of the sampler") == 1


def test_a_kill_at_any_write_loses_no_finished_value(models, launcher, tmp_path, expected):
    for number in itertools.count(3, 14):
        argv = words(models, tmp_path / f"{number}.json")
        codes = launcher.run(argv, tmp_path / "log", kill_at_sync=number)
        if codes == [0]:
            break
        assert codes == [-9] and launcher.run(argv, tmp_path / "log") == [0]
        assert figures(tmp_path / f"{number}.json") == expected
    assert number > 30


def kill_and_restart(models, launcher, folder, seed, kills, expected):
    chance, log, killed, seconds = random.Random(seed), folder / "log", 0, 3.0
    for number in itertools.count():
        codes, argv = [-9], words(models, folder / f"{number}.json")
        while codes != [0] * len(codes):
            moment = chance.uniform(0, seconds) if killed < kills else None
            codes = launcher.run(argv, log, chance.choice([1, 2]), kill_after=moment)
            assert set(codes) <= {0, -9}, log.read_text()
            killed += codes != [0] * len(codes)
        assert figures(folder / f"{number}.json") == expected
        if killed >= kills:
            return


def test_random_kills_lose_nothing(models, launcher, tmp_path, expected):
    kill_and_restart(models, launcher, tmp_path, 1, 3, expected)


@pytest.mark.slow
def test_fifty_random_kills_lose_nothing(models, launcher, tmp_path, expected):
    kill_and_restart(models, launcher, tmp_path, 2, 50, expected)


def test_a_second_writer_is_refused(models, tmp_path, capsys):
    argv = words(models, tmp_path / "a.json")
    with locked(tmp_path, ".a.lock"):
        assert main(argv) == 2
    assert "must have one writer, got a second" in capsys.readouterr().err
