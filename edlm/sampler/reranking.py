"""Finished texts of any generator, chosen by importance weight or by energy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from edlm.denoisers.loading import usable_device
from edlm.diffusion.streams import RowStreams, row_seeds
from edlm.energies.base import Energy
from edlm.energies.finished import ROWS_AT_A_TIME, load_finished_energy
from edlm.energies.proposal import draw_categorical
from edlm.processes import Share, alone
from edlm.rules import check, check_least, check_options, check_unicode
from edlm.sampler.reweighting import effective_sample_size, log_weights


@check_options
@dataclass(frozen=True, kw_only=True)
class RerankOptions:
    """How texts are chosen.

    Raises:
        ValueError: an option breaks its rule.
    """

    mode: Literal["sample", "best"] = "sample"
    """"sample" chooses by weight, "best" the text of the lowest energy."""

    k: int | None = None
    """Only the first k texts of a row are considered; None for all."""

    temperature: float = 1.0
    """Weights are ``exp(-E / temperature)``, divided by ``q`` where it is given; below 1 sharpens."""

    seed: int = 0
    """Row r is drawn with ``seed + r``."""

    device: str = "auto"
    """Device of an energy that is given by name: "cpu", "cuda", "mps", or "auto" for the best of these."""

    def __post_init__(self) -> None:
        check_least(1, k=self.k)
        if not self.temperature > 0:
            raise ValueError(f"temperature must be > 0, got {self.temperature}")


@dataclass(frozen=True)
class RerankOutput:
    """The text that was chosen of each row, and why.

    Attributes:
        text: The chosen text.
        chosen: Its index.
        energies: Of all texts of the row, nats, low = plausible; float64, shape ``[k]``.
        weights: Self-normalised importance weights, which add to 1, float64, shape ``[k]``.
        ess: Effective sample size of the weights, 1..k.
    """

    text: list[str]
    chosen: list[int]
    energies: list[Tensor]
    weights: list[Tensor]
    ess: list[float]


def rerank(
    prompts: Sequence[str],
    texts: Sequence[Sequence[str]],
    energy: str | Path | Energy | Callable,
    log_probs: Sequence[Sequence[float] | None] | None = None,
    share: Share = alone,
    **options: Any,
) -> RerankOutput:
    """Choose one of several finished texts for each prompt.

    ``w_i = exp(-E_i / temperature - log q_i)``, without ``log q`` where it is not given

    Of many texts drawn from ``q``, a choice by weight follows ``exp(-E / temperature)``: with a causal LM as energy
    its own law ``p(text | prompt)``, whatever generator wrote the texts. Without ``log q`` it follows
    ``q exp(-E / temperature)``.

    Args:
        prompts: One for each row.
        texts: The texts that may follow each prompt, at least one; their numbers may differ.
        energy: See `load_finished_energy`: such as ``"causal:gpt2"``, or a function ``f(texts) -> energies`` of prompt
            and text together; nats, low = plausible, ``+inf`` = impossible.
        log_probs: ``log q`` of each text given its prompt under the generator that it was drawn from, nats; None for
            rows that have none. It must be of what was drawn: with the end of the text if the energy judges that too.
        share: Who computes energies, of 16 rows at a time: this process, or several (`edlm.processes.together`).
        options: Fields of `RerankOptions`: ``mode``, ``temperature``, ``seed``, ``device``.

    Raises:
        ValueError: an option breaks its rule; an energy is NaN or -inf, or a log-probability not finite; or all texts
            of a row are impossible (names the row).

    Example:
        >>> rerank(["2 + 2 ="], [[" 5", " 4", " 4."]], lambda texts: [abs(len(t) - 9) for t in texts], mode="best").text
        [' 5']
    """
    how = RerankOptions(**options)
    prompts, texts = check("prompts", prompts, Sequence[str]), check("texts", texts, Sequence[Sequence[str]])
    for name, values in (("prompts", [prompts]), ("texts", texts)):
        for text in chain.from_iterable(values):
            check_unicode(name, text)
    log_probs = [None] * len(texts) if log_probs is None else log_probs
    texts = [list(of_row)[: how.k] for of_row in texts]
    log_probs = [of_row if of_row is None else list(of_row)[: how.k] for of_row in log_probs]
    if not len(prompts) == len(texts) == len(log_probs):
        got = f"{len(prompts)} prompts, {len(texts)} rows of texts and {len(log_probs)} of log_probs"
        raise ValueError(f"there must be texts (and log_probs) for each prompt, got {got}")
    if empty := [row for row, of_row in enumerate(texts) if not of_row]:
        raise ValueError(f"there must be a text for each prompt, got none in row {empty[0]}")
    judge = load_finished_energy(energy, usable_device(how.device))
    by_length = sorted(range(len(texts)), key=lambda row: -max(map(len, texts[row])) - len(prompts[row]))
    chunks = [by_length[start : start + ROWS_AT_A_TIME] for start in range(0, len(by_length), ROWS_AT_A_TIME)]
    judged = share(chunks, lambda rows: judge([prompts[row] for row in rows], [texts[row] for row in rows]))
    of_row = dict(zip(by_length, chain.from_iterable(judged), strict=True))
    energies = [of_row[row] for row in range(len(texts))]
    uniforms = RowStreams(row_seeds(len(texts), how.seed)).values(0).uniform(torch.ones(len(texts), dtype=torch.long))
    weights, ess, chosen = [], [], []
    for row, (nats, log_q) in enumerate(zip(energies, log_probs, strict=True)):
        try:
            log_w = _log_weights(nats, log_q, how.temperature)
        except ValueError as error:
            raise ValueError(f"{error}, in row {row} (prompt {prompts[row][:40]!r})") from error
        weights.append(log_w.softmax(0))
        ess.append(effective_sample_size(log_w).item())
        drawn = nats.argmin() if how.mode == "best" else draw_categorical(log_w[None], uniforms[[row]])
        chosen.append(int(drawn))
    return RerankOutput([texts[r][i] for r, i in enumerate(chosen)], chosen, energies, weights, ess)


def _log_weights(energies: Tensor, log_q: Sequence[float] | None, temperature: float) -> Tensor:
    """Unnormalised, nats, float64, ``[k]``."""
    log_w = log_weights(energies, temperature)
    if log_q is not None:
        given = torch.as_tensor(log_q, dtype=torch.float64)
        if given.shape != log_w.shape or not given.isfinite().all():
            raise ValueError(f"log_probs must be one finite number for each of {len(log_w)} texts, got {list(log_q)}")
        log_w = log_w - given
    if log_w.isneginf().all():
        raise ValueError(f"a row needs a text of finite energy, got {len(log_w)} of infinite energy")
    return log_w
