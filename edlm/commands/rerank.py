"""``edlm rerank``: choose among finished texts of any generator."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch

from edlm.commands.json_lines import read_lines, write_lines
from edlm.commands.terminal import print_table
from edlm.evaluation.estimates.estimate import mean_of
from edlm.evaluation.experiment.metrics import format_estimate
from edlm.files import check_writable
from edlm.processes import join, together
from edlm.rules import check_unicode
from edlm.sampler.reranking import RerankOptions, rerank


@dataclass(frozen=True)
class RerankConfig(RerankOptions):
    """Texts, and the energy that chooses among them.

    Args:
        data: JSONL file: a ``prompt`` and its ``texts`` on each line; where they are known also ``log_probs``, the
            generator's ``log q`` of each text given the prompt, nats, which makes the weights ``p / q``.
        energy: A causal LM with its own tokenizer, as "causal:PATH" ("text:PATH" is the same), "package:NAME" or
            "server:URL#MODEL"; or a saved causal energy.
        output: JSONL file to write; the standard output by default.
    """

    data: str
    energy: str | None = None
    output: str | None = None


def run(config: RerankConfig) -> None:
    """Write each line with ``energies``, ``weights``, ``chosen`` and ``ess``, and print their means.

    Processes that were launched together share the rows; the main one writes.
    """
    if config.energy is None:
        raise ValueError("energy must be given, such as --energy causal:gpt2, got none")
    check_writable(config.output)
    rows = read_lines(config.data, _check)
    prompts, texts, log_probs = ([row.get(name) for row in rows] for name in ("prompt", "texts", "log_probs"))
    options = {field.name: getattr(config, field.name) for field in fields(RerankOptions)}
    processes = join(in_step=False)
    if config.device == "auto":
        options["device"] = str(processes.device)
    output = rerank(prompts, texts, config.energy, log_probs, together, **options)
    if not processes.is_main_process:
        return
    energies, weights = ([of_row.tolist() for of_row in table] for table in (output.energies, output.weights))
    added = {"energies": energies, "weights": weights, "chosen": output.chosen, "ess": output.ess}
    write_lines(
        config.output,
        ({**row, **{name: values[r] for name, values in added.items()}} for r, row in enumerate(rows)),
    )
    columns = {
        "rows": lambda _: str(len(rows)),
        "texts": lambda _: str(sum(map(len, texts))),
        "effective sample size": lambda _: _mean(output.ess),
        "energy of a text, nats": lambda _: _mean(value for of_row in energies for value in of_row),
        "of the chosen": lambda _: _mean(of_row[i] for of_row, i in zip(energies, output.chosen, strict=True)),
    }
    print_table(f"reranked by {config.energy} (low energy = good)", [None], columns, stderr=True)


def _check(row: dict[str, Any]) -> None:
    """Refuse a row without texts."""
    prompt, texts, log_probs = (row.get(name) for name in ("prompt", "texts", "log_probs"))
    if not isinstance(prompt, str) or not isinstance(texts, list) or not texts or not _all(str, texts):
        raise ValueError(f"a row must hold a prompt (text) and texts (a list of at least one), got {str(row)[:60]!r}")
    for text in (prompt, *texts):
        check_unicode("a text", text)
    if log_probs is not None and not (isinstance(log_probs, list) and _all((int, float), log_probs)):
        raise ValueError(f"log_probs must be a list of numbers, got {str(log_probs)[:60]!r}")
    if log_probs is not None and not (len(log_probs) == len(texts) and all(map(_is_finite, log_probs))):
        raise ValueError(f"log_probs must be one finite number for each text, got {str(log_probs)[:60]!r}")


def _is_finite(value: float) -> bool:
    return not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _all(kind: type | tuple[type, ...], values: Iterable[Any]) -> bool:
    return all(isinstance(value, kind) for value in values)


def _mean(values: Iterable[float]) -> str:
    return format_estimate(mean_of(torch.tensor(list(values))), 2)
