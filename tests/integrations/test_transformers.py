"""``generate`` of transformers with ``custom_generate=edlm.hf_generate``, on tiny models of its own classes."""

import pytest
import torch
from transformers import GenerationConfig, GenerationMixin, LlamaConfig, LlamaForCausalLM, ModernBertForMaskedLM
from transformers.generation import MinPLogitsWarper

import edlm
from edlm import CallableEnergy, EnergySampler, ResidualHead
from edlm.denoisers.decoder import DecoderDenoiser
from edlm.denoisers.vocabulary import Vocabulary
from tests.energies.heads import disturbed_head, modernbert

MASK, EOS, PAD, SIZE = 11, 9, 8, 12


class MaskedLM(ModernBertForMaskedLM, GenerationMixin):
    """A masked LM with ``generate``, as users of it write."""

    def prepare_inputs_for_generation(self, input_ids, **kwargs):
        return {"input_ids": input_ids, **kwargs}


def masked_lm() -> MaskedLM:
    network = modernbert(vocab_size=SIZE).network
    network.__class__ = MaskedLM
    network.generation_config = GenerationConfig()
    return network


@pytest.fixture(scope="module")
def decoder() -> DecoderDenoiser:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=SIZE, max_position_embeddings=64, initializer_range=0.5, pad_token_id=PAD, **shape)
    config.bos_token_id = config.eos_token_id = None
    return DecoderDenoiser(LlamaForCausalLM(config).eval(), Vocabulary(SIZE, MASK, (PAD,)), max_length=64)


PROMPTS = torch.tensor([[PAD, PAD, 1, 2], [3, 4, 5, 6]])
REAL = (PROMPTS != PAD).long()
loves_7 = CallableEnergy(lambda candidates, x, log_p: -4.0 * (candidates == 7).sum(-1))


def generate(model, **options):
    call = {"attention_mask": REAL, "max_new_tokens": 8, "seed": 0, "num_steps": 2, "pad_token_id": PAD, **options}
    return model.generate(PROMPTS, custom_generate=edlm.hf_generate, **call)


@pytest.mark.parametrize("energy", [None, loves_7, "head"])
def test_it_writes_what_the_sampler_writes_and_keeps_prompts_and_padding(decoder, energy):
    energy = disturbed_head(decoder) if energy == "head" else energy
    options = {} if energy is None or isinstance(energy, ResidualHead) else {"num_candidates": 4}
    sequences = generate(decoder.network, denoiser=decoder, energy=energy, **options)
    assert sequences.shape == (2, 12) and torch.equal(sequences[:, :4], PROMPTS)
    assert MASK not in sequences and sequences.dtype == torch.int64
    sampler = EnergySampler(decoder, energy, num_steps=2, **options)
    expected = sampler.generate([[1, 2], [3, 4, 5, 6]], 8, seed=0, eos_token_id=None).tokens
    assert sequences[0, 2:].tolist() == expected[0].tolist() and sequences[1].tolist() == expected[1].tolist()


def test_an_energy_moves_the_text_of_a_masked_lm():
    model = masked_lm()
    many = {"max_new_tokens": 12, "do_sample": True, "num_return_sequences": 16, "mask_token_id": MASK}
    base = generate(model, **many)
    reranked = generate(model, energy=loves_7, num_candidates=16, **many)
    constant = CallableEnergy(lambda candidates, x, log_p: 0.0 * log_p)
    assert torch.equal(base, generate(model, energy=constant, num_candidates=1, **many))
    assert reranked.shape == (32, 16) and torch.equal(reranked[:, :4], PROMPTS.repeat_interleave(16, 0))
    share = [(rows[:, 4:] == 7).float().mean().item() for rows in (base, reranked)]
    assert share[1] > 2 * share[0]


def test_ends_of_texts_are_those_of_generate(decoder):
    certain = CallableEnergy(lambda candidates, x, log_p: -50.0 * ((candidates == EOS)[..., -6]).double())
    options = {"denoiser": decoder, "energy": certain, "num_candidates": 512, "num_steps": 1, "eos_token_id": [EOS, 0]}
    sequences = generate(decoder.network, **options)
    assert sequences.shape[1] <= 7  # EOS was written at the third new position
    for row in sequences[:, 4:].tolist():
        first = next(i for i, token in enumerate(row) if token in (EOS, 0))
        assert set(row[first + 1 :]) <= {PAD}
    without = generate(decoder.network, **{**options, "eos_token_id": None})
    assert without.shape == (2, 12)


def test_blocks_and_the_proposal_of_the_generation_config(decoder):
    likeliest = {"denoiser": decoder, "do_sample": True, "top_k": 1, "order": "left_to_right"}
    first, second = (generate(decoder.network, **likeliest, num_steps=8, seed=seed) for seed in (0, 1))
    assert torch.equal(first, second)
    by_hand = torch.cat([PROMPTS[1:], torch.full((1, 8), MASK)], 1)
    with torch.no_grad():
        for i in range(4, 12):
            by_hand[0, i] = decoder.log_probs(by_hand)[0, i].argmax()
    sampler = EnergySampler(decoder, num_steps=2, order="left_to_right", top_k=1)
    expected = sampler.generate([[3, 4, 5, 6]], 8, block_length=4, seed=0, eos_token_id=None).tokens[0]
    blocks = generate(decoder.network, **likeliest, block_length=4, num_steps=2)
    assert first[1].tolist() == by_hand[0].tolist() and blocks[1].tolist() == expected.tolist()


def test_the_global_seed_output_objects_and_lengths(decoder):
    def drawn(**options):
        torch.manual_seed(3)
        return decoder.network.generate(PROMPTS[1:], custom_generate=edlm.hf_generate, denoiser=decoder, **options)

    first, second = drawn(max_new_tokens=5), drawn(max_new_tokens=5, return_dict_in_generate=True)
    assert torch.equal(first, second.sequences) and first.shape == (1, 9)
    assert drawn(max_length=7).shape == (1, 7)


def test_mistakes_are_errors_of_one_line(decoder):
    network = decoder.network
    other = DecoderDenoiser(LlamaForCausalLM(network.config), Vocabulary(SIZE, MASK))
    warpers = [MinPLogitsWarper(0.1)]
    for options, message in (
        ({}, "family, .* or denoiser, .* must be given: model_type 'llama' does not say how"),
        ({"denoiser": other}, "denoiser must run the model whose generate is called"),
        ({"denoiser": 3}, "denoiser must be a Denoiser or None, got 3"),
        ({"denoiser": decoder, "num_beams": 2}, "num_beams must be 1: a denoiser has no beams, got 2"),
        ({"denoiser": decoder, "logits_processor": warpers}, r"got \['MinPLogitsWarper'\]"),
        ({"denoiser": decoder, "max_time": 3.0}, r"got \['MaxTimeCriteria'\]"),
        ({"denoiser": decoder, "energy": loves_7}, "num_candidates must be given: CallableEnergy recommends none"),
        ({"denoiser": decoder, "num_candidate": 2}, "num_candidate"),
        ({"family": "nonsense"}, "family must be one of"),
        ({"denoiser": decoder, "max_new_tokens": 90}, "at most max_length = 64 tokens long"),
    ):
        with pytest.raises(ValueError, match=message):
            generate(network, **options)
