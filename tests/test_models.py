"""Which models the options of commands name."""

import pytest
import torch

from edlm import ResidualHead, load_denoiser
from edlm.cli import main
from edlm.commands.models import ModelOptions
from tests.denoisers import published_blocks


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


def test_commands_give_a_mask_and_a_block_size(tmp_path, capsys):
    path = str(published_blocks.write("llada2", tmp_path))
    assert main(["info", path, "--mask_token_id=36", "--block_size=7"]) == 0
    lines = {" ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    assert {"family llada2", "mask id 36", "block size 7", "shift no", "longest sequence 48"} <= lines
    path = str(published_blocks.write("decoder", tmp_path))
    assert main(["info", path, "--family=decoder", "--mask_token_id=36", "--shift=true"]) == 0
    assert "shift yes" in " ".join(capsys.readouterr().out.split())
    options = {"denoiser": str(published_blocks.write("sdar", tmp_path)), "denoiser_mask_token_id": 0}
    denoiser = ModelOptions(**options, denoiser_block_size=8).load_sampler(torch.device("cpu")).denoiser
    assert (denoiser.mask_token_id, denoiser.block_size) == (0, 8)
