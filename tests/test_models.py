"""Which models the options of commands name."""

import pytest
import torch

from edlm import ResidualHead, load_denoiser
from edlm.cli import main
from edlm.commands.models import ModelOptions


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The shipped denoiser as somebody's own, and without its tokenizer."""
    folder = tmp_path_factory.mktemp("denoisers")
    denoiser = load_denoiser("tinystories")
    denoiser.save_pretrained(folder / "own")
    denoiser.tokenizer.save_pretrained(folder / "tokenizer")
    denoiser.save_pretrained(folder / "bare")
    for path in (folder / "bare").glob("*token*"):
        path.unlink()
    return folder


def test_the_shipped_energy_is_for_the_shipped_denoiser_alone(folder):
    assert isinstance(ModelOptions().load_sampler().energy, ResidualHead)
    assert ModelOptions(denoiser=str(folder / "own")).load_sampler().energy is None
    assert isinstance(
        ModelOptions(denoiser=str(folder / "own"), energy="tinystories").load_sampler().energy, ResidualHead
    )
    assert ModelOptions(energy=None).load_sampler().energy is None


def test_a_tokenizer_and_a_type_can_be_given(folder):
    options = {"denoiser": str(folder / "bare"), "denoiser_tokenizer": str(folder / "tokenizer")}
    denoiser = ModelOptions(**options, denoiser_dtype="bfloat16").load_sampler(torch.device("cpu")).denoiser
    assert {weight.dtype for weight in denoiser.parameters()} == {torch.bfloat16}
    assert denoiser.tokenizer.get_vocab() == load_denoiser("tinystories").tokenizer.get_vocab()
    with pytest.raises(ValueError, match="dtype must be a floating-point type, such as bfloat16, got int8"):
        load_denoiser(folder / "own", dtype="int8")


def test_the_command_writes_the_text_of_a_denoiser_without_a_tokenizer(folder, capsys):
    words = ["sample", "--denoiser", str(folder / "own"), "--num_samples=1", "--length=12", "--sampler.num_steps=2"]
    assert main(words) == 0
    expected = capsys.readouterr().out
    words[2] = str(folder / "bare")
    assert main([*words, "--denoiser_tokenizer", str(folder / "tokenizer")]) == 0
    assert capsys.readouterr().out == expected
