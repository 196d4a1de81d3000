"""An audit of anybody's sampler: does what it draws follow the law of a language whose truth is known?"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from edlm.corpus.languages import MarkovChain
from edlm.denoisers.base import Denoiser
from edlm.denoisers.function import FunctionDenoiser
from edlm.diffusion.streams import generator_of
from edlm.evaluation.languages.audit_verdicts import AuditReport, Draws, judge
from edlm.evaluation.languages.exact import Language, exact_denoiser
from edlm.evaluation.languages.law import all_sequences, exact_law
from edlm.rules import check, check_least, check_most
from edlm.sampler.sampler import EnergySampler

Sampler = Callable[[Denoiser, Tensor, list[int]], Tensor]


def reference_chain() -> MarkovChain:
    """A chain of 3 symbols, none of which is like another, whose neighbours depend strongly on each other."""
    return MarkovChain([[0.05, 0.85, 0.1], [0.15, 0.05, 0.8], [0.7, 0.2, 0.1]], [0.5, 0.3, 0.2])


def audit(
    sampler: Sampler,
    language: Language | None = None,
    *,
    length: int = 4,
    law: EnergySampler | Tensor | None = None,
    num_samples: int = 2000,
    batch_size: int = 200,
    seed: int = 0,
) -> AuditReport:
    """Draw sequences with a sampler that is given a language's exact marginals, and test them against its law.

    Half of the rows begin from nothing, half from sequences of the language with masks, as prompts: filled in by the
    language's own law, they are again sequences of the language.

    Args:
        sampler: ``f(denoiser, x_t[batch, length], seeds) -> tokens[batch, length]``: fills the masks of each row, whose
            seed is its own. The denoiser gives ``log_probs(x_t)``, of which each call counts as a pass. A function of
            the language, such as its exact energy, may be built into the sampler.
        language: The truth, with few sequences of this length (at most 65536); by default `reference_chain`.
        length: Tokens of a sequence.
        law: What the sampler is meant to draw from nothing, if that is not the language: an `EnergySampler`, whose law
            is summed (`exact_law`); or log-probabilities of all sequences, in the order of `all_sequences`. Nine of ten
            rows then begin from nothing, and the others are only tested for given tokens.
        num_samples: Sequences that are drawn, >= 100.
        batch_size: Rows of a call.
        seed: Row i has the seed ``seed + i``.

    Returns:
        A verdict for each check. A sampler that is right fails any of them with a chance of about 0.001.

    Raises:
        ValueError: the sampler returned something else than tokens, or an option breaks its rule.

    Note:
        The marginals being exact, a sampler that reveals one token a pass follows the language. Few passes without an
        energy do not: their tokens contradict each other, and the audit says so. Nor do k candidates, whose law has a
        bias of order 1 / k: give that ``law``.

    Example:
        >>> from edlm import EnergySampler
        >>> def sample(denoiser, x_t, seeds, num_steps=4):
        ...     return EnergySampler(denoiser, num_steps=num_steps).fill(x_t, seeds=seeds).tokens
        >>> audit(sample).passed
        True
        >>> [verdict.name for verdict in audit(lambda *given: sample(*given, num_steps=1)).failed][:3]
        ['likelihood', 'sequences', 'distance']
    """
    options = {"num_samples": num_samples, "batch_size": batch_size, "length": length}
    check_least(1, **{name: check(name, value, int) for name, value in options.items()})
    check_least(100, num_samples=num_samples)
    check_most(16, length=length)
    if language is None:
        language = reference_chain()
    sequences = all_sequences(language.vocab_size, length)
    truth = language.log_prob(sequences).exp()
    if isinstance(law, EnergySampler):
        law = exact_law(law, length)
    is_truth = law is None
    law = truth if law is None else check("law", law, Tensor).double().exp()
    if law.shape != truth.shape or abs(law.sum().item() - 1) > 1e-6:
        raise ValueError(f"law must be log-probabilities of {len(truth)} sequences, got {[*law.shape]}")
    num_prompts = num_samples // (2 if is_truth else 10)
    sizes, how = (num_samples - num_prompts, num_prompts), {"batch_size": batch_size, "seed": seed}
    draws = _draw(check("sampler", sampler, Callable), language, length, *sizes, **how)
    return judge(draws, sequences, truth, law, is_truth)


def _draw(
    sampler: Sampler, language: Language, length: int, num_free: int, num_prompts: int, *, batch_size: int, seed: int
) -> Draws:
    exact, calls = exact_denoiser(language), []

    def f(x_t: Tensor, t: Tensor) -> Tensor:
        calls.append(len(x_t))
        return exact.f(x_t, t)

    denoiser = FunctionDenoiser(f, language.mask_token_id, language.vocab_size)
    generator = generator_of(seed, 1)
    x_t = torch.full((num_free + num_prompts, length), language.mask_token_id)
    x_0 = language.sample(num_prompts, length, generator)
    keys = torch.rand(num_prompts, length, generator=generator)
    given = keys.argsort(1).argsort(1) < torch.randint(1, max(2, length), (num_prompts, 1), generator=generator)
    x_t[num_free:] = torch.where(given, x_0, language.mask_token_id)

    def drawn(rows: range) -> Tensor:
        tokens = sampler(denoiser, x_t[rows.start : rows.stop].clone(), [seed + row for row in rows])
        if not isinstance(tokens, Tensor) or tokens.dtype != torch.int64 or tokens.shape != (len(rows), length):
            got = f"{tokens.dtype} {[*tokens.shape]}" if isinstance(tokens, Tensor) else type(tokens).__name__
            raise ValueError(f"sampler must return int64 tokens [{len(rows)}, {length}], got {got}")
        return tokens.cpu()

    free, prompted = [*range(0, num_free, batch_size), num_free], [*range(num_free, len(x_t), batch_size), len(x_t)]
    tokens = [drawn(range(*ends)) for ends in pairwise(free)]
    passes = len(calls) / len(tokens)
    tokens += [drawn(range(*ends)) for ends in pairwise(prompted)]
    return Draws(x_t, torch.cat(tokens), drawn(range(min(20, num_free))), passes)
