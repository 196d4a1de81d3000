"""``edlm languages picture``: a grid that a denoiser fills alone and with an energy, pass by pass, and how often so."""

from dataclasses import dataclass, field

import torch

from edlm.corpus.puzzles import Grid
from edlm.corpus.synthetic import LanguageConfig, build_language
from edlm.denoisers.loading import load_denoiser
from edlm.diffusion.streams import RowStreams
from edlm.energies.loading import load_energy
from edlm.evaluation.estimates.bootstrap import share_of
from edlm.evaluation.languages.puzzles import Puzzles
from edlm.evaluation.plots.grids import FilledGrid, picture_of_grids
from edlm.files import check_writable, write_atomically
from edlm.rules import Config
from edlm.sampler.sampler import EnergySampler
from edlm.sampler.step import denoise


@dataclass(frozen=True)
class PictureConfig(Config):
    """A grid, and the two samplers that fill it.

    Args:
        denoiser: Folder or shipped name of a denoiser of such grids.
        energy: Folder or shipped name of an energy for it.
        output: SVG file to write.
        language: "sudoku" or "latin".
        num_given: Given cells.
        num_steps: Denoiser passes.
        order: Reveal order.
        num_candidates: Candidates of the energy; null decides token by token, exactly.
        num_samples: Grids over which the share of valid ones is measured; the first is drawn.
        seed: Of grids, orders and candidates.

    Raises:
        ValueError: a language without grids.
    """

    denoiser: str
    energy: str
    output: str
    language: LanguageConfig = field(default_factory=lambda: LanguageConfig("sudoku"))
    num_given: int = field(default=2, metadata={"least": 0})
    num_steps: int = 2
    order: str = "random"
    num_candidates: int | None = None
    num_samples: int = 1000
    seed: int = 0


def picture(config: PictureConfig) -> None:
    """Fill the grids, draw the first one, and print both shares."""
    check_writable(config.output)
    language = build_language(config.language)
    if not isinstance(language, Grid):
        raise ValueError(f"language.kind must be 'sudoku' or 'latin', got {config.language.kind!r}")
    puzzles = Puzzles.draw(language, config.num_samples, None, config.num_given, config.seed)
    denoiser, energy = load_denoiser(config.denoiser), load_energy(config.energy)
    options = {"num_steps": config.num_steps, "order": config.order}
    samplers = {
        "Denoiser alone": EnergySampler(denoiser, num_candidates=1, **options),
        "Reranked": EnergySampler(denoiser, energy, num_candidates=config.num_candidates, **options),
    }
    grids = []
    for title, sampler in samplers.items():
        share = share_of(puzzles.solved(sampler, config.seed, batch_size=250))
        note = f"{share.value:.1%} of {share.n} grids valid, {config.num_steps} passes"
        grids.append(FilledGrid(title, note, _states(sampler, puzzles.prompts[:1], config.seed)))
        print(f"{title}: {note} (± {share.stderr:.1%})")
    write_atomically(config.output, picture_of_grids(language, grids))
    print(config.output)


@torch.no_grad()
def _states(sampler: EnergySampler, x_t: torch.Tensor, seed: int) -> torch.Tensor:
    """The cells of one grid before the first pass and after each, ``[passes + 1, length]``."""
    steps = denoise(sampler, x_t, RowStreams([seed]), target=None, attention_mask=None)
    return torch.cat([x_t, *(tokens.cpu() for tokens, _ in steps)])
