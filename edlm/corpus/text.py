"""Text in: read documents, train a tokenizer, split."""

import hashlib
import logging
import re
from fractions import Fraction
from pathlib import Path

from huggingface_hub import HfApi, constants
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from edlm.corpus.files import kind_of, known_kinds, read_file, text_column
from edlm.corpus.tokens import SEPARATOR

logger = logging.getLogger(__name__)
MASK, UNKNOWN = "<|mask|>", "<|unk|>"


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


def train_tokenizer(documents: list[str], *, kind: str = "bpe", vocab_size: int = 2048) -> PreTrainedTokenizerFast:
    """Tokenizer with ``<|endoftext|>`` (id 0: eos, bos, sep, pad), ``<|mask|>`` (1); "character": ``<|unk|>`` (2).

    Args:
        documents: Training texts.
        kind: "bpe" (byte level, lossless on any text) or "character" (one token per code point).
        vocab_size: Largest size, special tokens included; smaller if no further pair occurs twice.

    Raises:
        ValueError: no documents, unknown kind, or ``vocab_size`` below alphabet and special tokens.
    """
    if not documents or kind not in ("bpe", "character"):
        raise ValueError(f"documents must not be empty, kind 'bpe' or 'character', got {len(documents)} and {kind!r}")
    special = [SEPARATOR, MASK] + [UNKNOWN] * (kind == "character")
    alphabet = sorted(set().union(*documents) if kind == "character" else pre_tokenizers.ByteLevel.alphabet())
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
    if not 0 < valid_fraction < 1:
        raise ValueError(f"valid_fraction must be in (0, 1), got {valid_fraction}")
    if len(documents) * valid_fraction < 1:
        raise TooFewDocumentsError(f"{valid_fraction:g} of the documents must be one, got {len(documents)} documents")
    ratio = Fraction(valid_fraction).limit_denominator(10_000)
    train, valid = [], []
    for text in documents:
        key = " ".join(re.findall(r"[^\W_]+", text.lower())) or text  # a text without words is its key itself
        number = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16)
        (valid if number % ratio.denominator < ratio.numerator else train).append(text)
    if not train or not valid:
        raise TooFewDocumentsError(f"both sides must hold a document, got {len(train)} train and {len(valid)} valid")
    return train, valid
