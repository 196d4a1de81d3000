"""Load or wrap a denoiser of any family."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, __version__

from edlm.denoisers.base import Denoiser
from edlm.denoisers.checkpoint import Checkpoint, check_finite
from edlm.denoisers.families import FAMILIES
from edlm.denoisers.families.family import Family, LoadOptions
from edlm.denoisers.families.refused import check_served
from edlm.denoisers.reach import check_reach, ordinary_row
from edlm.hub import finding

SHIPPED = Path(__file__).parent.parent / "models"


def load_denoiser(
    path_or_hub_id: str | Path,
    family: str | None = None,
    revision: str | None = None,
    *,
    device: torch.device | str = "cpu",
    **options: Any,
) -> Denoiser:
    """Load a denoiser from a folder, a file, a hub id, or the shipped ``"tinystories"``.

    Weights are read from safetensors, or by an unpickler that refuses code.

    Args:
        path_or_hub_id: Where the checkpoint is.
        family: Name of one of ``FAMILIES``; by default recognised from the files.
        revision: Of a hub's repository.
        device: Where it runs; "auto" for CUDA, else MPS, else the CPU.
        options: Those of `LoadOptions`: ``tokenizer``, ``mask_token_id``, ``dtype``, ``trust_remote_code``,
            ``block_size``, ``shift``.

    Returns:
        The denoiser, in evaluation mode.

    Raises:
        FileNotFoundError: there is no such path, and it cannot be a hub id.
        OSError: the hub has no such model, or cannot be reached.
        ValueError: no family recognises it, its content does not fit its family, or there is no such device.
    """
    device = usable_device(device)
    shipped = SHIPPED / str(path_or_hub_id) / "denoiser"
    path, loading = shipped if shipped.is_dir() else path_or_hub_id, LoadOptions(**options)
    with finding(
        "denoiser", path, sorted(folder.name for folder in SHIPPED.iterdir() if (folder / "denoiser").is_dir())
    ):
        checkpoint = Checkpoint.open(path, revision, code=loading.trust_remote_code)
    loader = _family_of(checkpoint) if family is None else _family_named(family)
    layout = loader.layout(loading)
    if loader.has_own_code and loading.trust_remote_code and _builders(checkpoint):
        denoiser = _run_own_code(checkpoint, loader, loading, layout)
    else:
        denoiser = loader.load(checkpoint, loading)
    denoiser.family = loader.name
    check_finite(denoiser, checkpoint.path)
    return denoiser.to(device).eval()


def usable_device(device: torch.device | str) -> torch.device | str:
    """The device; of "auto", CUDA, else MPS, else the CPU."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.ones(1, device=device).item()
    except (AssertionError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device must be one that torch can use here, got {str(device)!r}: {reason}") from error
    return device


def wrap_denoiser(
    module: nn.Module, tokenizer: Any = None, *, family: str, mask_token_id: int | None = None, **options: Any
) -> Denoiser:
    """A denoiser of a module that is already built; it is called as its family's own code calls it.

    Args:
        module: The network, on its device.
        tokenizer: Its tokenizer, or None.
        family: Name of one of ``FAMILIES``.
        mask_token_id: By default the family's, or the tokenizer's.
        options: Of the family; see its ``wrap``.

    Raises:
        TypeError: ``module`` is no module.
        ValueError: there is no such family; the mask token is not known; or the module does not see what its family
            sees: it is causal, or reads later blocks.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"wrap_denoiser needs a torch module, got {type(module).__name__}")
    denoiser = _family_named(family).wrap(module, tokenizer, mask_token_id=mask_token_id, **options)
    denoiser.family = family
    check_reach(denoiser.eval())
    return denoiser


def _builders(checkpoint: Checkpoint) -> list[type]:
    """What builds a model with an output layer from the checkpoint's own code."""
    own = checkpoint.config.get("auto_map") or {}
    known = (AutoModelForCausalLM, AutoModelForMaskedLM, AutoModel)  # the last one may lack the layer
    return [builder for builder in known if builder.__name__ in own]


def _run_own_code(checkpoint: Checkpoint, family: Family, options: LoadOptions, layout: dict[str, Any]) -> Denoiser:
    """Built and probed by the checkpoint's own code."""
    with _trusting(checkpoint):
        build = _builders(checkpoint)[0].from_pretrained
        module = build(checkpoint.path, dtype=options.dtype, trust_remote_code=True).eval()
        tokenizer = checkpoint.tokenizer(options.tokenizer, trust_remote_code=True)
    denoiser = family.wrap(module, tokenizer, mask_token_id=options.mask_token_id, **layout)
    with _trusting(checkpoint):
        _ = denoiser.encode(ordinary_row(denoiser, 2)).features
    check_reach(denoiser)
    return denoiser


@contextmanager
def _trusting(checkpoint: Checkpoint) -> Iterator[None]:
    """What a checkpoint's own code raises becomes one error: it was written for another version of transformers."""
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
        raise ValueError(
            f"{checkpoint.path}: its own code does not run with transformers {__version__} ({reason}); "
            "without trust_remote_code, it loads into a network of transformers or of edlm"
        ) from error


def _family_of(checkpoint: Checkpoint) -> Family:
    check_served(checkpoint)
    for family in FAMILIES.values():
        if family.recognizes(checkpoint):
            return family
    raise ValueError(
        f"{checkpoint.path} must be a checkpoint of one of the families {list(FAMILIES)}, got {checkpoint.describe()}"
    )


def _family_named(name: str) -> Family:
    if name not in FAMILIES:
        raise ValueError(f"family must be one of {list(FAMILIES)}, got {name!r}")
    return FAMILIES[name]
