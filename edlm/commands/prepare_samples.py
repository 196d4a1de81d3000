"""``edlm prepare samples``: what a denoiser itself writes, as a corpus that energies are trained on."""

from dataclasses import dataclass, field

from edlm.denoisers.loading import load_denoiser
from edlm.training.samples import SamplesOptions, corpus_of_samples


@dataclass(frozen=True, kw_only=True)
class PrepareSamplesConfig(SamplesOptions):
    """A denoiser, what it writes, and the folder that is written.

    Args:
        denoiser: Folder, hub id or shipped name.
        output_dir: Folder to write.
        corpus: Folder made by ``edlm prepare corpus``: its held-out blocks are those of the new corpus. null: the last
            samples are held out.
        mixed: Put the training blocks of ``corpus`` beside the samples.
        device: Where it runs: "cpu", "cuda", "mps", or "auto" for the best of these.
    """

    denoiser: str
    output_dir: str
    corpus: str | None = None
    mixed: bool = False
    device: str = field(default="auto")


def run(config: PrepareSamplesConfig) -> None:
    """Sample, write, and print how many blocks there are."""
    denoiser = load_denoiser(config.denoiser, device=config.device)
    corpus = corpus_of_samples(denoiser, config, config.corpus, mixed=config.mixed)
    corpus.save(config.output_dir)
    for name, blocks in (("train", corpus.train), ("valid", corpus.valid)):
        print(f"{name}: {len(blocks.tokens)} blocks of {blocks.tokens.shape[1]} tokens")
