"""The order that keeps dependent positions apart, and the predictor behind it."""

from dataclasses import asdict

import pytest
import torch

from edlm import EnergySampler
from edlm.diffusion.dependency import DependencyBounded, DependencyPredictor
from edlm.diffusion.plan import named_order
from edlm.diffusion.slots import Slots
from edlm.diffusion.streams import RowStreams
from edlm.evaluation.languages.law import exact_law
from edlm.sampler.passes import Passes
from edlm.sampler.step import begin_steps
from edlm.training.dependency import DependencyObjective
from edlm.training.trainer import TrainerConfig, train
from tests.chance import assert_law
from tests.energies.heads import MASK, SIZES, disturbed_head, modernbert

LENGTH = 4


def predictor(seed=0, denoiser=None):
    torch.manual_seed(seed)
    made = DependencyPredictor(SIZES["hidden_size"], 5, denoiser)
    for weight in made.parameters():
        weight.data = torch.randn(weight.shape)
    return made.eval()


def rule_of(threshold):
    return DependencyBounded(threshold, predictor())


def by_hand(rule, denoiser, x_t):
    """Its reveal set of one row, by loops, from the definition."""
    t = torch.ones(1)
    encoding = denoiser.encode(x_t, t, keep_hidden=True)
    masked = (x_t[0] == MASK).nonzero()[:, 0].tolist()
    sure = denoiser.slot_log_probs(encoding, Slots.where(x_t == MASK)).amax(1)
    states = torch.nn.functional.layer_norm(encoding.hidden[-1][0], [SIZES["hidden_size"]])
    p, chosen = rule.predictor, []

    def moved(i, j):
        a, c = p.source(states[i]), p.target(states[j])
        return round((a @ c / 5**0.5 + p.distance[abs(i - j)]).sigmoid().item() * 1024) / 1024

    for n in sorted(range(len(masked)), key=lambda n: (-round(sure[n].item() * 1024), n)):
        j = masked[n]
        if sum(max(moved(i, j), moved(j, i)) for i in chosen) <= rule.threshold:
            chosen.append(j)
    return chosen


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.1, 9.0])
def test_reveal_sets_are_those_of_the_definition(threshold):
    denoiser, rule = modernbert(), rule_of(threshold)
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randint(0, 4, (12, 9), generator=generator)
    x_t = x_t.masked_fill(torch.rand(12, 9, generator=generator) < 0.7, MASK)
    sampler = EnergySampler(denoiser, num_steps=9, order=rule)
    plan = sampler.plan(x_t == MASK, RowStreams(range(12)))
    (step,) = begin_steps([sampler], plan, torch.zeros(12, dtype=torch.long), x_t, Passes.of(sampler))
    sizes = []
    for r in range(12):
        found = step.slots.positions[step.slots.rows == r].tolist()
        assert found == by_hand(rule, denoiser, x_t[r : r + 1])
        sizes.append(len(found))
    assert {0.0: max(sizes) < 5, 9.0: sizes == (x_t == MASK).sum(1).tolist()}.get(threshold, len({*sizes}) > 1)


@pytest.mark.parametrize("energy", [False, True])
def test_likelihood_is_exact_and_the_law_that_of_the_samples(energy):
    denoiser = modernbert()
    head = disturbed_head(denoiser) if energy else None
    sampler = EnergySampler(denoiser, head, num_steps=3, order=rule_of(0.9))
    assert sampler.bound_is_exact and sampler.reads_hidden
    law = exact_law(sampler, LENGTH).exp()
    assert law.sum().item() == pytest.approx(1, abs=1e-5)
    tokens = sampler.sample(4000, LENGTH, seeds=range(4000)).tokens
    code = (tokens * 4 ** torch.arange(LENGTH - 1, -1, -1)).sum(1)
    assert_law(torch.bincount(code, minlength=4**LENGTH), law / law.sum())


def test_measured_total_variation_is_that_of_two_passes():
    denoiser = modernbert()
    x_0 = torch.randint(0, 4, (3, 6), generator=torch.Generator().manual_seed(2))
    masked = torch.tensor([[1, 1, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 0, 0]]).bool()
    source, uniforms = torch.tensor([1, 4, 3]), torch.rand(3, 6, dtype=torch.float64)
    states, moved = DependencyObjective(denoiser).measured(x_0, masked, source, uniforms)
    for r in range(3):
        x_t = x_0[r : r + 1].masked_fill(masked[r], MASK)
        before = denoiser.log_probs(x_t, masked[r : r + 1].float().mean(1)).exp()[0]
        token = int((before[source[r]].double().cumsum(0) <= uniforms[r, source[r]]).sum())
        x_t[0, source[r]] = token
        after = denoiser.log_probs(x_t, masked[r : r + 1].float().mean(1)).exp()[0]
        for j in range(6):
            if masked[r, j] and j != source[r]:
                expected = 0.5 * (before[j] - after[j]).abs().sum().item()
                assert moved[r, j].item() == pytest.approx(expected, abs=1e-5)
    assert (moved[~masked] == 0).all() and states.shape == (3, 6, SIZES["hidden_size"])


def test_predictor_is_trained_saved_and_named(tmp_path):
    """It learns which positions move each other better than one number for all does."""
    denoiser, objective = modernbert(), DependencyObjective(modernbert())
    x_0 = torch.randint(0, 4, (96, 8), generator=torch.Generator().manual_seed(5))
    options = {"num_steps": 150, "batch_size": 32, "learning_rate": 0.03, "warmup_steps": 5, "ema_decay": 0.9}
    torch.manual_seed(0)
    made = DependencyPredictor(SIZES["hidden_size"], 8, asdict(denoiser.identity))
    config = TrainerConfig(output_dir=str(tmp_path), **options)
    folder = train(made, objective, x_0, None, config, save=lambda model, path: model.save_pretrained(path))
    trained = DependencyPredictor.from_pretrained(folder)

    masked = torch.rand(x_0.shape, generator=torch.Generator().manual_seed(6)) < 0.6
    source, rows = torch.arange(len(x_0)) % 8, torch.arange(len(x_0))
    masked[rows, source] = True
    uniforms = torch.rand(x_0.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    states, moved = objective.measured(x_0, masked, source, uniforms)
    distances = (torch.arange(8) - source[:, None]).abs()[:, None]
    with torch.no_grad():
        predicted = trained(states[rows, source][:, None], states, distances)[:, 0].sigmoid()
    others = masked & (torch.arange(8) != source[:, None])
    spread = (moved[others] - moved[others].mean()).square().mean()
    assert (predicted - moved)[others].square().mean() < 0.8 * spread

    name = f"dependency_bounded(0.25, {folder})"
    named = named_order(name)
    assert named.threshold == 0.25 and torch.equal(named.network.distance, trained.distance)
    with pytest.raises(FileNotFoundError):  # an order may be named before its predictor is trained
        EnergySampler(denoiser, num_steps=2, order="dependency_bounded(0.25, nowhere)")
    EnergySampler(denoiser, num_steps=2, order=name).sample(1, 4, seeds=[0])
    with pytest.raises(ValueError, match="this order belongs to denoiser .* the one given differs"):
        EnergySampler(modernbert(1), num_steps=2, order=named)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("dependency_bounded", "needs a predictor"),
        ("dependency_bounded(0.5)", "needs a predictor"),
        ("dependency_bounded(-1, FOLDER)", "threshold must be >= 0"),
        ("dependency_bounded(x, FOLDER)", "could not convert string to float"),
    ],
)
def test_names_without_a_predictor_are_refused(name, rule, tmp_path):
    predictor().save_pretrained(tmp_path / "final")
    with pytest.raises(ValueError, match=rule):
        named_order(name.replace("FOLDER", str(tmp_path / "final")))
