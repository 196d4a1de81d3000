"""A sampler as a model of lm-evaluation-harness."""

import logging
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from tqdm.auto import tqdm

from edlm import __version__
from edlm.denoisers.base import Denoiser
from edlm.denoisers.loading import load_denoiser
from edlm.energies.base import Energy
from edlm.energies.loading import load_energy
from edlm.evaluation.harness.options import BATCH_SIZE, HarnessOptions
from edlm.evaluation.harness.requests import (
    Generation,
    build_sampler,
    generation_request,
    likeliest_sampler,
    seeds_of,
    usable_device,
)
from edlm.evaluation.likelihood.text import TextBounds, row_to_score
from edlm.packages import install_line
from edlm.sampler.text.prompts import Reader

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"the harness model needs lm-eval: {install_line('harness')}; got {error}", name=error.name
    ) from error

_LOG = logging.getLogger(__name__)


@register_model("edlm")
class HarnessModel(TemplateLM):
    """A denoiser, with or without an energy, as a model of lm-evaluation-harness.

    ===========================  ==================================================================================
    request                      answer
    ===========================  ==================================================================================
    ``loglikelihood``            minus the sampler's likelihood bound of the continuation, given the context and the
                                 number of its tokens: a lower bound of ``log P``, exact if `bound_is_exact`
    ``is_greedy`` of it          whether the sampler writes that continuation when each token is the likeliest at its
                                 turn (``top_k = 1``: an energy is used only in exact decisions)
    ``loglikelihood_rolling``    the same for a whole text, in windows of the denoiser's ``max_length``
    ``generate_until``           `EnergySampler.generate`
    ===========================  ==================================================================================

    Answers depend on the request, ``seed`` and the sampler; not on the batch, nor on other requests. Requests
    with one context share a seed, so that choices are compared on the same orders; equal requests have different seeds.

    Args:
        denoiser: Folder, hub id, shipped name, or a `Denoiser`.
        energy: Folder, hub id or shipped name of a saved energy, or an `Energy`; None for the base sampler.
        options: Fields of `HarnessOptions` and of `SamplerOptions` (``num_steps``, 8 by default).

    Raises:
        ValueError: an option is unknown or breaks its rule, or the denoiser has no tokenizer.

    Example:
        >>> lm = HarnessModel("tinystories", "tinystories", num_steps=4)
        >>> lm.sampler.tokenwise, lm.get_model_info()["loglikelihood"]
        (True, 'exact')
    """

    def __init__(
        self,
        denoiser: str | Denoiser = "tinystories",
        energy: str | Energy | None = None,
        **options: Any,
    ):
        super().__init__()
        names = [field.name for field in fields(HarnessOptions) if field.name in options]
        self.options = harness = HarnessOptions(**{name: options.pop(name) for name in names})
        if not isinstance(denoiser, Denoiser):
            loading = {"dtype": harness.dtype, "trust_remote_code": harness.trust_remote_code}
            denoiser = load_denoiser(denoiser, harness.family, harness.revision, **loading)
        energy = load_energy(energy) if isinstance(energy, str) else energy
        if denoiser.tokenizer is None:
            raise ValueError("the harness needs a denoiser with a tokenizer, got one without: tasks are text")
        if harness.device is not None:
            device = usable_device(harness.device)
            denoiser, energy = denoiser.to(device), energy.to(device) if energy is not None else None
        self.sampler = build_sampler(denoiser, energy, options)
        self.tokenizer = denoiser.tokenizer
        self.batch_size = BATCH_SIZE if str(harness.batch_size).startswith("auto") else int(harness.batch_size)
        self._device = denoiser.device
        self._reader = Reader(denoiser)
        shared = {
            "batch_size": self.batch_size,
            "context": harness.rolling_context,
        }
        self._bounds = TextBounds(self.sampler, num_draws=harness.num_orders, inner_draws=harness.inner_draws, **shared)
        self._likeliest = TextBounds(likeliest_sampler(self.sampler), **shared)
        self._warned: set[str] = set()

    @property
    def denoiser(self) -> Denoiser:
        """The denoiser."""
        return self.sampler.denoiser

    @property
    def eot_token_id(self) -> int | None:
        """The token that ends a text."""
        return self.denoiser.eos_token_id

    @property
    def max_length(self) -> int | None:
        """Longest sequence that the denoiser takes."""
        return self.denoiser.max_length

    @property
    def tokenizer_name(self) -> str:
        """For the fingerprint of cached requests."""
        return str(getattr(self.tokenizer, "name_or_path", "")).replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """Description of the model in the results."""
        return {
            "edlm_version": __version__,
            "loglikelihood": "exact" if self.sampler.bound_is_exact else "lower bound",
            "num_orders": self._bounds.num_draws,
            "inner_draws": self._bounds.inner_draws,
            "energy": type(self.sampler.energy).__name__ if self.sampler.energy is not None else None,
            "sampler": self.sampler.options,
            "greedy": self.options.greedy,
            "seed": self.options.seed,
        }

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        self._reader = Reader(self.denoiser, keeps_special=True)  # a template spells them out
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Tokens of a text, without special ones around it: `row_to_score` knows the denoiser's frame."""
        return self._reader.read(string)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        pairs = [request.args for request in requests]
        encoded = [self._encode_pair(*pair) if pair[0] else ([], self.tok_encode(pair[1])) for pair in pairs]
        return self._loglikelihood_tokens(
            [(pair, *tokens) for pair, tokens in zip(pairs, encoded, strict=True)], disable_tqdm=disable_tqdm
        )

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        rows = [row_to_score(self.denoiser, context, continuation) for _, context, continuation in requests]
        # Without a context nothing is shared, and unrelated texts would have one seed.
        pairs = [pair for pair, *_ in requests]
        seeds = seeds_of(self.options.seed, [context or continuation for context, continuation in pairs], pairs)
        nats = self._bounds.bounds(rows, seeds, progress=None if disable_tqdm else "loglikelihood")
        greedy = [False] * len(rows)
        if self.options.check_greedy:
            greedy = self._likeliest.would_write(rows, seeds, progress=None if disable_tqdm else "is_greedy")
        return list(zip((-nats).tolist(), greedy, strict=True))

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        texts = [request.args for request in requests]
        rows = [row_to_score(self.denoiser, [], self.tok_encode(text)) for text, *_ in texts]
        seeds = seeds_of(self.options.seed, texts, texts)
        return (-self._bounds.bounds(rows, seeds, progress=None if disable_tqdm else "rolling")).tolist()

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        pairs = [request.args for request in requests]
        seeds = seeds_of(self.options.seed, [context for context, _ in pairs], pairs)
        in_blocks = self.sampler.block_length is not None
        wanted = [
            generation_request(self.denoiser, self.tok_encode(context), options, self.options.max_gen_toks, in_blocks)
            for context, options in pairs
        ]
        groups: dict[Generation, list[int]] = {}
        for i, request in enumerate(wanted):
            self._warn(*request.warnings)
            groups.setdefault(request.how, []).append(i)
        texts = [""] * len(wanted)
        with tqdm(total=len(wanted), desc="generate_until", disable=disable_tqdm or None, leave=False) as bar:
            for how, members in groups.items():
                members.sort(key=lambda i: len(wanted[i].prompt), reverse=True)
                for start in range(0, len(members), self.batch_size):
                    batch = members[start : start + self.batch_size]
                    written = self._generate([wanted[i].prompt for i in batch], how, [seeds[i] for i in batch])
                    for i, text in zip(batch, written, strict=True):
                        texts[i] = text
                    bar.update(len(batch))
        return texts

    def _generate(self, prompts: list[list[int]], how: Generation, seeds: list[int]) -> list[str]:
        sampler = self.sampler
        if how.is_greedy and self.options.greedy == "likeliest":
            sampler = self._likeliest.sampler
        elif how.is_greedy:
            self._warn("a task requests greedy decoding: the sampler draws as it is set; see greedy='likeliest'")
        options = {"stop": how.until, "seed": seeds, **dict(how.proposal)}
        return sampler.generate(prompts, how.max_new_tokens, **options).completions

    def _warn(self, *warnings: str) -> None:
        """Log each warning once."""
        for warning in warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                _LOG.warning(warning)
