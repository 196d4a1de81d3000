"""Load a denoiser by path or name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edlm.denoisers.masked_lm import MaskedLMDenoiser

SHIPPED = Path(__file__).parent.parent / "models"


def load_denoiser(path_or_name: str | Path, **model_options: Any) -> MaskedLMDenoiser:
    """Load a denoiser from a folder, a hub id, or the shipped ``"tinystories"``.

    Args:
        path_or_name: Folder or hub id of a masked LM with its tokenizer, or a shipped name.
        model_options: Handed on to transformers, ``dtype`` for one (float32 by default).

    Returns:
        The denoiser, in evaluation mode.

    Raises:
        FileNotFoundError: it is no folder, and cannot be a hub id.
        OSError: the hub has no such model, or cannot be reached.
    """
    shipped = SHIPPED / str(path_or_name) / "denoiser"
    path = Path(path_or_name)
    is_hub_id = len(path.parts) <= 2 and not path.is_absolute() and not (len(path.parts) == 2 and path.parent.exists())
    if not (shipped.is_dir() or path.is_dir() or is_hub_id):
        raise FileNotFoundError(f"a denoiser must be a folder, a hub id or a shipped name, got {path_or_name}")
    return MaskedLMDenoiser.from_pretrained(shipped if shipped.is_dir() else path_or_name, **model_options)
