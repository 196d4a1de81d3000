"""Text in, a prepared corpus out."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edlm.corpus.packing import pack_documents
from edlm.corpus.prepared import PreparedCorpus
from edlm.corpus.text import TooFewDocumentsError, read_documents, split_documents, train_tokenizer
from edlm.corpus.tokens import SEPARATOR
from edlm.rules import Config

logger = logging.getLogger(__name__)
LENGTH = 128  # tokens of a block, where nobody says


@dataclass(frozen=True, kw_only=True)
class TextConfig(Config):
    """Text, and how it is held out and cut into blocks.

    Args:
        source: A file (.txt, .md, .jsonl, .ndjson, .json, .csv, .tsv, .parquet, or .gz, .xz, .zst of these), a folder,
            or the name of a ``datasets`` data set, or several of these.
        split: Split of the data set, such as "train".
        valid_source: Held-out text of the same kinds; by default part of ``source`` is held out.
        valid_split: Split of the held-out data set; without ``valid_source``, of ``source``.
        valid_fraction: Share of the documents held out when there is neither ``valid_source`` nor ``valid_split``; of
            too few documents, such as a single book, the last part of the text, at least one block.
        text_field: Field or column that holds the text, outside .txt and .md files.
        tokenizer_kind: Kind of a tokenizer that is trained: "bpe" or "character".
        vocab_size: Its size.
        length: Tokens per block; by default 128, or the longest that a denoiser takes, if that is shorter.
        num_cuts: How often the training stream is cut into blocks, each time some tokens later: a token is then seen at
            so many places of a block. For small corpora and many epochs.
    """

    source: str | tuple[str, ...] | None = None
    split: str | None = None
    valid_source: str | None = None
    valid_split: str | None = None
    valid_fraction: float = 0.05
    text_field: str = "text"
    tokenizer_kind: Literal["bpe", "character"] = "bpe"
    vocab_size: int = 2048
    length: int | None = None
    num_cuts: int = 1


def prepare_text(
    config: TextConfig, tokenizer: Any = None, never: Collection[int] | None = None, longest: int | None = None
) -> PreparedCorpus:
    """Read, hold out, and pack text.

    Args:
        config: What is read, and how it is cut.
        tokenizer: A fast one; None trains one, on the text that is not held out.
        never: Tokens that are left out, as in `pack_documents`.
        longest: Most tokens of a block, where ``config`` does not say its length.

    Raises:
        FileNotFoundError: there is no such text.
        ValueError: the text is damaged or too short, or an option breaks its rule.
    """
    sources = [config.source] if isinstance(config.source, str) else config.source
    length = config.length or min(LENGTH, longest or LENGTH)

    def read(sources: Sequence[str], split: str | None) -> list[str]:
        return [text for name in sources for text in read_documents(name, split=split, text_field=config.text_field)]

    def pack(documents: list[str], held_out: list[str] | None) -> PreparedCorpus:
        trained = tokenizer or train_tokenizer(documents, kind=config.tokenizer_kind, vocab_size=config.vocab_size)
        train = pack_documents(documents, trained, length, never)
        if held_out is None:
            train, valid = train.hold_out(config.valid_fraction)
        else:
            valid = pack_documents(held_out, trained, length, never)
        return PreparedCorpus(trained, train.cut_again(config.num_cuts), valid)

    documents = read(sources, config.split)
    if config.valid_source is not None or config.valid_split is not None:
        held_out = sources if config.valid_source is None else [config.valid_source]
        return pack(documents, read(held_out, config.valid_split))
    try:
        return pack(*split_documents(documents, config.valid_fraction))
    except TooFewDocumentsError as error:
        corpus = pack(documents, None)
        logger.warning(
            "too few documents to hold some out (%s): the last %d blocks are held out (a line %s separates documents)",
            *(error, len(corpus.valid.tokens), SEPARATOR),
        )
        return corpus
