"""What an energy is: a record for results and defaults, and the text of a model card."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HFValidationError

from edlm.denoisers.identity import weights_fingerprint
from edlm.energies.base import Energy
from edlm.energies.gains import SettingGain

_LONGEST = 200  # characters of a setting in a model card
_INCIDENTAL = ("max_tokens_per_pass", "transformers_version", "_name_or_path", "dtype")

_CARD = """{front_matter}
# {name}

{kind}, an energy for masked diffusion language models, for the Python package `edlm`: it judges the tokens that a
denoising step is about to write, low = plausible, and the sampler keeps one of `k` candidates by its weight
`exp(-energy)`, or draws without candidates if it is normalised ([arXiv:2410.21357](https://arxiv.org/abs/2410.21357)).

> {summary}

```python
import edlm

energy = edlm.load_energy("{place}")
```

## Denoiser

{denoiser}

## Settings, and what it was trained for

| setting | value |
| --- | --- |
{settings}
{gains}"""
_GAINS = """
## Gain

Nats per token of exact decisions over the denoiser alone, on held-out rows. A sampler uses the energy at the times of
the window.

| order | passes | block | gain | window | gain there |
| --- | --- | --- | --- | --- | --- |
"""


@dataclass(frozen=True)
class TrainedFor:
    """The mixture of decisions that an energy was trained on.

    Attributes:
        orders: Reveal orders.
        num_steps: Step counts.
        group_sizes: Tokens decided together; None: the whole step (for a normalised head: one token at a time).
        num_candidates: Candidates of a decision, the data included; None: it was trained token by token.
        valid_gain_nats: Mean gain on validation rows at the end, nats: of a head per token, of others per decision;
            None if unknown.
        gains: Of a normalised energy, in each setting of the mixture; empty where they were not measured.
    """

    orders: tuple[str, ...]
    num_steps: tuple[int, ...]
    group_sizes: tuple[int | None, ...]
    num_candidates: int | None = None
    valid_gain_nats: float | None = None
    gains: tuple[SettingGain, ...] = ()

    def after(self, earlier: TrainedFor) -> TrainedFor:
        """The union of this record and that of the earlier run whose weights were trained further."""
        names = ("orders", "num_steps", "group_sizes")
        return replace(
            self, **{name: tuple(dict.fromkeys(getattr(self, name) + getattr(earlier, name))) for name in names}
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainedFor:
        """From the JSON values of ``asdict``."""
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**{**values, "gains": tuple(map(SettingGain.from_json, values.get("gains", ())))})


@dataclass(frozen=True)
class EnergyCard:
    """What an energy is, in JSON values.

    Attributes:
        kind: Name of its class.
        label: The same with what distinguishes it from others of the class, for readers.
        carry_over: It counts the terms at the slots alone, see `AutoregressiveEnergy`.
        is_control: It cannot see the step's other tokens, so it corrects marginals only.
        fingerprint: Digest of class, weights and settings, 16 hex digits.
        orders: Reveal orders that it was trained on; None if it was not trained or they are unknown.
        num_steps: Step counts, likewise.
        group_sizes: Group sizes, likewise.
    """

    kind: str
    label: str
    carry_over: bool
    is_control: bool
    fingerprint: str
    orders: tuple[str, ...] | None = None
    num_steps: tuple[int, ...] | None = None
    group_sizes: tuple[int | None, ...] | None = None

    @classmethod
    def of(cls, energy: Energy) -> EnergyCard:
        """The card of any energy; one without weights (a function) is known by its class alone."""
        kind, carry_over = type(energy).__name__, getattr(energy, "carry_over", False)
        marks = {"carry-over": carry_over, "blind": energy.is_control}
        label = ", ".join([kind, *(mark for mark, holds in marks.items() if holds)])
        settings = energy.settings() if hasattr(energy, "settings") else {}
        has_weights = next(energy.parameters(), None) is not None
        content = [kind, weights_fingerprint(energy) if has_weights else None, _without_incidentals(settings)]
        fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        trained = getattr(energy, "trained_for", None)
        mixture = (trained.orders, trained.num_steps, trained.group_sizes) if trained is not None else ()
        return cls(kind, label, carry_over, energy.is_control, fingerprint, *mixture)


def _without_incidentals(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that may change an energy's values."""
    kept = {name: value for name, value in settings.items() if name not in _INCIDENTAL}
    return {name: _without_incidentals(value) if isinstance(value, dict) else value for name, value in kept.items()}


def generated_card(kind: type, described: dict[str, Any], name: str, base_model: str | None = None) -> str:
    """A model card for a saved energy, without a licence, which is for its owner to choose.

    Args:
        kind: Class of the energy.
        described: Content of ``energy.json``.
        name: Hub id, or name of the folder.
        base_model: Hub id of the model that the energy was made from; by default the denoiser's name if it is one.
    """
    denoiser = described["denoiser"]
    if base_model is None and denoiser is not None and _is_hub_id(denoiser["name"]):
        base_model = denoiser["name"]
    tags = ["edlm", "energy-based-model", "discrete-diffusion", kind.__name__]
    front_matter = huggingface_hub.ModelCardData(library_name="edlm", tags=tags, base_model=base_model)
    identity = "Any denoiser over the same tokens."
    if denoiser is not None:
        identity = "Only the one that it was made for: another is refused.\n\n| | |\n| --- | --- |\n"
        identity += "\n".join(f"| {field} | `{value}` |" for field, value in denoiser.items())
    trained_for = dict(described.get("trained_for", {}))
    gains = "".join(map(_row_of_gain, trained_for.pop("gains", ())))
    fields = {**described["settings"], **trained_for}
    settings = "\n".join(f"| {field} | `{_short(value)}` |" for field, value in fields.items())
    return _CARD.format(
        front_matter=f"---\n{front_matter.to_yaml()}\n---\n",
        name=name,
        place=name if "/" in name else f"path/to/{name}",
        kind=kind.__name__,
        summary=(inspect.getdoc(kind) or "").partition("\n")[0],
        denoiser=identity,
        settings=settings,
        gains=_GAINS + gains if gains else "",
    )


def _row_of_gain(values: dict[str, Any]) -> str:
    """A row of the table in a model card."""
    gain = SettingGain.from_json(values)
    means = [f"{x:.4f} ± {e:.4f}" for x, e in ((gain.gain, gain.stderr), (gain.window_gain, gain.window_stderr))]
    window = "left out" if gain.window[0] == gain.window[1] else "{:.3g} to {:.3g}".format(*gain.window)
    cells = (gain.order, gain.num_steps, gain.block_length or "none", means[0], window, means[1])
    return f"| {' | '.join(map(str, cells))} |\n"


def _is_hub_id(name: str) -> bool:
    try:
        huggingface_hub.utils.validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1 and not Path(name).exists()


def _short(value: Any) -> str:
    text = json.dumps(value).replace("|", "\\|")
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
