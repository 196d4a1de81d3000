"""Where saved energies are found, and what their model cards say."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RemoteEntryNotFoundError

SETTINGS, WEIGHTS = "energy.json", "model.safetensors"
_FETCHED = ["*.json", "*.safetensors", "*.md"]
_SHOWN = 200  # characters of a setting on a card

_CARD = """{front_matter}
# {name}

{kind}, an energy for masked diffusion language models, for the Python package `edlm`: it judges the tokens that a
denoising step is about to write, low = plausible, and the sampler keeps one of `k` candidates by its weight
`exp(-energy)` ([arXiv:2410.21357](https://arxiv.org/abs/2410.21357)).

> {summary}

```python
import edlm

energy = edlm.load_energy("{place}")
```

## Denoiser

{denoiser}

## Settings

| setting | value |
| --- | --- |
{settings}
"""


def find_energy(path_or_hub_id: str | Path, revision: str | None = None) -> Path:
    """The folder of a saved energy; from the hub, only JSON, safetensors and Markdown files are fetched.

    Raises:
        FileNotFoundError: no energy is saved there; says how to load it if it is a causal LM.
        OSError: the hub has no such repository, or cannot be reached.
    """
    path, named = Path(path_or_hub_id), str(path_or_hub_id)
    if (path / SETTINGS).is_file():
        return path
    is_lm = named.startswith("package:") or path.suffix == ".gguf"
    local = path.exists() or path.is_absolute() or len(path.parts) > 2
    if is_lm or local or (len(path.parts) == 2 and path.parent.exists()):
        raise FileNotFoundError(_no_energy(named, is_lm or (path / "config.json").is_file()))
    try:
        huggingface_hub.hf_hub_download(named, SETTINGS, revision=revision)
    except RemoteEntryNotFoundError as error:
        raise FileNotFoundError(_no_energy(f"{named} on the hub", True)) from error
    except HFValidationError as error:
        raise FileNotFoundError(_no_energy(named, False)) from error
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"an energy must be a folder, a shipped name or a hub id, got {named}: no such folder, and {error}"
        ) from error
    return Path(huggingface_hub.snapshot_download(named, revision=revision, allow_patterns=_FETCHED))


def _no_energy(found: str, is_model: bool) -> str:
    hint = (
        "; if it is a causal LM, make it an energy by AutoregressiveEnergy.from_causal_lm (over the denoiser's tokens) "
        "or TextEnergy.from_causal_lm (any tokenizer), by name 'causal:PATH' or 'text:PATH'"
    )
    return f"an energy folder must hold {SETTINGS}, got {found}{hint if is_model else ''}"


def generated_card(kind: type, described: dict[str, Any], name: str, base_model: str | None = None) -> str:
    """A model card for a saved energy, without a licence, which is for its owner to choose.

    Args:
        kind: Class of the energy.
        described: What ``energy.json`` says.
        name: Hub id, or name of the folder.
        base_model: Hub id of what the energy was made from; by default the denoiser's name where that looks like one.
    """
    denoiser = described["denoiser"]
    if base_model is None and denoiser is not None and _is_hub_id(denoiser["name"]):
        base_model = denoiser["name"]
    tags = ["edlm", "energy-based-model", "discrete-diffusion", kind.__name__]
    front_matter = huggingface_hub.ModelCardData(library_name="edlm", tags=tags, base_model=base_model)
    identity = "Any denoiser over the same tokens."
    if denoiser is not None:
        identity = "Only the one that it was made for; loading it beside another is an error.\n\n| | |\n| --- | --- |\n"
        identity += "\n".join(f"| {field} | `{value}` |" for field, value in denoiser.items())
    settings = "\n".join(f"| {field} | `{_short(value)}` |" for field, value in described["settings"].items())
    return _CARD.format(
        front_matter=f"---\n{front_matter.to_yaml()}\n---\n",
        name=name,
        place=name if "/" in name else f"path/to/{name}",
        kind=kind.__name__,
        summary=(inspect.getdoc(kind) or "").partition("\n")[0],
        denoiser=identity,
        settings=settings,
    )


def _is_hub_id(name: str) -> bool:
    try:
        huggingface_hub.utils.validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1 and not Path(name).exists()


def _short(value: Any) -> str:
    text = json.dumps(value).replace("|", "\\|")
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
