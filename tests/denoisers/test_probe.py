import pytest
import torch

from edlm import FunctionDenoiser, load_denoiser
from edlm.commands.info import TEXT
from edlm.denoisers.probe import probe_shift


@pytest.fixture(scope="module")
def shipped():
    return load_denoiser("tinystories")


@pytest.fixture(scope="module")
def tokens(shipped):
    return torch.tensor([*shipped.prefix_ids, *shipped.tokenizer(TEXT)["input_ids"]])


def moved(denoiser, by: int) -> FunctionDenoiser:
    """Its outputs stand ``by`` places from where they should."""

    def f(x_t, t):
        return denoiser.decode(denoiser.encode(x_t).features).roll(by, dims=1)

    return FunctionDenoiser(f, denoiser.mask_token_id, denoiser.vocab_size)


def test_a_trained_denoiser_is_confirmed(shipped, tokens):
    found = probe_shift(shipped, tokens)
    assert found.verdict == "confirmed"
    assert found.nats[0].value < 2 and min(found.nats[-1].value, found.nats[1].value) > 6
    assert found.nats[0].n == len(tokens) - 5  # all but two at each end, and the prefix


@pytest.mark.parametrize("by", [-1, 1])
def test_outputs_beside_their_place_are_found(shipped, tokens, by):
    found = probe_shift(moved(shipped, by), tokens)
    assert found.verdict == f"WRONG: outputs at {by:+d} predict better"
    assert found.nats[by].value == pytest.approx(probe_shift(moved(shipped, 0), tokens).nats[0].value, abs=0.2)


def test_a_model_that_knows_nothing_confirms_nothing(tokens):
    ignorant = FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, 8192), mask_token_id=1, vocab_size=8192)
    found = probe_shift(ignorant, tokens)
    assert found.verdict.startswith("not clear")
    assert found.nats[0].value == pytest.approx(torch.log(torch.tensor(8191.0)).item(), abs=1e-4)


def test_a_text_of_a_few_tokens_is_refused(shipped, tokens):
    with pytest.raises(ValueError, match="the text must be longer to probe the shift, got 5 tokens"):
        probe_shift(shipped, tokens[:5])
