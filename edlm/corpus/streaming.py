"""Documents of a data set that is read while they are needed, in random order, from any position."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edlm.corpus.text import is_saved_dataset, load_dataset

_SHARDS = 16  # of a saved data set
Position = dict[str, Any]
"""Where a window begins; JSON values."""


class Window(NamedTuple):
    """Documents in random order.

    Attributes:
        documents: Those with text.
        end: Where the next window begins.
    """

    documents: list[str]
    end: Position


def iterate_windows(
    source: str, split: str | None, text_field: str, size: int, seed: int, start: Position | None = None
) -> Iterator[Window]:
    """The windows of a streamed data set: its shards in random order, and so many rows of them at a time.

    A position is exact: the windows from there are those that would have followed.

    Args:
        source: A data set that `datasets` saved, or that is its folder of files, or its name on the hub, see
            `read_documents`.
        split: Its split.
        text_field: Its column of text.
        size: Rows of a window.
        seed: Of the order of shards, and of rows in windows.
        start: The ``end`` of an earlier window; None for the beginning.

    Raises:
        FileNotFoundError: there is no such data set.
        ValueError: it has no such split or column.
    """
    dataset = load_dataset(source, split, text_field, streaming=True)
    if is_saved_dataset(Path(source)):
        dataset = dataset.to_iterable_dataset(min(_SHARDS, len(dataset)))
    dataset = dataset.select_columns(text_field)
    order = np.random.default_rng(seed).permutation(dataset.num_shards).tolist()
    number, first, inside = (start or {"window": 0, "shard": 0, "inside": None}).values()
    texts: list[str | None] = []

    def window(end: Position) -> Window:
        order = np.random.default_rng([seed, number]).permutation(len(texts))
        return Window([text for text in (texts[i] for i in order) if text and text.strip()], end)

    for place in range(first, len(order)):
        shard = dataset.shard(num_shards=len(order), index=order[place])
        if place == first and inside is not None:
            shard.load_state_dict(inside)
        for row in shard:
            texts.append(row[text_field])
            if len(texts) == size:
                yield window({"window": number + 1, "shard": place, "inside": shard.state_dict()})
                number, texts = number + 1, []
    if texts:
        yield window({"window": number + 1, "shard": len(order), "inside": None})
