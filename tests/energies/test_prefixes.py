"""A causal LM as an energy reads each token of a growing prefix once, and gives the same energies."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from edlm import AutoregressiveEnergy, EnergySampler
from edlm.energies.mdlm_causal_lm import MDLMCausalLM, MDLMCausalLMConfig
from edlm.energies.prefixes import prefixes_of
from tests.denoisers.blockwise import MASK, VOCAB, blockwise

SIZES = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=2, n_positions=64)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, intermediate_size=16, max_position_embeddings=64)),
    "mdlm": lambda: MDLMCausalLM(MDLMCausalLMConfig(**SIZES, max_position_embeddings=64)),
}


def energy_of(name):
    torch.manual_seed(1)
    model = MODELS[name]()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.4)
    return AutoregressiveEnergy(model, bos_token_id=0)


def read_tokens(energy):
    """Lengths ``(rows, tokens)`` of the passes of the LM."""
    passes, forward = [], energy.model.forward

    def spy(input_ids, *others, **options):
        passes.append(tuple(input_ids.shape))
        return forward(input_ids, *others, **options)

    energy.model.forward = spy
    return passes


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_prefix_is_read_once_from_left_to_right(name, batch_size):
    prompts = [[1, 2, 3, 4, 5, 6, 7, 8] * 3, [3, 1, 4, 1, 5, 9, 2, 6] * 3, [2, 7, 1, 8, 2, 8, 1, 8] * 3]
    energy = energy_of(name)
    options = {"num_steps": 2, "num_candidates": 4, "scope": "step", "order": "left_to_right"}
    sampler = EnergySampler(blockwise("decoder"), energy, **options)
    passes = read_tokens(energy)
    output = sampler.generate(prompts, 16, seed=0, batch_size=batch_size, eos_token_id=None)
    written = 16
    prefixes = [rows * tokens for rows, tokens in passes if tokens > 3]  # steps write two tokens
    assert sum(prefixes) == 3 * 25  # the prompts and BOS, once each
    growth = sum(rows * tokens for rows, tokens in passes) - sum(prefixes)
    assert growth <= 3 * written * (1 + 4)  # what was chosen; and at most 4 candidates
    # The same texts as with an LM that forgets.
    plain = energy_of(name)
    plain._scorer.sum_terms = lambda *arguments, scorer=plain._scorer: type(scorer).sum_terms(scorer, *arguments[:3])
    again = EnergySampler(blockwise("decoder"), plain, **options).generate(prompts, 16, seed=0, eos_token_id=None)
    assert [row.tolist() for row in output.tokens] == [row.tolist() for row in again.tokens]
    for mine, theirs in zip(output.steps, again.steps, strict=True):
        torch.testing.assert_close(mine.energies, theirs.energies, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "mdlm"])
def test_rows_with_and_without_a_known_prefix_share_a_call(name):
    energy = energy_of(name)
    scorer, memory = energy._scorer, {}
    prefixes = prefixes_of(scorer, memory)
    assert prefixes_of(scorer, memory) is prefixes and prefixes_of(scorer, None) is None
    generator, passes = torch.Generator().manual_seed(4), read_tokens(energy)
    tokens, rows = torch.randint(0, MASK, (3, 12), generator=generator), torch.arange(3).repeat_interleave(2)
    scorer.sum_terms(tokens, torch.ones_like(tokens).bool(), torch.arange(3))  # the first call looks at the model, too
    # First scored position, and the passes over prefixes: BOS and 5 tokens; none; two more, and a whole one for the row
    # that has come in another's place; all again, since what is known is longer; four more.
    for first, expected in ((5, [(3, 6)]), (5, []), (7, [(2, 2), (1, 8)]), (6, [(3, 7)]), (10, [(3, 4)])):
        if first == 7:
            tokens[1] = torch.randint(0, MASK, (12,), generator=generator)
        several = tokens.repeat_interleave(2, 0)
        several[1::2, first:] = (several[1::2, first:] + 1) % MASK
        terms = (torch.arange(12) >= first).expand(6, 12)
        passes.clear()
        mine = scorer.sum_terms(several, terms, rows, prefixes)
        candidates = 11 - first  # the last token is not read
        assert [size for size in passes if size[1] != candidates or size in expected] == expected
        torch.testing.assert_close(mine, scorer.sum_terms(several, terms, rows), rtol=1e-5, atol=1e-5)
