"""Options of the sampler, each with its default, meaning and rule; everything else inherits or reads them."""

from dataclasses import dataclass, field
from typing import Literal

from edlm.diffusion.plan import named_order
from edlm.rules import MAX_COUNT, check_least, check_most, check_options

ScheduleName = Literal["log_linear", "cosine", "polynomial"]
_COUNTS = ("num_steps", "num_candidates", "group_size", "block_length", "num_particles")
WINDOW = "a pair (low, high) with 0 <= low <= high <= 1"


@check_options
@dataclass(frozen=True, kw_only=True)
class SamplerOptions:
    """How to sample. "auto" is what the energy recommends, see `Kernel`.

    Raises:
        ValueError: an option breaks its rule. Rules that need the energy or the denoiser are checked by `Kernel`.
    """

    num_steps: int
    """Denoiser passes ``T`` of a block, >= 1; the most of them, where the marginals say how many. Step ``i = 0..T-1``
    goes from time ``1 - i/T`` to ``1 - (i+1)/T``; one that reveals nothing has no pass, and costs nothing."""

    num_candidates: int | None | Literal["auto"] = "auto"
    """Candidates ``k`` of a decision; of one the law is the base's, and the energy is run only to rule it out
    (``on_impossible`` "redraw" or "keep") or to weigh particles. None draws from the energy itself, exactly, if it is
    normalised (`ExactEnergy`). "auto": 1 without an energy, else what the energy recommends."""

    scope: Literal["step", "sequence", "auto"] = "auto"
    """Positions that a candidate fills: those that the "step" writes, or every masked one ("sequence", the paper), of
    which the step then writes its own. "auto": what the energy recommends, else "step"; "step" with ``group_size``."""

    group_size: int | None = None
    """Tokens decided together, one group after the other from one denoiser pass; None for the whole step. Without
    candidates: tokens drawn at once, far apart and independently, given the rounds before; None for one."""

    order: str = "auto"
    """Reveal order: "ancestral", "random", "dilated", "bisecting", "left_to_right"; by what the marginals say:
    "confidence"; or, so that they also say how many tokens a pass writes, "confidence_threshold(P)" with a probability,
    "entropy_bounded(H)" with nats and "dependency_bounded(X, FOLDER)" with a trained predictor. "auto": one that the
    energy was trained on, else "bisecting". See `edlm.diffusion.orders` and `edlm.diffusion.adaptive`."""

    block_length: int | None = None
    """Tokens that are written together, in ``num_steps`` passes, left to right block by block. None: the denoiser's
    ``block_size``, or all at once."""

    schedule: ScheduleName = "log_linear"
    """Masking schedule, for the ancestral order."""

    window: tuple[float, float] | Literal["auto"] = field(default="auto", metadata={"rule": f"{WINDOW}, or 'auto'"})
    """The energy is used at times ``low < t <= high``. "auto": in exact decisions where it was measured to gain after
    training, at no time if nowhere; else always, as (0, 1). See `Kernel.energy_window`."""

    weight_temperature: float = 1.0
    """Weights are ``exp(-E / weight_temperature)``."""

    num_particles: int = 1
    """Runs ``N`` of a row that are weighed by their energies and resampled between steps, of which one stays at the end
    of a block: ``N`` denoiser passes a step; see `edlm.sampler.particles`. Each decides by ``num_candidates``, which
    "auto" makes 1."""

    on_impossible: Literal["raise", "redraw", "keep"] = "raise"
    """Where all candidates of a row have infinite energy: "raise" (an only one is not judged); "redraw" up to 100
    times, then raise; or "keep" the row's positions masked, due again at the next step of their block; after its last
    one they stay masked."""

    temperature: float = 1.0
    """Tokens are drawn from the proposal ``q'``: the marginals at this temperature; see `Proposal`."""

    top_p: float = 1.0
    """The proposal keeps the fewest likeliest tokens that hold this mass."""

    top_k: int | None = None
    """The proposal keeps this many likeliest tokens, before ``top_p``; None keeps all."""

    correct_proposal: bool = False
    """Weigh candidates as if they were drawn from the denoiser's own marginals instead of the proposal."""

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in _COUNTS}
        check_least(1, **counts)
        check_most(MAX_COUNT, **counts)
        if isinstance(self.order, str) and self.order != "auto":
            named_order(self.order)
        if self.group_size is not None and self.scope == "sequence":
            raise ValueError(f"group_size needs scope='step': a sequence is judged as a whole; got {self.group_size}")
        if self.window != "auto" and not 0 <= self.window[0] <= self.window[1] <= 1:
            raise ValueError(f"window must be {WINDOW}, got {self.window}")
        if not self.weight_temperature > 0:
            raise ValueError(f"weight_temperature must be > 0, got {self.weight_temperature}")
