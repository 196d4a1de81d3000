"""Corpora sampled from a language with known truth, in the same form as text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from edlm.corpus.blocks import TokenBlocks
from edlm.corpus.language import Language
from edlm.corpus.languages import Dyck, HiddenMarkov, MarkovChain
from edlm.corpus.list_tasks import Replacement, Shuffling
from edlm.corpus.prepared import PreparedCorpus
from edlm.corpus.puzzles import LatinSquare, Sudoku
from edlm.corpus.recipe import LENGTH
from edlm.rules import Config


@dataclass(frozen=True)
class LanguageConfig(Config):
    """Which language; the same settings give the same language.

    Args:
        kind: "markov" (random chain), "hmm" (the reference of the project's method page), "dyck" (brackets); or a
            puzzle: "sudoku" and "latin" (grids of 4x4), "shuffling" and "replacement" (of the items of a list).
        vocab_size: Symbols of the chain, or kinds of item of a list.
        num_successors: Likely successors of each symbol of the chain.
        smoothing: Share of each row of the chain that is spread over all symbols.
        num_pairs: Bracket types of the Dyck language.
        max_depth: Its deepest nesting.
        num_items: Items of a list.
        num_replaced: How many of them are replaced.
        seed: Of the chain's random table.
    """

    kind: Literal["markov", "hmm", "dyck", "sudoku", "latin", "shuffling", "replacement"] = "markov"
    vocab_size: int = 24
    num_successors: int = 4
    smoothing: float = 0.02
    num_pairs: int = 2
    max_depth: int = 4
    num_items: int = 6
    num_replaced: int = 2
    seed: int = 1


def build_language(config: LanguageConfig) -> Language:
    """The language of these settings."""
    match config.kind:
        case "markov":
            generator = torch.Generator().manual_seed(config.seed)
            return MarkovChain.random(config.vocab_size, config.num_successors, generator, smoothing=config.smoothing)
        case "hmm":
            return HiddenMarkov.reference()
        case "dyck":
            return Dyck(config.num_pairs, config.max_depth)
        case "sudoku":
            return Sudoku()
        case "latin":
            return LatinSquare()
        case "shuffling":
            return Shuffling(config.num_items, config.vocab_size)
        case "replacement":
            return Replacement(config.num_items, config.num_replaced, config.vocab_size)


def sample_corpus(
    config: LanguageConfig, num_train: int, num_valid: int, length: int | None, seed: int
) -> PreparedCorpus:
    """Blocks drawn from the language, one sequence a block, and a tokenizer whose words are its symbols.

    Without a ``length`` that of a puzzle, or else 128.
    """
    language = build_language(config)
    length = length or language.length or LENGTH
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
    return PreparedCorpus(_symbol_tokenizer(language.symbols), **blocks)


def _symbol_tokenizer(symbols: Sequence[str]) -> PreTrainedTokenizerFast:
    """Symbols and, last, the mask, with the mask id of the language."""
    vocabulary = {symbol: token for token, symbol in enumerate([*symbols, "<|mask|>"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<|mask|>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="<|mask|>")
