"""What a corpus of text is made from, and how."""

import json
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

from edlm.corpus.tokens import tokenizer_fingerprint
from edlm.rules import Config

LENGTH = 128  # tokens of a block, by default


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
        streaming: Read data sets of the hub, or saved ones, without keeping them on disk; the order of shards, and of
            documents within the buffer, is random. A preparation that was stopped resumes.
        shuffle_buffer: Documents that are in memory, in random order, when a data set is streamed.
        max_tokens: Reading ends with the training document with which there are so many tokens; and with the held-out
            one, where held-out text has a source or split of its own. null for all text.
        seed: Of the random order of streamed text.
        tokenizer_kind: Kind of a tokenizer that is trained, on the first 134 million characters: "bpe" or "character".
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
    streaming: bool = False
    shuffle_buffer: int = 10_000
    max_tokens: int | None = None
    seed: int = 0
    tokenizer_kind: Literal["bpe", "character"] = "bpe"
    vocab_size: int = 2048
    length: int | None = None
    num_cuts: int = 1


class Recipe(NamedTuple):
    """All that decides a corpus, but for the text.

    Attributes:
        config: What is read, and how it is cut.
        tokenizer: A fast one; None for one that is trained, on the text that is not held out.
        never: Tokens that are left out, as in `pack_documents`.
        longest: Most tokens of a block, where ``config`` does not say its length.
    """

    config: TextConfig
    tokenizer: Any = None
    never: Collection[int] | None = None
    longest: int | None = None

    @property
    def length(self) -> int:
        """Tokens of a block."""
        return self.config.length or min(LENGTH, self.longest or LENGTH)

    @property
    def identity(self) -> dict[str, Any]:
        """JSON values, the same for the same recipe."""
        never = None if self.never is None else sorted(self.never)
        made_by = "" if self.tokenizer is None else tokenizer_fingerprint(self.tokenizer)
        options = {option.name: getattr(self.config, option.name) for option in fields(TextConfig)}
        return {**json.loads(json.dumps(options)), "length": self.length, "tokenizer": made_by, "never": never}
