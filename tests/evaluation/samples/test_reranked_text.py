import math

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from edlm import CallableEnergy, EnergySampler, FunctionDenoiser
from edlm.evaluation.samples.judge import Judge
from edlm.evaluation.samples.reranked_text import cost_of_disorder, judge_samplers, shuffled_words
from tests.test_readme import tokenizer_of

LENGTH = 6


@pytest.fixture(scope="module")
def judge() -> Judge:
    """Uniform over 12 words, but that "cat" follows "the" with probability about 0.98."""
    tokenizer = tokenizer_of(12, {"eos": 11})
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=12, hidden_size=12, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1, head_dim=12
        )
    )
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        nn.init.eye_(model.model.embed_tokens.weight)
        nn.init.ones_(model.model.norm.weight)
        model.lm_head.weight[1, 0] = math.log(12 * 11) / math.sqrt(12) * 0.9  # RMS norm: a one-hot has entry sqrt(12)
    return Judge(model, tokenizer)


def test_the_cost_of_disorder_is_the_difference_a_word(judge):
    texts = ["the cat the cat the cat", "the cat the cat"]
    found = cost_of_disorder(judge, texts, seed=3)
    ordered = judge.score(texts).nats
    shuffled = judge.score(shuffled_words(texts, seed=3)).nats
    expected = (shuffled - ordered) / torch.tensor([6.0, 4.0])
    assert found.value == pytest.approx(expected.mean().item()) and found.value > 0.5 and found.n == 2


def test_words_are_kept_and_the_seed_decides():
    texts = ["a b c d e f g", "one two"]
    shuffled = shuffled_words(texts, seed=0)
    assert [sorted(text.split()) for text in shuffled] == [sorted(text.split()) for text in texts]
    assert shuffled == shuffled_words(texts, seed=0) != shuffled_words(texts, seed=1)


def test_a_good_energy_lowers_the_judges_loss_and_differences_are_paired(judge):
    denoiser = FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, 2), mask_token_id=2, vocab_size=2)
    denoiser.tokenizer = judge.tokenizer
    pairs = CallableEnergy(lambda x, x_t, log_p: -2.0 * ((x[..., :-1] == 0) & (x[..., 1:] == 1)).double().sum(-1))
    samplers = {
        "base": EnergySampler(denoiser, num_steps=1),
        "again": EnergySampler(denoiser, num_steps=1),
        "reranked": EnergySampler(denoiser, pairs, num_steps=1, num_candidates=16),
    }
    base, again, reranked = judge_samplers(samplers, judge, LENGTH, num_samples=40, batch_size=16, seed=0)
    same, better = again.as_record(base), reranked.as_record(base)
    assert same["judge_minus_base"] == 0 and same["entropy_over_base"] == 1 and same["ess"] == 1
    assert better["judge_minus_base"] < -4 * better["judge_minus_base_stderr"] < 0
    assert better["n"] == 40 and 1 < better["ess"] < 16
    assert base.as_record(base)["judge_minus_base_stderr"] is None
