"""Samples of settings: their diversity, their loss under the judge, and how near they are to held-out text."""

from collections.abc import Iterator, Sequence
from functools import cache, partial

import torch
from torch import Tensor

from edlm.denoisers.framing import blocks_of_rows
from edlm.evaluation.estimates.estimate import Estimate, mean_of
from edlm.evaluation.experiment.job import Job
from edlm.evaluation.experiment.lab import Lab
from edlm.evaluation.experiment.plan import Setting
from edlm.evaluation.experiment.store import Entry, record_of
from edlm.evaluation.likelihood.bounds import Batches
from edlm.evaluation.samples.judge import JudgedTexts
from edlm.evaluation.samples.text import distinct_n, texts_of, unigram_entropy
from edlm.processes import from_main_process

NUM_EXAMPLES = 4


def sample_jobs(lab: Lab, setting: Setting, number: int, stages: Sequence[str]) -> Iterator[Job]:
    """Measurements of ``number`` samples, which are drawn at most once."""
    drawn = cache(partial(_draw, lab, setting, number))
    measures = {"samples": (_diversity, lab.texts), "judge": (_judged, lab.judge), "mauve": (_mauve, lab.texts)}
    for stage, (measure, reader) in measures.items():
        if stage == "samples" or (stage in stages and reader is not None):
            described = None if reader is None else reader.identity
            key = f"{stage}/{samples_key(setting, number)}"
            make = partial(lambda measure: measure(lab, drawn()), measure)
            yield Job(key, [dict(setting.row.options), described], make, setting, is_shared=True)


def samples_key(setting: Setting, number: int) -> str:
    """Key of samples, after the stage."""
    return f"{setting.row.key}, temperature {setting.temperature:g}, {number} samples"


def _batches(lab: Lab) -> Batches:
    return Batches(**lab.batches(batch_size=lab.config.samples.batch_size))


def _draw(lab: Lab, setting: Setting, number: int) -> Tensor:
    def drawn(rows: slice, seeds: range) -> Tensor:
        tokens = setting.sampler.sample(len(seeds), lab.length, seeds=seeds).tokens
        return blocks_of_rows(lab.denoiser, tokens).cpu()

    return torch.cat([*_batches(lab).map(number, drawn)])


def _diversity(lab: Lab, tokens: Tensor) -> Entry:
    entropy, texts = unigram_entropy(tokens), texts_of(lab.denoiser, tokens)
    metrics = {"entropy_nats": mean_of(entropy), "distinct_2": Estimate(distinct_n(tokens, 2), None, len(tokens))}
    notes = {"examples": texts[:NUM_EXAMPLES]}
    if lab.texts is not None:
        metrics |= lab.texts.proxies(texts)
        notes["texts_held_against"] = lab.texts.identity
    return Entry(record_of(metrics, **notes), {"entropy": entropy})


def _judged(lab: Lab, tokens: Tensor) -> Entry:
    texts = texts_of(lab.denoiser, tokens, lab.judge.separator)
    parts = [*_batches(lab).map(len(texts), lambda rows, _: lab.judge.score(texts[rows]))]
    judged = JudgedTexts(
        torch.cat([part.nats for part in parts]),
        torch.cat([part.num_tokens for part in parts]),
        sum(part.num_cut for part in parts),
    )
    record = record_of(
        {"judge_nats_per_token": judged.nats_per_token}, judge=lab.judge.identity, judged_cut=judged.num_cut
    )
    return Entry(record, {"nats": judged.nats, "num_tokens": judged.num_tokens})


def _mauve(lab: Lab, tokens: Tensor) -> Entry:
    reference = lab.texts.held_out[: len(tokens)]
    texts = texts_of(lab.denoiser, tokens)
    score = from_main_process(lambda: lab.texts.mauve(texts, reference))
    return Entry(record_of({"mauve": score}, mauve_references=len(reference)))
