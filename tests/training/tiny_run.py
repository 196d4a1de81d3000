"""A run that takes milliseconds: for the tests, and as a script for several processes.

    torchrun --nproc_per_node 2 tiny_run.py MODE output_dir='"runs/a"' setting=value ...

MODE is a key of `OBJECTIVES`, or "resume" for a whole run and one in two halves; values are JSON.
"""

import json
import signal
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor, nn

from edlm.training.means import Mean
from edlm.training.trainer import TrainerConfig, train

SYMBOLS = 7


class TinyModel(nn.Module):
    """Float64, so that sums in another order agree closely; a matrix, vectors and a frozen part."""

    def __init__(self, dropout: float = 0.0, dtype: torch.dtype = torch.float64):
        super().__init__()
        generator = torch.Generator().manual_seed(5)

        def weights(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.frozen = nn.Sequential(nn.Embedding(SYMBOLS, 5), nn.Dropout(0.5))
        self.frozen[0].weight.data = weights(SYMBOLS, 5)
        self.frozen.requires_grad_(False)
        self.dropout = nn.Dropout(dropout)
        self.matrix = nn.Parameter(weights(5, SYMBOLS))
        self.bias = nn.Parameter(weights(SYMBOLS))
        self.to(dtype)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.dropout(self.frozen(tokens)) @ self.matrix + self.bias


def blocks(rows: int = 13, length: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(SYMBOLS, (rows, length), generator=generator)


def plain_objective(model, batch, streams):
    """Cross-entropy without noise."""
    logits = model(batch.roll(1, 1))
    nats = nn.functional.cross_entropy(logits.flatten(0, 1), batch.flatten(), reduction="sum")
    return Mean(nats, batch.numel()), {"tokens": Mean(batch.double().sum(), batch.numel())}


def noisy_objective(model, batch, streams):
    """Cross-entropy of tokens of which some are replaced at random, mean over those that are not."""
    drawn = streams.values(2).to(batch.device)
    noise, replaced = (drawn[:, 0] * SYMBOLS).long(), drawn[:, 1] < 0.3 * streams.places()[:, None]
    logits = model(torch.where(replaced, noise, batch).roll(1, 1))
    nats = nn.functional.cross_entropy(logits.movedim(1, 2), batch, reduction="none")
    means = {"replaced": Mean(replaced.sum(), batch.numel()), "noise": Mean(noise.sum(), batch.numel())}
    return Mean(nats[~replaced].sum(), (~replaced).sum()), means


def save(model: nn.Module, folder: Path) -> None:
    torch.save(model.state_dict(), folder / "model.pt")


def run(output_dir, objective=noisy_objective, model=None, valid=True, data=None, **settings):
    """Train the tiny model; returns the weights handed to `save`, the last ones and the log."""
    model = TinyModel() if model is None else model
    data = blocks() if data is None else data
    defaults = {"num_steps": 10, "batch_size": 4, "warmup_steps": 3, "learning_rate": 0.03}
    defaults |= {"log_every": 1, "valid_every": 5, "valid_batches": 2, "checkpoint_every": 5}
    config = TrainerConfig(str(output_dir), **(defaults | settings))
    final = train(model, objective, data, data[:9] if valid else None, config, save)
    return torch.load(final / "model.pt"), model.state_dict(), read_log(output_dir)


def read_log(output_dir) -> list[dict]:
    return [json.loads(line) for line in (Path(output_dir) / "log.jsonl").read_text().splitlines()]


def troubled(trouble):
    """The plain objective; in the third update the last process alone gets `trouble(loss)`."""
    calls = 0

    def objective(model, batch, streams):
        nonlocal calls
        calls += 1
        loss, metrics = plain_objective(model, batch, streams)
        bad = calls == 3 and PartialState().is_last_process
        return (Mean(trouble(loss.total), loss.count) if bad else loss), metrics

    return objective


def interrupt(loss):
    signal.raise_signal(signal.SIGINT)
    return loss


OBJECTIVES = {
    "noisy": noisy_objective,
    "nan": troubled(lambda loss: loss * float("nan")),
    "signal": troubled(interrupt),
}

if __name__ == "__main__":
    mode = sys.argv[1]
    settings = {name: json.loads(value) for name, value in (x.split("=") for x in sys.argv[2:])}
    if mode == "resume":
        folder = Path(settings.pop("output_dir"))
        run(folder / "whole", **settings)
        run(folder / "halves", max_minutes=1e-9, **settings)
        run(folder / "halves", **settings)
    else:
        run(objective=OBJECTIVES[mode], **settings)
