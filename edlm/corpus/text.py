"""Text in: read documents, train a tokenizer, split."""

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from edlm.corpus.files import check_text_column, kind_of, known_kinds, read_file
from edlm.corpus.tokens import SEPARATOR

logger = logging.getLogger(__name__)
_warn_once = cache(logger.warning)  # a preparation reads a folder several times
MASK, UNKNOWN = "<|mask|>", "<|unk|>"
_ROWS = 1000  # of a data set that are read at a time


def read_documents(
    source: str | Path, *, split: str | None = None, text_field="text", separator=SEPARATOR
) -> list[str]:
    """Documents of a file, a folder or a `datasets` data set, in a fixed order; blank ones are left out.

    Args:
        source: A file: .txt or .md, .jsonl, .ndjson or .json, .csv or .tsv, .parquet, or .gz, .xz or .zst of these; a
            folder (every such file below it in sorted order, hidden ones left out, or a saved data set); else, if there
            is no such path, a data set's ``"name"`` or ``"name:config"``. A .json holds objects, or arrays of them, one
            after the other, each in one line or many.
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
    return [*iterate_documents(source, split=split, text_field=text_field, separator=separator)]


def iterate_documents(
    source: str | Path, *, split: str | None = None, text_field="text", separator=SEPARATOR
) -> Iterator[str]:
    """The documents of `read_documents`, read as they are asked for; arguments and errors are its own."""
    path, number = Path(source).expanduser(), 0
    if not path.exists() or is_saved_dataset(path):
        documents = _read_dataset(source, split, text_field)
    elif split is not None:
        raise ValueError(f"split must be None for files and folders, got {split!r} with {source}")
    elif path.is_dir():
        documents = _read_folder(path, text_field, separator)
    else:
        documents = _with_text(read_file(path, text_field, separator))
    for text in documents:
        number += 1
        yield text
    if not number:
        raise ValueError(f"source must hold text (a folder: in files of {known_kinds()}), got none in {source}")


def _with_text(texts: Iterable[str | None]) -> Iterator[str]:
    return (text for text in texts if text and text.strip())


def is_saved_dataset(path: Path) -> bool:
    """Whether a folder was written by ``save_to_disk`` of `datasets`."""
    return (path / "state.json").exists() or (path / "dataset_dict.json").exists()


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


def files_below(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """Files in sorted order, each with the reason why it is not read, if it is not."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        hidden = "/." in f"/{file.relative_to(folder).as_posix()}"
        yield file, "hidden" if hidden else "unknown kind" if kind_of(file) is None else None


def _read_folder(folder: Path, text_field: str, separator: str) -> Iterator[str]:
    total, read, skipped = 0, [], {}
    for file, reason in files_below(folder):
        number = 0
        if reason is None:
            for text in _with_text(read_file(file, text_field, separator)):
                number += 1
                yield text
        total += number
        (read if number else skipped.setdefault(reason or "no text", [])).append(file.relative_to(folder).as_posix())
    said = [f"{reason}: {_some(names)}" for reason, names in skipped.items()]
    end = f"; skipped {'; '.join(said)}" if said else ""
    _warn_once("%s: %d documents, read from %s%s", folder, total, _some(read) or "no file", end)


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _read_dataset(source: str | Path, split: str | None, text_field: str) -> Iterator[str]:
    dataset = load_dataset(source, split, text_field)
    return _with_text(text for batch in dataset.select_columns(text_field).iter(_ROWS) for text in batch[text_field])


def load_dataset(source: str | Path, split: str | None, text_field: str, **options: Any) -> Any:
    """A split of a data set that is saved, a folder of files, or of the hub, whose column of text is checked.

    Args:
        source: A folder, or the data set's ``"name"`` or ``"name:config"``.
        split: The split; None where there is but one.
        text_field: The column.
        options: For `datasets.load_dataset`.

    Raises:
        FileNotFoundError: ``source`` looks like a path and does not exist, or the hub has no such data set.
        ValueError: a missing split, or no such column of text.
    """
    import datasets

    name = str(Path(source).expanduser()) if Path(source).expanduser().exists() else str(source)
    if is_saved_dataset(Path(name)):
        dataset = datasets.load_from_disk(name)
    else:
        if not Path(name).exists():
            if isinstance(source, Path) or _looks_like_a_path(name):
                raise FileNotFoundError(f"source must be an existing file or folder or a data set's name, got {name}")
            _check_hub(name)
        dataset = datasets.load_dataset(*name.split(":", 1), split=split, **options)
    splits = dataset if isinstance(dataset, dict) else {str(dataset.split): dataset}
    if split not in splits and (split is not None or len(splits) > 1):
        raise ValueError(f"split must be one of {', '.join(splits)} for {name}, got {split!r}")
    found = splits[split or next(iter(splits))]
    features = found.features  # of a streamed one, sometimes not known before a row is read
    if features is None:
        features = datasets.Dataset.from_list([next(iter(found))]).features
    check_text_column(features, name, text_field)
    return found


def _check_hub(name: str) -> None:
    """Ask the hub once whether it has a data set: `datasets` would try for half a minute where it has none."""
    if constants.HF_HUB_OFFLINE:  # then it does not try
        return
    try:
        HfApi().dataset_info(name.partition(":")[0], timeout=20)
    except Exception as error:  # of the network's library, which differs between versions of the hub's
        message = f"source must be an existing file or folder or a data set's name, got {name}"
        raise FileNotFoundError(f"{message}: {str(error).strip().splitlines()[0]}") from error


def train_tokenizer(documents: Iterable[str], *, kind: str = "bpe", vocab_size: int = 2048) -> PreTrainedTokenizerFast:
    """Tokenizer with ``<|endoftext|>`` (id 0: eos, bos, sep, pad), ``<|mask|>`` (1); "character": ``<|unk|>`` (2).

    Args:
        documents: Training texts.
        kind: "bpe" (byte level, lossless on any text) or "character" (one token per code point).
        vocab_size: Largest size, special tokens included; smaller if no further pair occurs twice.

    Raises:
        ValueError: no documents, unknown kind, or ``vocab_size`` below alphabet and special tokens.
    """
    if kind not in ("bpe", "character"):
        raise ValueError(f"kind must be 'bpe' or 'character', got {kind!r}")
    documents = iter(documents)
    if (first := next(documents, None)) is None:
        raise TooFewDocumentsError("documents must not be empty, got none")
    documents = chain([first], documents)
    special = [SEPARATOR, MASK] + [UNKNOWN] * (kind == "character")
    symbols = chain.from_iterable(documents) if kind == "character" else pre_tokenizers.ByteLevel.alphabet()
    alphabet = sorted({*symbols})
    if vocab_size < (least := len(special + alphabet)):
        raise ValueError(f"vocab_size must be >= {least} ({len(alphabet)} symbols + special tokens), got {vocab_size}")
    names = dict.fromkeys(("eos_token", "bos_token", "sep_token", "pad_token"), SEPARATOR)
    names |= dict(
        mask_token=MASK, model_input_names=["input_ids", "attention_mask"], clean_up_tokenization_spaces=False
    )
    if kind == "character":
        names["unk_token"] = UNKNOWN
        backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(special + alphabet)}, UNKNOWN))
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated"), decoders.Fuse()
    else:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        options = dict(vocab_size=vocab_size, min_frequency=2, special_tokens=special, initial_alphabet=alphabet)
        backend.train_from_iterator(documents, trainers.BpeTrainer(**options, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


class TooFewDocumentsError(ValueError):
    """A side of a split has no document, or documents fill no block."""


def split_documents(documents: list[str], valid_fraction: float) -> tuple[list[str], list[str]]:
    """(train, valid) by a hash of each text, whatever the order; texts with the same words stay together.

    valid where (first 32 bits of SHA-256(lower-cased words)) modulo n < m, for valid_fraction = m / n, n <= 10000

    Args:
        documents: Texts; each side keeps their order.
        valid_fraction: Expected share of valid documents, in (0, 1).

    Raises:
        TooFewDocumentsError: a side would be empty, or less than one valid document is to be expected.
        ValueError: ``valid_fraction`` outside (0, 1).

    Example:
        >>> split_documents(["a", "b", "c", "d"], 0.5)
        (['c', 'd'], ['a', 'b'])
    """
    is_valid, sides = held_out_by(valid_fraction), ([], [])
    for text in documents:
        sides[is_valid(text)].append(text)
    check_sides(*map(len, sides), valid_fraction)
    return sides


def held_out_by(valid_fraction: float) -> Callable[[str], bool]:
    """Which texts `split_documents` holds out; ValueError if ``valid_fraction`` is outside (0, 1)."""
    if not 0 < valid_fraction < 1:
        raise ValueError(f"valid_fraction must be in (0, 1), got {valid_fraction}")
    ratio = Fraction(valid_fraction).limit_denominator(10_000)

    def is_valid(text: str) -> bool:
        key = " ".join(re.findall(r"[^\W_]+", text.lower())) or text  # a text without words is its key itself
        number = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16)
        return number % ratio.denominator < ratio.numerator

    return is_valid


def check_sides(num_train: int, num_valid: int, valid_fraction: float) -> None:
    """Refuse a side without a document, or too few documents to expect one, by a `TooFewDocumentsError`."""
    if (num_documents := num_train + num_valid) * valid_fraction < 1:
        raise TooFewDocumentsError(f"{valid_fraction:g} of the documents must be one, got {num_documents} documents")
    if not num_train or not num_valid:
        raise TooFewDocumentsError(f"both sides must hold a document, got {num_train} train and {num_valid} valid")
