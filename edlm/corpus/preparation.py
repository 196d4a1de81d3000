"""Text in, a prepared corpus out; the same text is prepared once."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from edlm.corpus.files import kind_of
from edlm.corpus.prepared import PreparedCorpus
from edlm.corpus.recipe import Recipe, TextConfig
from edlm.corpus.text import files_below, is_saved_dataset, load_dataset
from edlm.corpus.writing import write_corpus
from edlm.files import sha256_of
from edlm.lock import LockedError, locked

logger = logging.getLogger(__name__)
_SECONDS = 0.5  # between two looks


def prepare_text(
    config: TextConfig,
    tokenizer: Any = None,
    never: Collection[int] | None = None,
    longest: int | None = None,
    *,
    folder: str | Path | None = None,
) -> PreparedCorpus:
    """Read, hold out, and pack text; or find what was made from the same bytes before. Its tokens stay in their files.

    Args:
        config: What is read, and how it is cut.
        tokenizer: A fast one; None trains one, on the text that is not held out.
        never: Tokens that are left out, as in `pack_documents`.
        longest: Most tokens of a block, where ``config`` does not say its length.
        folder: Is written anew; by default one below `cache_folder`, which depends on the content of the text, the
            tokenizer and the options alone. Where several processes ask for it, one makes it, and the others wait.

    Raises:
        FileNotFoundError: there is no such text.
        LockedError: another process writes to ``folder``.
        ValueError: the text is damaged or too short, or an option breaks its rule.
    """
    recipe = Recipe(config, tokenizer, never, longest)
    if folder is not None:
        with locked(folder):
            return write_corpus(recipe, folder)
    if config.streaming:
        raise ValueError("streaming needs a folder to write, got none: use `edlm prepare corpus`")
    folder, is_waiting = cache_folder() / _key(recipe), False
    while not (folder / "train.safetensors").exists():
        try:
            with locked(folder):
                if not (folder / "train.safetensors").exists():
                    return write_corpus(recipe, folder)
        except LockedError as error:
            if not is_waiting:
                logger.warning("waiting until the corpus is made: %s", error)
            is_waiting = True
            time.sleep(_SECONDS)
    logger.info("the corpus was made before: %s", folder)
    return PreparedCorpus.load(folder, mapped=True)


def cache_folder() -> Path:
    """Where corpora are kept that were made for a training: in EDLM_CACHE, or else ``~/.cache/edlm``.

    Nothing is ever removed there; whoever removes it loses time alone.
    """
    return Path(os.environ.get("EDLM_CACHE") or Path.home() / ".cache" / "edlm") / "corpora"


def _key(recipe: Recipe) -> str:
    """Of all that decides a corpus; text counts by its bytes, whatever its files are called."""
    config = recipe.config
    sources = [config.source] if isinstance(config.source, str) else config.source
    content = [[*_content(source, config.split, config.text_field)] for source in sources]
    held_out = None
    if config.valid_source is not None:
        held_out = [*_content(config.valid_source, config.valid_split, config.text_field)]
    identity = recipe.identity | {"source": content, "valid_source": held_out}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def _content(source: str, split: str | None, text_field: str) -> Iterator[tuple[str, str]]:
    """Names that matter, each with a digest of what is behind it."""
    path = Path(source).expanduser()
    if path.is_file():
        yield f"{kind_of(path)} {path.suffix.lower()}", sha256_of(path)
    elif path.is_dir():
        files = ((file, None) for file in sorted(path.rglob("*"))) if is_saved_dataset(path) else files_below(path)
        for file, reason in files:
            if reason is None and file.is_file():
                yield file.relative_to(path).as_posix(), sha256_of(file)
    else:
        for file in load_dataset(source, split, text_field).cache_files:
            yield Path(file["filename"]).name, sha256_of(file["filename"])
