"""Samples of settings: their diversity, their loss under the judge, and how near they are to held-out text."""

from collections.abc import Iterator, Sequence
from functools import cache, partial

import torch
from torch import Tensor

from edlm.evaluation.estimates.estimate import Estimate, mean_of
from edlm.evaluation.experiment.lab import Job, Lab
from edlm.evaluation.experiment.plan import Setting
from edlm.evaluation.experiment.store import Entry, record_of
from edlm.evaluation.likelihood.bounds import Batches
from edlm.evaluation.samples.text import distinct_n, texts_of, unigram_entropy

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
            yield Job(key, [dict(setting.row.options), described], make, setting)


def samples_key(setting: Setting, number: int) -> str:
    """Key of samples, after the stage."""
    return f"{setting.row.key}, temperature {setting.temperature:g}, {number} samples"


def _draw(lab: Lab, setting: Setting, number: int) -> Tensor:
    def tokens_of(rows: slice, seeds: range) -> Tensor:
        return setting.sampler.sample(len(seeds), lab.length, seeds=seeds).tokens.cpu()

    batches = Batches(seed=lab.config.seed, batch_size=lab.config.samples.batch_size)
    return torch.cat([*batches.map(tokens_of, number)])


def _diversity(lab: Lab, tokens: Tensor) -> Entry:
    entropy, texts = unigram_entropy(tokens), texts_of(lab.denoiser, tokens)
    metrics = {"entropy_nats": mean_of(entropy), "distinct_2": Estimate(distinct_n(tokens, 2), None, len(tokens))}
    notes = {"examples": texts[:NUM_EXAMPLES]}
    if lab.texts is not None:
        metrics |= lab.texts.proxies(texts)
        notes["texts_held_against"] = lab.texts.identity
    return Entry(record_of(metrics, **notes), {"entropy": entropy})


def _judged(lab: Lab, tokens: Tensor) -> Entry:
    judged = lab.judge.score(texts_of(lab.denoiser, tokens, lab.judge.separator))
    record = record_of(
        {"judge_nats_per_token": judged.nats_per_token}, judge=lab.judge.identity, judged_cut=judged.num_cut
    )
    return Entry(record, {"nats": judged.nats, "num_tokens": judged.num_tokens})


def _mauve(lab: Lab, tokens: Tensor) -> Entry:
    reference = lab.texts.held_out[: len(tokens)]
    score = lab.texts.mauve(texts_of(lab.denoiser, tokens), reference)
    return Entry(record_of({"mauve": score}, mauve_references=len(reference)))
