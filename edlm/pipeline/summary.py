"""SUMMARY.md: what a pipeline trained and measured, on one page, from its logs and results."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from edlm.corpus.prepared import PreparedCorpus
from edlm.evaluation.experiment.provenance import provenance
from edlm.files import write_atomically
from edlm.pipeline.config import PipelineConfig, StageConfig
from edlm.pipeline.run import Progress

_MODELS = ("train denoiser", "train autoregressive")  # whose loss is -log p of a whole block, per token
_TRAINED = ["minutes", "updates", "epochs", "tokens a second", "validation loss", "bits per character", "gain"]
_MEASURED = ["name", "order", "num_steps", "bound_nats_per_token", "bound_stderr", "bits_per_char", "n"]


def write_summary(config: PipelineConfig, progress: Progress) -> Path:
    """Write ``SUMMARY.md`` into the pipeline's folder and return its path."""
    output, made = Path(config.output), provenance()
    about = {**made["versions"], **made["machine"]}
    lines = [
        f"# {output.name}",
        f"`{made['command']}`: {progress.seconds / 60:.1f} of {config.max_minutes:g} minutes; "
        + ", ".join(f"{name} {value}" for name, value in about.items() if value is not None),
        "## Training",
        "Losses on held-out blocks, in nats per token (of a likelihood head: of the tokens of a step). Gain: nats per "
        "token, or per decision of energies that weigh candidates.",
        _table(["stage", *_TRAINED], (_trained(name, config, progress) for name in config.stages)),
    ]
    for name, stage in config.stages.items():
        path = output / name / "results.json"
        if stage.command == "evaluate" and path.is_file():
            results = json.loads(path.read_text(encoding="utf-8"))
            energies = [line["text"] for line in results["by_energy"]]
            facts = [results["verdict"], *energies, *results["facts"], *results["warnings"], *_nelbos(results)]
            lines += [f"## Measured: [{name}]({name}/report.html)", "\n".join(f"- {fact}" for fact in facts if fact)]
            lines.append(_table(_MEASURED, ([row.get(key) for key in _MEASURED] for row in results["settings"])))
            lines += _texts(results)
    path = output / "SUMMARY.md"
    write_atomically(path, "\n\n".join(lines) + "\n")
    return path


def _trained(name: str, config: PipelineConfig, progress: Progress) -> list[Any]:
    """A row of the first table; of stages that do not train, just their minutes."""
    folder, minutes = Path(config.output) / name, progress.minutes.get(name)
    if not (folder / "log.jsonl").is_file():
        return [name, minutes, *[None] * (len(_TRAINED) - 1)]
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    trainer = yaml.safe_load((folder / "config.yaml").read_text())
    corpus = PreparedCorpus.load(yaml.safe_load(folder.with_suffix(".yaml").read_text())["corpus"])
    updates, sequences = events[-1]["step"], trainer["batch_size"] * trainer["gradient_accumulation"]
    speeds = sorted(event["tokens_per_second"] for event in events if event["split"] == "train")
    valid = next((event for event in reversed(events) if event["split"] == "valid"), {"loss": None, "metrics": {}})
    gain = next((value for key, value in valid["metrics"].items() if key.startswith("gain")), None)
    bits = _bits(valid["loss"], corpus, config.stages[name])
    epochs = updates * sequences / len(corpus.train.tokens)
    return [name, minutes, updates, epochs, speeds[len(speeds) // 2], valid["loss"], bits, gain]


def _bits(nats: float | None, corpus: PreparedCorpus, stage: StageConfig) -> float | None:
    if nats is None or stage.command not in _MODELS:
        return None
    return nats / math.log(2) / corpus.valid.characters_per_token


def _nelbos(results: Mapping[str, Any]) -> list[str]:
    """Bounds in continuous time, in bits per character too where that is known."""
    lines = []
    for nelbo in (results.get("continuous") or {}).get("nelbo", []):
        units = [f"{nelbo['nats_per_token']:.3f} ± {nelbo['stderr']:.3f} nats per token"]
        if "bits_per_char" in nelbo:
            units.append(f"{nelbo['bits_per_char']:.4f} ± {nelbo['bits_per_char_stderr']:.4f} bits per character")
        lines.append(f"{nelbo['estimator']}: {', '.join(units)}, n = {nelbo['n']}")
    return lines


def _texts(results: Mapping[str, Any]) -> list[str]:
    """The first text of each sampler."""
    texts = [(row, row["examples"][0]) for row in results["settings"] if row.get("examples")]
    return [f"{row['name']}, {row['order']} order, {row['num_steps']} passes:\n\n> {text}" for row, text in texts]


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else str(value)
