"""What finished blocks that are kept save, for a denoiser that writes in blocks."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from edlm.denoisers.decoder import DecoderDenoiser
from edlm.denoisers.vocabulary import Vocabulary
from edlm.diffusion.streams import generator_of
from edlm.evaluation.samples.cost import peak_memory
from edlm.sampler.sampler import EnergySampler
from edlm.sampler.text.generation import GenerationOutput

BLOCK, PROMPT, NEW, STEPS = 32, 256, 256, 8
LAYERS, WIDTH, VOCABULARY = 6, 256, 2048


def random_block_denoiser(seed: int) -> DecoderDenoiser:
    """A Qwen3 of 6 layers, hidden size 256 and blocks of 32 tokens, with random weights."""
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "intermediate_size": 4 * WIDTH, "head_dim": 64}
    config = Qwen3Config(vocab_size=VOCABULARY, num_attention_heads=4, num_key_value_heads=4, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Qwen3ForCausalLM(config)
    return DecoderDenoiser(network, Vocabulary(VOCABULARY, VOCABULARY - 1), block_size=BLOCK, max_length=PROMPT + NEW)


def measure_blocks(
    *, batch_sizes: Sequence[int], repeats: int, seed: int, device: torch.device
) -> list[dict[str, Any]]:
    """Write 256 tokens after a prompt of 256, in blocks of 32 and 8 passes each, with and without a cache in turn.

    Args:
        batch_sizes: Sequences at a time.
        repeats: Timed batches of each; the medians count.
        seed: Of weights, prompts and samples.
        device: Where it runs.

    Returns:
        For each setting ``cache``, ``batch_size``, ``seconds_per_sequence``, ``ratio_to_base`` (to the same without a
        cache), ``peak_memory_bytes`` and ``same_tokens``: whether both wrote the same.
    """
    sampler = EnergySampler(random_block_denoiser(seed).to(device), num_steps=STEPS)
    rows = []
    for batch_size in batch_sizes:
        prompts = torch.randint(0, VOCABULARY - 1, (batch_size, PROMPT), generator=generator_of(seed)).tolist()

        def write(cache: str, prompts: list[list[int]] = prompts) -> GenerationOutput:
            return sampler.generate(prompts, NEW, seed=seed, cache=cache, eos_token_id=None)

        seconds, outputs = {"none": [], "auto": []}, {}
        for repeat in range(repeats + 1):  # the first one warms up
            for cache, times in seconds.items():
                started = time.perf_counter()
                outputs[cache] = write(cache)
                if repeat:
                    times.append((time.perf_counter() - started) / batch_size)
        same = all(map(torch.equal, outputs["none"].tokens, outputs["auto"].tokens))
        for cache, times in seconds.items():
            median, base = statistics.median(times), statistics.median(seconds["none"])
            peak = peak_memory(device, lambda cache=cache: write(cache))[0]
            measured = {"seconds_per_sequence": median, "ratio_to_base": median / base, "peak_memory_bytes": peak}
            rows.append({"cache": cache, "batch_size": batch_size, **measured, "same_tokens": same})
    return rows
