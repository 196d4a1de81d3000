"""Denoisers on the diffusion transformer of the MDLM code base: MDLM, D3PM, SEDD, BD3-LM."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from edlm.denoisers.cache import Past
from edlm.denoisers.caching import CachingDenoiser
from edlm.denoisers.checkpoint import load_strictly
from edlm.denoisers.families.dit import DiT, DiTShape, rotary_frequencies
from edlm.denoisers.families.family import unwrap_logits
from edlm.denoisers.logits import LogitsDenoiser, unpadded
from edlm.denoisers.vocabulary import Vocabulary, first_given, token_id
from edlm.modules import apply_output_layer

NOISE_EPS = 1e-3  # of the published log-linear schedules
GPT2_ROWS, GPT2_SEPARATOR = 50258, 50256  # GPT-2's tokens and the mask; <|endoftext|>


def total_noise(t: Tensor) -> Tensor:
    """Log-linear noise level ``sigma(t) = -log(1 - (1 - eps) t)``, which networks are conditioned on; shape of ``t``.

    References:
        Lou et al. 2024, arXiv:2310.16834, App. C.1.
    """
    return -torch.log1p(-(1 - NOISE_EPS) * t.float())


class DiTDenoiser(CachingDenoiser):
    """A `DiT` as ``p_theta``: the softmax of its outputs at masked positions, the mask's column left out.

    This holds for all its families: MDLM, D3PM and BD3-LM predict ``x_0``, and SEDD's concrete scores
    ``s_v = p(x_0 = v | x_t) exp(-sigma) / (1 - exp(-sigma))`` differ from ``p`` by a factor common to all ``v``.

    Args:
        network: The network.
        tokenizer: Its tokenizer, or None.
        mask_token_id: As for `vocabulary_of`.
        time_conditioned: Give the network ``sigma(t)``; else 0.
        options: ``name`` and traits of `NetworkDenoiser`. With ``block_size``, tokens of block b read blocks <= b only.

    Raises:
        ValueError: the mask is no row of the embedding, or the tokenizer is larger than that.

    References:
        SEDD's scores: Lou et al. 2024, arXiv:2310.16834, Sec. 3; absorbing case: Ou et al. 2024, arXiv:2406.03736.
    """

    def __init__(
        self,
        network: DiT,
        tokenizer: Any = None,
        *,
        mask_token_id: int | None = None,
        time_conditioned: bool = False,
        **options: Any,
    ):
        vocabulary = vocabulary_of(network.shape.vocab_size, tokenizer, mask_token_id)
        time_conditioned = time_conditioned and network.shape.cond_dim is not None
        super().__init__(network, vocabulary, time_conditioned=time_conditioned, **options)

    @property
    def hidden_size(self) -> int:
        return self.network.shape.hidden_size

    @property
    def num_blocks(self) -> int:
        return self.network.shape.num_blocks

    def run(
        self,
        tokens: Tensor,
        t: Tensor,
        visible: Tensor | None,
        positions: Tensor | None = None,
        past: Past | None = None,
        keep_hidden: bool = False,
    ) -> tuple[Callable[[], Tensor], tuple[Tensor, ...] | None]:
        sigma = noise_level(t, self.time_conditioned)
        finish, entering = self.network.run(tokens, sigma, visible, positions=positions, past=past)
        return finish, entering if keep_hidden else None

    def decode(self, features: Tensor) -> Tensor:
        return apply_output_layer(self.network.output_layer.linear, features)

    @property
    def output_layer(self) -> tuple[Callable[[Tensor], Tensor], nn.Linear] | None:
        return nn.Identity(), self.network.output_layer.linear

    def embed(self, tokens: Tensor) -> Tensor:
        return self.network.embed(tokens)


def wrap_official(
    module: nn.Module,
    tokenizer: Any = None,
    *,
    mask_token_id: int | None = None,
    time_conditioned: bool = False,
    call_options: dict[str, Any] | None = None,
    **options: Any,
) -> LogitsDenoiser:
    """A denoiser of a module of the official code, called as ``module(x_t[n, length], sigma[n])``.

    Args:
        module: Gives logits or log scores ``[n, length, vocab_size]``, as a tensor or an object with ``logits``;
            its embedding is named ``vocab_embed.embedding``.
        tokenizer: Its tokenizer, or None.
        mask_token_id: As for `vocabulary_of`.
        time_conditioned: Give it ``sigma(t)``; else 0.
        call_options: Further keyword arguments of the module.
        options: ``name`` and traits, as for `NetworkDenoiser`.

    Raises:
        ValueError: it has no such embedding, or the mask is none of its rows.
    """
    tables = [table for name, table in module.named_parameters() if name.endswith("vocab_embed.embedding")]
    if not tables:
        raise ValueError(f"the module must have a parameter vocab_embed.embedding, {type(module).__name__} has none")

    def run(x_t: Tensor, t: Tensor) -> Tensor:
        # At sigma = 0 SEDD's scores are infinite.
        return unwrap_logits(module(x_t, noise_level(t.clamp(min=1e-5), time_conditioned), **(call_options or {})))

    vocabulary = vocabulary_of(len(tables[0]), tokenizer, mask_token_id)
    return LogitsDenoiser(module, unpadded(run), vocabulary, time_conditioned=time_conditioned, **options)


def noise_level(t: Tensor, time_conditioned: bool) -> Tensor:
    """``sigma(t)``, or zeros for a network that is not conditioned on time; shape of ``t``."""
    return total_noise(t) if time_conditioned else torch.zeros_like(t, dtype=torch.float32)


def mask_of(rows: int, tokenizer: Any, given: int | None = None) -> int:
    """The mask token: the one given, else the tokenizer's, else the last row, as the official code decides.

    ValueError if it is no row of the embedding, or the tokenizer has more tokens than that.
    """
    if tokenizer is not None and len(tokenizer) > rows:
        raise ValueError(
            f"the tokenizer must have at most {rows} tokens, the rows of the embedding, got {len(tokenizer)}"
        )
    mask = first_given(given, token_id(tokenizer, "mask"), rows - 1, of="mask_token_id")
    if not 0 <= mask < rows:
        raise ValueError(f"mask_token_id must lie in 0..{rows - 1}, the rows of the embedding, got {mask}")
    return mask


def vocabulary_of(rows: int, tokenizer: Any, mask_token_id: int | None = None) -> Vocabulary:
    """Tokens of an embedding with this many rows; without a tokenizer, GPT-2's separator if it has GPT-2's size.

    The mask is as for `mask_of`.
    """
    mask = mask_of(rows, tokenizer, mask_token_id)
    begin, end = (token_id(tokenizer, kind) for kind in ("bos", "eos"))
    if tokenizer is None and rows == GPT2_ROWS:
        begin = end = GPT2_SEPARATOR
    return Vocabulary.of(tokenizer, rows, mask, prefix_ids=() if begin is None else (begin,), eos_token_id=end)


def build_dit(shape: DiTShape, weights: dict[str, Tensor], source: object, kind: type[DiT] = DiT) -> DiT:
    """The network of published weights; ValueError if they do not fit, or the rotary frequencies differ."""
    network = kind(shape)
    weights, expected = dict(weights), rotary_frequencies(shape.hidden_size // shape.num_heads)
    frequencies = weights.pop("rotary_emb.inv_freq", None)
    if frequencies is not None and (
        frequencies.shape != expected.shape or not torch.allclose(frequencies.float(), expected, rtol=1e-2)
    ):
        raise ValueError(
            f"{source}: rotary_emb.inv_freq must have base 10000 and {len(expected)} frequencies "
            f"({shape.num_heads} heads), got {frequencies.numel()} of other values or number"
        )
    load_strictly(network, weights, source)
    return network
