"""Requests of lm-evaluation-harness in this package's terms."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from edlm.denoisers.base import Denoiser
from edlm.energies.base import Energy
from edlm.sampler.sampler import EnergySampler

_NEW_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first one counts
_PROPOSAL = ("temperature", "top_p", "top_k")
_KNOWN = {*_NEW_TOKENS, *_PROPOSAL, "until", "do_sample"}


def build_sampler(denoiser: Denoiser, energy: Energy | None, options: Mapping[str, Any]) -> EnergySampler:
    """The sampler that ``--model_args`` names, by default of 8 steps.

    Args:
        denoiser: The denoiser.
        energy: Used as it recommends where the options do not say otherwise; None for the base sampler.
        options: Fields of `SamplerOptions`.

    Raises:
        ValueError: an option is unknown or breaks its rule, or ``num_candidates`` is needed and missing.
    """
    return EnergySampler(denoiser, energy, **{"num_steps": 8, **options})


def likeliest_sampler(sampler: EnergySampler) -> EnergySampler:
    """The sampler that takes each token as the likeliest at its turn; with the energy if no candidates are needed."""
    changes = {"temperature": 1.0, "top_p": 1.0, "top_k": 1, "correct_proposal": False}
    if not sampler.tokenwise:  # candidates would all be alike
        changes.update(energy=None, num_candidates=1, scope="step", group_size=None, weight_temperature=1.0)
    return replace(sampler, **changes)


def usable_device(device: str | torch.device) -> torch.device:
    """The requested device; the CPU if it is a missing GPU, since lm-eval's command line requests one by default."""
    requested = torch.device(device)
    return torch.device("cpu") if requested.type == "cuda" and not torch.cuda.is_available() else requested


def seeds_of(seed: int, shared: Sequence[Sequence[Any]], requests: Sequence[Any]) -> list[int]:
    """A seed for each request, from its own content.

    Args:
        seed: Of everything.
        shared: What requests of one seed have in common, as JSON values.
        requests: Whole requests: the n-th of several equal ones gets the n-th seed.

    Example:
        >>> first, second, again = seeds_of(0, ["a", "b", "a"], ["a", "b", "a"])
        >>> len({first, second, again}), seeds_of(0, ["b"], ["b"]) == [second]
        (3, True)
    """
    seen: Counter[str] = Counter()
    seeds = []
    for common, request in zip(shared, requests, strict=True):
        whole = json.dumps(request, sort_keys=True, default=str)
        key = json.dumps([seed, seen[whole], common], sort_keys=True, default=str)
        seeds.append(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big"))
        seen[whole] += 1
    return seeds


@dataclass(frozen=True)
class Generation:
    """How text is to be written; requests that agree in it are written together.

    Attributes:
        max_new_tokens: How much.
        until: Strings that end it.
        is_greedy: Whether the task asks for the likeliest text.
        proposal: ``temperature``, ``top_p`` and ``top_k``, where the task samples and gives them.
    """

    max_new_tokens: int
    until: tuple[str, ...]
    is_greedy: bool
    proposal: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class GenerationRequest:
    """A prompt to be continued.

    Attributes:
        prompt: Token ids, with the denoiser's prefix where the text begins.
        how: How it is to be continued.
        warnings: How the request is answered differently from what the task says.
    """

    prompt: list[int]
    how: Generation
    warnings: tuple[str, ...]


def generation_request(
    denoiser: Denoiser, context: list[int], options: Mapping[str, Any], default: int, in_blocks: bool
) -> GenerationRequest:
    """Prompt and options of a ``generate_until`` request.

    What is written at once must fit the denoiser's ``max_length``: then the beginning of a long context is left out,
    and more new tokens than half of what fits are written only as far as the context leaves room.

    Args:
        denoiser: Its prefix and ``max_length``.
        context: Token ids of the prompt.
        options: The task's ``generation_kwargs``.
        default: New tokens where it does not say.
        in_blocks: In blocks, any number of tokens can be written.
    """
    until = options.get("until") or ()
    until = (until,) if isinstance(until, str) else tuple(until)
    asked = int(next((options[name] for name in _NEW_TOKENS if options.get(name) is not None), default))
    temperature = options.get("temperature")
    is_greedy = temperature == 0 or not options.get("do_sample", temperature is not None)
    given = {name: options[name] for name in _PROPOSAL if options.get(name) is not None} if not is_greedy else {}
    if given.get("top_k", 1) < 1:  # elsewhere 0 and -1 stand for no limit
        del given["top_k"]
    prompt, room, warnings = context, asked, []
    if not in_blocks and denoiser.max_length is not None:
        prompt, room = _fitted(denoiser, context, asked)
    if prompt is context and not denoiser.is_framed:
        prefix = list(denoiser.prefix_ids)
        prompt = context if context[: len(prefix)] == prefix else prefix + context
    if room < asked:
        warnings.append(f"max_gen_toks must fit max_length = {denoiser.max_length} without block_length, got {asked}")
    if prompt[-len(context) :] != context and context:
        warnings.append(f"the beginning of contexts beyond max_length = {denoiser.max_length} is left out")
    if ignored := sorted(options.keys() - _KNOWN):
        warnings.append(f"generation_kwargs must be among {sorted(_KNOWN)}, ignored {ignored}")
    how = Generation(room, tuple(end for end in until if end), is_greedy, tuple(given.items()))
    return GenerationRequest(prompt, how, tuple(warnings))


def _fitted(denoiser: Denoiser, context: list[int], asked: int) -> tuple[list[int], int]:
    """The end of the context that fits beside the new tokens (the very list if all does), and how many those are."""
    frame = len(denoiser.prefix_ids) + (len(denoiser.suffix_ids) if denoiser.is_framed else 0)
    room = denoiser.max_length - frame
    new = min(asked, max(room - len(context), room // 2))
    if len(context) + new <= room:
        return context, new
    kept = room - new if denoiser.is_framed else denoiser.max_length - new  # a text that began before has no prefix
    return context[len(context) - kept :], new
