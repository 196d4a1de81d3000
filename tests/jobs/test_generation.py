"""Generation as a job: rows decided by their index alone, whatever the processes, the batches and the kills."""

import itertools
import json
import random
import re
import subprocess
import sys
import zlib
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from edlm import EnergySampler, load_denoiser, load_energy
from edlm.cli import main
from edlm.diffusion.streams import seed_of
from edlm.jobs.generation import Generation, GenerationOptions, Prompt, generate, parts_of
from edlm.lock import LockedError, locked
from edlm.sampler.text.transcript import decode
from tests.jobs.forks import ROOT

STEPS = 3
COLUMNS = ["index", "prompt_index", "seed", "prompt", "text", "tokens", "passes", "marginals"]


@pytest.fixture
def sampler(models):
    return EnergySampler(load_denoiser(models / "denoiser"), load_energy(models / "head"), num_steps=STEPS)


def words(models, output, **options):
    options = {"output": output, "num_samples": 11, "seed": 5, "length": 16, "rows_per_item": 2} | options
    options |= {"denoiser": models / "denoiser", "energy": models / "head", "sampler.num_steps": STEPS}
    return ["generate", *(word for name, value in options.items() for word in (f"--{name}", str(value)))]


def rows_in(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def whole(models, folder, **options):
    """The bytes of the uninterrupted job of one process."""
    assert main(words(models, folder / "whole.jsonl", **options)) == 0
    return (folder / "whole.jsonl").read_bytes()


@pytest.fixture(scope="module")
def expected(models):
    return whole(models, models)


# Rows


def test_rows_are_those_of_the_sampler_with_seeds_of_their_index(models, sampler, tmp_path, capsys):
    rows = [json.loads(line) for line in whole(models, tmp_path).splitlines()]
    printed = rf"11 rows in {tmp_path / 'whole.jsonl'}: 11 of them new, [\d.]+ a second by 1 process\n"
    assert re.fullmatch(printed, capsys.readouterr().out)
    assert [list(row) for row in rows] == [COLUMNS] * 11
    assert [row["seed"] for row in rows] == [seed_of(5, i) >> 1 for i in range(11)]
    assert len({tuple(row["tokens"]) for row in rows}) == 11
    for start in range(0, 11, 2):  # an item
        item = rows[start : start + 2]
        tokens = sampler.sample(len(item), 16, seeds=[row["seed"] for row in item]).tokens
        assert [row["tokens"] for row in item] == tokens.tolist()
        assert [row["text"] for row in item] == [decode(sampler.denoiser, row) for row in tokens]
    assert [(row["index"], row["prompt_index"], row["prompt"], row["passes"]) for row in rows] == [
        (i, 0, None, STEPS) for i in range(11)
    ]


def test_prompts_and_gaps_of_a_file_are_continued_and_filled(models, sampler, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "the cat"}\n\n{"text": "a <mask:3> on<mask>"}\n{"prompt": "on a"}\n')
    options = {"num_samples": 2, "prompts": tmp_path / "a.jsonl", "rows_per_item": 1}
    rows = [json.loads(line) for line in whole(models, tmp_path, **options).splitlines()]
    assert [(row["prompt_index"], row["prompt"]) for row in rows] == [
        *[(0, "the cat")] * 2,
        *[(1, "a <mask:3> on<mask>")] * 2,
        *[(2, "on a")] * 2,
    ]
    for row in rows:
        if row["prompt_index"] == 1:
            output = sampler.infill(row["prompt"], seeds=[row["seed"]])
        else:
            new = 15 - len(row["prompt"])  # after a separator
            output = sampler.generate(row["prompt"], new, seeds=[row["seed"]], eos_token_id=None)
        assert row["tokens"] == output.tokens[0].tolist()
        assert row["passes"] == sum(int(step.num_revealed[0] > 0) for step in output.steps) > 0
    assert rows[0]["text"].startswith("the cat") and rows[2]["text"].startswith("a ")


def test_prompts_of_a_text_file_are_its_lines(models, tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffthe cat\r\n \nsat on <mask>\n".encode())
    options = {"num_samples": 1, "prompts": tmp_path / "a.txt", "max_new_tokens": 4}
    assert main(words(models, tmp_path / "a.jsonl", **options)) == 0
    rows = rows_in(tmp_path / "a.jsonl")
    assert [row["prompt"] for row in rows] == ["the cat", "sat on <mask>"]  # the latter as text
    assert [len(row["tokens"]) for row in rows] == [1 + len(row["prompt"]) + 4 for row in rows]


def test_parquet_holds_the_same_rows(models, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "the cat"}\n{"text": "a <mask:3> on"}\n')
    for options in ({}, {"prompts": tmp_path / "a.jsonl"}):
        rows = [json.loads(line) for line in whole(models, tmp_path / str(len(options)), **options).splitlines()]
        output = tmp_path / str(len(options)) / "rows.parquet"
        assert main(words(models, output, **options)) == 0
        assert pq.read_table(output).to_pylist() == rows
        content = output.read_bytes()
        assert main(words(models, output, **options)) == 0 and output.read_bytes() == content


def test_blocks_beyond_the_trained_length_are_written(models, sampler, tmp_path):
    in_blocks = replace(sampler, block_length=8)
    generate(Generation(in_blocks, GenerationOptions(num_samples=2, length=40)), tmp_path / "a.jsonl")
    assert [len(row["tokens"]) for row in rows_in(tmp_path / "a.jsonl")] == [40, 40]


# Processes, batches and restarts


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_bytes_are_the_same_for_all_processes_and_batches(models, launcher, tmp_path, expected, processes, batch_size):
    output = tmp_path / "rows.jsonl"
    codes = launcher.run(words(models, output, batch_size=batch_size), tmp_path / "log", processes)
    assert codes == [0] * processes, (tmp_path / "log").read_text()
    assert output.read_bytes() == expected
    made = [
        [json.loads(line)["key"] for line in part.read_text().splitlines()] for part in parts_of(output).glob("*.jsonl")
    ]
    assert sorted(map(len, made)) == {1: [6], 2: [3, 3], 3: [2, 2, 2]}[processes]  # by item, none twice
    assert sorted(key for keys in made for key in keys) == [*range(6)]
    assert (tmp_path / "log").read_text().count("11 rows in") == 1


def test_a_kill_at_any_write_loses_nothing(models, launcher, tmp_path, expected):
    for number in itertools.count(1):
        output = tmp_path / f"{number}.jsonl"
        argv = words(models, output, batch_size=4)
        codes = launcher.run(argv, tmp_path / "log", kill_at_sync=number)
        assert output.exists() == (number >= 10)  # the last is that of its name
        if codes == [0]:
            break
        assert codes == [-9] and main(argv) == 0 and output.read_bytes() == expected
    assert number == 11


def test_rows_of_a_part_torn_anywhere_are_written_again(sampler, tmp_path):
    options, output = GenerationOptions(num_samples=5, length=6, rows_per_item=2), tmp_path / "a.jsonl"
    generate(Generation(sampler, options), output)
    expected, part, manifest = (
        path.read_bytes() for path in (output, parts_of(output) / "00000.jsonl", parts_of(output) / "manifest.json")
    )
    unfinished = json.loads(manifest) | {"checksums": {}}
    for size in range(0, len(part), 23):
        output.unlink()
        (parts_of(output) / "00000.jsonl").write_bytes(part[:size])
        (parts_of(output) / "manifest.json").write_text(json.dumps(unfinished))
        generate(Generation(sampler, options), output)
        assert output.read_bytes() == expected
        assert (parts_of(output) / "00000.jsonl").read_bytes() == part
        assert (parts_of(output) / "manifest.json").read_bytes() == manifest


def kill_and_restart(models, launcher, folder, seed, processes, kills):
    """Kill jobs at random moments; each is started again, with other processes and batches, until it is done."""
    chance, options = random.Random(seed), {"num_samples": 24}
    expected, log, killed, seconds = whole(models, folder, **options), folder / "log", 0, 1.0
    for job in itertools.count():
        codes = [-9]
        while codes != [0] * len(codes):
            number, argv = chance.choice(processes), words(models, folder / f"{job}.jsonl", **options)
            argv += ["--batch_size", str(chance.choice([1, 3, 8]))]
            moment = chance.uniform(0, seconds * number) if killed < kills else None
            codes = launcher.run(argv, log, number, kill_after=moment)
            assert set(codes) <= {0, -9}, log.read_text()
            killed += codes != [0] * len(codes)
        assert (folder / f"{job}.jsonl").read_bytes() == expected
        if killed >= kills:
            return


def test_random_kills_of_two_processes_lose_nothing(models, launcher, tmp_path):
    kill_and_restart(models, launcher, tmp_path, 1, [2], 3)


@pytest.mark.slow
def test_a_hundred_random_kills_lose_nothing(models, launcher, tmp_path):
    kill_and_restart(models, launcher, tmp_path, 2, [1, 2], 100)


@pytest.mark.slow
def test_torchrun_writes_the_same_bytes_and_needs_a_group(models, tmp_path, expected):
    output = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(ROOT / "sampling" / "generate.py"), *words(models, output)[1:]]
    options = {"capture_output": True, "text": True, "timeout": 300}
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    refused = subprocess.run(command, env={**environment, "CUDA_VISIBLE_DEVICES": ""}, **options)
    assert refused.returncode != 0 and "set ACCELERATE_USE_CPU=true" in refused.stderr and not output.exists()
    done = subprocess.run(command, env={**environment, "ACCELERATE_USE_CPU": "true"}, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert output.read_bytes() == expected


# Mistakes


def refused(argv, capsys):
    assert main(argv) == 2
    message = capsys.readouterr().err
    assert message.startswith("edlm: error: ") and message.count("\n") == 1
    return message


def test_another_job_is_refused_before_a_model_is_loaded_where_possible(models, tmp_path, capsys, monkeypatch):
    output = tmp_path / "rows.jsonl"
    assert main(words(models, output, num_samples=2)) == 0
    content = output.read_bytes()
    other = words(models, output, num_samples=2) + ["--energy", "null"]
    assert "energy is {'class': 'ResidualHead'," in refused(other, capsys)
    assert "sampler.top_k is None there and 3 here" in refused(
        words(models, output, num_samples=2, **{"sampler.top_k": 3}), capsys
    )
    monkeypatch.setattr("edlm.commands.models.load_denoiser", lambda *args, **options: pytest.fail("loaded"))
    message = refused(words(models, output, num_samples=3, seed=6), capsys)
    assert "options.num_samples is 2 there and 3 here, options.seed is 5 there and 6 here" in message
    (tmp_path / "a.txt").write_text("the")
    assert "prompts.sha256 is" in refused(words(models, output, num_samples=2, prompts=tmp_path / "a.txt"), capsys)
    assert output.read_bytes() == content


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "rows.csv"}, "output must be a file that ends in .jsonl or .parquet, got rows.csv"),
        (
            {"output": "folder.jsonl"},
            "ends in .jsonl or .parquet, got the folder folder.jsonl",
        ),
        ({"prompts": "prompts.md"}, "prompts must be a .txt or a .jsonl file, got prompts.md"),
        ({"prompts": "none.txt"}, "No such file"),
        ({"prompts": "empty.txt"}, "prompts must hold text, got none in empty.txt"),
        ({"prompts": "bytes.txt"}, "bytes.txt must hold text in UTF-8, got"),
        ({"prompts": "both.jsonl"}, 'both.jsonl:2: a row must hold a prompt, or a text with gaps, got "{'),
        ({"prompts": "number.jsonl"}, "number.jsonl:1: a row must hold a prompt"),
        ({"num_samples": 0}, "num_samples must be >= 1, got 0"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"rows_per_item": 1.5}, "rows_per_item must be an integer, got 1.5"),
    ],
)
def test_mistakes_are_named_before_anything_is_loaded(models, tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("edlm.commands.models.load_denoiser", lambda *args, **options: pytest.fail("loaded"))
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "bytes.txt").write_bytes(b"a\xff")
    (tmp_path / "both.jsonl").write_text('{"prompt": "a"}\n{"prompt": "a", "text": "b <mask>"}\n')
    (tmp_path / "number.jsonl").write_text('{"prompt": 3}\n')
    before = sorted(tmp_path.iterdir())
    options = {"output": "rows.jsonl"} | options
    assert message in refused(words(models, **options), capsys)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Prompt("the cat sat on a mat", place="a.txt, prompt 3"), "a.txt, prompt 3: length must be above the prompt's"),
        (Prompt("no gap", True, "b"), "b: texts must hold <mask> where text is to be written"),
        (Prompt("<mask:40>", True, "c"), "c: a text must be at most max_length"),
        (Prompt("\ud800", place="d"), "d: text must be valid Unicode"),
    ],
)
def test_a_prompt_that_cannot_be_written_is_named(sampler, prompt, message):
    with pytest.raises(ValueError, match=message):
        Generation(sampler, GenerationOptions(length=16), [Prompt("the"), prompt])


def test_damaged_rows_of_a_part_are_never_merged(sampler, tmp_path):
    options, output = GenerationOptions(num_samples=4, length=6, rows_per_item=2), tmp_path / "a.jsonl"
    generate(Generation(sampler, options), output)
    content, part = output.read_bytes(), parts_of(output) / "00000.jsonl"
    lines = part.read_text().splitlines()
    manifest = json.loads((parts_of(output) / "manifest.json").read_text()) | {"checksums": {}}
    first = json.loads(lines[0])
    swapped, short, other = first["value"][::-1], first["value"][:1], [3, 4]
    for value in (swapped, short, other, first["value"] * 2, None):
        (parts_of(output) / "manifest.json").write_text(json.dumps(manifest))
        item = {"key": 0, "value": value, "crc32": zlib.crc32(json.dumps([0, value]).encode())}
        part.write_text(f"{json.dumps(item)}\n{lines[1]}\n")
        with pytest.raises(ValueError, match="a.jsonl.parts must hold each of 4 rows once, got "):
            generate(Generation(sampler, options), output)
        assert output.read_bytes() == content


def test_a_second_writer_is_refused(sampler, tmp_path):
    output = tmp_path / "rows.jsonl"
    with locked(parts_of(output)), pytest.raises(LockedError, match="must have one writer"):
        generate(Generation(sampler, GenerationOptions(length=8)), output)
    assert generate(Generation(sampler, GenerationOptions(length=8)), output) == 1
