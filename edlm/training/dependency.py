"""Train a predictor of how much revealing one position moves the marginal at another, from the denoiser itself."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.nn import functional as F

from edlm.corpus.prepared import PreparedCorpus
from edlm.denoisers.base import Denoiser
from edlm.denoisers.framing import rows_of_blocks
from edlm.denoisers.loading import load_denoiser
from edlm.diffusion.dependency import DependencyPredictor
from edlm.diffusion.slots import Slots
from edlm.diffusion.streams import BatchStreams
from edlm.energies.proposal import draw_categorical
from edlm.rules import Config
from edlm.training.means import Mean
from edlm.training.options import describe, split_options
from edlm.training.sharding import place
from edlm.training.text import corpus_of
from edlm.training.trainer import TrainerConfig, train


@dataclass(frozen=True)
class TrainDependencyConfig(Config):
    """Data and run of `edlm train dependency`.

    Args:
        corpus: Folder made by ``edlm prepare corpus``; or text.
        denoiser: The frozen denoiser: a folder, a hub id or a shipped name.
        trainer: The run.
        rank: Of the bilinear form of the states.
    """

    corpus: str
    denoiser: str
    trainer: TrainerConfig
    rank: int = 32


class DependencyObjective:
    """Cross-entropy of predicted against measured total variation, over the masked positions of a row.

    A row is masked at a rate drawn from (0, 1). One masked position is filled by a draw from the denoiser, whose
    marginals elsewhere move: by ``1/2 sum_v |p(v | x_t, x_i) - p(v | x_t)|``. Two denoiser passes a row.

    Args:
        denoiser: Frozen.
    """

    def __init__(self, denoiser: Denoiser):
        self.denoiser = denoiser.eval().requires_grad_(False)

    def __call__(self, model: nn.Module, batch: Tensor, streams: BatchStreams) -> tuple[Mean, dict[str, Mean]]:
        place(self.denoiser, batch.device)
        x_0, given = rows_of_blocks(self.denoiser, batch)
        draws = streams.of_length(x_0.shape[1]).values(3).to(batch.device)
        rate = streams.places().to(batch.device)
        masked = (draws[:, 0] < rate[:, None]) & ~given
        source = draws[:, 1].masked_fill(given, -1).argmax(1)
        rows = torch.arange(len(x_0), device=batch.device)
        masked[rows, source] = True
        states, moved = self.measured(x_0, masked, source, draws[:, 2])
        positions = torch.arange(x_0.shape[1], device=batch.device)
        distances = (positions - source[:, None]).abs()[:, None]
        others = masked & (positions != source[:, None])
        of_source = states[rows, source][:, None]
        logits = model(of_source, states, distances)[:, 0]
        count = others.sum()
        loss = F.binary_cross_entropy_with_logits(logits[others], moved[others], reduction="sum")
        with torch.no_grad():
            error = (logits[others].sigmoid() - moved[others]).square().sum()
            spread = moved[others].square().sum()
        return Mean(loss, count), {"squared_error": Mean(error, count), "squared_total_variation": Mean(spread, count)}

    @torch.no_grad()
    def measured(self, x_0: Tensor, masked: Tensor, source: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """The states that enter the last block, and how far the marginal at each masked position moves.

        Args:
            x_0: Data, ``[rows, length]``.
            masked: Masked positions, bool, same shape.
            source: The one that is filled, ``[rows]``.
            uniforms: In [0, 1), float64, ``[rows, length]``; that at the source chooses its token.

        Returns:
            ``[rows, length, hidden_size]``; and total variations, 0 elsewhere, ``[rows, length]``.
        """
        denoiser, slots = self.denoiser, Slots.where(masked)
        x_t = x_0.masked_fill(masked, denoiser.mask_token_id)
        before = denoiser.encode(x_t, masked.float().mean(1), keep_hidden=True)
        log_p = denoiser.slot_log_probs(before, slots)
        is_source = slots.positions == source[slots.rows]
        tokens = draw_categorical(
            log_p[is_source], slots.part(is_source.nonzero()[:, 0]).gather(uniforms)[:, None].cpu()
        )
        rows = torch.arange(len(x_0), device=x_0.device)
        after = denoiser.encode(x_t.index_put((rows, source), tokens[:, 0]), masked.float().mean(1))
        distance = 0.5 * (denoiser.slot_log_probs(after, slots).exp() - log_p.exp()).abs().sum(1)
        return before.hidden[-1][before.place], slots.write(distance.new_zeros(x_0.shape), distance)


def train_dependency(
    denoiser: str | Denoiser, corpus: str | PreparedCorpus, trainer: TrainerConfig | None = None, **options: Any
) -> DependencyPredictor:
    """What `edlm train dependency` does.

    Args:
        denoiser: The denoiser, which is frozen and stays as it is, or where it is.
        corpus: A prepared corpus, its folder, or text, see `corpus_of`.
        trainer: The run; by default of the ``options`` that are `TrainerConfig`'s, such as ``output_dir``.
        options: Other fields of `TrainDependencyConfig`.

    Returns:
        The predictor with its averaged weights, as it is saved in ``output_dir/final``.
    """
    trainer, options = split_options(TrainDependencyConfig, trainer, options)
    return run_config(TrainDependencyConfig(corpus, denoiser, trainer, **options))


def run_config(config: TrainDependencyConfig) -> DependencyPredictor:
    """Build the predictor, train it, save it in ``output_dir/final``, and load that."""
    denoiser = config.denoiser if isinstance(config.denoiser, Denoiser) else load_denoiser(config.denoiser)
    corpus = corpus_of(config.corpus, denoiser)
    torch.manual_seed(config.trainer.seed)
    identity = asdict(denoiser.identity)
    predictor = DependencyPredictor(denoiser.hidden_size, config.rank, identity)
    path = train(
        predictor,
        DependencyObjective(denoiser),
        corpus.train.tokens,
        corpus.valid.tokens,
        config.trainer,
        save=lambda trained, folder: trained.save_pretrained(folder),
        identity={"denoiser": identity, "rank": config.rank, "about": describe(config)},
    )
    PartialState().print(f"predictor of {sum(p.numel() for p in predictor.parameters()):,} parameters in {path}")
    return DependencyPredictor.from_pretrained(path)
