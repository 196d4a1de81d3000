"""Generation by actors of Ray: the bytes of one process, whatever is killed."""

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec

import psutil
import pytest

from edlm.cli import main
from edlm.jobs.generation import parts_of
from tests.jobs.forks import ROOT
from tests.jobs.test_generation import refused, whole, words

DRIVER = """
import sys
import ray
ray.init(num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False, logging_level="warning")
from edlm.cli import main
sys.exit(main(sys.argv[1:]))
"""
JOB = {"num_samples": 200, "rows_per_item": 2, "batch_size": 4}
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray")


@pytest.fixture
def start(models, tmp_path):
    """Starts the job by two actors on two CPUs; what a killed driver leaves is ended."""
    started = []

    def start_job(**options):
        argv = words(models, tmp_path / "rows.jsonl", **{**JOB, "engine": "ray", **options})
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", "HF_HUB_OFFLINE": "1"}
        environment["RAY_worker_niceness"] = "0"  # it starves on a busy machine otherwise
        log = (tmp_path / "log").open("a")
        driver = subprocess.Popen([sys.executable, "-c", DRIVER, *argv], env=environment, stdout=log, stderr=log)
        started.append(psutil.Process(driver.pid))
        return driver

    yield start_job
    for driver in started:
        if driver.is_running():
            for process in [*driver.children(recursive=True), driver]:
                process.kill()


def made(folder):
    """Keys of finished items, in the order in which they were finished."""
    files = parts_of(folder / "rows.jsonl").glob("*.jsonl")
    lines = [line for file in files for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [json.loads(line)["key"] for line in lines]


def wait_for(number, driver, folder):
    """Wait until so many items are finished."""
    while len(made(folder)) < number:
        assert driver.poll() is None, (folder / "log").read_text()[-4000:]
        time.sleep(0.05)


def actors_of(driver):
    children = psutil.Process(driver.pid).children(recursive=True)
    return [child for child in children if child.status() != "zombie" and "MapWorker" in " ".join(child.cmdline())]


@needs_ray
@pytest.mark.slow
def test_a_killed_actor_and_a_killed_driver_change_no_byte(models, start, tmp_path):
    expected, log = whole(models, tmp_path, **JOB), tmp_path / "log"
    driver = start()
    wait_for(6, driver, tmp_path)
    first, second = actors_of(driver)
    first.kill()
    wait_for(40, driver, tmp_path)
    family = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.wait()
    for process in psutil.wait_procs(family, timeout=20)[1]:  # agents of Ray, which it leaves
        assert "MapWorker" not in process.name()
        process.kill()
    before = made(tmp_path)
    assert 40 <= len(before) < 100 and not (tmp_path / "rows.jsonl").exists()
    driver = start()
    wait_for(len(before) + 6, driver, tmp_path)
    actors_of(driver)[0].kill()
    assert driver.wait(timeout=240) == 0, log.read_text()[-4000:]
    assert (tmp_path / "rows.jsonl").read_bytes() == expected
    (part,) = parts_of(tmp_path / "rows.jsonl").glob("*.jsonl")
    keys = [json.loads(line)["key"] for line in part.read_text().splitlines()]
    assert keys[: len(before)] == before and sorted(keys) == [*range(100)]  # each was kept once
    printed = log.read_text()
    assert f"200 rows in {tmp_path / 'rows.jsonl'}: {200 - 2 * len(before)} of them new, " in printed.replace("\n", "")
    assert main(words(models, tmp_path / "rows.jsonl", **JOB)) == 0  # the other engine finds all of them
    assert (tmp_path / "rows.jsonl").read_bytes() == expected


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ray.gpus_per_actor": 1}, "ray must have room for an actor, got 2 CPUs for 1, 0 GPUs for 1"),
        ({"length": 40}, "prompt: a text must be at most max_length = 32 tokens long"),
    ],
)
def test_mistakes_are_one_line_as_without_ray(start, tmp_path, options, message):
    assert start(**options).wait(timeout=120) == 2
    (line,) = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("edlm: error: ")]
    assert message in line


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_ray_is_named_where_it_is_missing(models, tmp_path, capsys):
    message = refused(words(models, tmp_path / "rows.jsonl", engine="ray"), capsys)
    assert "engine ray needs Ray: pip install" in message and not (tmp_path / "rows.jsonl.parts").exists()


@pytest.mark.parametrize(("name", "value"), [("num_actors", "0"), ("gpus_per_actor", "-1")])
def test_options_of_actors_that_mean_nothing_are_refused(models, tmp_path, capsys, name, value):
    message = refused(words(models, tmp_path / "rows.jsonl", **{f"ray.{name}": value}), capsys)
    assert f"{name} must be >= " in message
