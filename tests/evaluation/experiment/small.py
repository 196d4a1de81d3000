"""An evaluation of three symbols at three positions, with energies that are written down."""

from pathlib import Path

import torch
from torch import nn

from edlm.energies import Energy
from edlm.evaluation.estimates.estimate import TextUnits
from edlm.evaluation.experiment.config import EvaluateConfig
from edlm.evaluation.experiment.lab import Lab
from edlm.evaluation.experiment.orders import options_of_order
from edlm.evaluation.experiment.plan import Setting
from edlm.evaluation.experiment.results import STORE
from edlm.evaluation.experiment.store import Store
from edlm.evaluation.samples.judge import JudgedTexts
from edlm.sampler import EnergySampler
from tests.enumerable import SEQUENCES, random_denoiser

X_0 = SEQUENCES[[0, 5, 26, 13, 7]]
IDENTITY = {"denoiser": {"revision": "a1"}, "data": "b2", "seed": 3}
DENOISER = random_denoiser()


class Linear(Energy):
    """An energy with weights."""

    def __init__(self, *weights: float, is_control: bool = False):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))
        self.control = is_control
        self.calls = 0

    @property
    def is_control(self) -> bool:
        return self.control

    def forward(self, decision):
        self.calls += 1
        return (decision.candidates * self.weights).sum(-1).detach().double()


class Judge:
    """Loses as many nats as a text has letters, and twice that."""

    separator, name = None, "wise"

    def __init__(self, identity: str = "wise", energy: Energy | None = None):
        self.identity, self.energy = identity, energy

    def describe(self) -> dict:
        return {"name": self.name}

    def has_part_in(self, energy) -> bool:
        return energy is not None and energy is self.energy

    def score(self, texts) -> JudgedTexts:
        lengths = torch.tensor([sum(map(int, text.split())) for text in texts])
        return JudgedTexts(2 * lengths.double() + 1, lengths + 1, 1)


ENERGY, CONTROL = Linear(0.9, -0.7, 0.4), Linear(0.2, 0.1, -0.3, is_control=True)


def setting(name="ours", steps=2, order="left_to_right", energy: Energy | None = ENERGY, **options) -> Setting:
    draws = {key: options.pop(key) for key in ("sampled_steps", "inner_draws") if key in options}
    k = {"num_candidates": 1 if energy is None else 3}
    sampler = EnergySampler(DENOISER, energy, num_steps=steps, **{**options_of_order(order), **k, **options})
    return Setting(name, order, sampler, **draws)


def base(steps=2, order="left_to_right") -> Setting:
    return setting("base", steps, order, None)


def lab(path: Path | None, settings=None, judge=None, x_0=X_0, given=None, documents=None, **options) -> Lab:
    """Of these settings; ``options`` are those of `EvaluateConfig`."""
    options = {"seed": 3, "batch_size": 2, "measure": ("bounds",), **options}
    config = EvaluateConfig(output=None if path is None else str(path), **options)
    store = Store(config.json_path and config.json_path.with_suffix(STORE), IDENTITY, {"revision": "r1"})
    settings = [base(), setting()] if settings is None else settings
    return Lab(config, DENOISER, x_0, given, TextUnits(2.0, 1.5), settings, judge, None, store, documents)
