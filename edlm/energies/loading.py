"""Load an energy by path or name."""

from __future__ import annotations

from pathlib import Path

from edlm.denoisers.loading import SHIPPED
from edlm.energies.autoregressive import AutoregressiveEnergy
from edlm.energies.base import Energy
from edlm.energies.pretrained import SETTINGS, PretrainedEnergy
from edlm.energies.text import TextEnergy

CAUSAL, TEXT = "causal:", "text:"


def load_energy(path_or_name: str | Path, revision: str | None = None) -> Energy:
    """Load a saved energy from a folder or the hub, a shipped one, or a causal LM as an energy.

    Args:
        path_or_name: Folder, or ``org/name`` on the hub; ``"tinystories"`` for the shipped head, or the name of another
            energy beside it (``"tinystories/autoregressive"``). ``"causal:PATH"`` makes an `AutoregressiveEnergy` of a
            causal LM over the denoiser's tokens, ``"text:PATH"`` a `TextEnergy` of one with any tokens; their PATH is
            a folder, hub id, ``.gguf`` file or ``package:NAME``.
        revision: Of the hub's repository: branch, tag or commit.

    Raises:
        FileNotFoundError: no energy is saved there; says how to load it if it is a causal LM.
        OSError: the hub has no such repository, or cannot be reached.
    """
    name = str(path_or_name)
    for prefix, kind in ((CAUSAL, AutoregressiveEnergy), (TEXT, TextEnergy)):
        if name.startswith(prefix):
            options = {"revision": revision} if revision is not None else {}
            return kind.from_causal_lm(name.removeprefix(prefix), **options)
    for shipped in (SHIPPED / name / "head", SHIPPED / name):
        if not Path(name).is_absolute() and (shipped / SETTINGS).is_file():
            return PretrainedEnergy.from_pretrained(shipped)
    return PretrainedEnergy.from_pretrained(path_or_name, revision)
