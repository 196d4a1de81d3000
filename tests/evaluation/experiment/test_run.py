"""The stages of an evaluation in a world of three symbols: what is measured, what is kept, what is measured anew."""

from dataclasses import dataclass, replace

import pytest
import torch

from edlm.config import SamplerConfig
from edlm.evaluation.estimates.units import TextUnits
from edlm.evaluation.experiment import run as stages
from edlm.evaluation.experiment.measurement import Setting
from edlm.evaluation.experiment.plan import ContinuousConfig, EvaluateConfig, FrontierConfig, SamplesConfig
from edlm.evaluation.experiment.points import Points
from edlm.evaluation.experiment.run import Evaluation
from edlm.evaluation.experiment.store import Results
from edlm.evaluation.samples.cost import Cost
from edlm.evaluation.samples.draw import TimedSamples
from edlm.evaluation.samples.frontier import FrontierPoint
from edlm.evaluation.samples.judge import JudgedTexts
from edlm.evaluation.samples.text_errors import unknown_word_rate
from tests.enumerable import SEQUENCES, random_denoiser
from tests.evaluation.experiment.test_store import Linear

ROWS = SEQUENCES[[0, 5, 26, 13, 7]]
IDENTITY = {"denoiser": {"revision": "a"}, "data": "b", "seed": 5}
ENERGY, OTHER = Linear(0.9, -0.7, 0.4), Linear(0.3, 0.8, -0.6)
WORDS = ("cat", "sat", "zzz")


class Tokenizer:
    """A word a symbol."""

    eos_token = "sat"

    def decode(self, row) -> str:
        return " ".join(WORDS[token] for token in row.tolist())


@dataclass
class Judge:
    """Finds a text as bad as it is long, cuts one, and keeps what it read."""

    identity: str = "wise"
    separator: str | None = "\n\n"
    energy: object = None
    name: str = "wise"

    def __post_init__(self):
        self.read = []

    def describe(self) -> dict:
        return {"name": self.name}

    def has_part_in(self, energy) -> bool:
        return energy is not None and energy is self.energy

    def score(self, texts) -> JudgedTexts:
        self.read.append(texts)
        nats = torch.tensor([float(len(text)) for text in texts], dtype=torch.float64)
        return JudgedTexts(nats, torch.full((len(texts),), 3), num_cut=1)


@pytest.fixture
def judge(monkeypatch) -> Judge:
    judge = Judge()
    monkeypatch.setattr(stages, "load_judge", lambda name, denoiser: judge)
    return judge


def setting(name="base", energy=None, steps=2, order="left_to_right", **how) -> Setting:
    return Setting(name, energy, SamplerConfig(num_steps=steps, order=order, num_candidates=3 if energy else 1, **how))


BASE, OURS, LATER = setting(), setting("ours", ENERGY), setting("later", OTHER, steps=3)
SAMPLED = {"timed_batches": 0, "batch_size": 2, "judged": 4, "judge": "wise"}


def evaluation(tmp_path, *settings, samples=None, words=True, **how) -> Evaluation:
    """Of what lies in a folder; without a report."""
    config = EvaluateConfig(seed=5, samples=SamplesConfig(**{**SAMPLED, **(samples or {})}), **how)
    denoiser = random_denoiser()
    denoiser.tokenizer = Tokenizer() if words else None
    results = Results(tmp_path / "results.json", config, IDENTITY)
    points = Points(tmp_path / "points.safetensors", IDENTITY)
    return Evaluation(config, denoiser, ROWS, TextUnits(2.0, 1.5), [*settings], results, points)


def measured(tmp_path, *settings, **how) -> Evaluation:
    found = evaluation(tmp_path, *settings, **how)
    found.measure_bounds()
    return found


# Bounds and times


def test_rows_are_kept_in_nats_per_token(tmp_path):
    found = measured(tmp_path, BASE, OURS)
    for s in (BASE, OURS):
        mean = found.results.of(s).bound_nats_per_token
        assert found.results.rows_of(s).mean().item() == pytest.approx(mean, rel=1e-6) and mean > 0.5


def scripted(monkeypatch, *seconds) -> list:
    """Batches that take so long; who was timed, on which seed."""
    calls, left = [], list(seconds)

    def draw(sampler, length, *, batch_size, num_batches, seed):
        assert (length, batch_size, num_batches) == (3, 2, 1)
        calls.append((sampler.energy, seed))
        return TimedSamples(torch.zeros(2, 3), (left.pop(0),), 2, 6.0)

    monkeypatch.setattr(stages, "draw_timed", draw)
    return calls


def test_batches_of_all_settings_take_turns_each_on_seeds_of_its_own(tmp_path, monkeypatch):
    found = measured(tmp_path, BASE, OURS, samples={"timed_batches": 3})
    calls = scripted(monkeypatch, 1.0, 2.0, 9.0, 2.5, 1.5, 8.0)
    found.measure_times()
    assert calls == [(energy, seed) for seed in (5, 7, 9) for energy in (None, ENERGY)]
    base, ours = (found.results.of(s) for s in (BASE, OURS))
    assert base.seconds_of_batches == (1.0, 9.0, 1.5) and ours.seconds_of_batches == (2.0, 2.5, 8.0)
    assert (base.seconds_per_sequence, ours.seconds_per_sequence) == (1.5, 2.5)
    assert (base.tokens_per_second, ours.tokens_per_second) == (3 / 1.5, 3 / 2.5)
    assert (ours.timed_batch_size, ours.denoiser_passes, ours.energy_passes) == (2, 2, 6.0)


def test_no_batch_starts_after_the_most_seconds_and_none_is_timed_twice(tmp_path, monkeypatch):
    """Seconds are of a sequence, the limit is of batches of two."""
    found = measured(tmp_path, BASE, samples={"timed_batches": 4, "max_seconds": 10.0})
    calls = scripted(monkeypatch, 3.0, 3.0)
    found.measure_times()
    assert len(calls) == 2  # 6 and 12 seconds
    more = evaluation(tmp_path, BASE, samples={"timed_batches": 3, "max_seconds": 100.0})
    calls = scripted(monkeypatch, 1.0)
    more.measure_times()
    assert calls == [(None, 9)] and more.results.of(BASE).seconds_of_batches == (3.0, 3.0, 1.0)


def test_a_method_that_comes_later_leaves_its_base_as_it_was(tmp_path, monkeypatch):
    found = measured(tmp_path, BASE, setting(steps=3), samples={"timed_batches": 1})
    scripted(monkeypatch, 1.0, 2.0)
    found.measure_times()
    wanted, bounds = [], stages.measure_bounds

    def measure(denoiser, settings, *args, **how):
        wanted.extend(settings)
        return bounds(denoiser, settings, *args, **how)

    monkeypatch.setattr(stages, "measure_bounds", measure)
    measured(tmp_path, BASE, OURS, setting(steps=3))
    assert [s.key for s in wanted] == [BASE.key, OURS.key]  # no other base
    again = measured(tmp_path, BASE, OURS, setting(steps=3), LATER)
    assert [again.results.of(s).seconds_of_batches for s in (BASE, OURS, LATER)] == [(1.0,), None, None]
    ours, rows = again.results.of(OURS), again.results.rows_of
    assert ours.gain_nats_per_token == pytest.approx((rows(BASE) - rows(OURS)).mean().item(), abs=1e-6)


def test_costs_are_of_a_batch_of_samples_and_measured_once(tmp_path, monkeypatch):
    calls = []

    def cost(sampler, length, *, batch_size, seed):
        calls.append((sampler.energy, length, batch_size, seed))
        return Cost(7.0, 9, "by hand")

    monkeypatch.setattr(stages, "measure_cost", cost)
    for settings in ((BASE,), (BASE, OURS)):
        found = measured(tmp_path, *settings, output=str(tmp_path))
        found.measure_costs()
    assert calls == [(None, 3, 2, 5), (ENERGY, 3, 2, 5)] and found.results.once("memory", 2, str) == "by hand"
    assert (found.results.of(OURS).flops_per_sequence, found.results.of(OURS).peak_memory_bytes) == (7.0, 9)


# Samples


def sample_texts(found, s, number=4) -> list[str]:
    """With "sat", which separates documents, as it is."""
    tokens = s.sampler.build(found.denoiser, s.energy).sample(number, 3, seeds=range(5, 5 + number)).tokens
    return [Tokenizer().decode(row) for row in tokens]


def read(texts) -> list[str]:
    """As a reader sees them."""
    return [text.replace("sat", "\n\n").strip() for text in texts]


@pytest.mark.parametrize("separator", [None, "\n\n"])
def test_a_judge_reads_what_it_asks_for_and_what_it_cut_is_known(tmp_path, judge, separator):
    judge.separator = separator
    found = measured(tmp_path, BASE, OURS)
    found.measure_samples()
    for s, scored in zip((BASE, OURS), judge.read, strict=True):
        texts = sample_texts(found, s)
        assert scored == (texts if separator is None else read(texts)) and texts != read(texts)
        m = found.results.of(s)
        assert m.judge_nats_per_token == pytest.approx(sum(map(len, scored)) / 12)
        assert (m.num_samples, m.judge, m.judged_cut) == (4, "wise", 1)


def test_what_another_judge_said_is_not_this_ones(tmp_path, judge):
    """Of the same name and file, of other weights."""
    measured(tmp_path, BASE).measure_samples()
    evaluation(tmp_path, BASE).measure_samples()
    assert len(judge.read) == 1
    judge.identity = "wiser"
    again = evaluation(tmp_path, BASE)
    again.measure_samples()
    assert len(judge.read) == 2 and again.results.of(BASE).judge == "wiser"
    again.results.add(BASE, replace(again.results.of(BASE), judge=None))  # an older file does not say
    evaluation(tmp_path, BASE).measure_samples()
    assert len(judge.read) == 2


def test_without_a_judge_there_are_entropies_once(tmp_path, monkeypatch):
    found = measured(tmp_path, BASE, samples={"judge": None})
    found.measure_samples()
    m = found.results.of(BASE)
    assert m.entropy_nats > 0 and m.judge_nats_per_token is m.judge is None
    monkeypatch.setattr(Evaluation, "_sample", None)
    evaluation(tmp_path, BASE, samples={"judge": None}).measure_samples()
    assert found.measure_frontier() == []


def test_an_energy_that_judges_itself_is_refused_before_anything_is_measured(tmp_path, judge):
    judge.energy = ENERGY
    found = evaluation(tmp_path, BASE, OURS)
    with pytest.raises(ValueError, match="a judge must have no part in .* got wise, which is the energy of ours"):
        found.run()
    assert not (tmp_path / "results.json").exists()
    allowed = evaluation(tmp_path, BASE, OURS, samples={"allow_judge_as_energy": True})
    assert allowed.judged_by_energy(allowed.judge) == ["ours"]
    for unjudged in ({"judged_methods": ("base",)}, {"judged_steps": (3,)}):
        some = evaluation(tmp_path, BASE, OURS, samples=unjudged)
        assert some.judge is judge and some.judged_by_energy(judge) == []


@pytest.fixture
def words(tmp_path) -> str:
    path = tmp_path / "words.txt"
    path.write_text("cat\nsat\n")
    return str(path)


def test_samples_are_held_against_other_words_anew_and_so_is_held_out_text(tmp_path, judge, words):
    found = measured(tmp_path, BASE, samples={"known_words": words, "judged": 12})
    texts, people = sample_texts(found, BASE, 12), [Tokenizer().decode(row) for row in ROWS]
    rates = []
    for known in ("cat sat", "sat zzz"):  # as many words
        (tmp_path / "words.txt").write_text(known)
        found = evaluation(tmp_path, BASE, samples={"known_words": words, "judged": 12})
        found.measure_samples()
        expected = [unknown_word_rate(read(some), set(known.split())).value for some in (texts, people)]
        held_out = found.results.as_json()["held_out_text"]
        assert [found.results.of(BASE).unknown_word_rate, held_out["unknown_word_rate"]] == expected
        assert found.results.of(BASE).texts_held_against == held_out["texts_held_against"]
        rates.append(expected)
    assert rates[0][0] != rates[1][0] and len(judge.read) == 2
    fewer = evaluation(tmp_path, BASE, samples={"known_words": words, "judged": 3})
    fewer.measure_samples()
    assert held_out["num_texts"] == 5 and fewer.results.as_json()["held_out_text"]["num_texts"] == 3


def test_texts_are_measured_for_reports_or_where_it_is_asked_for(tmp_path, words):
    asked = {"known_words": words}
    assert evaluation(tmp_path, BASE, samples=asked).text_measures.words == {"cat", "sat"}
    assert evaluation(tmp_path, BASE).text_measures is None  # "auto": for reports
    assert evaluation(tmp_path, BASE, samples={"known_words": None}).text_measures is None
    assert evaluation(tmp_path, BASE, output=str(tmp_path)).text_measures.held_out[0] == "cat cat cat"
    assert evaluation(tmp_path, BASE, samples=asked, words=False, output=str(tmp_path)).text_measures is None


# What is measured once


def test_continuous_time_is_measured_anew_where_its_makings_change(tmp_path, monkeypatch):
    calls, measure = [], stages.in_continuous_time
    monkeypatch.setattr(stages, "in_continuous_time", lambda *args, **how: calls.append(1) or measure(*args, **how))
    how = ContinuousConfig(num_rows=2, num_draws=2, published="all", num_candidates=2)

    def times(*settings, rows=ROWS, **more) -> int:
        found = evaluation(tmp_path, *settings, continuous=replace(how, **more))
        found.x_0 = rows
        before = len(calls)
        found.measure_continuous()
        return len(calls) - before

    assert (times(BASE, OURS), times(BASE, OURS), times(OURS)) == (1, 0, 0)
    assert times(BASE, OURS, setting("ours", ENERGY, steps=3)) == 0  # the same energy once more
    assert times(BASE, OURS, LATER) == times(BASE, setting("ours", OTHER)) == 1  # another energy of a name
    assert times(BASE, OURS, num_draws=3) == 1
    assert times(BASE, OURS, num_rows=3, num_draws=3) == 1
    assert times(BASE, OURS, num_rows=3, num_draws=3, rows=ROWS[:2]) == 1  # there are only two
    assert evaluation(tmp_path, BASE).measure_continuous() == {"nelbo": [], "published": []}


def frontier(tmp_path, *settings, number=None, **how) -> list:
    asked = FrontierConfig(temperatures=(0.8, 1.0), num_steps=(2,), orders=("left_to_right",), num_samples=number)
    return evaluation(tmp_path, *settings, frontier=asked, **how).measure_frontier()


def test_points_are_measured_anew_where_their_makings_change(tmp_path, judge):
    def read(*settings, **how) -> int:
        before = len(judge.read)
        points = frontier(tmp_path, *settings, **how)
        assert [p.temperature for p in points] == [0.8, 1.0] * len(settings)
        return len(judge.read) - before

    assert (read(BASE, OURS), read(BASE, OURS)) == (4, 0)
    assert (read(BASE, number=3), read(BASE, number=3)) == (2, 0)
    fewer = setting("ours", ENERGY, top_p=0.9)
    assert (read(OURS), read(fewer), read(fewer)) == (0, 2, 0)
    judge.identity = "wiser"
    assert (read(fewer), read(fewer)) == (2, 0)


def test_points_of_an_energy_of_other_weights_are_not_kept(tmp_path, judge):
    for last, expected in ((0.4, 2), (0.4, 2), (0.5, 4)):
        frontier(tmp_path, setting("ours", Linear(0.9, -0.7, last)))
        assert len(judge.read) == expected


def test_a_kept_point_is_the_one_that_was_sampled(tmp_path, judge):
    first = frontier(tmp_path, BASE, OURS, number=3)
    again = frontier(tmp_path, BASE, OURS, number=3)
    assert len(judge.read) == 4
    for one, other in zip(first, again, strict=True):
        assert (one.name, one.order, one.num_steps, one.temperature) == (
            *(other.name, other.order, other.num_steps, other.temperature),
        )
        assert one.distinct_2 == other.distinct_2 and len(one.nats) == 3
        for name in ("entropy", "nats", "num_tokens"):
            assert torch.equal(getattr(one, name), getattr(other, name))


def test_points_of_other_data_temperatures_and_makers_are_not_read(tmp_path):
    values, made = torch.tensor([1.0, 2.0], dtype=torch.float64), ["r", 1]
    point = FrontierPoint("base", "left_to_right", 2, 1.0, values, 2 * values, torch.tensor([3, 4]), 0.5)
    path = tmp_path / "points.safetensors"
    Points(path, IDENTITY).add(BASE, point, made)
    assert Points(path, IDENTITY).of(BASE, 1.0, made).distinct_2 == 0.5
    other = {**IDENTITY, "seed": 6}
    for identity, temperature, made_by in ((other, 1.0, made), (IDENTITY, 0.9, made), (IDENTITY, 1.0, ["r", 2])):
        assert Points(path, identity).of(BASE, temperature, made_by) is None
    assert Points(path, IDENTITY).of(OURS, 1.0, made) is Points(None, IDENTITY).of(BASE, 1.0, made) is None
