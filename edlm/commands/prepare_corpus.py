"""``edlm prepare corpus``: text, or a synthetic language -> a tokenizer and blocks of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from transformers import AutoTokenizer

from edlm.corpus.prepared import PreparedCorpus
from edlm.corpus.text import pack_documents, read_documents, split_documents, train_tokenizer


@dataclass(frozen=True)
class PrepareCorpusConfig:
    """How a corpus is prepared.

    Args:
        output_dir: Folder to write.
        source: A text file, a folder, or the name of a ``datasets`` data set.
        valid_source: Held-out text of the same kinds; by default part of ``source`` is held out.
        valid_fraction: Share of the documents held out when there is no ``valid_source``.
        text_field: Field that holds the text in JSONL, Parquet or a data set.
        tokenizer: Folder or hub id of a tokenizer with a mask token; by default one is trained.
        tokenizer_kind: What is trained: "bpe" or "character".
        vocab_size: Its size.
        length: Tokens per block.
    """

    output_dir: str
    source: str
    valid_source: str | None = None
    valid_fraction: float = 0.05
    text_field: str = "text"
    tokenizer: str | None = None
    tokenizer_kind: Literal["bpe", "character"] = "bpe"
    vocab_size: int = 2048
    length: int = 128


def run(config: PrepareCorpusConfig) -> None:
    """Read, tokenise, pack, write, and say what was kept and what was not."""
    documents = read_documents(config.source, text_field=config.text_field)
    if config.valid_source is None:
        documents, held_out = split_documents(documents, config.valid_fraction)
    else:
        held_out = read_documents(config.valid_source, text_field=config.text_field)
    if config.tokenizer is None:
        tokenizer = train_tokenizer(documents, kind=config.tokenizer_kind, vocab_size=config.vocab_size)
    else:
        tokenizer = AutoTokenizer.from_pretrained(config.tokenizer)
    if tokenizer.mask_token_id is None:
        raise ValueError(f"the tokenizer must have a mask token, got one without: {config.tokenizer}")
    corpus = PreparedCorpus(
        tokenizer,
        pack_documents(documents, tokenizer, config.length),
        pack_documents(held_out, tokenizer, config.length),
    )
    corpus.save(config.output_dir)
    for name, blocks in (("train", corpus.train), ("valid", corpus.valid)):
        print(
            f"{name}: {blocks.num_documents} documents, {len(blocks.tokens)} blocks of {config.length} tokens, "
            f"{blocks.num_dropped} of {blocks.num_tokens} tokens dropped, "
            f"{blocks.characters_per_token:.2f} characters per token"
        )
