"""Texts as a judge reads them, and how many tokens their words have."""

import pytest
import torch

from edlm import load_denoiser
from edlm.denoisers import FunctionDenoiser
from edlm.evaluation.samples.texts import texts_of, tokens_per_word

STORY = "Once upon a time, there was a hippopotamus named Zebulon. He was happy."


@pytest.fixture(scope="module")
def denoiser():
    return load_denoiser("tinystories")


def tokens(denoiser, text) -> torch.Tensor:
    return torch.tensor([denoiser.tokenizer(text, add_special_tokens=False)["input_ids"]])


@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_word_that_two_blocks_share_is_one(denoiser, width):
    whole = tokens(denoiser, STORY)
    whole = whole[:, : whole.shape[1] // 6 * 6]
    words = len(denoiser.tokenizer.decode(whole[0]).split())
    assert whole.numel() > words + 5  # some words have several tokens
    assert tokens_per_word(denoiser, whole.reshape(-1, width)) == whole.numel() / words


def test_what_separates_documents_is_no_word_but_ends_one(denoiser):
    whole = tokens(denoiser, "A cat.<|endoftext|>A dog ran.")
    assert tokens_per_word(denoiser, whole) == whole.numel() / 5
    bare = FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, 3), 3, 3)
    assert tokens_per_word(bare, torch.zeros(2, 3, dtype=torch.long)) is None
    assert tokens_per_word(denoiser, tokens(denoiser, "\n\n")) is None


def test_a_judge_of_the_same_tokens_reads_blanks_and_separators_as_they_are(denoiser):
    text = " A cat.<|endoftext|> A dog ran\n"
    assert texts_of(denoiser, tokens(denoiser, text), None) == [text]
    assert texts_of(denoiser, tokens(denoiser, text)) == ["A cat.\n\n A dog ran"]
    assert texts_of(denoiser, tokens(denoiser, text), " | ") == ["A cat. |  A dog ran"]
