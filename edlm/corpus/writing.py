"""Text in, the folder of a prepared corpus out, in memory that does not depend on the size of either."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from edlm.corpus.blocks import save_blocks
from edlm.corpus.packing import Packer, PackerState, batches
from edlm.corpus.prepared import PreparedCorpus
from edlm.corpus.recipe import Recipe
from edlm.corpus.spool import Spool
from edlm.corpus.streaming import Position, Window, iterate_windows
from edlm.corpus.text import TooFewDocumentsError, check_sides, held_out_by, iterate_documents, train_tokenizer
from edlm.corpus.tokens import SEPARATOR, vocabulary_fingerprint
from edlm.disk import naming_what_is_full
from edlm.files import filling, read_json, write_atomically
from edlm.hub import load_tokenizer

logger = logging.getLogger(__name__)
TRAINED_ON = 2**27  # characters, at most, for a tokenizer


class _Feed(NamedTuple):
    """Text that is read.

    Attributes:
        windows: Some documents at a time, from a position; the end is None where there are no positions.
        is_valid: Whether a document is held out.
        side: Which side's tokens count towards ``max_tokens``.
    """

    windows: Callable[[Position | None], Iterator[Window]]
    is_valid: Callable[[str], bool]
    side: str


class _Side:
    """The training or the held-out text, as far as it is packed."""

    def __init__(self, packer: Packer, spool: Spool, max_tokens: float):
        self.packer, self.spool, self._most = packer, spool, max_tokens

    @property
    def is_full(self) -> bool:
        return self.packer.state.num_tokens >= self._most

    def add(self, documents: Sequence[str]) -> None:
        self.packer.add(documents, self.spool.write, self._most)


def write_corpus(recipe: Recipe, folder: str | Path) -> PreparedCorpus:
    """Read, hold out, and pack text; a streamed preparation that was stopped goes on where it was.

    Args:
        recipe: What is read, and how it is cut.
        folder: Is written, by nobody else. Its folder ``unfinished`` is what a preparation has so far.

    Raises:
        FileNotFoundError: there is no such text.
        ValueError: the text is damaged or too short, an option breaks its rule, or what is unfinished is of another
            recipe.

    Note:
        A document is in memory as a whole; so is a corpus of which blocks are held out for lack of documents, or that
        is cut more than once.
    """
    folder, config = Path(folder), recipe.config
    unfinished = folder / "unfinished"
    has_valid = config.valid_source is not None or config.valid_split is not None
    if not config.streaming:
        shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with naming_what_is_full(unfinished):
            _write_sides(recipe, unfinished, has_valid)
            with filling(folder) as new:
                shutil.copytree(unfinished / "tokenizer", new / "tokenizer")  # blocks can be saved again, this not
                for name in ("valid.safetensors", "train.safetensors"):
                    (unfinished / name).replace(new / name)
    except BaseException:
        if not config.streaming:
            shutil.rmtree(unfinished, ignore_errors=True)
        raise
    shutil.rmtree(unfinished)
    return PreparedCorpus.load(folder, mapped=True)


def _write_sides(recipe: Recipe, unfinished: Path, has_valid: bool) -> None:
    """Both sides; of too few documents the last blocks are held out."""
    try:
        _write(recipe, unfinished, _feeds(recipe, has_valid, held_out_by(recipe.config.valid_fraction)))
    except TooFewDocumentsError as error:
        if has_valid or recipe.config.streaming:
            raise
        shutil.rmtree(unfinished, ignore_errors=True)
        num_blocks = _write_whole(recipe, unfinished, _feeds(recipe, False, lambda text: False))
        logger.warning(
            "documents cannot be held out (%s): the last %d blocks are held out (a line %s separates documents)",
            *(error, num_blocks, SEPARATOR),
        )


def _feeds(recipe: Recipe, has_valid: bool, is_held_out: Callable[[str], bool]) -> list[_Feed]:
    config = recipe.config
    sources = [config.source] if isinstance(config.source, str) else config.source
    held_out = [] if not has_valid else sources if config.valid_source is None else [config.valid_source]

    def windows(source: str, split: str | None, start: Position | None) -> Iterator[Window]:
        if config.streaming:
            return iterate_windows(source, split, config.text_field, config.shuffle_buffer, config.seed, start)
        documents = iterate_documents(source, split=split, text_field=config.text_field)
        return (Window(batch, None) for batch in batches(documents))

    is_valid = (lambda text: False) if has_valid else is_held_out
    return [
        *(_Feed(partial(windows, source, config.split), is_valid, "train") for source in sources),
        *(_Feed(partial(windows, source, config.valid_split), lambda text: True, "valid") for source in held_out),
    ]


def _write(recipe: Recipe, unfinished: Path, feeds: Sequence[_Feed]) -> None:
    """Both sides, into the unfinished folder."""
    tokenizer, sides = _read(recipe, unfinished, feeds, ("train", "valid"))
    if feeds[-1].side == "train":  # documents are held out of the same text
        numbers = (side.packer.state.num_documents for side in sides.values())
        check_sides(*numbers, recipe.config.valid_fraction)
    made_by, (train, valid) = vocabulary_fingerprint(tokenizer), sides.values()
    of_train, of_valid = train.packer.counts(), valid.packer.counts()
    valid.spool.save(unfinished / "valid.safetensors", of_valid, made_by, with_documents=True)
    if recipe.config.num_cuts == 1:
        kept = {"num_tokens": of_train["num_tokens"] - of_train["num_dropped"], "num_dropped": 0}
        train.spool.save(unfinished / "train.safetensors", of_train | kept, made_by, with_documents=False)
    else:
        blocks = train.spool.load(of_train, made_by).cut_again(recipe.config.num_cuts)
        save_blocks(blocks, unfinished / "train.safetensors")
    for side in sides.values():
        side.spool.close()


def _write_whole(recipe: Recipe, unfinished: Path, feeds: Sequence[_Feed]) -> int:
    """Likewise, with blocks that are held out; returns their number."""
    tokenizer, sides = _read(recipe, unfinished, feeds, ("train",))
    side = sides["train"]
    blocks = side.spool.load(side.packer.counts(), vocabulary_fingerprint(tokenizer))
    side.spool.close()
    train, valid = blocks.hold_out(recipe.config.valid_fraction)
    save_blocks(valid, unfinished / "valid.safetensors")
    save_blocks(train.cut_again(recipe.config.num_cuts), unfinished / "train.safetensors")
    return len(valid.tokens)


def _read(
    recipe: Recipe, unfinished: Path, feeds: Sequence[_Feed], names: Sequence[str]
) -> tuple[Any, dict[str, _Side]]:
    """The tokenizer, and the sides with all text in their spools."""
    path = unfinished / "position.json"
    there = read_json(path) if path.exists() else {"identity": recipe.identity, "feed": 0, "start": None, "sides": {}}
    if differing := [key for key, value in recipe.identity.items() if there["identity"].get(key) != value]:
        raise ValueError(
            f"{unfinished} must be of the same options, got others of {', '.join(differing)}: remove it, or write "
            "elsewhere"
        )
    tokenizer = _tokenizer(recipe, unfinished, feeds)
    sides = {}
    for name in names:
        packer = Packer(tokenizer, recipe.length, recipe.never)
        if name in there["sides"]:
            packer.state = PackerState.restored(there["sides"][name])
        largest = max(tokenizer.get_vocab().values())
        spool = Spool(unfinished / name, recipe.length, largest, packer.state.num_blocks)
        sides[name] = _Side(packer, spool, recipe.config.max_tokens or float("inf"))
    for number, feed in enumerate(feeds[there["feed"] :], start=there["feed"]):
        windows = iter(()) if sides[feed.side].is_full else feed.windows(there["start"])
        there["start"] = None
        for window in windows:
            parts = {"train": [], "valid": []}
            for text in window.documents:
                parts["valid" if feed.is_valid(text) else "train"].append(text)
            for name, side in sides.items():
                side.add(parts[name])
            if window.end is not None:
                for side in sides.values():
                    side.spool.sync()
                states = {name: vars(side.packer.state) for name, side in sides.items()}
                content = {"identity": recipe.identity, "feed": number, "start": window.end, "sides": states}
                write_atomically(path, json.dumps(content).encode())
            if sides[feed.side].is_full:
                break
    return tokenizer, sides


def _tokenizer(recipe: Recipe, unfinished: Path, feeds: Sequence[_Feed]) -> Any:
    """The recipe's, or one that is trained; it is kept with what is unfinished."""
    path, config = unfinished / "tokenizer", recipe.config
    if recipe.tokenizer is not None:
        recipe.tokenizer.save_pretrained(path)
        return recipe.tokenizer
    if not (unfinished / "position.json").exists():
        texts = _training_text(feeds)
        train_tokenizer(texts, kind=config.tokenizer_kind, vocab_size=config.vocab_size).save_pretrained(path)
    return load_tokenizer(path)


def _training_text(feeds: Sequence[_Feed]) -> Iterator[str]:
    size = 0
    for feed in (feed for feed in feeds if feed.side == "train"):
        for window in feed.windows(None):
            for text in (text for text in window.documents if not feed.is_valid(text)):
                yield text
                size += len(text)
                if size >= TRAINED_ON:
                    return
