"""Judge loss against entropy over the proposal's temperature: what is better, and what is only colder."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from scipy.stats import norm as normal
from scipy.stats import t as student
from torch import Tensor

from edlm.evaluation.estimates.estimate import Estimate, mean_of, ratio_of

Verdict = Literal["gain", "on", "worse", "outside"]
GAIN = "below the base's frontier: better at equal entropy"
WORSE = "above the base's frontier: worse at equal entropy"
OUTSIDE = "outside of the base's entropies: not judged, since nothing is extrapolated"
COLDER = "on the base's frontier: colder, not better"
HOTTER = "on the base's frontier: hotter, not worse"
EQUAL = "on the base's frontier: no difference"


@dataclass(frozen=True, eq=False)
class FrontierPoint:
    """Samples of one sampler at one temperature; sample ``i`` of all points has the same seed.

    Attributes:
        name: Of the method, or "base".
        order: Reveal order.
        num_steps: Denoiser passes.
        temperature: Of the proposal.
        entropy: Unigram entropy of each sample, nats, ``[n]``.
        nats: ``-log p`` of each sample under the judge, ``[n]``.
        num_tokens: The judge's tokens in each, ``[n]``.
        distinct_2: Share of bigrams that are distinct, over all samples.
    """

    name: str
    order: str
    num_steps: int
    temperature: float
    entropy: Tensor
    nats: Tensor
    num_tokens: Tensor
    distinct_2: float | None = None

    @property
    def entropy_nats(self) -> Estimate:
        """Of a sample."""
        return mean_of(self.entropy)

    @property
    def judge_nats_per_token(self) -> Estimate:
        """Loss under the judge, low = plausible to it."""
        return ratio_of(self.nats, self.num_tokens)

    def influence(self, slope: float) -> Tensor:
        """How each sample moves ``loss - slope * entropy``, ``[n]``; its mean is 0."""
        tokens = self.num_tokens.double()
        of_loss = (self.nats.double() - self.judge_nats_per_token.value * tokens) / tokens.mean()
        return of_loss - slope * (self.entropy.double() - self.entropy_nats.value)


@dataclass(frozen=True)
class Placement:
    """Where a point lies relative to the base's curve at its own entropy.

    Attributes:
        verdict: "gain" (below), "on", "worse" (above), or "outside" of the base's entropies.
        description: The verdict in words.
        difference: Loss of the point minus the base's at that entropy, nats per token, low = good; None outside.
        stderr: Its standard error over seeds, that of the base's curve included.
        interpolation: Bound on what the straight line between two base points is off, from the curve's bend.
    """

    verdict: Verdict
    description: str
    difference: float | None = None
    stderr: float | None = None
    interpolation: float | None = None


def place(point: FrontierPoint, base: Sequence[FrontierPoint], *, sigmas: float = 3.0) -> Placement:
    """Compare a point with the base's curve at equal entropy.

    The base's points, sorted by entropy, are joined by straight lines. With the base's neighbours ``a``, ``b`` at
    entropies ``H_a <= H <= H_b`` and ``u = (H - H_a) / (H_b - H_a)``,

        difference = loss - ((1 - u) loss_a + u loss_b)

    Its standard error is the delta method's over seeds, which the three share; errors of the entropies count by the
    line's slope. It is a gain where ``difference + interpolation < -c * stderr``, and worse where
    ``difference - interpolation > c * stderr``, with c the quantile of Student's t of n - 1 degrees of
    freedom that is as rare as ``sigmas`` is of a normal variable: few samples do not know their own error well. An
    entropy that leaves the base's range by more than two standard errors is refused; by less, the last line is
    prolonged.

    Args:
        point: What is judged.
        base: The base at several temperatures, the same number of steps and order.
        sigmas: Standard errors that a difference of many samples must exceed; of n, as rare a value of Student's t.

    Raises:
        ValueError: the numbers of samples differ, or are below 2.

    Note:
        A colder proposal lowers any judge's loss and the entropy with it: it moves along the curve. Several points
        are several tests: with 3 sigmas one in 370 of those on a straight curve is called a gain or worse by chance,
        one in 740 a gain.

    References:
        The entropy that falls with the loss: Zheng et al. 2024, arXiv:2409.02908.
    """
    sizes = {len(p.nats) for p in (point, *base)}
    if len(sizes) > 1 or min(sizes) < 2:
        raise ValueError(f"points must have the same number of samples, at least 2, got {sorted(sizes)}")
    curve = _distinct(sorted(base, key=lambda p: p.entropy_nats.value))
    entropy = point.entropy_nats
    if len(curve) < 2:
        return Placement("outside", OUTSIDE)
    for end, outer in ((curve[0], -1), (curve[-1], 1)):
        off = outer * (entropy.value - end.entropy_nats.value)
        if off > 2 * math.hypot(entropy.stderr, end.entropy_nats.stderr):
            return Placement("outside", OUTSIDE)
    at = next((i for i, (_, b) in enumerate(pairwise(curve)) if entropy.value <= b.entropy_nats.value), len(curve) - 2)
    a, b = curve[at], curve[at + 1]
    slope = _slope(a, b)
    u = (entropy.value - a.entropy_nats.value) / (b.entropy_nats.value - a.entropy_nats.value)
    on_curve = (1 - u) * a.judge_nats_per_token.value + u * b.judge_nats_per_token.value
    difference = point.judge_nats_per_token.value - on_curve
    moved = point.influence(slope) - (1 - u) * a.influence(slope) - u * b.influence(slope)
    stderr = mean_of(moved).stderr
    interpolation = _bend(curve, at) * abs(u * (1 - u)) * (b.entropy_nats.value - a.entropy_nats.value) ** 2
    numbers = (difference, stderr, interpolation)
    critical = float(student.isf(normal.sf(sigmas), len(moved) - 1))
    if difference + interpolation < -critical * stderr:
        return Placement("gain", GAIN, *numbers)
    if difference - interpolation > critical * stderr:
        return Placement("worse", WORSE, *numbers)
    return Placement("on", _along(point, base, critical), *numbers)


def _along(point: FrontierPoint, base: Sequence[FrontierPoint], critical: float) -> str:
    """In which direction a point on the curve lies from the base at temperature 1."""
    usual = min(base, key=lambda p: abs(p.temperature - 1))
    loss = point.judge_nats_per_token.value - usual.judge_nats_per_token.value
    moved = point.influence(0.0) - usual.influence(0.0)
    stderr = mean_of(moved).stderr
    colder = point.entropy_nats.value < usual.entropy_nats.value
    if abs(loss) <= critical * stderr or colder != (loss < 0):
        return EQUAL
    return COLDER if colder else HOTTER


def _slope(a: FrontierPoint, b: FrontierPoint) -> float:
    rise = b.judge_nats_per_token.value - a.judge_nats_per_token.value
    return rise / (b.entropy_nats.value - a.entropy_nats.value)


def _bend(curve: Sequence[FrontierPoint], at: int) -> float:
    """Second divided difference of the three points nearest to segment ``at``; 0 where there are only two."""
    thirds = [i for i in (at - 1, at + 2) if 0 <= i < len(curve)]
    bends = []
    for third in thirds:
        low, middle, high = (curve[i] for i in sorted((at, at + 1, third)))
        width = high.entropy_nats.value - low.entropy_nats.value
        bends.append(abs(_slope(middle, high) - _slope(low, middle)) / width)
    return max(bends, default=0.0)


def _distinct(curve: Sequence[FrontierPoint]) -> list[FrontierPoint]:
    """Without points of the same entropy as the one before, between which there is no line."""
    values = torch.tensor([p.entropy_nats.value for p in curve], dtype=torch.float64)
    return [p for i, p in enumerate(curve) if i == 0 or values[i] - values[i - 1] > 1e-9]
