"""What a denoiser knows of its tokens, and the identity that its weights and tokens give it."""

import pytest
import torch
from torch import nn

from edlm.corpus import TokenBlocks
from edlm.denoisers import LogitsDenoiser, Vocabulary


class Words:
    """A tokenizer of as many words as it counts questions."""

    mask_token_id, eos_token_id, cls_token_id, sep_token_id = 1, 2, None, None

    def __init__(self, size):
        self.size, self.asked = size, 0

    def __len__(self):
        return self.size

    def get_vocab(self):
        self.asked += 1
        return {str(i): i for i in range(self.size)}


def denoiser(tokenizer):
    module = nn.Linear(3, 5)
    return LogitsDenoiser(module, lambda x_t, t, mask: module.weight[x_t], Vocabulary.of(tokenizer, 5, 1))


def test_vocabulary_impossible_columns_are_the_mask_and_padding():
    assert Vocabulary.of(Words(4), 6, 1, impossible=(3,)).impossible == (1, 3, 4, 5)
    assert Vocabulary.of(None, 6, 6).impossible == ()


def test_vocabulary_of_masked_lm_reads_the_framing_of_the_tokenizer():
    words = Words(9)
    separated = Vocabulary.of_masked_lm(words, 9)
    assert (separated.mask_token_id, separated.prefix_ids, separated.is_framed) == (1, (2,), False)
    words.cls_token_id, words.sep_token_id, words.pad_token_id = 5, 6, 0
    framed = Vocabulary.of_masked_lm(words, 9)
    assert (framed.prefix_ids, framed.suffix_ids, framed.is_framed) == ((5,), (6,), True)
    assert framed.impossible == (0, 1, 5, 6) and framed.eos_token_id == 2


@pytest.mark.parametrize("sign", ["template", "token"])
def test_a_chat_model_has_no_frame_and_ends_by_its_padding(sign):
    words = Words(9)
    words.cls_token_id, words.sep_token_id, words.pad_token_id, words.eos_token_id = 5, 6, 0, None
    if sign == "template":
        words.chat_template = "{{ messages }}"
    else:
        words.get_vocab = lambda: {"[Answer]": 7, "[/Answer]": 8}
    chat = Vocabulary.of_masked_lm(words, 9)
    assert (chat.prefix_ids, chat.suffix_ids, chat.is_framed) == ((), (), False)
    assert chat.impossible == (1, 5, 6) and chat.eos_token_id == 0


@pytest.mark.parametrize(("size", "wrong"), [(5, 1), (5, 3), (5, 5), (9, 7)])
def test_blocks_with_a_token_without_mass_are_refused(size, wrong):
    vocabulary = Vocabulary(size, 1, impossible=(3, 7)) if size == 9 else Vocabulary(size, 1, impossible=(3,))
    good = TokenBlocks(torch.tensor([[0, 2], [4, 4]]), 1, 4, 0, 4)
    vocabulary.check_blocks(good)
    bad = TokenBlocks(torch.tensor([[0, wrong], [wrong, 4]]), 1, 4, 0, 4)
    with pytest.raises(ValueError, match=rf"no token that the denoiser rules out, got 2 of \(id {wrong}\)"):
        vocabulary.check_blocks(good, bad)


def test_denoiser_takes_another_framing_but_no_other_mask():
    named = denoiser(Words(5))
    named.eos_token_id, named.prefix_ids = 3, (4,)
    assert (named.vocabulary.eos_token_id, named.vocabulary.prefix_ids) == (3, (4,))
    with pytest.raises(AttributeError, match="mask_token_id"):
        named.mask_token_id = 2


def test_identity_is_computed_once_and_again_after_training():
    words = Words(5)
    named = denoiser(words)
    first = named.identity
    assert named.identity == first and words.asked == 1
    with torch.no_grad():
        named.network.weight.mul_(2)
    assert [d.split()[0] for d in first.differences(named.identity)] == ["revision"] and words.asked == 1
    named.tokenizer = Words(4)
    assert named.identity.vocabulary != first.vocabulary
