"""What a causal LM with other tokens does as an energy on text: does it prefer order, and what does a judge see?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from edlm.evaluation.estimates.estimate import Estimate, mean_of
from edlm.evaluation.samples.diversity import distinct_n, unigram_entropy
from edlm.evaluation.samples.judge import Judge
from edlm.evaluation.samples.texts import texts_of
from edlm.sampler.sampler import EnergySampler


def shuffled_words(texts: Sequence[str], seed: int) -> list[str]:
    """The same words in random order, text by text.

    Example:
        >>> sorted(shuffled_words(["the cat sat"], seed=0)[0].split())
        ['cat', 'sat', 'the']
    """
    generator = torch.Generator().manual_seed(seed)
    words = [text.split() for text in texts]
    return [" ".join(row[i] for i in torch.randperm(len(row), generator=generator).tolist()) for row in words]


def cost_of_disorder(judge: Judge, texts: Sequence[str], seed: int) -> Estimate:
    """How much higher ``-log p`` of a text is with its words shuffled, nats per word, over texts.

    Args:
        judge: The causal LM; as an energy, this is the difference of energies but for the proposal's term.
        texts: At least a word each.
        seed: Of the shuffles.
    """
    ordered = [" ".join(text.split()) for text in texts]
    excess = judge.score(shuffled_words(ordered, seed)).nats - judge.score(ordered).nats
    return mean_of(excess / torch.tensor([len(text.split()) for text in ordered]))


@dataclass(frozen=True)
class JudgedSamples:
    """Samples under a judge, with their entropy.

    Attributes:
        name: Of the sampler.
        judge: Nats per token of each sample under the judge, ``[n]``, low = good.
        entropy: Unigram entropy of each, nats, ``[n]``.
        distinct_2: Share of distinct bigrams.
        ess: Estimate effective sample size of decisions, 1..k; 1 without weights.
    """

    name: str
    judge: Tensor
    entropy: Tensor
    distinct_2: float
    ess: float

    def as_record(self, base: JudgedSamples) -> dict[str, Any]:
        """Values and standard errors, differences from ``base`` paired by seed, as JSON values."""
        loss, entropy = mean_of(self.judge), mean_of(self.entropy)
        difference = mean_of(self.judge - base.judge)
        return {
            "name": self.name,
            "n": loss.n,
            "judge_nats_per_token": loss.value,
            "judge_stderr": loss.stderr,
            "judge_minus_base": difference.value,
            "judge_minus_base_stderr": difference.stderr if self is not base else None,
            "entropy_nats": entropy.value,
            "entropy_stderr": entropy.stderr,
            "entropy_over_base": entropy.value / mean_of(base.entropy).value,
            "distinct_2": self.distinct_2,
            "ess": self.ess,
        }


def judge_samplers(
    samplers: Mapping[str, EnergySampler], judge: Judge, length: int, *, num_samples: int, batch_size: int, seed: int
) -> list[JudgedSamples]:
    """Draw from each sampler under the same seeds, and judge.

    Args:
        samplers: By name; the first is the base.
        judge: An LM that is not the energy.
        length: Tokens of a sample.
        num_samples: How many of each.
        batch_size: At a time.
        seed: Sample i has the seed ``seed + i``.
    """
    found = []
    for name, sampler in samplers.items():
        tokens, ess = [], []
        for start in tqdm(range(0, num_samples, batch_size), desc=name, disable=None, leave=False):
            seeds = range(seed + start, seed + min(start + batch_size, num_samples))
            output = sampler.sample(len(seeds), length, seeds=seeds)
            tokens.append(output.tokens.cpu())
            ess += [step.ess.double().mean() for step in output.steps if bool(step.judged.any())]
        tokens = torch.cat(tokens)
        judged = judge.score(texts_of(sampler.denoiser, tokens, judge.separator))
        loss = judged.nats / judged.num_tokens.clamp(min=1)
        spread = torch.stack(ess).mean().item() if ess else 1.0
        found.append(JudgedSamples(name, loss, unigram_entropy(tokens), distinct_n(tokens, 2), spread))
    return found
