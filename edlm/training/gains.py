"""What a trained energy gains on held-out rows in the settings that it was trained for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
from accelerate import PartialState
from torch import Tensor

from edlm.corpus.blocks import TokenBlocks
from edlm.denoisers.base import Denoiser
from edlm.denoisers.framing import rows_of_blocks
from edlm.diffusion.adaptive import MarginalRule
from edlm.diffusion.streams import RowStreams
from edlm.energies.exact import ExactEnergy
from edlm.energies.gains import ALWAYS, SettingGain
from edlm.sampler.bounds import log_probs_of_steps
from edlm.sampler.kernel import Kernel
from edlm.training.mixtures import EnergyObjectiveConfig
from edlm.training.sharding import place

NUM_PASSES = 4096  # of single rows, in all settings together: the cost of about a hundred updates
LEAST_ROWS, MOST_ROWS = 16, 512
SAMPLED_STEPS = 8  # of a row and setting


def measure_gains(
    energy: ExactEnergy, denoiser: Denoiser, mixture: EnergyObjectiveConfig, blocks: TokenBlocks, batch_size: int
) -> tuple[SettingGain, ...]:
    """The gain of exact decisions, token by token, in each order, number of passes and block length of a mixture.

    All processes measure the same rows, so that passes of a sharded denoiser stay in step.

    Args:
        energy: Normalised; moved to the device of the run.
        denoiser: That of the energy; placed there, too.
        mixture: What it was trained on.
        blocks: Held-out text, of which each document (or stretch of a book) gives at most one row.
        batch_size: Rows at a time.

    Returns:
        One for each setting; none at all from fewer than `LEAST_ROWS` rows, which would say little.
    """
    device = PartialState().device
    place(denoiser, device)
    _, given = rows_of_blocks(denoiser, blocks.tokens[:1].long().to(device))
    settings = list(_settings(denoiser, energy.to(device), mixture, ~given))
    affordable = NUM_PASSES // sum(setting.passes for setting in settings)
    rows = independent_rows(blocks, min(max(LEAST_ROWS, affordable), MOST_ROWS)).to(device)
    if len(rows) < LEAST_ROWS:
        return ()
    starts = range(0, len(rows), batch_size)
    return tuple(
        setting.measured(torch.cat([setting.gains(rows[i : i + batch_size], first_seed=i) for i in starts]))
        for setting in settings
    )


def independent_rows(blocks: TokenBlocks, number: int) -> Tensor:
    """So many rows of different documents or stretches, or as many as there are, in random order, int64."""
    blocks = blocks.with_stretches()
    drawn = torch.randperm(len(blocks.tokens), generator=torch.Generator().manual_seed(0))
    if blocks.documents is not None:
        first = {document: i for i, document in reversed([*enumerate(blocks.documents[drawn].tolist())])}
        drawn = drawn[sorted(first.values())]
    return blocks.tokens[drawn[:number]].long()


@dataclass(frozen=True)
class _Setting:
    """A setting of the sampler, on rows of one layout.

    Attributes:
        kernels: Without and with the energy.
        written: The positions that a row's tokens are written at, bool, ``[1, length]``.
    """

    kernels: tuple[Kernel, Kernel]
    written: Tensor

    @property
    def sampled_steps(self) -> int | None:
        """Steps of a row that are run; None for all, as an order needs that looks at the marginals."""
        total, is_rule = self._total_steps, isinstance(self.kernels[0].reveal_order, MarginalRule)
        return None if is_rule or total <= SAMPLED_STEPS else SAMPLED_STEPS

    @property
    def passes(self) -> int:
        """Of a row."""
        return self.sampled_steps or self._total_steps

    @cached_property
    def _total_steps(self) -> int:
        return self.kernels[0].plan(self.written, RowStreams([0])).total_steps

    @property
    def num_tokens(self) -> int:
        """That are written in a row."""
        return int(self.written.sum())

    def gains(self, blocks: Tensor, first_seed: int) -> Tensor:
        """Gains of each step of a block, summed over blocks, nats per token; unbiased; ``[rows, num_steps]``."""
        base, seeds = self.kernels[0], range(first_seed, first_seed + len(blocks))
        x_0, given = rows_of_blocks(base.denoiser, blocks)
        masked = x_0.masked_fill(~given, base.denoiser.mask_token_id)
        totals = torch.zeros(len(blocks), base.num_steps, dtype=torch.float64)
        steps = log_probs_of_steps(self.kernels, x_0, masked, RowStreams(seeds), sampled_steps=self.sampled_steps)
        for i, step in steps:
            nats = (step.weight if i else -step.weight) * step.log_prob.cpu().double() / self.num_tokens
            totals.scatter_add_(1, step.at.cpu()[:, None] % base.num_steps, nats[:, None])
        return totals.nan_to_num(nan=0.0)  # where neither can write the data

    def measured(self, gains: Tensor) -> SettingGain:
        """The record of the gains of all rows."""
        return SettingGain.of(gains, self.kernels[0].order, self.kernels[0].block_length, self.num_tokens)


def _settings(
    denoiser: Denoiser, energy: ExactEnergy, mixture: EnergyObjectiveConfig, written: Tensor
) -> Iterator[_Setting]:
    sizes = mixture.block_lengths if denoiser.block_size is None else (denoiser.block_size,)
    for order, size, num_steps in dict.fromkeys(product(mixture.orders, sizes, mixture.num_steps)):
        options = {"order": order, "block_length": size, "num_steps": num_steps, "window": ALWAYS}
        yield _Setting((Kernel(denoiser, **options), Kernel(denoiser, energy, **options)), written)
