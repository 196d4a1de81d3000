"""What a training of an energy is built of."""

from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch

from edlm import EnergySampler, load_energy
from edlm.corpus.blocks import TokenBlocks
from edlm.energies import ChainHead, MarkovHead
from edlm.energies.head_settings import HeadOptions
from edlm.energies.neighbour_head import NeighbourOptions
from edlm.training import energy as module
from edlm.training.energy import TrainEnergyConfig, run_config
from edlm.training.mixtures import EnergyObjectiveConfig
from edlm.training.trainer_config import TrainerConfig
from tests.energies.heads import MASK, modernbert, ranked, step_on


class Reached(Exception):
    """The run is built."""


@pytest.fixture
def built(monkeypatch, tmp_path):
    """``built(**options)``: the energy, objective and identity that a run trains with."""
    seen = {}

    def train(energy, objective, *blocks, save, identity):
        seen.update(energy=energy, objective=objective, identity=identity)
        raise Reached

    def build(**options):
        with suppress(Reached):
            run_config(TrainEnergyConfig("none", "tinystories", TrainerConfig(str(tmp_path)), **options))
        return seen

    monkeypatch.setattr(module, "train", train)
    tokens = SimpleNamespace(tokens=torch.zeros(2, 8, dtype=torch.long))
    monkeypatch.setattr(module, "corpus_of", lambda corpus, denoiser: SimpleNamespace(train=tokens, valid=tokens))
    return build


@pytest.mark.parametrize(
    ("options", "dtype"),
    [({}, torch.float32), ({"denoiser_dtype": "bfloat16"}, torch.bfloat16)],
    ids=["default", "bf16"],
)
def test_the_dtype_of_the_denoiser_is_an_option_and_part_of_the_identity(built, options, dtype):
    seen = built(**options)
    assert {weight.dtype for weight in seen["objective"].denoiser.parameters()} == {dtype}
    assert {weight.dtype for weight in seen["energy"].parameters()} == {torch.float32}
    assert seen["identity"].get("denoiser_dtype") == options.get("denoiser_dtype")


@pytest.mark.parametrize(("kind", "expected"), [("markov", MarkovHead), ("chain", ChainHead)])
def test_heads_of_neighbours_have_a_shape_and_a_mixture_of_their_own(built, kind, expected):
    seen = built(kind=kind, neighbours=NeighbourOptions(rank=8, num_likeliest=5, reads_states=False))
    energy, config = seen["energy"], seen["objective"].config
    assert type(energy) is expected and (energy.shape.rank, energy.shape.num_likeliest) == (8, 5)
    assert not seen["objective"].reads_hidden and seen["identity"]["head"]["rank"] == 8
    assert config.loss == "likelihood" and config.block_lengths == (None, 32) and "confidence" in config.orders
    assert energy.trained_for.orders == config.orders and energy.trained_for.num_candidates is None


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"group_sizes": (None, 2)}, r"group_sizes must be \[null\] for kind 'chain'.*got \[None, 2\]"),
        ({"loss": "ranking"}, "loss must be 'likelihood' for kind 'chain', got 'ranking'"),
        ({"scope": "sequence"}, "needs another objective.scope"),
    ],
)
def test_a_chain_is_trained_on_whole_steps_by_its_likelihood(built, objective, message):
    with pytest.raises(ValueError, match=message):
        built(kind="chain", objective=EnergyObjectiveConfig(**objective))


@pytest.mark.parametrize(
    ("mixture", "valid_batches"),
    [
        ({"num_steps": (2, 3, 4, 5, 6, 8), "group_sizes": (None, 2, 4)}, 1),
        ({"num_steps": (2,), "orders": ("random", "confidence"), "group_sizes": (None, 2, 4)}, 4),
    ],
    ids=["steps", "groups"],
)
def test_validation_sees_all_of_a_mixture_on_few_rows(mixture, valid_batches, tmp_path, monkeypatch):
    """6 rows, in batches of 4."""
    seen, call = [], module.EnergyObjective.__call__

    def spy(objective, model, batch, streams):
        if not model.training:
            seen.append(tuple(streams.common(4).tolist()))
        return call(objective, model, batch, streams)

    monkeypatch.setattr(module.EnergyObjective, "__call__", spy)
    x_0 = torch.randint(MASK, (6, 8), generator=torch.Generator().manual_seed(0))
    rows = TokenBlocks(x_0, 6, x_0.numel(), 0, 0)
    monkeypatch.setattr(module, "corpus_of", lambda corpus, denoiser: corpus)
    trainer = TrainerConfig(str(tmp_path), num_steps=2, batch_size=4, valid_every=1, valid_batches=valid_batches)
    objective = EnergyObjectiveConfig(**mixture)
    run_config(TrainEnergyConfig(SimpleNamespace(train=rows, valid=rows), modernbert(), trainer, objective=objective))
    first, second = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert first == second and len(first) == max(valid_batches, *map(len, mixture.values()))
    objective = objective.of_kind("head")
    mixtures = (objective.num_steps, objective.orders, objective.group_sizes, objective.block_lengths)
    for values, drawn in zip(mixtures, zip(*first, strict=True), strict=True):
        assert {int(u * len(values)) for u in drawn} == {*range(len(values))}


@pytest.mark.parametrize("kind", ["head", "markov", "nce"])
def test_a_run_measures_what_a_normalised_energy_gains_and_keeps_it(kind, tmp_path):
    """Of a tiny denoiser, on rows of its own symbols: it is saved, exported, and read by a sampler."""
    denoiser = modernbert()
    x_0 = torch.randint(MASK, (64, 8), generator=torch.Generator().manual_seed(0))
    rows = TokenBlocks(x_0, 64, x_0.numel(), 0, 0)
    objective = EnergyObjectiveConfig(num_steps=(2, 3), orders=("random",), block_lengths=(None,))
    trainer = TrainerConfig(str(tmp_path / "run"), num_steps=2, batch_size=8, valid_batches=1)
    corpus = SimpleNamespace(train=rows, valid=rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "corpus_of", lambda corpus, denoiser: corpus)
        energy = run_config(TrainEnergyConfig(corpus, denoiser, trainer, kind, objective=objective))
    gains = energy.trained_for.gains
    assert [(gain.order, gain.num_steps) for gain in gains] == ([] if kind == "nce" else [("random", 2), ("random", 3)])
    again = load_energy(tmp_path / "run" / "final")
    again.save_pretrained(tmp_path / "shipped", dtype=torch.float16)  # as `edlm export` does
    assert again.trained_for == energy.trained_for == load_energy(tmp_path / "shipped").trained_for
    for gain in gains:
        sampler = EnergySampler(denoiser, again, num_steps=gain.num_steps)
        assert sampler.energy_window == gain.window and sampler.order == "random"


@pytest.mark.parametrize("number", [16, 8192])
@torch.no_grad()
def test_a_head_of_all_tokens_is_trained_further_as_one_of_listed_tokens(built, number):
    seen = built(start_from="tinystories", head=HeadOptions(num_blocks=4, num_listed=number))
    denoiser, shipped, listed = seen["objective"].denoiser, load_energy("tinystories"), seen["energy"].eval()
    x_t = torch.full((1, 16), denoiser.mask_token_id)
    step = step_on(denoiser, x_t, ranked(tuple(range(0, 16, 2))))
    tokens = torch.randint(1000, 9000, (8,), generator=torch.Generator().manual_seed(0)) % denoiser.vocab_size
    full, of_lists = shipped.log_prob(step, tokens), listed.log_prob(step, tokens)
    base = step.denoiser.slot_log_probs(step.encoding, step.slots).gather(1, tokens[:, None]).sum()
    assert (full - base).abs() > 0.5
    assert torch.allclose(of_lists, full, atol=1e-3) == (number == 8192)


def test_a_head_of_another_shape_is_not_trained_further(built):
    with pytest.raises(ValueError, match="start_from must hold a ResidualHead of settings .*'num_blocks': 2.*, got a"):
        built(start_from="tinystories", head=HeadOptions(num_blocks=2))
