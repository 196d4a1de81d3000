"""Cases of the shipped models, and the numbers of ``edlm evaluate``; in float64, so that all CPUs draw the same."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from safetensors.torch import load_file

import edlm
from edlm.evaluation.experiment import lab, plan
from tests.golden.names import EXACT, command_line
from tests.golden.numbers import described

ROWS = 4
CASES: list[tuple[str | None, dict[str, Any]]] = [
    (None, {"num_candidates": 1, "num_steps": 4, "order": "random"}),
    (None, {"num_candidates": 1, "num_steps": 4, "order": "bisecting"}),
    ("head", {"num_candidates": EXACT, "num_steps": 4, "order": "bisecting"}),
    ("head_random", {"num_candidates": EXACT, "num_steps": 4, "order": "random"}),
    ("head_random", {"num_candidates": 2, "num_steps": 3, "order": "ancestral"}),
    ("head_blind", {"num_candidates": EXACT, "num_steps": 4, "order": "bisecting"}),
    ("head_random", {"num_candidates": 4, "num_steps": 2, "order": "confidence"}),
    ("autoregressive", {"num_candidates": 2, "num_steps": 4, "order": "left_to_right", "group_size": 8}),
    ("autoregressive", {"num_candidates": 3, "num_steps": 2, "order": "bisecting", "scope": "sequence"}),
]
PROMPTS = ["Once upon a time", "The dog"]
GAPS = "Once upon <mask:3>, there was a <mask>."


def methods() -> list[dict[str, Any]]:
    head = {"energy": "tinystories/head", "orders": ["bisecting"], "group_size": 4}
    return [
        {**head, "name": "head_exact", "num_candidates": EXACT, "group_size": None},
        {**head, "name": "head_rounds_of_4", "num_candidates": EXACT, "num_steps": [2]},
        {**head, "name": "head_k4", "num_candidates": 4, "num_steps": [4]},
    ]


EVALUATE = {
    "num_rows": ROWS,
    "num_steps": [2, 4],
    "orders": ["bisecting"],
    "batch_size": ROWS,
    "methods": methods(),
    "samples": {"timed_batches": 1, "judged": 4, "batch_size": 4, "judged_steps": [2]},
    "frontier": {"temperatures": [0.8, 1.0], "num_steps": [2], "orders": ["bisecting"], "methods": ["head_exact"]},
    "continuous": {"num_rows": 4, "num_draws": 2, "published": "all", "num_candidates": 4},
}


def denoiser_in_float64(*arguments: Any, **options: Any) -> edlm.Denoiser:
    return edlm.load_denoiser(*arguments, **options).double()


def energy_in_float64(*arguments: Any, **options: Any) -> edlm.Energy:
    return edlm.load_energy(*arguments, **options).double()


def shipped_numbers(folder: Path) -> dict[str, dict[str, Any]]:
    denoiser = denoiser_in_float64("tinystories")
    path = Path(edlm.__file__).parent / "models" / "tinystories" / "valid.safetensors"
    x_0 = load_file(path)["tokens"].long()[:ROWS]
    numbers = {}
    for name, options in CASES:
        energy = energy_in_float64(f"tinystories/{name}") if name else None
        sampler = edlm.EnergySampler(denoiser, energy, **options)
        bound = sampler.likelihood_bound(x_0, seeds=range(ROWS))
        numbers[described("shipped", name or "base", **options)] = {"bound": bound, **written(sampler)}
    return numbers | evaluated(folder)


def written(sampler: edlm.EnergySampler) -> dict[str, Any]:
    """Tokens after two prompts, and a text with gaps; left to right, a causal LM does not see the text after a gap."""
    output = sampler.generate(PROMPTS, 24, seed=3)
    filled = sampler.infill(GAPS, seed=4).text if sampler.order != "left_to_right" else []
    tokens = [row.tolist() for row in output.tokens]
    return {"tokens": tokens, "judged": [step.judged.tolist() for step in output.steps], "infilled": filled}


def evaluated(folder: Path) -> dict[str, dict[str, Any]]:
    """All numbers in the results of ``edlm evaluate`` but times and those of the machine."""
    config, output = folder / "evaluate.yaml", folder / "results.json"
    config.write_text(yaml.safe_dump(EVALUATE))
    with patch.object(lab, "load_denoiser", denoiser_in_float64), patch.object(plan, "load_energy", energy_in_float64):
        assert command_line(["evaluate", "--config", str(config), "--output", str(output)]) == 0
    results = json.loads(output.read_text())
    settings = {f"{s['name']}, {s['num_steps']} steps": numbers_in(s) for s in results["settings"]}
    parts = {part: numbers_in(results[part]) for part in ("continuous", "gains", "frontier")}
    return {described("shipped", "evaluate", name): numbers for name, numbers in (settings | parts).items()}


def numbers_in(value: Any) -> Any:
    """The numbers in a nested value, without times."""
    if isinstance(value, (dict, list)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        inner = {str(key): numbers_in(one) for key, one in pairs if "second" not in str(key)}
        return {key: one for key, one in inner.items() if one not in (None, {})}
    return value if isinstance(value, (int, float)) else None
