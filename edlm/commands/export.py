"""``edlm export``: a trained denoiser, its energies and held-out blocks as a folder that a package can ship."""

from dataclasses import dataclass
from pathlib import Path

import torch

from edlm.corpus.blocks import TokenBlocks, save_blocks
from edlm.corpus.prepared import PreparedCorpus
from edlm.denoisers.loading import load_denoiser
from edlm.energies.loading import load_energy
from edlm.evaluation.samples.text import texts_of
from edlm.evaluation.samples.text_measures import words_of


@dataclass(frozen=True)
class ExportConfig:
    """Models and data to export.

    Args:
        denoiser: Folder of the trained denoiser.
        energies: Folders of energies that fit it, by their new names; ``head`` is the one loaded by default.
        corpus: Folder made by ``edlm prepare corpus``; its first held-out blocks are exported too.
        output_dir: Gets ``denoiser/``, a folder for each energy, ``valid.safetensors``, and ``words.txt``, the words of
            the training text, if it has any; weights as float16.
        num_rows: Held-out blocks.
    """

    denoiser: str
    energies: dict[str, str]
    corpus: str
    output_dir: str
    num_rows: int = 256


def run(config: ExportConfig) -> None:
    """Write float16 copies; they load as float32, and the energies still accept the denoiser."""
    target = Path(config.output_dir)
    denoiser = load_denoiser(config.denoiser)
    for name, path in config.energies.items():
        energy = load_energy(path)
        energy.check_denoiser(denoiser)
        energy.save_pretrained(target / name, dtype=torch.float16)
    denoiser.network.half()
    denoiser.save_pretrained(target / "denoiser")
    corpus = PreparedCorpus.load(config.corpus)
    tokens = corpus.valid.tokens[: config.num_rows]
    text = corpus.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    separator = corpus.tokenizer.eos_token_id
    separators = int((tokens == separator).sum()) if separator is not None else len(tokens)
    blocks = TokenBlocks(
        tokens=tokens,
        num_documents=max(1, separators),
        num_tokens=tokens.numel(),
        num_dropped=0,
        num_characters=sum(map(len, text)),
    )
    save_blocks(blocks, target / "valid.safetensors")
    (training_text,) = texts_of(denoiser, corpus.train.tokens.reshape(1, -1))
    if words := sorted({*words_of(training_text)}):
        (target / "words.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    for name in config.energies:
        load_energy(target / name).check_denoiser(load_denoiser(target / "denoiser"))
    print(f"{sum(f.stat().st_size for f in target.rglob('*') if f.is_file()) / 2**20:.1f} MiB in {target}")
