"""``edlm score``: the likelihood of texts under a sampler."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from edlm.commands.json_lines import write_lines
from edlm.commands.models import ModelOptions
from edlm.commands.terminal import print_table
from edlm.corpus.text import read_documents
from edlm.corpus.tokens import SEPARATOR
from edlm.evaluation.estimates.estimate import ratio_of
from edlm.evaluation.experiment.metrics import format_estimate
from edlm.evaluation.likelihood.text import TextBounds, row_to_score
from edlm.files import check_writable
from edlm.sampler.sampler import EnergySampler

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoreConfig(ModelOptions):
    """Texts and the sampler under which they are scored.

    Args:
        data: Texts: a file, a folder, or a `datasets` data set, as ``edlm prepare corpus`` reads them.
        energy: As for ``edlm sample``, but for the default: null, the base alone.
        split: Split of a `datasets` data set.
        text_field: Field or column that holds the text, outside of .txt files.
        separator: In .txt, a line with nothing else ends a text; a file without one is one text.
        num_draws: Draws of a bound that are averaged; one where it is exact.
        inner_draws: Draws of candidates inside each; give at least 16 where candidates are whole sequences.
        batch_size: Texts, or windows of long ones, at a time.
        seed: Text i has the seed ``seed + i``.
        output: JSONL file to write; the standard output by default.
    """

    data: str
    energy: str | None = field(default=None, kw_only=True)
    split: str | None = None
    text_field: str = "text"
    separator: str = SEPARATOR
    num_draws: int = 1
    inner_draws: int = 1
    batch_size: int = 16
    seed: int = 0
    output: str | None = None


def run(config: ScoreConfig) -> None:
    """Write ``-log p`` of each text, and print that of all of them.

    A line has the ``text``; ``nats``, an upper bound of its ``-log p`` given its number of tokens, null where the
    sampler cannot write it; whether that is ``exact``; ``num_tokens`` and ``nats_per_token``; ``bits_per_char``. A
    token that ends the text is not scored.
    """
    check_writable(config.output)
    texts = read_documents(config.data, split=config.split, text_field=config.text_field, separator=config.separator)
    if len(texts) == 1 and "\n" in texts[0].strip():
        logger.warning("%s is one text of several lines: a line %s separates texts", config.data, config.separator)
    sampler = config.load_sampler()
    denoiser = sampler.denoiser
    options = {name: getattr(config, name) for name in ("batch_size", "num_draws", "inner_draws")}
    tokens, left_out = zip(*map(denoiser.vocabulary.tokens_of, texts), strict=True)
    num_tokens = [len(ids) + lost for ids, lost in zip(tokens, left_out, strict=True)]
    if empty := [text for text, count in zip(texts, num_tokens, strict=True) if not count]:
        raise ValueError(f"a text must hold a token, got {empty[0]!r}")
    possible = [i for i, lost in enumerate(left_out) if not lost]
    if len(possible) < len(texts):
        got = f"{len(texts) - len(possible)} of {len(texts)} texts hold tokens that the model never writes"
        logger.warning("%s, such as unknown words: they are not in the table", got)
    rows, seeds = [row_to_score(denoiser, [], tokens[i]) for i in possible], [config.seed + i for i in possible]
    bounds = TextBounds(sampler, **options).bounds(rows, seeds, progress="texts").tolist()
    nats = [math.inf] * len(texts)
    for i, value in zip(possible, bounds, strict=True):
        nats[i] = value
    write_lines(
        config.output,
        (
            {
                **{"text": text, "nats": value, "exact": sampler.bound_is_exact},
                **{"num_tokens": count, "nats_per_token": value / count},
                "bits_per_char": value / len(text) / math.log(2),
            }
            for text, value, count in zip(texts, nats, num_tokens, strict=True)
        ),
    )
    if possible:
        counts = [[count[i] for i in possible] for count in (num_tokens, [*map(len, texts)])]
        _show(config, sampler, bounds, *counts)


def _show(
    config: ScoreConfig,
    sampler: EnergySampler,
    nats: Sequence[float],
    num_tokens: Sequence[int],
    num_chars: Sequence[int],
) -> None:
    per_token, per_char = (ratio_of(torch.tensor(nats), torch.tensor(counts)) for counts in (num_tokens, num_chars))
    columns = {
        "sampler": lambda _: f"{config.denoiser}, {config.energy or 'no energy'}",
        "order": lambda _: str(sampler.order),
        "passes": lambda _: str(sampler.num_steps),
        "texts": lambda _: str(len(nats)),
        "tokens": lambda _: str(sum(num_tokens)),
        "nats per token": lambda _: format_estimate(per_token, 3),
        "perplexity": lambda _: format_estimate(per_token.exp(), 1),
        "bits per character": lambda _: format_estimate(per_char.scaled(1 / math.log(2)), 3),
    }
    kind = "-log p of texts" if sampler.bound_is_exact else "upper bound of -log p of texts"
    print_table(f"{kind} (low = good)", [None], columns, stderr=True)
