"""`edlm.evaluation.evaluate`: objects or names in, table, picture and page out."""

import pytest
import torch

from edlm import CallableEnergy, EnergySampler
from edlm.corpus.blocks import TokenBlocks, save_blocks
from edlm.energies import Energy
from edlm.evaluation import EvaluateConfig, evaluate
from edlm.evaluation.experiment.parts import DEFAULT_METHODS, MethodConfig, SamplesConfig
from tests.enumerable import SEQUENCES, random_denoiser

SMALL = {"num_rows": 4, "num_steps": (2,), "orders": ("left_to_right",), "samples": SamplesConfig(1, 1.0, 2, judged=0)}


class Repetition(Energy):
    """Has a default: 8 candidates."""

    reads = "sequence"

    def forward(self, decision):
        return (decision.candidates[..., 1:] == decision.candidates[..., :-1]).sum(-1).double()


@pytest.fixture
def blocks(tmp_path):
    held_out = TokenBlocks(SEQUENCES[[0, 5, 26, 13, 7]], 3, 15, 0, 15, torch.tensor([0, 0, 1, 2, 2]))
    save_blocks(held_out, tmp_path / "blocks.safetensors")
    return held_out


def test_objects_are_measured_and_give_table_picture_and_page(blocks, tmp_path):
    denoiser, energies = random_denoiser(), [Repetition(), Repetition()]
    found = evaluate(denoiser, energies, str(tmp_path / "blocks.safetensors"), measure=("bounds", "time"), **SMALL)
    assert [row.name for row in found.rows] == ["base", "Repetition", "Repetition1"]
    sampler = EnergySampler(denoiser, energies[0], num_steps=2, order="left_to_right")
    tokens = blocks.draw(4, seed=0).tokens
    bound = sampler.likelihood_bound(tokens, seeds=range(4), inner_draws=16).mean() / 3  # it judges whole sequences
    assert found.rows[1]["bound_nats_per_token"].value == pytest.approx(bound.item())
    assert found.table().count("\n") == 2 + 3 and "Repetition1" in found.table()
    found.report(tmp_path / "page.html")
    assert found.conclusions["verdict"] in (tmp_path / "page.html").read_text().replace("&#39;", "'")
    found.plot(tmp_path / "bounds.svg")
    assert (tmp_path / "bounds.svg").read_text().startswith("<?xml")


def test_energies_are_methods_named_after_their_folders():
    config = EvaluateConfig(energy=("runs/a/final", "causal:org/lm"))
    assert [method.name for method in config.methods] == ["a", "lm"]
    both = EvaluateConfig(energy="tinystories", methods=(MethodConfig(name="mine"),))
    assert [method.name for method in both.methods] == ["mine", "tinystories"]


def test_shipped_heads_are_for_the_shipped_denoiser_alone(tmp_path):
    assert EvaluateConfig().methods == DEFAULT_METHODS
    assert EvaluateConfig(denoiser="org/model").methods == ()
    with pytest.raises(ValueError, match="data must be given for a denoiser that is not shipped"):
        evaluate(random_denoiser(), Repetition(), **SMALL)


def test_options_of_the_sampler_are_for_the_energies(blocks, tmp_path):
    """A function recommends no number of candidates."""
    energy = CallableEnergy(lambda candidates, x_partial, log_proposal: (candidates == 1).sum(-1).float())
    options = {"measure": ("bounds",), **SMALL}
    with pytest.raises(ValueError, match="num_candidates must be given"):
        evaluate(random_denoiser(), energy, str(tmp_path / "blocks.safetensors"), **options)
    found = evaluate(random_denoiser(), energy, str(tmp_path / "blocks.safetensors"), num_candidates=3, **options)
    assert [row.options["num_candidates"] for row in found.rows] == [1, 3]


def test_a_denoiser_alone_can_be_measured_and_mistakes_are_named(blocks, tmp_path):
    data = str(tmp_path / "blocks.safetensors")
    found = evaluate(random_denoiser(), [], data, quick=True, measure=("bounds",), **SMALL)
    assert {row.name for row in found.rows} == {"base"} and repr(found).startswith("Evaluation(")
    with pytest.raises(ValueError, match="measure must be some of .* did you mean 'bounds'"):
        evaluate(random_denoiser(), [], data, measure=["bound"])
    with pytest.raises(ValueError, match="evaluate has no option 'quik'; did you mean 'quick'"):
        evaluate(random_denoiser(), [], data, quik=True)
