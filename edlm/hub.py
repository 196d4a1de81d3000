"""Models by name: those that are shipped, and the Hugging Face hub, skipped at once where it is unreachable."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants
from transformers import AutoTokenizer

from edlm.files import reading
from edlm.rules import check_given

_SECONDS = 3  # to reach the hub


@contextmanager
def finding(what: str, name: str | Path, shipped: Sequence[str] = ()) -> Iterator[None]:
    """A model is found by its name inside; errors name it, and all that is shipped.

    The hub's cache alone is used where the hub cannot be reached, so that there are no retries.

    Args:
        what: It is, for messages.
        name: A path, a shipped name, or else an id of the hub.
        shipped: Names that need no hub.

    Raises:
        ValueError: an empty name.
        FileNotFoundError: a name that is nearly a shipped one, before anything is looked up; or a model is not found.
    """
    check_given(**{what: name})
    text, path = str(name), Path(name)
    if path.exists() or path.is_absolute() or len(path.parts) > 2 or text in shipped:
        yield
        return
    listed = f" (shipped: {', '.join(shipped)})" if shipped else ""
    if near := get_close_matches(text, shipped, 1, 0.75):
        raise FileNotFoundError(f"there is no {what} {text!r}; did you mean {near[0]!r}?{listed}")
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _is_reachable()
    try:
        yield
    except OSError as error:
        message = str(error) if text in str(error) else f"there is no {what} {text!r}: {error}"
        raise FileNotFoundError(message + listed) from error
    finally:
        constants.HF_HUB_OFFLINE = before


def load_tokenizer(name: str | Path, **options: Any) -> Any:
    """A tokenizer of transformers, from a folder or the hub.

    Raises:
        FileNotFoundError: there is none of this name.
        ValueError: its files are damaged.
    """
    with finding("tokenizer", name), reading(name, "hold a tokenizer"):
        return AutoTokenizer.from_pretrained(name, **options)


def _is_reachable() -> bool:
    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=_SECONDS)
    except Exception:  # of the HTTP client, which is another in each version of the hub's package
        return False
    return True
