"""Nothing is let in or out: no code of files, no markup of samples, no secrets."""

import ast
import json
import re
from pathlib import Path

import pytest
import torch

from edlm import EnergySampler, load_denoiser, load_energy
from edlm.cli import main
from edlm.evaluation.report.page import write_report
from edlm.memory import in_batches
from tests.faults.world import EVALUATE, GENERATE, SAMPLE, TRAIN

ROOT = Path(__file__).resolve().parents[2]
MARKUP = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"


def test_no_module_unpickles_or_loads_yaml_but_by_safe_readers():
    unsafe = re.compile(r"\b(pickle\.loads?|yaml\.(load|full_load|unsafe_load)|np\.load|torch\.load|eval|exec)\(")
    found = [
        (path.relative_to(ROOT).as_posix(), line.strip())
        for path in sorted((ROOT / "edlm").rglob("*.py"))
        for line in path.read_text().splitlines()
        if unsafe.search(line) and ".eval()" not in line
    ]
    assert [name for name, _ in found] == ["edlm/denoisers/pickles.py"] and "weights_only=True" in found[0][1]


def test_remote_code_is_run_only_where_it_is_asked_for():
    for path in sorted((ROOT / "edlm").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            given = isinstance(node, ast.keyword) and node.arg == "trust_remote_code"
            if given and isinstance(node.value, ast.Constant) and node.value.value:
                assert path.name == "loading.py"  # in a branch that asks for it


def test_markup_in_results_is_text_in_the_report(tmp_path):
    result = json.loads((ROOT / "docs/example_report/results.json").read_text())
    result["verdict"] += MARKUP
    result["warnings"] = [*result["warnings"], MARKUP]
    result["config"]["denoiser"] = MARKUP
    for setting in result["settings"]:
        if setting.get("examples"):
            setting["examples"] = [MARKUP + text for text in setting["examples"]]
    names = {setting["name"] for setting in result["settings"]} - {"base"}
    text = json.dumps(result)
    for name in names:
        text = text.replace(json.dumps(name), json.dumps(f"{name}{MARKUP}"))
    write_report(json.loads(text), {"bounds": '<svg viewBox="0 0 1 1"></svg>'}, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert MARKUP not in page and "<img src=x" not in page and page.count("alert(1)") > 3
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in page


def test_markup_in_names_is_text_in_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    from edlm.evaluation.plots.drawing import Line, plot

    plot(tmp_path / "a.svg", [Line(MARKUP, "", [1, 2], [3, 4])], title=MARKUP)
    assert "<script" not in (tmp_path / "a.svg").read_text() and "alert(1)" in (tmp_path / "a.svg").read_text()


def test_markup_in_samples_is_text_in_the_trace(world):
    sampler = EnergySampler(load_denoiser(world / "denoiser"), None, num_steps=2)
    trace = sampler.generate("the", 4, seed=0, num_likeliest=3).trace()
    for row in trace.rows:
        for step in row["steps"]:
            for piece in step["pieces"]:
                piece["text"] = MARKUP
    page = trace.html()
    assert MARKUP not in page and "&lt;/script&gt;" in page


def test_secrets_are_in_no_output(world, tmp_path, monkeypatch, capfd):
    secrets = {"HF_TOKEN": "hf_SECRETsecret123", "WANDB_API_KEY": "SECRETkey456", "HUGGING_FACE_HUB_TOKEN": "SECRET789"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(world)
    out = str(tmp_path)
    assert main([*SAMPLE, "--trace", f"{out}/a.html", "--format", "jsonl", "--output", f"{out}/a.jsonl"]) == 0
    assert main(["generate", *GENERATE, "--output", f"{out}/rows.jsonl"]) == 0
    assert main([*EVALUATE, "--report", "true", "--energy", "head", "--output", f"{out}/report"]) == 0
    assert main([*TRAIN, "--trainer.num_steps", "1", "--trainer.output_dir", f"{out}/run"]) == 0
    assert main(["sample", "--denoiser", "me/no-such-model"]) == 2
    written = b"".join(path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file())
    printed = "".join(capfd.readouterr())
    assert len(written) > 10_000
    assert not [name for name, value in secrets.items() if value.encode() in written or value in printed]


# Memory


def limited(most, calls):
    def compute(rows):
        calls.append(rows.stop - rows.start)
        if calls[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return [i * i for i in range(rows.start, rows.stop)]

    return compute


@pytest.mark.parametrize("most", [1, 3, 20])
def test_batches_are_halved_until_memory_suffices(caplog, most):
    calls = []
    made = [*in_batches(limited(most, calls), range(2, 19), 8)]
    assert [value for _, batch in made for value in batch] == [i * i for i in range(2, 19)]
    assert [i for rows, _ in made for i in range(rows.start, rows.stop)] == [*range(2, 19)]
    sizes = [8, *([4, 2] if most < 4 else []), *([1] if most == 1 else [])]
    assert [*dict.fromkeys(calls)][: len(sizes)] == sizes and sum(size > most for size in calls) == len(sizes) - 1
    assert [record.getMessage()[-1] for record in caplog.records] == [str(size) for size in sizes[1:]]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried"), RuntimeError("a bug")], ids=str)
def test_what_halving_does_not_mend_is_raised(error):
    def compute(rows):
        raise error

    with pytest.raises(type(error), match=str(error)):
        [*in_batches(compute, range(4), 2)]


def test_bounds_are_the_same_where_memory_suffices_for_fewer_rows(world, monkeypatch, caplog):
    from edlm.corpus.blocks import load_blocks
    from edlm.evaluation import estimate_bound
    from edlm.evaluation.likelihood import bounds

    sampler = EnergySampler(load_denoiser(world / "denoiser"), load_energy(world / "head"), num_steps=2)
    x_0 = load_blocks(world / "corpus/valid.safetensors").tokens[:7]
    expected, real = estimate_bound(sampler, x_0, batch_size=4).nats_per_row, bounds.bounds_of_rows

    def short(samplers, rows, *args, **options):
        if len(rows) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        return real(samplers, rows, *args, **options)

    monkeypatch.setattr(bounds, "bounds_of_rows", short)
    assert torch.allclose(estimate_bound(sampler, x_0, batch_size=4).nats_per_row, expected)
    assert "batch_size is 2" in caplog.text


def test_memory_that_does_not_suffice_is_one_line(world, monkeypatch, capsys):
    def no_memory(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.chdir(world)
    monkeypatch.delenv("EDLM_DEBUG", raising=False)
    monkeypatch.setattr("edlm.commands.models.load_energy", no_memory)
    assert main(SAMPLE) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "out of memory" in error and "lower batch_size" in error
