"""Part files: what is finished is found again, wherever a kill tears them."""

import json

import pytest

from edlm.jobs import parts as module
from edlm.jobs.parts import Parts

ITEMS = {0: ["a", 1.5], "b/2": {"x": "é\n"}, 7: [], 3: None}


def written(folder, items=ITEMS, name="00000"):
    with Parts(folder).writing(name) as keep:
        for item in items.items():
            keep([item])
    return folder / f"{name}.jsonl"


def values(folder):
    places = Parts(folder).find()
    return dict(zip(places, Parts(folder).read(places.values()), strict=True))


@pytest.mark.parametrize("block", [1, 7, 2**16])
def test_a_part_torn_anywhere_holds_its_whole_lines_and_goes_on(tmp_path, monkeypatch, block):
    monkeypatch.setattr(module, "_BLOCK", block)
    path = written(tmp_path)
    content = path.read_bytes()
    lines = content.split(b"\n")[:-1]
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        whole = content[:size].count(b"\n")
        assert values(tmp_path) == dict([*ITEMS.items()][:whole])
        written(tmp_path, dict([*ITEMS.items()][whole:]))
        assert path.read_bytes() == content and values(tmp_path) == ITEMS
    assert [json.loads(line)["key"] for line in lines] == [*ITEMS]


def test_items_of_several_parts_are_read_in_any_order(tmp_path):
    written(tmp_path, {i: i**2 for i in range(0, 9, 2)}, "00001")
    written(tmp_path, {i: i**2 for i in range(1, 9, 2)}, "00000")
    places = Parts(tmp_path).find()
    order = [5, 0, 8, 1, 1, 2]
    assert list(Parts(tmp_path).read(places[i] for i in order)) == [i**2 for i in order]


def test_a_part_without_items_is_not_made(tmp_path):
    assert not written(tmp_path / "a", {}).exists() and values(tmp_path / "a") == {}


@pytest.mark.parametrize("line", ["", "{", "[1, 2]", "3", '{"key": 1}', '{"value": 1}', '{"key": [1], "value": 2}'])
def test_a_line_that_is_no_item_is_named(tmp_path, line):
    path = written(tmp_path)
    path.write_text(path.read_text() + f"{line}\n")
    with pytest.raises(ValueError, match=rf"{path}:{len(ITEMS) + 1} must hold a work item, got "):
        Parts(tmp_path).find()


def test_a_changed_part_is_refused_and_a_lost_one_is_not(tmp_path):
    path = written(tmp_path)
    checksums = Parts(tmp_path).checksums()
    Parts(tmp_path).check(checksums)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"1.5", b"1.6"))
    with pytest.raises(ValueError, match=rf"{path} must be as it was finished \(SHA-256 "):
        Parts(tmp_path).check(checksums)
    path.unlink()
    Parts(tmp_path).check(checksums)
