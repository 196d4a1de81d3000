"""``edlm prepare corpus``: text, or a synthetic language -> a tokenizer and blocks of tokens."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edlm.corpus.packing import pack_documents
from edlm.corpus.prepared import PreparedCorpus
from edlm.corpus.synthetic import LanguageConfig, sample_corpus
from edlm.corpus.text import TooFewDocumentsError, read_documents, split_documents, train_tokenizer
from edlm.corpus.tokens import SEPARATOR
from edlm.hub import load_tokenizer
from edlm.rules import Config

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrepareCorpusConfig(Config):
    """Text or a synthetic language, and how it is cut into blocks.

    Args:
        output_dir: Folder to write.
        source: A file (.txt, .md, .jsonl, .ndjson, .json, .csv, .tsv, .parquet, or .gz, .xz, .zst of these), a folder,
            or the name of a ``datasets`` data set, or several of these; None to sample ``language``.
        split: Split of the data set, such as "train".
        valid_source: Held-out text of the same kinds; by default part of ``source`` is held out.
        valid_split: Split of the held-out data set; without ``valid_source``, of ``source``.
        valid_fraction: Share of the documents held out when there is neither ``valid_source`` nor ``valid_split``; of
            too few documents, such as a single book, the last part of the text, at least one block.
        text_field: Field or column that holds the text, outside .txt and .md files.
        tokenizer: Folder or hub id of a tokenizer with a mask token; by default one is trained.
        tokenizer_kind: Kind of the trained tokenizer: "bpe" or "character".
        vocab_size: Size of the trained tokenizer.
        length: Tokens per block.
        num_cuts: How often the training stream is cut into blocks, each time some tokens later: a token is then seen at
            so many places of a block. For small corpora and many epochs.
        language: A synthetic language to sample from instead of text.
        num_train: Blocks to sample from it.
        num_valid: Held-out blocks to sample from it.
        seed: Seed of these samples.
    """

    output_dir: str
    source: str | tuple[str, ...] | None = None
    split: str | None = None
    valid_source: str | None = None
    valid_split: str | None = None
    valid_fraction: float = 0.05
    text_field: str = "text"
    tokenizer: str | None = None
    tokenizer_kind: Literal["bpe", "character"] = "bpe"
    vocab_size: int = 2048
    length: int = 128
    num_cuts: int = 1
    language: LanguageConfig | None = None
    num_train: int = 50_000
    num_valid: int = 1_000
    seed: int = 0


def run(config: PrepareCorpusConfig) -> None:
    """Read or sample, tokenise, pack, write, and print how many tokens were kept and dropped."""
    if (config.source is None) == (config.language is None):
        given = "none" if config.source is None else "both"
        raise ValueError(f"exactly one of source and language must be given, got {given}")
    if config.language is not None:
        corpus = sample_corpus(config.language, config.num_train, config.num_valid, config.length, config.seed)
    else:
        corpus = _text_corpus(config)
    corpus.save(config.output_dir)
    for name, blocks in (("train", corpus.train), ("valid", corpus.valid)):
        print(
            f"{name}: {blocks.num_documents} documents, {len(blocks.tokens)} blocks of {config.length} tokens, "
            f"{blocks.num_dropped} of {blocks.num_tokens} tokens dropped, "
            f"{blocks.characters_per_token:.2f} characters per token"
        )


def _text_corpus(config: PrepareCorpusConfig) -> PreparedCorpus:
    sources = (config.source,) if isinstance(config.source, str) else config.source
    documents = _read(sources, config.split, config.text_field)
    if config.valid_source is not None or config.valid_split is not None:
        others = sources if config.valid_source is None else [config.valid_source]
        return _pack(config, documents, _read(others, config.valid_split, config.text_field))
    try:
        return _pack(config, *split_documents(documents, config.valid_fraction))
    except TooFewDocumentsError as error:
        corpus = _pack(config, documents, None)
        logger.warning(
            "too few documents to hold some out (%s): the last %d blocks are held out (a line %s separates documents)",
            *(error, len(corpus.valid.tokens), SEPARATOR),
        )
        return corpus


def _pack(config: PrepareCorpusConfig, documents: list[str], held_out: list[str] | None) -> PreparedCorpus:
    """Blocks of both splits; without held-out documents, the last blocks are held out."""
    if config.tokenizer is None:
        tokenizer = train_tokenizer(documents, kind=config.tokenizer_kind, vocab_size=config.vocab_size)
    else:
        tokenizer = load_tokenizer(config.tokenizer)
    if tokenizer.mask_token_id is None:
        raise ValueError(f"the tokenizer must have a mask token, got one without: {config.tokenizer}")
    train = pack_documents(documents, tokenizer, config.length)
    if held_out is None:
        train, valid = train.hold_out(config.valid_fraction)
    else:
        valid = pack_documents(held_out, tokenizer, config.length)
    return PreparedCorpus(tokenizer, train.cut_again(config.num_cuts), valid)


def _read(sources: Sequence[str], split: str | None, text_field: str) -> list[str]:
    return [text for source in sources for text in read_documents(source, split=split, text_field=text_field)]
