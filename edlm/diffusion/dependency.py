"""Positions that depend on each other, predicted from the denoiser's states; and the order that keeps them apart."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from typing_extensions import Self

from edlm.diffusion.adaptive import MarginalRule, rounded
from edlm.diffusion.slots import Slots
from edlm.files import filling, load_safetensors, read_json, reading

SETTINGS, WEIGHTS = "dependency.json", "model.safetensors"
_FARTHEST = 32
_LATER = 2.0**14  # above every score


class DependencyPredictor(nn.Module):
    """How much revealing one masked position moves the marginal at another: ``d_ij = sigmoid(a_i . c_j + b_|i-j|)``.

    ``d_ij`` predicts the mean total variation between ``p(x_j | x_t)`` and ``p(x_j | x_t, x_i)`` over draws of ``x_i``
    from the denoiser; ``a_i`` and ``c_j`` are linear in the states ``h_i``, ``h_j`` that enter its last block.

    Args:
        hidden_size: Of the states.
        rank: Of the bilinear form.
        denoiser: JSON values of the identity of the denoiser that it belongs to.
    """

    def __init__(self, hidden_size: int, rank: int = 32, denoiser: dict[str, Any] | None = None):
        super().__init__()
        self.hidden_size, self.rank, self.denoiser = hidden_size, rank, denoiser
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False)
        self.source, self.target = nn.Linear(hidden_size, rank), nn.Linear(hidden_size, rank)
        self.distance = nn.Parameter(-1 - torch.arange(_FARTHEST + 1).float().clamp(min=1).log())
        nn.init.zeros_(self.target.weight)
        nn.init.zeros_(self.target.bias)

    def forward(self, sources: Tensor, targets: Tensor, distances: Tensor) -> Tensor:
        """Logits of ``d``.

        Args:
            sources: States, shape ``[batch, n, hidden_size]``.
            targets: States, shape ``[batch, m, hidden_size]``.
            distances: ``|i - j|``, shape ``[batch, n, m]``.

        Returns:
            Shape ``[batch, n, m]``.
        """
        sources, targets = (self.norm(states.to(self.distance.dtype)) for states in (sources, targets))
        pairs = self.source(sources) @ self.target(targets).transpose(1, 2)
        return pairs / self.rank**0.5 + self.distance[distances.clamp(max=_FARTHEST)]

    def save_pretrained(self, path: str | Path) -> None:
        """Write settings and weights to a folder."""
        settings = {"hidden_size": self.hidden_size, "rank": self.rank, "denoiser": self.denoiser}
        with filling(path) as folder:
            (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")
            save_file({name: weight.contiguous() for name, weight in self.state_dict().items()}, folder / WEIGHTS)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Self:
        """Read what `save_pretrained` wrote.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged.
        """
        settings = read_json(Path(path) / SETTINGS)
        with reading(Path(path) / SETTINGS, "hold the settings of a DependencyPredictor"):
            predictor = cls(**settings)
            predictor.load_state_dict(load_safetensors(Path(path) / WEIGHTS))
        return predictor.eval()


@lru_cache(maxsize=4)
def _loaded(path: str) -> DependencyPredictor:
    return DependencyPredictor.from_pretrained(path)


@dataclass(frozen=True)
class DependencyBounded(MarginalRule):
    """The surest positions first, each if its summed dependency on those of the step so far is at most ``threshold``.

    Dependencies are total variations, predicted, the larger one of ``d_ij`` and ``d_ji``; by default 0.5 of them. A
    positive threshold below the least dependency between neighbours gives independent sets of their graph.

    Attributes:
        predictor: Predicts them; or its folder, which is read at the first use: a name may come before the training.

    References:
        DEMASK, arXiv:2604.02560 (a predictor of pairwise influence, and greedy sets of bounded sum); DAPD,
        arXiv:2603.12996 (independent sets).
    """

    predictor: DependencyPredictor | str | None = field(default=None, repr=False)
    reads_hidden: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.threshold is not None and not self.threshold >= 0:
            raise ValueError(f"the threshold must be >= 0, got {self.threshold}")
        if self.predictor is None:
            raise ValueError("dependency_bounded needs a predictor, as dependency_bounded(0.5, FOLDER), got none")

    @property
    def network(self) -> DependencyPredictor:
        """The predictor itself."""
        return _loaded(self.predictor) if isinstance(self.predictor, str) else self.predictor

    @property
    def identity(self) -> dict[str, Any] | None:
        """Of the denoiser that the predictor belongs to; None if any will do."""
        return self.network.denoiser

    @classmethod
    def of(cls, argument: str | None) -> Self:
        threshold, comma, folder = (argument or "").partition(",")
        return cls(float(threshold) if comma else None, folder.strip() if comma else None)

    def raw_scores(self, log_probs: Tensor) -> Tensor:
        return -log_probs.amax(-1)

    def scores(self, raw: Tensor, slots: Slots, states: Tensor | None) -> Tensor:
        """Those of positions that wait for a later step are far above the others."""
        if states is None:
            raise ValueError("dependency_bounded reads the denoiser's states, and it gives none")
        surest = rounded(raw)
        dense = slots.dense()
        rows, columns = dense.valid.nonzero(as_tuple=True)  # row by row and left to right, as the slots are
        places = states.new_zeros(*dense.valid.shape, states.shape[1]).index_put((rows, columns), states)
        distances = (dense.positions[:, :, None] - dense.positions[:, None]).abs()
        moved = self.network.to(states.device)(places, places, distances).sigmoid()
        moved = rounded(torch.maximum(moved, moved.transpose(1, 2)))
        ranked = surest.new_full(dense.valid.shape, torch.inf).index_put((rows, columns), surest)
        chosen = self._chosen(moved, ranked.argsort(dim=1, stable=True), dense.valid)
        return surest + _LATER * ~chosen[rows, columns]

    def _chosen(self, moved: Tensor, order: Tensor, valid: Tensor) -> Tensor:
        """The positions of the step, bool, ``[batch, n]``, of dependencies ``[batch, n, n]``, tried in this order."""
        most = 0.5 if self.threshold is None else self.threshold
        batch = torch.arange(len(order), device=order.device)
        chosen, load = torch.zeros_like(valid), torch.zeros_like(moved[:, 0])
        for j in order.T:
            fits = valid[batch, j] & (load[batch, j] <= most)
            chosen[batch, j] = fits
            load = load + moved[batch, j] * fits[:, None]
        return chosen

    def number(self, scores: Tensor) -> Tensor:
        return (scores < _LATER).sum(1).clamp(min=1)
