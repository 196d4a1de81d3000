"""Plants a fault for each truth of section 5 of the method page and checks that its tests fail.

Run by hand in a clean checkout: ``python -m tests.mutations``; about twelve minutes on two cores. It edits the package
in place, restores it, prints one line a fault, and exits with 1 if a fault went unnoticed.
"""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import edlm

ROOT = Path(edlm.__file__).parent


class Fault(NamedTuple):
    """A line of the package, and what it is replaced by."""

    truth: str
    path: str
    line: str
    fault: str
    tests: str


FAULTS = [
    Fault(
        "1 one candidate: the base sampler's tokens",
        "sampler/decisions.py",
        "uniforms = streams.uniform(group.counts.cpu())",
        "uniforms = 1 - streams.uniform(group.counts.cpu())",
        "tests/sampler",
    ),
    Fault(
        "2 the law tends to p exp(-E) / Z: sign",
        "sampler/reweighting.py",
        "return -precise(energy) / weight_temperature",
        "return precise(energy) / weight_temperature",
        "tests/sampler",
    ),
    Fault(
        "2 the law tends to p exp(-E) / Z: likeliest instead of drawn",
        "sampler/decisions.py",
        "chosen[drawing] = draw_categorical(weights[drawing], streams.uniform(uses.long().cpu()))[:, 0]",
        "chosen[drawing] = weights[drawing].argmax(-1)",
        "tests/sampler",
    ),
    Fault(
        "3 a batch of different rows is each row alone",
        "sampler/decisions.py",
        "weights = weights.masked_fill(impossible[:, None], 0.0)",
        "weights = weights.masked_fill(impossible[:, None], 0.0).mean(0, keepdim=True).expand_as(weights)",
        "tests/sampler",
    ),
    Fault(
        "4 the full autoregressive energy gives p_AR",
        "energies/autoregressive.py",
        "return chosen if self.carry_over else seen & (chosen.cumsum(1) > 0)",
        "return chosen",
        "tests/sampler tests/energies",
    ),
    Fault(
        "5 coAR sums to 1 over the masked tokens",
        "energies/autoregressive.py",
        "return chosen if self.carry_over else seen & (chosen.cumsum(1) > 0)",
        "return seen & (chosen.cumsum(1) > 0)",
        "tests/sampler tests/energies",
    ),
    Fault(
        "6 the bound never exceeds the exact log-likelihood",
        "sampler/reweighting.py",
        "return shares.logsumexp(-1) + math.log(k / shares.shape[1])",
        "return shares.logsumexp(-1) + math.log((k + 1) / shares.shape[1])",
        "tests/sampler",
    ),
    Fault(
        "7 the revealed tokens are a subset of the candidate",
        "sampler/decisions.py",
        "written = active[group.rows] & (group.ranks < step.revealed.counts[group.rows])",
        "written = active[group.rows]",
        "tests/sampler",
    ),
    Fault(
        "8 NCE recovers the log-ratio: sign of the noise",
        "training/objectives.py",
        "loss = -log_sigmoid(-energy[:, 0]) - log_sigmoid(energy[:, 1:]).mean(1)",
        "loss = -log_sigmoid(-energy[:, 0]) - log_sigmoid(-energy[:, 1:]).mean(1)",
        "tests/training/test_objectives.py",
    ),
    Fault(
        "9 one token a step equals the continuous-time bound",
        "diffusion/schedule.py",
        "return -self.alpha_derivative(t) / (1 - self.alpha(t))",
        "return -self.alpha_derivative(t) / (1 - 0.9 * self.alpha(t))",
        "tests/diffusion tests/training/test_objectives.py tests/evaluation/likelihood",
    ),
    Fault(
        "10 all candidates impossible, not any",
        "sampler/decisions.py",
        "impossible = torch.isneginf(weights).all(1)",
        "impossible = torch.isneginf(weights).any(1)",
        "tests/sampler",
    ),
    Fault(
        "11 draws are summed in float64",
        "energies/proposal.py",
        "weights.cumsum(1, dtype=torch.float64)",
        "weights.cumsum(1).double()",
        "tests/energies/test_proposal.py",
    ),
]


def is_noticed(fault: Fault) -> bool:
    """Whether the tests fail with the fault planted."""
    path = ROOT / fault.path
    source = path.read_text()
    if source.count(fault.line) != 1:
        raise ValueError(f"{fault.path} must hold the line once, got {source.count(fault.line)}: {fault.line}")
    try:
        path.write_text(source.replace(fault.line, fault.fault))
        command = [sys.executable, "-m", "pytest", "-x", "-q", *fault.tests.split()]
        return subprocess.run(command, cwd=ROOT.parent, capture_output=True).returncode == 1
    finally:
        path.write_text(source)


if __name__ == "__main__":
    unnoticed = 0
    for fault in FAULTS:
        noticed = is_noticed(fault)
        unnoticed += not noticed
        print(f"{'noticed  ' if noticed else 'UNNOTICED'} {fault.truth}", flush=True)
    sys.exit(unnoticed > 0)
