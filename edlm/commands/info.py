"""``edlm info``: properties of a checkpoint, and a probe whether its output i predicts token i or i + 1."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from rich.markup import escape
from rich.table import Table

from edlm.commands.terminal import console
from edlm.denoisers.base import Denoiser
from edlm.denoisers.loading import SHIPPED, load_denoiser
from edlm.denoisers.probe import probe_shift
from edlm.energies.gains import SettingGain
from edlm.energies.loading import load_energy
from edlm.energies.pretrained import SETTINGS, PretrainedEnergy
from edlm.rules import Config

TEXT = (
    "Once upon a time, there was a little girl who lived in a small house near the forest. Every day she walked "
    "to the river with her mother and her dog. One morning the dog found a red ball under a tree. The girl was very "
    "happy, and they played with the ball all day long. When the sun went down, they went home and had dinner."
)
_SCOPE = {"slots": "any", "prefix": "sequence, or step from left to right", "sequence": "sequence"}


@dataclass(frozen=True)
class InfoConfig(Config):
    """The checkpoint to describe.

    Args:
        path: Folder, file, hub id or shipped name of a denoiser, or of an energy.
        family: Family of a denoiser; recognised from its files by default.
        tokenizer: Name of a tokenizer, for checkpoints without one.
        text: Text that the shift is probed on, in the language of the model.
        trust_remote_code: Run the Python code that comes with the checkpoint.
        mask_token_id: Of a denoiser whose files do not say it, or say another.
        block_size: Tokens that see each other, of families that come with several.
        shift: Whether output i - 1 predicts token i, of families that do not know it.
    """

    path: str
    family: str | None = None
    tokenizer: str | None = None
    text: str = TEXT
    trust_remote_code: bool = False
    mask_token_id: int | None = field(default=None, metadata={"least": 0})
    block_size: int | None = None
    shift: bool | None = None


def run(config: InfoConfig) -> None:
    """Print a table; the shift is probed if there is a tokenizer."""
    if any((folder / SETTINGS).is_file() for folder in (Path(config.path), SHIPPED / config.path)):
        _print(_of_energy(load_energy(config.path)))
        return
    names = ("tokenizer", "trust_remote_code", "mask_token_id", "block_size", "shift")
    denoiser = load_denoiser(config.path, config.family, **{name: getattr(config, name) for name in names})
    _print(_of_denoiser(denoiser) | {"shift probe": _probed(denoiser, config.text)})


def _of_denoiser(denoiser: Denoiser) -> dict[str, object]:
    identity = denoiser.identity
    return {
        "kind": "denoiser",
        "family": denoiser.family,
        "parameters": f"{sum(p.numel() for p in denoiser.parameters()):,}",
        "vocabulary": f"{denoiser.vocab_size} columns, {len(denoiser.vocabulary.impossible)} of them impossible",
        "tokenizer": "none" if denoiser.tokenizer is None else f"{len(denoiser.tokenizer)} tokens",
        "mask id": _token(denoiser, denoiser.mask_token_id),
        "eos id": _token(denoiser, denoiser.eos_token_id),
        "prefix": [_token(denoiser, token) for token in denoiser.prefix_ids],
        "suffix": [_token(denoiser, token) for token in denoiser.suffix_ids],
        "shift": "yes: the output at i - 1 predicts token i" if denoiser.shift else "no",
        "time input": "yes" if denoiser.time_conditioned else "no",
        "longest sequence": denoiser.max_length or "unknown",
        "block size": denoiser.block_size or "none",
        "weights": "none" if identity is None else identity.revision,
    }


def _of_energy(energy: PretrainedEnergy) -> dict[str, object]:
    identity = energy.denoiser_identity
    trained_for = {} if energy.trained_for is None else asdict(energy.trained_for)
    gains = map(SettingGain.from_json, trained_for.pop("gains", ()))
    return {
        "kind": "energy",
        "class": type(energy).__name__,
        "parameters": f"{sum(p.numel() for p in energy.parameters()):,}",
        "scope": _SCOPE[energy.reads],
        "denoiser": "any" if identity is None else f"{identity.name}, weights {identity.revision}",
        **({} if identity is None else {"mask id": identity.mask_token_id, "vocabulary": identity.vocab_size}),
        "trained for": json.dumps(trained_for) if trained_for else "unknown",
        "gain": "\n".join(map(str, gains)) or "not measured",
        "recommended": json.dumps(energy.recommended),
        "settings": json.dumps(energy.settings()),
    }


def _token(denoiser: Denoiser, token: int | None) -> str:
    if token is None:
        return "none"
    if denoiser.tokenizer is None or token >= len(denoiser.tokenizer):
        return str(token)
    return f"{token} ({denoiser.tokenizer.convert_ids_to_tokens(token)})"


def _probed(denoiser: Denoiser, text: str) -> str:
    """One line: the offset at which the outputs predict tokens best."""
    if denoiser.tokenizer is None:
        return "not run: no tokenizer"
    tokens = denoiser.vocabulary.tokens_of(text)[0]
    tokens = [*denoiser.prefix_ids, *tokens, *denoiser.suffix_ids][: denoiser.max_length]
    probe = probe_shift(denoiser, torch.tensor(tokens, device=denoiser.device))
    nats = ", ".join(f"{offset:+d}: {mean.value:.2f} ± {mean.stderr:.2f}" for offset, mean in probe.nats.items())
    return f"{probe.verdict} (-log p of masked tokens in nats, read at offset {nats})"


def _print(rows: dict[str, object]) -> None:
    table = Table(show_header=False, box=None)
    for name, value in rows.items():
        table.add_row(name, escape(str(value)))
    console().print(table)
