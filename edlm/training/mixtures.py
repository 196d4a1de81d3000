"""Which decisions an energy is trained on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edlm.diffusion.plan import named_order
from edlm.rules import check_least

_STEPS = {"scope": "step", "num_steps": (2, 3, 4, 5, 6, 8), "orders": ("bisecting",), "block_lengths": (None,)}
_DEFAULTS = {
    "head": {**_STEPS, "loss": "likelihood", "group_sizes": (None, 2, 4), "num_candidates": 8},
    "scalar": {**_STEPS, "loss": "ranking", "group_sizes": (4, 2), "num_candidates": 16},
    "nce": {
        "block_lengths": (None,),
        "loss": "binary",
        "scope": "sequence",
        "num_steps": (4, 8, 16),
        "orders": ("random",),
    }
    | {"group_sizes": (None,), "num_candidates": 2},
}
_DEFAULTS["markov"] = _DEFAULTS["chain"] = {
    "loss": "likelihood",
    "scope": "step",
    "num_steps": (2, 4, 8, 16, 32),
    "orders": ("bisecting", "left_to_right", "random", "confidence"),
    "block_lengths": (None, 32),
    "group_sizes": (None,),
    "num_candidates": 8,
}


@dataclass(frozen=True)
class EnergyObjectiveConfig:
    """The decisions that an energy is trained on; each update draws one of each mixture.

    What is None is filled in for a kind of energy by `of_kind`.

    Args:
        loss: "likelihood" (``-log q`` of the data; normalized heads), "ranking" (InfoNCE: the bound (*) itself) or
            "binary" (the paper's NCE).
        scope: "step" (tokens of one group of one step) or "sequence" (every masked token).
        num_steps: Mixture of step counts.
        orders: Mixture of reveal orders; by those that look at the marginals an update takes a denoiser pass for each
            step of a block.
        group_sizes: Mixture of group sizes; null for the whole step. For "likelihood": of the tokens that are drawn
            at once in exact decisions; null for one.
        block_lengths: Mixture of the lengths of blocks that are written from left to right, each in ``num_steps``
            steps; null for one block. A denoiser that writes in blocks has its own.
        num_candidates: Data and ``num_candidates - 1`` draws of the frozen denoiser.
        decisions_per_pass: Reveal sets that are decided on one denoiser pass: that of the row's step, and of the steps
            after it as if they came next. The pass costs most of an update ("step" scope only).
        soft_targets: Tokens of each decision that a "head" learns from the denoiser's own marginals given the tokens
            decided before them, a denoiser pass each, see `with_soft_targets`; 0: it learns all tokens of the data.
    """

    loss: Literal["likelihood", "ranking", "binary"] | None = None
    scope: Literal["step", "sequence"] | None = None
    num_steps: tuple[int, ...] | None = None
    orders: tuple[str, ...] | None = None
    group_sizes: tuple[int | None, ...] | None = None
    block_lengths: tuple[int | None, ...] | None = None
    num_candidates: int | None = None
    decisions_per_pass: int = 1
    soft_targets: int = 0

    def __post_init__(self) -> None:
        if self.loss != "likelihood" and self.num_candidates is not None and self.num_candidates < 2:
            raise ValueError(f"num_candidates must be >= 2: the data and a draw, got {self.num_candidates}")
        check_least(0, soft_targets=self.soft_targets)
        if self.decisions_per_pass < 1:
            raise ValueError(f"decisions_per_pass must be >= 1, got {self.decisions_per_pass}")
        for name in ("group_sizes", "block_lengths"):
            sizes = getattr(self, name) or ()
            if any(size is not None and size < 1 for size in sizes):
                raise ValueError(f"{name} must each be >= 1 or null, got {list(sizes)}")
        mixtures = (self.num_steps, self.orders, self.group_sizes, self.block_lengths)
        if () in map(_tuple, mixtures) or min(self.num_steps or (1,)) < 1:
            raise ValueError("num_steps (each >= 1), orders, group_sizes and block_lengths must not be empty")
        for order in self.orders or ():
            named_order(order)

    @property
    def most_values(self) -> int:
        """Of one of the mixtures, none of which is None."""
        return max(map(len, (self.num_steps, self.orders, self.group_sizes, self.block_lengths)))

    def of_kind(self, kind: str) -> "EnergyObjectiveConfig":
        """The same, with the defaults of a kind of energy in place of None."""
        return replace(self, **{name: x for name, x in _DEFAULTS[kind].items() if getattr(self, name) is None})


def _tuple(values: Sequence | None) -> tuple | None:
    return None if values is None else tuple(values)
