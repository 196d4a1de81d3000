"""``edlm export``: a trained denoiser, its energies and held-out blocks as a folder that a package can ship."""

from dataclasses import dataclass
from pathlib import Path

import torch

from edlm.corpus.blocks import save_blocks
from edlm.corpus.prepared import PreparedCorpus
from edlm.denoisers.loading import load_denoiser
from edlm.energies.loading import load_energy
from edlm.evaluation.samples.text import texts_of
from edlm.evaluation.samples.text_measures import words_of
from edlm.files import write_atomically
from edlm.rules import Config

SHARD_SIZE = "15MB"  # repositories and mail take such files


@dataclass(frozen=True)
class ExportConfig(Config):
    """Models and data to export.

    Args:
        denoiser: Folder of the trained denoiser.
        energies: Folders of energies that fit it, by their new names; ``head`` is the one loaded by default.
        corpus: Folder made by ``edlm prepare corpus``; held-out blocks of it are exported too.
        output_dir: Gets ``denoiser/``, a folder for each energy, ``valid.safetensors``, and ``words.txt``, the words of
            the training text, if it has any; weights as float16, in files of at most 15 MB.
        num_rows: Held-out blocks, drawn over all documents by seed 0; null for all.
    """

    denoiser: str
    energies: dict[str, str]
    corpus: str
    output_dir: str
    num_rows: int | None = None


def run(config: ExportConfig) -> None:
    """Write float16 copies; they load as float32, and the energies still accept the denoiser."""
    target = Path(config.output_dir)
    for name in config.energies:
        if name != Path(name).name or name == "denoiser":
            raise ValueError(f"energies must have names of folders, other than denoiser, got {name!r}")
    denoiser = load_denoiser(config.denoiser)
    for name, path in config.energies.items():
        energy = load_energy(path)
        energy.check_denoiser(denoiser)
        energy.save_pretrained(target / name, dtype=torch.float16, max_shard_size=SHARD_SIZE)
    denoiser.network.half()
    denoiser.save_pretrained(target / "denoiser", max_shard_size=SHARD_SIZE)
    corpus = PreparedCorpus.load(config.corpus)
    blocks = corpus.valid if config.num_rows is None else corpus.valid.draw(config.num_rows, seed=0)
    save_blocks(blocks, target / "valid.safetensors")
    (training_text,) = texts_of(denoiser, corpus.train.tokens.long().reshape(1, -1))
    if words := sorted({*words_of(training_text)}):
        write_atomically(target / "words.txt", "\n".join(words) + "\n")
    for name in config.energies:
        load_energy(target / name).check_denoiser(load_denoiser(target / "denoiser"))
    print(f"{sum(f.stat().st_size for f in target.rglob('*') if f.is_file()) / 2**20:.1f} MiB in {target}")
