"""The loop: each number is what a plain call gives, is measured once, and survives an interrupt."""

import csv
import io
import json
import math
from dataclasses import replace

import pytest
import torch

from edlm.evaluation.estimates.estimate import document_values, mean_of
from edlm.evaluation.experiment import bounds as bounds_module
from edlm.evaluation.experiment import run as run_module
from edlm.evaluation.experiment import sampling as sampling_module
from edlm.evaluation.experiment.parts import ContinuousConfig, FrontierConfig, SamplesConfig
from edlm.evaluation.experiment.results import Results
from edlm.evaluation.experiment.rows import as_csv, flat, passes_text
from edlm.evaluation.experiment.run import measure
from edlm.evaluation.likelihood import bounds as likelihood
from edlm.evaluation.likelihood.continuous import continuous_nelbo
from edlm.evaluation.likelihood.text import middle_third
from edlm.evaluation.samples.text import distinct_n, unigram_entropy
from edlm.sampler.bounds import bounds_of_rows
from tests.evaluation.experiment.small import CONTROL, DENOISER, X_0, Judge, Linear, base, lab, setting

SAMPLES = SamplesConfig(judged=6, timed_batches=2, batch_size=4)


def again(*args, **options):
    raise AssertionError("this was measured before")


def interrupt(*args, **options):
    raise KeyboardInterrupt


def strict(path):
    """A JSON file without the constants that JSON does not have."""
    return json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def same(a: Results, b: Results) -> bool:
    """Whether rows and tensors are equal."""
    tensors = all(torch.equal(a.nats[key], b.nats[key]) for key in {*a.nats, *b.nats})
    return tensors and [flat(row) for row in a.rows] == [flat(row) for row in b.rows]


def test_bounds_and_gains_are_those_of_single_samplers(tmp_path):
    settings = [base(1), base(2), base(2, "random"), setting(steps=1), setting(inner_draws=2), setting(order="random")]
    results = measure(lab(tmp_path / "a.json", settings))
    assert [row.key for row in results.rows] == [s.row.key for s in settings]
    nats = {}
    for s, row in zip(settings, results.rows, strict=True):
        nats[row.key] = s.sampler.likelihood_bound(X_0, seeds=range(3, 8), inner_draws=s.inner_draws)
        expected = mean_of(nats[row.key] / 3)
        assert row["bound_nats_per_token"].value == pytest.approx(expected.value, rel=1e-12)
        assert row["bound_nats_per_token"].stderr == pytest.approx(expected.stderr, rel=1e-9)
        assert row["perplexity"].value == pytest.approx(math.exp(expected.value))
        assert row["perplexity_per_word"].value == pytest.approx(math.exp(1.5 * expected.value))
        torch.testing.assert_close(results.nats_of(row), nats[row.key] / 3, rtol=1e-6, atol=0)
        rival = f"base, {row.order}, {row.num_steps} steps"
        gain = mean_of((nats[rival] - nats[row.key]) / 3)
        assert (row.get("gain_nats_per_token") is None) == row.is_base
        assert row.is_base or row["gain_nats_per_token"].value == pytest.approx(gain.value, rel=1e-9)
    assert [row.notes["bound_direction"] for row in results.rows] == 2 * ["exact"] + 4 * ["upper bound of -log p"]


def test_sampled_steps_add_their_gain_to_the_bound_of_the_base():
    sampled = setting("some", steps=3, sampled_steps=1, inner_draws=2)
    results = measure(lab(None, [base(3), sampled]))
    pair = likelihood.estimate_bounds(
        [base(3).sampler, sampled.sampler], X_0, seed=3, sampled_steps=1, inner_draws=[1, 2]
    )
    whole = base(3).sampler.likelihood_bound(X_0, seeds=range(3, 8))
    expected = whole + pair[1].nats_per_row - pair[0].nats_per_row
    torch.testing.assert_close(results.nats_of(results.rows[1]), expected / 3, rtol=1e-6, atol=0)
    assert results.rows[1]["gain_nats_per_token"].value == pytest.approx(((whole - expected) / 3).mean().item())
    with pytest.raises(ValueError, match="sampled_steps needs the base"):
        measure(lab(None, [sampled]))


def test_everything_is_measured_once_and_read_back(tmp_path, monkeypatch):
    options = {"judge": Judge(), "samples": SAMPLES, "settings": [base(), setting(), setting("blind", energy=CONTROL)]}
    options |= {"frontier": FrontierConfig((0.8, 1.0), num_steps=(2,)), "continuous": ContinuousConfig(2, 3)}
    options |= {"measure": ("bounds", "time", "cost", "samples", "judge", "frontier", "continuous", "energies")}
    path = tmp_path / "results.json"
    first = measure(lab(path, **options))
    for place, name in (
        (bounds_module, "estimate_bounds"),
        (run_module, "draw_timed"),
        (run_module, "measure_cost"),
        (run_module, "measure_continuous"),
        (run_module, "measure_spreads"),
        (sampling_module, "_draw"),
    ):
        monkeypatch.setattr(place, name, again)
    second, loaded = measure(lab(path, **options)), Results.load(path)
    assert same(first, second) and same(first, loaded)
    assert first.controls == second.controls == loaded.controls == ["blind"]
    record = strict(path)
    assert {"command", "revision", "versions", "machine", "config", "identity", "earlier"} <= set(record)
    assert record["energies"][record["settings"][1]["energy"]]["kind"] == "Linear" and record["memory"]
    assert [(p.name, p.temperature) for p in first.points] == [
        (n, t) for n in ("base", "ours", "blind") for t in (0.8, 1)
    ]
    assert [repr(point.entropy_nats) for point in second.points] == [repr(p.entropy_nats) for p in first.points]
    assert [torch.equal(a, b) for a, b in zip(second.centred, first.centred, strict=True)] == [True, True]
    for row in first.rows:
        assert len(row.notes["seconds_of_batches"]) == 2 and "flops_per_sequence" in row.metrics
        assert row["entropy_nats"].n == 6 and row.notes["judged_cut"] == 2 and row.notes["judge"] == "wise"


def test_measured_samples_are_those_of_the_seeds():
    results = measure(lab(None, judge=Judge(), samples=SAMPLES, measure=("samples", "judge")))
    for s, row in zip((base(), setting()), results.rows, strict=True):
        tokens = s.sampler.sample(6, 3, seeds=range(3, 9)).tokens
        assert row["entropy_nats"][:3] == mean_of(unigram_entropy(tokens))[:3]
        assert row["distinct_2"].value == distinct_n(tokens, 2)
        sums = tokens.sum(1)
        assert row["judge_nats_per_token"].value == pytest.approx(((2 * sums + 1).sum() / (sums + 1).sum()).item())
        assert "bound_nats_per_token" not in row.metrics and row.notes["examples"][0] == " ".join(
            map(str, tokens[0].tolist())
        )


@pytest.mark.parametrize(
    "changed",
    [{"energy": Linear(0.9, -0.7, 0.5)}, {"num_candidates": 4}, {"group_size": 1}, {"window": (0.5, 1.0)}]
    + [{"scope": "sequence", "inner_draws": 2}, {"temperature": 0.9}, {"top_k": 2}, {"scope": "sequence"}],
    ids=str,
)
def test_another_energy_or_option_is_measured_anew(tmp_path, changed):
    path = tmp_path / "a.json"
    before = measure(lab(path))
    after = measure(lab(path, [base(), setting(**changed)]))
    assert repr(after.rows[0]) == repr(before.rows[0])
    assert not torch.equal(after.nats_of(after.rows[1]), before.nats_of(before.rows[1]))
    assert same(after, measure(lab(None, [base(), setting(**changed)])))


def test_other_blocks_of_an_order_are_measured_beside_and_kept(tmp_path, monkeypatch):
    path, orders = tmp_path / "a.json", [f"confidence{blocks}" for blocks in ("", " in blocks of 1", " in blocks of 2")]
    measure(lab(path, [base(1, orders[0])]))
    settings = [base(1, order) for order in orders]
    results = measure(lab(path, settings))
    assert len({results.nats_of(row).mean().item() for row in results.rows}) == 3
    for s, row in zip(settings, results.rows, strict=True):
        expected = s.sampler.likelihood_bound(X_0, seeds=range(3, 8)) / 3
        torch.testing.assert_close(results.nats_of(row), expected, rtol=1e-6, atol=0)
    assert [row.passes for row in results.rows] == [1, 3, 2] and [row.num_steps for row in results.rows] == [1, 1, 1]
    assert [line["block_length"] for line in csv.DictReader(io.StringIO(as_csv(results.rows)))] == ["", "1", "2"]
    monkeypatch.setattr(bounds_module, "estimate_bounds", again)
    assert same(measure(lab(path, settings)), results)


def test_passes_that_vary_are_counted_with_their_error():
    documents, order = torch.tensor([0, 0, 1, 1, 2]), "entropy_bounded(0.8)"
    settings = [base(3, order), base(2, "left_to_right"), setting(steps=3, order=order)]
    results = measure(lab(None, settings, documents=documents))
    passes = bounds_of_rows([settings[0].sampler], X_0, range(3, 8))[0].passes
    assert len(passes.unique()) > 1
    expected = mean_of(passes.double(), documents)
    for row in results.rows[::2]:
        assert row["passes_per_sequence"] == pytest.approx(expected) and row.passes == expected.value
        assert passes_text(row) == f"{expected.value:.1f} ± {expected.stderr:.1f}"
    assert passes_text(results.rows[1]) == "2" and results.rows[1].passes == 2


def test_other_samples_judges_and_batches_are_measured_anew(tmp_path):
    path, options = tmp_path / "a.json", {"measure": ("time", "samples", "judge")}
    measure(lab(path, judge=Judge(), samples=SAMPLES, **options))
    rows = measure(lab(path, judge=Judge("other"), samples=replace(SAMPLES, judged=4, batch_size=3), **options)).rows
    assert {row.notes["judge"] for row in rows} == {"other"} and {row["entropy_nats"].n for row in rows} == {4}
    assert {row.notes["timed_batch_size"] for row in rows} == {3}
    unjudged = measure(lab(path, samples=SAMPLES, **options))
    assert all("judge_nats_per_token" not in row.metrics and "judge" not in row.notes for row in unjudged.rows)


def test_an_interrupt_loses_one_batch_of_bounds(tmp_path, monkeypatch):
    """Rows in batches of 2; a method on sampled steps resumes by itself."""
    path, settings = tmp_path / "a.json", [base(3), setting(steps=3), setting("some", 3, sampled_steps=1)]
    expected, calls, bounds = measure(lab(None, settings)), [], likelihood.bounds_of_rows

    def counted(samplers, rows, seeds, **options):
        calls.append((len(samplers), seeds[0]))
        if len(calls) == stop:
            raise KeyboardInterrupt
        return bounds(samplers, rows, seeds, **options)

    monkeypatch.setattr(likelihood, "bounds_of_rows", counted)
    for stop, kept in ((2, []), (5, ["base", "ours"]), (None, ["base", "ours", "some"])):  # noqa: B007
        try:
            results = measure(lab(path, settings))
        except KeyboardInterrupt:
            results = None
        assert [s["name"] for s in strict(path)["settings"]] == kept
    assert calls == [(2, 3), (2, 5), (2, 5), (2, 7), (2, 3), (2, 3), (2, 5), (2, 7)]
    assert same(results, expected)


def test_batches_are_timed_in_turn_until_the_seconds_are_spent(monkeypatch):
    drawn, draw = [], run_module.draw_timed
    settings = [base(1), setting(steps=1)]

    def timed(sampler, *args, seed, **options):
        drawn.append(([s.sampler for s in settings].index(sampler), seed))
        timed = draw(sampler, *args, seed=seed, **options)
        return replace(timed, seconds_of_batches=(10.0,) if sampler is settings[0].sampler else (1.0 + len(drawn),))

    monkeypatch.setattr(run_module, "draw_timed", timed)
    samples = SamplesConfig(timed_batches=3, batch_size=2, max_seconds=15)
    first, second = measure(lab(None, settings, samples=samples, measure=("time",))).rows
    assert drawn == [(0, 3), (1, 3), (1, 5), (1, 7)]
    assert (first["seconds_per_sequence"].value, second["seconds_per_sequence"].value) == (10, 4)
    assert second.notes["seconds_of_batches"] == [3, 4, 5] and second["tokens_per_second"].value == 3 / 4
    assert (second["denoiser_passes"].value, second["energy_passes"].value) == (1, 3)


def test_infilling_bounds_and_draws_are_of_the_middle_third(tmp_path):
    given = ~middle_third(X_0)
    results = measure(lab(tmp_path / "a.json", given=given, measure=None))
    _, row = results.rows
    nats = setting().sampler.likelihood_bound(X_0, given=given, seeds=range(3, 8))
    assert row["bound_nats_per_token"].value == pytest.approx(nats.mean().item())
    x_t = X_0.masked_fill(~given, DENOISER.mask_token_id)
    filled = setting().sampler.fill(x_t, seeds=range(3, 8)).tokens
    assert row["tokens_recovered"].value == row["spans_recovered"].value == (filled == X_0)[:, 1].double().mean()
    assert set(row.metrics) <= {*results.rows[0].metrics, "gain_nats_per_token"}


def test_continuous_time_and_spreads_are_records():
    options = {"continuous": ContinuousConfig(2, 3), "measure": ("continuous", "energies")}
    results = measure(lab(None, [base(), setting(), setting("cold", temperature=0.8)], **options))
    nelbo = results.record["continuous"]["nelbo"]
    for record, estimator in zip(nelbo, ("times", "counts"), strict=True):
        expected = continuous_nelbo(DENOISER, X_0[:2], estimator=estimator, num_draws=3, seed=3)
        assert record["nats_per_token"] == pytest.approx(expected.value) and record["n"] == 2
    assert results.record["continuous"]["published"] == []  # its normaliser is not known
    (spread,) = results.record["energy_spreads"]  # one for each energy
    assert (spread["name"], spread["num_candidates"], len(spread["steps"])) == ("ours", 32, 2)
    everything = replace(options["continuous"], published="all", num_candidates=4)
    results = measure(lab(None, [base(), setting()], **{**options, "continuous": everything}))
    assert [record["name"] for record in results.record["continuous"]["published"]] == ["ours"]


def test_numbers_of_an_earlier_revision_are_named(tmp_path):
    path = tmp_path / "a.json"
    assert measure(lab(path)).record["earlier"] == []
    later = lab(path, [base(), setting(), setting("more")])
    later.store.origin = '{"revision": "r2"}'
    assert measure(later).record["earlier"] == [{"revision": "r1"}]
    assert [row.name for row in Results.load(path).rows] == ["base", "ours", "more"]


def test_results_without_a_path_write_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(measure(lab(None)).rows) == 2 and not [*tmp_path.iterdir()]


def test_curves_are_of_timed_rows_by_method_and_order():
    """Batches that one row lacks have its median."""
    settings = [base(1), setting(steps=1), setting(steps=2), setting("never", steps=1)]
    results = measure(lab(None, settings))
    seconds = {"ours, left_to_right, 1 steps": [1.0, 1.5, 9.0], "ours, left_to_right, 2 steps": [2.0, 4.0]}
    rows = [replace(r, notes={"seconds_of_batches": seconds[r.key]} if r.key in seconds else {}) for r in results.rows]
    (curve,) = replace(results, rows=rows).curves()
    assert (curve.name, curve.order, curve.num_steps) == ("ours", "left_to_right", (1, 2))
    assert curve.seconds.tolist() == [[1.0, 1.5, 9.0], [2.0, 4.0, 3.0]]
    assert torch.equal(curve.nats, torch.stack([results.nats_of(row) for row in rows[1:3]]))


def test_errors_and_saved_rows_are_clustered_by_document(tmp_path):
    documents = torch.tensor([4, 4, 1, 1, 4])
    results = measure(
        lab(
            tmp_path / "r",
            documents=documents,
            measure=("bounds", "time"),
            samples=SamplesConfig(timed_batches=1, batch_size=2),
        )
    )
    read = Results.load(tmp_path / "r")
    assert results.record["data"]["documents"] == 2
    for row in read.rows:
        rows, bound = read.nats[row.key].double(), row["bound_nats_per_token"]
        torch.testing.assert_close(read.nats_of(row), document_values(rows, documents))
        assert bound[:3] == pytest.approx(mean_of(rows, documents)[:3], rel=1e-5) and bound.n == 2
    before, after = read.rows
    gain = mean_of(read.nats[before.key].double() - read.nats[after.key].double(), documents)
    assert after["gain_nats_per_token"][:3] == pytest.approx(gain[:3], rel=1e-4)
    assert {curve.nats.shape[1] for curve in read.curves()} == {2}
