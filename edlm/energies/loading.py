"""Load an energy by path or name."""

from pathlib import Path
from typing import Any

from edlm.denoisers.loading import SHIPPED
from edlm.energies.autoregressive import AutoregressiveEnergy
from edlm.energies.base import Energy
from edlm.energies.causal_lm import OFFICIAL
from edlm.energies.dit_sequence import DiTSequenceEnergy
from edlm.energies.pretrained import SETTINGS, PretrainedEnergy
from edlm.energies.served_lm import ServedLM
from edlm.energies.text import TextEnergy

CAUSAL, TEXT, SERVER = "causal:", "text:", "server:"


def load_energy(path_or_name: str | Path, revision: str | None = None, *, carry_over: bool | None = None) -> Energy:
    """Load a saved energy from a folder or the hub, a shipped one, or a causal LM as an energy.

    Args:
        path_or_name: Folder, or ``org/name`` on the hub; ``"tinystories"`` for the shipped head, or the name of another
            shipped energy (``"tinystories/autoregressive"``). ``"causal:PATH"`` makes an `AutoregressiveEnergy` of a
            causal LM over the denoiser's tokens, ``"text:PATH"`` a `TextEnergy` of one with any tokens; their PATH is
            a folder, hub id, ``.gguf`` file or ``package:NAME``, and of "causal:" also an ``ar.ckpt`` of MDLM.
            ``"server:URL#MODEL"`` makes a `TextEnergy` of an LM that is served elsewhere, see `ServedLM.from_name`. A
            ``.ckpt`` file of EDLM's own code holds a `DiTSequenceEnergy`.
        revision: Of the hub's repository: branch, tag or commit.
        carry_over: Of an `AutoregressiveEnergy`; as it was saved by default.

    Raises:
        FileNotFoundError: no energy is saved there; says how to load it if it is a causal LM.
        OSError: the hub has no such repository, or cannot be reached; or a server does not answer as it should.
        ValueError: ``carry_over`` is given for an energy of another class, or ``revision`` for a served LM.
    """
    energy = _load(str(path_or_name), revision)
    if carry_over is not None:
        if not isinstance(energy, AutoregressiveEnergy):
            raise ValueError(
                f"carry_over needs an AutoregressiveEnergy, got a {type(energy).__name__} in {path_or_name}"
            )
        energy.carry_over = carry_over
    return energy


def _load(name: str, revision: str | None) -> Energy:
    if name.startswith(SERVER):
        if revision is not None:
            raise ValueError(f"revision needs a repository of the hub, got {revision!r} with a served LM")
        return TextEnergy(ServedLM.from_name(name.removeprefix(SERVER)))
    for prefix, kind in ((CAUSAL, AutoregressiveEnergy), (TEXT, TextEnergy)):
        if name.startswith(prefix):
            options: dict[str, Any] = {"revision": revision} if revision is not None else {}
            return kind.from_causal_lm(name.removeprefix(prefix), **options)
    if name.endswith(OFFICIAL) and not Path(name).is_dir():
        return DiTSequenceEnergy.from_checkpoint(name, revision=revision)
    if name.lower() in ("none", "null", ""):
        raise ValueError(f"energy must be a name or a path, or null for the base alone, got {name!r}")
    for shipped in (SHIPPED / name / "head", SHIPPED / name):
        if not Path(name).is_absolute() and (shipped / SETTINGS).is_file():
            return PretrainedEnergy.from_pretrained(shipped)
    return PretrainedEnergy.from_pretrained(name, revision)
