"""Cases of the small world: every energy and every option of the sampler, at least twice."""

from typing import Any

import torch

import edlm
from edlm.evaluation import continuous_nelbo, likelihood_bound, log_partition_bounds, published_perplexity, step_spreads
from tests.golden.names import EXACT, exact_law
from tests.golden.numbers import described
from tests.golden.small import ENERGIES, LENGTH, MASK, SIZE, checksum, denoiser_of, network, random

SEEDS = range(4)
X_0 = torch.randint(SIZE, (4, LENGTH), generator=torch.Generator().manual_seed(5))
USUAL = {"num_steps": 3, "num_candidates": 3, "scope": "step", "order": "bisecting"}
SEQUENCE = {"scope": "sequence", "num_steps": 2}
LEFT = {"order": "left_to_right"}
CASES: list[tuple[str, dict[str, Any]]] = [
    *[("base", {"order": order, "num_candidates": 1}) for order in ("ancestral", "random", "dilated", "bisecting")],
    ("base", {"order": "confidence", "num_candidates": 1, "temperature": 0.7}),
    ("base", {**LEFT, "num_candidates": 1, "top_p": 0.8, "top_k": 3}),
    ("base", {"order": "ancestral", "schedule": "cosine", "num_candidates": 1}),
    *[("scored", {"order": order}) for order in ("ancestral", "random", "dilated", "bisecting", "confidence")],
    ("scored", {"order": "ancestral", "schedule": "polynomial", "group_size": 2}),
    ("scored", {**LEFT, "group_size": 1, "weight_temperature": 0.6}),
    ("scored", {"num_steps": 1, "group_size": 4, "num_candidates": 5, "inner_draws": 3}),
    ("scored", {"window": (0.3, 0.8), "weight_temperature": 2.0}),
    ("scored", {"window": (0.5, 1.0), "order": "dilated", "correct_proposal": True, "temperature": 1.4}),
    ("scored", {"top_p": 0.7, "correct_proposal": True}),
    ("scored", {"top_k": 2, "temperature": 0.8, "order": "confidence"}),
    ("scored", SEQUENCE),
    ("scored", {**SEQUENCE, "order": "random", "inner_draws": 4, "correct_proposal": True, "temperature": 0.8}),
    ("scored", {**SEQUENCE, "order": "ancestral", "inner_draws": 2, "weight_temperature": 0.5}),
    ("forbidding", {"on_impossible": "keep", "num_candidates": 2}),
    ("forbidding", {"on_impossible": "keep", "order": "random", **SEQUENCE}),
    ("forbidding", {"on_impossible": "redraw", **LEFT}),
    ("forbidding", {"on_impossible": "redraw", "order": "confidence", "group_size": 1}),
    ("oracle", {"num_candidates": EXACT}),
    ("oracle", {"num_candidates": EXACT, "order": "random", "group_size": 2, "num_steps": 2}),
    ("oracle", {"num_candidates": EXACT, "order": "confidence", "temperature": 0.7, "top_p": 0.9}),
    ("oracle", {"num_candidates": 4, **LEFT}),
    ("text_function", SEQUENCE),
    ("text_function", {**SEQUENCE, "order": "dilated", "inner_draws": 2}),
    *[(name, LEFT) for name in ("autoregressive", "autoregressive_eos", "carry_over", "text", "sum")],
    *[(name, SEQUENCE) for name in ("autoregressive", "autoregressive_eos", "carry_over", "text", "sum")],
    ("autoregressive", {**LEFT, "temperature": 0.8, "group_size": 1}),
    ("autoregressive", {**SEQUENCE, "order": "random", "inner_draws": 3, "correct_proposal": True, "top_k": 3}),
    *[(name, {"num_candidates": EXACT}) for name in ("head", "head_two_blocks", "head_cold", "head_blind")],
    *[(name, {"group_size": 2, "num_steps": 2}) for name in ("head", "head_two_blocks", "head_cold", "head_blind")],
    ("head", {"num_candidates": EXACT, "group_size": 3, "num_steps": 1}),
    ("head_two_blocks", {"num_candidates": EXACT, "group_size": 2, "num_steps": 2, "order": "random"}),
    ("head", {"num_candidates": EXACT, "order": "ancestral", "window": (0.4, 1.0)}),
    ("head", {"num_candidates": EXACT, "order": "confidence", "temperature": 0.8, "top_k": 3}),
    ("head", {**SEQUENCE, "order": "random", "inner_draws": 2}),
    ("head_unnormalized", {"num_steps": 2}),
    ("head_unnormalized", {"group_size": 2, "num_steps": 1, "order": "random", "correct_proposal": True}),
    ("sequence", SEQUENCE),
    ("sequence", {**SEQUENCE, "order": "ancestral", "inner_draws": 2}),
    ("sum_of_heads", {"order": "dilated"}),
    ("sum_of_heads", SEQUENCE),
]
LAWS: list[tuple[str, dict[str, Any]]] = [
    ("scored", {"num_steps": 2}),
    ("scored", {"num_steps": 1, "group_size": 2, "temperature": 0.7, **LEFT}),
    ("oracle", {"num_steps": 2, "num_candidates": EXACT, "order": "confidence"}),
    ("head", {"num_steps": 1, "num_candidates": EXACT}),
    ("head_unnormalized", {"num_steps": 2, "order": "dilated"}),
]
NETWORKS = list(ENERGIES)[list(ENERGIES).index("autoregressive") :]


def small_numbers() -> dict[str, dict[str, Any]]:
    numbers = {"network/weights": {"denoiser": checksum(network())}}
    numbers["network/weights"] |= {name: checksum(ENERGIES[name]()) for name in NETWORKS}
    for name, options in CASES:
        numbers[entry(name, "case", options)] = case(name, **options)
    for name, options in LAWS:
        sampler = sampler_of(name, **options)
        numbers[entry(name, "law", options)] = {"log_p": exact_law(sampler, 3)}
    for name in ("scored", "oracle", "head", "head_unnormalized", "sequence"):
        numbers[entry(name, "published", {})] = published(name)
    for name in ("base", "network"):
        numbers[entry(name, "nelbo", {})] = nelbo(name)
    for name, candidates in (("scored", 3), ("head", EXACT), ("head_unnormalized", 3)):
        numbers[entry(name, "given and padded", {})] = given_and_padded(name, candidates)
    lower, upper = log_partition_bounds(2 * random(3, 5, seed=6))
    numbers["world/log Z"] = {"lower": lower, "upper": upper}
    return numbers


def entry(name: str, what: str, options: dict[str, Any]) -> str:
    return described("network" if name in [*NETWORKS, "network"] else "world", what, name, **options)


def sampler_of(name: str, **options) -> edlm.EnergySampler:
    return edlm.EnergySampler(denoiser_of(name), ENERGIES[name](), **{**USUAL, **options})


def case(name: str, inner_draws: int = 1, **options) -> dict[str, Any]:
    """Samples, their diagnostics and cost, and the bound of data and of the samples themselves."""
    sampler = sampler_of(name, **options)
    output = sampler.sample(len(SEEDS), LENGTH, seeds=SEEDS)
    whole = (output.tokens != MASK).all(1)  # the policy "keep" may leave masks
    x_0, seeds = torch.cat([X_0, output.tokens[whole]]), [*SEEDS, *torch.tensor(SEEDS)[whole].tolist()]
    return {
        "tokens": output.tokens,
        **{what: [getattr(step, what).tolist() for step in output.steps] for what in ("num_revealed", "judged")},
        "denoiser_calls": [step.denoiser_calls for step in output.steps],
        **{what: [getattr(step, what).sum().item() for step in output.steps] for what in ("redraws", "kept")},
        "energies": [step.energies[step.energies.isfinite()].sum().item() for step in output.steps],
        "ess": [step.ess.tolist() for step in output.steps],
        "spread": [(spread.spread.value, spread.log_z_upper.value) for spread in step_spreads(output)],
        "bound": sampler.likelihood_bound(x_0, seeds=seeds, inner_draws=inner_draws),
        "exact": sampler.bound_is_exact,
    }


def given_and_padded(name: str, num_candidates: int | None) -> dict[str, Any]:
    """A prompt, a gap and padding in one batch; and the bound through the function of the same name."""
    sampler, x_t = sampler_of(name, num_candidates=num_candidates, num_steps=2), X_0.clone()
    gaps = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 1], [0, 1, 1, 1, 0, 0], [1, 1, 0, 1, 1, 1]]).bool()
    real = torch.tensor([[1] * 6, [1] * 6, [1, 1, 1, 1, 0, 0], [1] * 6]).bool()
    x_t[gaps] = MASK
    options = {**USUAL, "num_candidates": num_candidates}
    options_of_bound = {"given": ~gaps, "seeds": SEEDS}
    return {
        "tokens": sampler.fill(x_t, attention_mask=real, seeds=SEEDS).tokens[real],
        "bound": sampler.likelihood_bound(X_0, attention_mask=real, **options_of_bound),
        "function": likelihood_bound(sampler.denoiser, sampler.energy, X_0, **options_of_bound, **options),
    }


def published(name: str) -> dict[str, Any]:
    options = {"num_draws": 3, "num_candidates": 4, "seed": 1}
    value = published_perplexity(denoiser_of(name), ENERGIES[name](), X_0, **options)
    ends = {end: (value.perplexity(end).value, value.perplexity(end).stderr) for end in ("lower", "upper")}
    others = {what: getattr(value, what) for what in ("spread", "ess", "num_candidates", "untrusted")}
    return {**ends, "marginal": value.marginal.nats_per_row, **others}


def nelbo(name: str) -> dict[str, Any]:
    options = {"num_draws": 3, "seed": 1}
    kinds = {kind: continuous_nelbo(denoiser_of(name), X_0, estimator=kind, **options) for kind in ("times", "counts")}
    kinds["enumerated"] = continuous_nelbo(denoiser_of(name), X_0, estimator="enumerated")
    return {kind: (value.value, value.stderr, *value.nats_per_row.tolist()) for kind, value in kinds.items()}
