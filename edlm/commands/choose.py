"""``edlm choose``: probabilities of the options for a gap in a text."""

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from edlm.commands.json_lines import read_lines, write_lines
from edlm.commands.models import ModelOptions
from edlm.commands.terminal import print_table
from edlm.evaluation.estimates.estimate import mean_of
from edlm.evaluation.experiment.metrics import format_estimate
from edlm.files import check_writable
from edlm.rules import check_unicode
from edlm.sampler.text.choosing import ChooseOptions, ChooseOutput


@dataclass(frozen=True, kw_only=True)
class ChooseConfig(ChooseOptions, ModelOptions):
    """Texts with a gap, the options for it, and the sampler under which these are compared.

    Args:
        text: A text with a gap, ``<mask>``.
        options: Options for the gap.
        data: In place of a text, a JSONL file: a ``text`` on each line, and its ``options`` where they are its own.
        output: JSONL file to write; the standard output by default.
    """

    text: str | None = None
    options: tuple[str, ...] = field(default=(), metadata={"least": 0})
    data: str | None = None
    output: str | None = None

    def __post_init__(self) -> None:
        ChooseOptions.__post_init__(self)
        ModelOptions.__post_init__(self)
        if (self.text is None) == (self.data is None):
            raise ValueError(f"text or data must be given, and not both, got {self.text!r} and {self.data!r}")
        if self.text is not None and not self.options:
            raise ValueError(f"options must be given for a text, such as --options dog cat, got {self.options}")


def run(config: ChooseConfig) -> None:
    """Write each line with ``probs`` of its options, and print those of a text, or a summary.

    A line has the ``text`` and its ``options``; ``probs``, which add to 1; ``nats``, ``-log p`` of each option given
    its number of tokens, null where it cannot be written, and ``nats_per_token``; the index ``chosen`` of the
    likeliest; whether all this is ``exact``, and the ``num_draws`` where it is not.
    """
    check_writable(config.output)
    shared = {"options": list(config.options)} if config.options else {}
    if config.data is None:
        rows = [{"text": config.text, **shared}]
    else:
        rows = read_lines(config.data, lambda row: _check({**shared, **row}))
        rows = [{**shared, **row} for row in rows]
    how = {option.name: getattr(config, option.name) for option in fields(ChooseOptions)}
    sampler = config.load_sampler()
    try:
        output = sampler.choose([row["text"] for row in rows], [row["options"] for row in rows], **how)
    except ValueError as error:
        raise error if config.data is None else ValueError(f"{config.data}: {error}") from error
    columns = {"probs": output.probs, "nats": output.nats, "nats_per_token": output.nats_per_token}
    write_lines(
        config.output,
        (
            {
                **row,
                **{name: values[r].tolist() for name, values in columns.items()},
                **{"chosen": output.chosen[r], "exact": output.exact, "num_draws": output.num_draws},
            }
            for r, row in enumerate(rows)
        ),
    )
    _show(config, output)


def _show(config: ChooseConfig, output: ChooseOutput) -> None:
    """A text's options, likeliest first; of several texts, how sure the choices are."""
    kind = "exact" if output.exact else f"bounds, {output.num_draws} draws"
    if config.data is None:
        (probs,), (nats,), (per_token,) = output.probs, output.nats, output.nats_per_token
        columns = {
            "option": lambda i: output.options[0][i],
            "probability": lambda i: f"{probs[i]:.4f}",
            "nats": lambda i: f"{nats[i]:.3f}",
            "nats per token": lambda i: f"{per_token[i]:.3f}",
            "tokens": lambda i: str(int(output.num_tokens[0][i])),
        }
        print_table(f"{config.text} ({kind})", nats.argsort().tolist(), columns, stderr=True)
        return
    counts = Counter(map(len, output.options))
    largest = torch.stack([probs.max() for probs in output.probs])
    columns = {
        "texts": lambda _: str(len(output.chosen)),
        "options of a text": lambda _: ", ".join(map(str, sorted(counts))),
        "probability of the chosen": lambda _: format_estimate(mean_of(largest), 3),
    }
    print_table(f"options of {config.data} ({kind})", [None], columns, stderr=True)


def _check(row: dict[str, Any]) -> None:
    """Refuse a row without a text or options."""
    text, options = row.get("text"), row.get("options")
    is_list = isinstance(options, list) and options and all(isinstance(option, str) for option in options)
    if not isinstance(text, str) or not is_list:
        raise ValueError(f"a row must hold a text and options (a list of at least one), got {str(row)[:60]!r}")
    for value in (text, *options):
        check_unicode("a text", value)
