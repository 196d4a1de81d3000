"""Corpora sampled from a language with known truth, in the same form as text."""

from dataclasses import dataclass
from typing import Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from edlm.corpus.blocks import TokenBlocks
from edlm.corpus.languages import Dyck, HiddenMarkov, MarkovChain
from edlm.corpus.prepared import PreparedCorpus
from edlm.rules import Config


@dataclass(frozen=True)
class LanguageConfig(Config):
    """Which language; the same settings give the same language.

    Args:
        kind: "markov" (random chain), "hmm" (the reference of the project's method page) or "dyck".
        vocab_size: Symbols of the chain.
        num_successors: Likely successors of each symbol of the chain.
        smoothing: Share of each row of the chain that is spread over all symbols.
        num_pairs: Bracket types of the Dyck language.
        max_depth: Its deepest nesting.
        seed: Of the chain's random table.
    """

    kind: Literal["markov", "hmm", "dyck"] = "markov"
    vocab_size: int = 24
    num_successors: int = 4
    smoothing: float = 0.02
    num_pairs: int = 2
    max_depth: int = 4
    seed: int = 1


def build_language(config: LanguageConfig) -> MarkovChain | HiddenMarkov | Dyck:
    """The language of these settings."""
    if config.kind == "markov":
        generator = torch.Generator().manual_seed(config.seed)
        return MarkovChain.random(config.vocab_size, config.num_successors, generator, smoothing=config.smoothing)
    return HiddenMarkov.reference() if config.kind == "hmm" else Dyck(config.num_pairs, config.max_depth)


def sample_corpus(config: LanguageConfig, num_train: int, num_valid: int, length: int, seed: int) -> PreparedCorpus:
    """Blocks drawn from the language, one sequence a block, and a tokenizer whose words are symbol numbers."""
    language = build_language(config)
    generator = torch.Generator().manual_seed(seed)
    sizes = {"train": num_train, "valid": num_valid}
    blocks = {
        name: TokenBlocks(
            tokens=language.sample(size, length, generator),
            num_documents=size,
            num_tokens=size * length,
            num_dropped=0,
            num_characters=size * length,
        )
        for name, size in sizes.items()
    }
    return PreparedCorpus(_symbol_tokenizer(language.vocab_size), **blocks)


def _symbol_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """Symbols "0", "1", ... and, last, the mask, with the mask id of the language."""
    vocabulary = {str(symbol): symbol for symbol in range(vocab_size)} | {"<|mask|>": vocab_size}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<|mask|>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="<|mask|>")
