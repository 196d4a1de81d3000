"""The stages of an evaluation: each measures what the results lack, and keeps every number as soon as it is there."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any

from torch import Tensor
from tqdm.auto import tqdm

from edlm.denoisers.base import Denoiser
from edlm.denoisers.loading import SHIPPED
from edlm.evaluation.estimates.units import TextUnits
from edlm.evaluation.experiment.asked import frontier_of, rows_in_continuous_time
from edlm.evaluation.experiment.continuous import in_continuous_time
from edlm.evaluation.experiment.grid import measure_bounds
from edlm.evaluation.experiment.measurement import Measurement, Setting
from edlm.evaluation.experiment.metrics import METRICS
from edlm.evaluation.experiment.plan import EvaluateConfig
from edlm.evaluation.experiment.points import Points
from edlm.evaluation.experiment.store import Results
from edlm.evaluation.experiment.unfinished import Unfinished
from edlm.evaluation.samples.cost import measure_cost
from edlm.evaluation.samples.diversity import distinct_n, unigram_entropy
from edlm.evaluation.samples.draw import draw_timed
from edlm.evaluation.samples.frontier import FrontierPoint
from edlm.evaluation.samples.judge import Judge, JudgedTexts, load_judge
from edlm.evaluation.samples.text_measures import TextMeasures
from edlm.evaluation.samples.texts import texts_of

NUM_EXAMPLES = 4
_OF_SAMPLES = [name for name, metric in METRICS.items() if metric.n_name == "num_samples"]
_BESIDE = ["num_samples", "judge", "judged_cut", "examples", "mauve_low", "mauve_high", "mauve_references"]
_ERRORS = [METRICS[name].error_name for name in _OF_SAMPLES if METRICS[name].error_name]
NOT_SAMPLED = dict.fromkeys([*_OF_SAMPLES, *_ERRORS, *_BESIDE, "texts_held_against"])


@dataclass
class Evaluation:
    """What is measured, on what, and where it is kept.

    Attributes:
        config: What is asked for.
        denoiser: The frozen denoiser.
        x_0: Held-out rows, ``[n, length]``.
        units: Of the held-out text.
        settings: What is measured.
        results: Where it is kept.
        points: Where judged samples are kept.
    """

    config: EvaluateConfig
    denoiser: Denoiser
    x_0: Tensor
    units: TextUnits
    settings: list[Setting]
    results: Results
    points: Points

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return self.x_0.shape[1]

    @cached_property
    def judge(self) -> Judge | None:
        """The causal LM that judges samples, loaded when it is first needed.

        Raises:
            ValueError: it is the energy of a method whose samples it is to judge, and that is not allowed; or the
                denoiser has no tokenizer.
        """
        name = self.config.samples.judge
        if name == "auto":
            name = f"{self.config.denoiser}/autoregressive"
            if not (SHIPPED / name).is_dir():
                return None
        if name is None:
            return None
        if self.denoiser.tokenizer is None:
            raise ValueError(f"a judge reads text, which needs a denoiser with a tokenizer, got {name} and one without")
        judge = load_judge(name, self.denoiser)
        if (parts := self.judged_by_energy(judge)) and not self.config.samples.allow_judge_as_energy:
            raise ValueError(
                f"a judge must have no part in the samples that it judges, got {judge.name}, which is the energy of "
                f"{', '.join(parts)}: take another, leave those out of samples.judged_methods and frontier.methods, or "
                "set samples.allow_judge_as_energy, and the result will say so"
            )
        return judge

    @cached_property
    def frontier(self) -> list[Setting]:
        """A setting for each point of the frontier; none without samples enough for an error."""
        return frontier_of(self.config, self.settings) if self.config.samples.judged > 1 else []

    @cached_property
    def text_measures(self) -> TextMeasures | None:
        """What is measured of samples' texts without a judge, for a report or where it is asked for.

        Raises:
            ValueError: the known words can not be read.
        """
        words, features = self.config.samples.known_words, self.config.samples.features
        asked = features is not None or words not in (None, "auto")
        if self.denoiser.tokenizer is None or not (asked or self.config.folder is not None):
            return None
        if words == "auto":
            shipped = SHIPPED / self.config.denoiser / "words.txt"
            words = shipped if shipped.is_file() else None
        return TextMeasures.load(texts_of(self.denoiser, self.x_0), words, features)

    def judged_by_energy(self, judge: Judge | None) -> list[str]:
        """Names of judged methods whose energy runs the judge."""
        if judge is None:
            return []
        asked = [s for s in self.settings if self.config.samples.asks_for(s)] + self.frontier
        energies = {(s.name, id(s.energy)): s for s in asked}
        return list(dict.fromkeys(s.name for s in energies.values() if judge.has_part_in(s.energy)))

    def run(self) -> None:
        """All stages, one after the other."""
        if self.config.samples.judged:
            _ = self.judge, self.text_measures  # what is refused is so before hours of work
        for stage in (
            self.measure_bounds,
            self.measure_times,
            self.measure_costs,
            self.measure_samples,
            self.measure_continuous,
            self.measure_frontier,
        ):
            stage()

    def measure_bounds(self) -> None:
        """Bounds and gains on the held-out rows."""
        missing = [setting for setting in self.settings if self.results.of(setting) is None]
        bases = {s.cell: s for s in self.settings if s.is_base}
        # A gain is paired with the rows of its base, which is measured along.
        wanted = dict.fromkeys([*(bases[s.cell] for s in missing), *missing])
        how = {"seed": self.config.seed, "batch_size": self.config.batch_size, "units": self.units}
        path = self.results.beside("unfinished")
        unfinished = Unfinished(path, [self.results.identity, len(self.x_0)]) if path is not None else None
        for setting, measurement, bound in measure_bounds(
            self.denoiser, wanted, self.x_0, unfinished=unfinished, **how
        ):
            if setting in missing:
                self.results.add(setting, measurement, bound.nats_per_row / bound.tokens_per_row)
        if unfinished is not None:
            unfinished.clear()

    def measure_times(self) -> None:
        """Time a batch of each setting, then another of each: a machine that slows down does so for all of them."""
        how = self.config.samples
        for n in range(how.timed_batches):
            for setting in _bar(self.settings, f"times, batch {n + 1} of {how.timed_batches}"):
                known = self.results.of(setting)
                before = known.seconds_of_batches or () if known.timed_batch_size == how.batch_size else ()
                if len(before) > n or how.batch_size * sum(before) > how.max_seconds:
                    continue
                sampler = setting.sampler.build(self.denoiser, setting.energy)
                seed = self.config.seed + n * how.batch_size
                drawn = draw_timed(sampler, self.length, batch_size=how.batch_size, num_batches=1, seed=seed)
                seconds = (*before, *drawn.seconds_of_batches)
                median = statistics.median(seconds)
                measured = replace(
                    known,
                    timed_batch_size=how.batch_size,
                    seconds_per_sequence=median,
                    seconds_of_batches=seconds,
                    tokens_per_second=self.length / median,
                    denoiser_passes=drawn.denoiser_passes,
                    energy_passes=drawn.energy_passes,
                )
                self.results.add(setting, measured)

    def measure_costs(self) -> None:
        """Floating-point operations and memory, for a report."""
        if self.config.folder is None:
            return
        size = self.config.samples.batch_size
        for setting in _bar([s for s in self.settings if self.results.of(s).cost_batch_size != size], "costs"):
            sampler = setting.sampler.build(self.denoiser, setting.energy)
            cost = measure_cost(sampler, self.length, batch_size=size, seed=self.config.seed)
            found = {"flops_per_sequence": cost.flops_per_sequence, "peak_memory_bytes": cost.peak_memory_bytes}
            self.results.add(setting, replace(self.results.of(setting), **found, cost_batch_size=size))
            self.results.once("memory", size, lambda how=cost.memory: how)
        if self.settings:
            self.results.once("memory", size, str)  # known by now

    def measure_samples(self) -> None:
        """Diversity of samples, what their texts say, and their loss under the judge."""
        number = self.config.samples.judged
        for setting in self.settings if number else ():
            known = self.results.of(setting)
            if not self.config.samples.asks_for(setting) and self._is_of_other_samples(known):
                self.results.add(setting, replace(known, **NOT_SAMPLED))
        for setting in _bar([s for s in self.settings if self._lacks_samples(s)], "samples"):
            point, texts, judged = self._sample(setting, number)
            found = {"num_samples": len(point.entropy), "distinct_2": point.distinct_2}
            found |= {"entropy_nats": point.entropy_nats.value, "entropy_stderr": point.entropy_nats.stderr}
            if self.config.folder is not None:  # a reader's; a file of numbers has none
                found["examples"] = tuple(texts[:NUM_EXAMPLES])
            if self.text_measures is not None:
                found |= self.text_measures.of(texts)
            if judged is not None:
                loss = judged.nats_per_token
                found |= {"judge_nats_per_token": loss.value, "judge_stderr": loss.stderr}
                found |= {"judge": self.judge.identity, "judged_cut": judged.num_cut}
            self.results.add(setting, replace(self.results.of(setting), **{**NOT_SAMPLED, **found}))
        if number and (measures := self.text_measures) is not None:
            made_by = [number, len(self.x_0), measures.described]
            self.results.once("held_out_text", made_by, lambda: measures.of_held_out(number))

    def measure_continuous(self) -> dict[str, list[dict[str, Any]]]:
        """Likelihoods in continuous time, see `in_continuous_time`."""
        rows, config = self.x_0[: rows_in_continuous_time(self.config)], self.config.continuous
        if not len(rows):
            return {"nelbo": [], "published": []}
        judged = [s for s in self.settings if s.energy is not None]
        energies = sorted({(s.name, s.sampler.order, s.revision) for s in judged})
        made_by = [len(rows), asdict(config), energies]
        how = {"units": self.units, "seed": self.config.seed, "batch_size": self.config.batch_size}
        measure = partial(in_continuous_time, self.denoiser, self.settings, rows, config, **how)
        return self.results.once("continuous", made_by, measure)

    def measure_frontier(self) -> list[FrontierPoint]:
        """Points of judge loss against entropy, for the base and every method at every temperature."""
        asked = self.frontier
        if not asked or self.judge is None:
            return []
        number = self.config.frontier.num_samples or self.config.samples.judged
        points = {s: self._point(s, number) for s in asked}
        for setting in _bar([s for s in asked if points[s] is None], "frontier"):
            points[setting], _, _ = self._sample(setting, number)
        return list(points.values())

    def _lacks_samples(self, setting: Setting) -> bool:
        if not self.config.samples.asks_for(setting):
            return False
        known = self.results.of(setting)
        unjudged = self.judge is not None and known.judge_nats_per_token is None
        unread = self.text_measures is not None and known.texts_held_against is None
        return known.num_samples is None or unjudged or unread or self._is_of_other_samples(known)

    def _is_of_other_samples(self, known: Measurement) -> bool:
        """Whether something was measured of samples that this call would measure otherwise."""
        held = self.text_measures.described if self.text_measures is not None else None
        judge = self.judge.identity if self.judge is not None else None
        judged = known.judge_nats_per_token is not None
        return known.num_samples is not None and (
            known.num_samples != self.config.samples.judged
            or (judged and (judge is None or known.judge not in (None, judge)))  # older files do not name it
            or known.texts_held_against not in (None, held)
        )

    def _point(self, setting: Setting, number: int) -> FrontierPoint | None:
        return self.points.of(setting, setting.sampler.temperature, self._made_by(setting, number))

    def _made_by(self, setting: Setting, number: int) -> list[object]:
        described = {name: value for name, value in setting.described.items() if name != "temperature"}
        return [setting.revision, described, self.judge.identity, number]

    def _sample(self, setting: Setting, number: int) -> tuple[FrontierPoint, list[str], JudgedTexts | None]:
        """Samples of a setting: the point that they are, their texts, and what the judge says."""
        config, sampler = self.config, setting.sampler.build(self.denoiser, setting.energy)
        seeds = range(config.seed, config.seed + number)
        how = {"batch_size": config.samples.batch_size, "seeds": seeds}
        tokens = sampler.sample(number, self.length, **how).tokens.cpu()
        judged = None
        if self.judge is not None:
            judged = self.judge.score(texts_of(self.denoiser, tokens, self.judge.separator))
        point = FrontierPoint(
            setting.name,
            *setting.cell,
            setting.sampler.temperature,
            entropy=unigram_entropy(tokens),
            nats=judged.nats if judged else tokens.new_zeros(number).double(),
            num_tokens=judged.num_tokens if judged else tokens.new_zeros(number),
            distinct_2=distinct_n(tokens, 2),
        )
        if judged is not None:
            self.points.add(setting, point, self._made_by(setting, number))
        return point, texts_of(self.denoiser, tokens), judged


def _bar(settings: list[Setting], title: str) -> Iterator[Setting]:
    return tqdm(settings, desc=title, disable=None, leave=False)
