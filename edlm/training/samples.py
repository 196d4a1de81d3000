"""A denoiser's own samples as a corpus: then an energy mimics the denoiser at many passes, and needs no text."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm.auto import tqdm

from edlm.corpus.blocks import TokenBlocks
from edlm.corpus.prepared import PreparedCorpus
from edlm.corpus.recipe import LENGTH
from edlm.corpus.tokens import vocabulary_fingerprint
from edlm.denoisers.base import Denoiser
from edlm.denoisers.framing import blocks_of_rows, check_blocks
from edlm.rules import Config, check_least
from edlm.sampler.sampler import EnergySampler


@dataclass(frozen=True, kw_only=True)
class SamplesOptions(Config):
    """What the denoiser writes.

    Args:
        num_rows: Blocks to sample.
        length: Tokens of a block; null for those of the corpus, or else 128, or as many as the denoiser takes.
        num_steps: Passes of a block; null for one token a pass, the denoiser's best law.
        order: Reveal order.
        batch_size: Blocks at a time.
        seed: Of the samples.

    References:
        ADJUST, arXiv:2509.22738: a joint model for few passes learns from samples of the same model at many.
    """

    num_rows: int = 20_000
    length: int | None = None
    num_steps: int | None = None
    order: str = "random"
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(1, length=self.length, num_steps=self.num_steps, batch_size=self.batch_size)
        check_least(2, num_rows=self.num_rows)


def corpus_of_samples(
    denoiser: Denoiser, options: SamplesOptions, corpus: str | PreparedCorpus | None = None, *, mixed: bool = False
) -> PreparedCorpus:
    """Samples as training blocks.

    Args:
        denoiser: Writes them; it must have a tokenizer.
        options: What it writes.
        corpus: A prepared corpus, or its folder: its held-out blocks are taken as they are. None: a twentieth of the
            samples, at least one, is held out.
        mixed: Put the training blocks of ``corpus`` behind the samples; training draws from all alike.

    Raises:
        ValueError: no tokenizer, nothing to mix with, or another length or vocabulary than the corpus's.
    """
    if denoiser.tokenizer is None:
        raise ValueError(f"samples need a denoiser with a tokenizer, got a {type(denoiser).__name__} without")
    if mixed and corpus is None:
        raise ValueError("mixed samples need a corpus to be mixed with, got none")
    if corpus is not None and not isinstance(corpus, PreparedCorpus):
        corpus = PreparedCorpus.load(corpus, mapped=True)
    own = None if corpus is None else corpus.train.tokens.shape[1]
    length = options.length or own or min(LENGTH, denoiser.longest_text or LENGTH)
    if own not in (None, length):
        raise ValueError(f"length must be that of the corpus's blocks, {own}, got {length}")
    samples = _blocks(denoiser, _sample(denoiser, options, length))
    if corpus is None:
        return PreparedCorpus(denoiser.tokenizer, *samples.hold_out(0.05))
    check_blocks(denoiser, corpus.train, corpus.valid)
    train = _blocks(denoiser, torch.cat([samples.tokens, corpus.train.tokens.long()])) if mixed else samples
    return PreparedCorpus(denoiser.tokenizer, train, corpus.valid)


def _sample(denoiser: Denoiser, options: SamplesOptions, length: int) -> Tensor:
    framed = length + denoiser.vocabulary.frame_length
    sampler = EnergySampler(denoiser, num_steps=options.num_steps or length, order=options.order)
    starts = tqdm(range(0, options.num_rows, options.batch_size), "samples", disable=None)
    sizes = (min(options.batch_size, options.num_rows - start) for start in starts)
    generator = torch.Generator().manual_seed(options.seed)
    rows = [sampler.sample(size, framed, generator=generator).tokens.cpu() for size in sizes]
    return blocks_of_rows(denoiser, torch.cat(rows))


def _blocks(denoiser: Denoiser, tokens: Tensor) -> TokenBlocks:
    """Blocks of one document each; characters are those that their first thousand decode to, at the mean rate."""
    some = tokens[:1000]
    characters = sum(map(len, denoiser.tokenizer.batch_decode(some.tolist(), skip_special_tokens=True)))
    size = tokens.numel()
    blocks = TokenBlocks(tokens, len(tokens), size, 0, round(characters / some.numel() * size))
    return replace(blocks, vocabulary=vocabulary_fingerprint(denoiser.tokenizer))
