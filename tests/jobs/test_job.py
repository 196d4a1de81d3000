"""Jobs: each item is made once; another job's folder is refused."""

import pytest

from edlm.jobs.job import Job
from edlm.jobs.manifest import check_manifest

IDENTITY = {"options": {"seed": 0, "length": 4}, "versions": {"torch": "2"}, "models": ["a", "b"]}
KEYS = ["x", "y", 3, 4, "z"]


def made_by(job, at_a_time=1, fails_at=None):
    """Keys that a run of the job makes, and the error that stops it."""
    made = []

    def make(keys):
        for key in keys:
            if key == fails_at:
                raise ValueError("stop")
            made.append(key)
            yield f"value of {key}"

    try:
        assert job.run(make, at_a_time) == made
    except ValueError as error:
        return made, str(error)
    return made, None


@pytest.mark.parametrize("at_a_time", [1, 2, 9])
def test_each_item_is_made_once_whatever_fails(tmp_path, at_a_time):
    job = Job(tmp_path / "parts", IDENTITY, KEYS)
    first, error = made_by(job, at_a_time, fails_at=3)
    assert error == "stop" and first == KEYS[:2]
    kept = KEYS[: {1: 2, 2: 2, 9: 0}[at_a_time]]  # what was made together with the failing one is lost
    assert made_by(job, at_a_time) == ([key for key in KEYS if key not in kept], None)
    assert made_by(job, at_a_time) == ([], None)
    assert list(job.values()) == [f"value of {key}" for key in KEYS]


def test_items_of_a_lost_part_are_made_again(tmp_path):
    job = Job(tmp_path / "parts", IDENTITY, KEYS)
    made_by(job)
    (tmp_path / "parts" / "00000.jsonl").unlink()
    with pytest.raises(ValueError, match="must hold all 5 items, from processes that share it, got none of key 'x'"):
        job.values()
    assert made_by(job) == (KEYS, None) and len(list(job.values())) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"seed": 1, "length": 4}}, "options.seed is 0 there and 1 here"),
        ({"options": {"seed": 0}}, "options.length is 4 there and None here"),
        ({"versions": {"torch": "3"}}, "versions.torch is '2' there and '3' here"),
        ({"models": ["a"], "new": True}, "models is ['a', 'b'] there and ['a'] here, new is None there and True here"),
    ],
)
def test_another_job_is_refused_and_what_differs_is_named(tmp_path, change, message):
    folder = tmp_path / "parts"
    job = Job(folder, IDENTITY, KEYS)
    made_by(job)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    made, error = made_by(Job(folder, IDENTITY | change, [*KEYS, "more"]))
    assert made == []
    assert error == f"{folder} must hold parts of this very job, got others ({message}): remove it, or write elsewhere"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_some_of_an_identity_can_be_checked_alone(tmp_path):
    made_by(Job(tmp_path / "parts", IDENTITY, KEYS))
    check_manifest(tmp_path / "parts", {"models": ("a", "b")})
    with pytest.raises(ValueError, match="got others .models is"):
        check_manifest(tmp_path / "parts", {"models": ["a", "c"]})


def test_parts_that_were_changed_or_are_of_unknown_origin_are_refused(tmp_path):
    folder = tmp_path / "parts"
    job = Job(folder, IDENTITY, KEYS)
    made_by(job)
    part = folder / "00000.jsonl"
    part.write_bytes(part.read_bytes().replace(b"of z", b"of y"))
    assert "00000.jsonl must be as it was finished" in made_by(job)[1]
    (folder / "manifest.json").unlink()
    assert "parts must have a manifest, got none in" in made_by(job)[1]
