"""Documents in: a file, a folder, or a data set of the hub, by one reader for every command."""

import logging
from pathlib import Path

from huggingface_hub import HfApi, constants

from edlm.corpus.files import kind_of, known_kinds, read_file, text_column
from edlm.corpus.tokens import SEPARATOR

logger = logging.getLogger(__name__)


def read_documents(
    source: str | Path, *, split: str | None = None, text_field="text", separator=SEPARATOR
) -> list[str]:
    """Documents of a file, a folder or a `datasets` data set, in a fixed order; blank ones are left out.

    Args:
        source: A file: .txt or .md, .jsonl, .ndjson or .json, .csv or .tsv, .parquet, or .gz, .xz or .zst of these; a
            folder (every such file below it in sorted order, hidden ones left out, or a saved data set); else, if there
            is no such path, a data set's ``"name"`` or ``"name:config"``.
        split: Split of a data set; must be None for files and folders.
        text_field: Field or column that holds the text, outside .txt and .md files.
        separator: In .txt and .md, a line with nothing else ends a document; a file without one is one document,
            verbatim.

    Raises:
        FileNotFoundError: ``source`` looks like a path and does not exist, or the hub has no such data set.
        ValueError: an unknown kind of file, content that is not what its suffix says (names file and line), a missing
            field or split, or no document at all.

    Note:
        Of a folder, one line on the log says what was read, what was skipped, and why.
    """
    path = Path(source).expanduser()
    if not path.exists():
        if isinstance(source, Path) or _looks_like_a_path(source):
            raise FileNotFoundError(f"source must be an existing file or folder or a data set's name, got {source}")
        documents = _read_dataset(source, split, text_field)
    elif (path / "state.json").exists() or (path / "dataset_dict.json").exists():
        documents = _read_dataset(str(path), split, text_field)
    elif split is not None:
        raise ValueError(f"split must be None for files and folders, got {split!r} with {source}")
    elif path.is_dir():
        documents = _read_folder(path, text_field, separator)
    else:
        documents = read_file(path, text_field, separator)
    documents = [text for text in documents if text and text.strip()]
    if not documents:
        raise ValueError(f"source must hold text (a folder: in files of {known_kinds()}), got none in {source}")
    return documents


def _looks_like_a_path(source: str) -> bool:
    """Whether a text cannot be the name of a data set, or is more likely a mistyped path."""
    name = Path(source.partition(":")[0])
    return (
        source.startswith((".", "/", "~"))
        or source.endswith("/")
        or "\\" in source
        or len(name.parts) > 2
        or (len(name.parts) == 2 and name.parent.exists())
        or (len(name.parts) == 1 and name.suffix != "")
        or kind_of(name) is not None
    )


def _read_folder(folder: Path, text_field: str, separator: str) -> list[str]:
    documents, read, skipped = [], [], {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, texts = file.relative_to(folder).as_posix(), []
        if "/." in f"/{name}":
            reason = "hidden"
        elif kind_of(file) is None:
            reason = "unknown kind"
        else:
            texts, reason = (
                [text for text in read_file(file, text_field, separator) if text and text.strip()],
                "no text",
            )
        documents += texts
        (read if texts else skipped.setdefault(reason, [])).append(name)
    said = [f"{reason}: {_some(names)}" for reason, names in skipped.items()]
    end = f"; skipped {'; '.join(said)}" if said else ""
    logger.warning("%s: %d documents, read from %s%s", folder, len(documents), _some(read) or "no file", end)
    return documents


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _read_dataset(name: str, split: str | None, text_field: str) -> list[str | None]:
    import datasets

    if Path(name).exists():
        dataset = datasets.load_from_disk(name)
    else:
        _check_hub(name)
        dataset = datasets.load_dataset(*name.split(":", 1), split=split)
    splits = dataset if isinstance(dataset, dict) else {str(dataset.split): dataset}
    if split not in splits and (split is not None or len(splits) > 1):
        raise ValueError(f"split must be one of {', '.join(splits)} for {name}, got {split!r}")
    return text_column(splits[split or next(iter(splits))], name, text_field)


def _check_hub(name: str) -> None:
    """Ask the hub once whether it has a data set: `datasets` would try for half a minute where it has none."""
    if constants.HF_HUB_OFFLINE:  # then it does not try
        return
    try:
        HfApi().dataset_info(name.partition(":")[0], timeout=20)
    except Exception as error:  # of the network's library, which differs between versions of the hub's
        message = f"source must be an existing file or folder or a data set's name, got {name}"
        raise FileNotFoundError(f"{message}: {str(error).strip().splitlines()[0]}") from error
