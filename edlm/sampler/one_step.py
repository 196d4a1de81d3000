"""One step of somebody else's loop: the energy decides the tokens that the loop is about to write."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.diffusion.slots import Slots
from edlm.diffusion.streams import RowStreams, row_seeds
from edlm.energies.base import Energy
from edlm.energies.decision import Step
from edlm.numerics import widest_float
from edlm.rules import check, check_least, check_options, shown
from edlm.sampler.decisions import decide
from edlm.sampler.given import GivenPass
from edlm.sampler.inputs import check_completeness, check_tokens
from edlm.sampler.kernel import Kernel
from edlm.sampler.options import WINDOW, SamplerOptions


@check_options
@dataclass(frozen=True, kw_only=True, eq=False)
class StepOptions(SamplerOptions):
    """Options of `rerank_step`: those of `SamplerOptions` for a decision, and what the loop knows of its step.

    Raises:
        ValueError: an option breaks its rule.
    """

    num_steps: int = field(default=1, init=False)
    order: str = field(default="auto", init=False)
    num_particles: int = field(default=1, init=False)
    schedule: str = field(default="log_linear", init=False)
    block_length: int | None = field(default=None, init=False)

    window: tuple[float, float] = field(default=(0.0, 1.0), metadata={"rule": WINDOW})
    """As the sampler's, at all times by default: the order and the passes of a loop are not known."""

    reveal: Any = None
    """Masked positions that are decided and written, bool ``[batch, length]``; or their decision order, int64,
    negative elsewhere. Those of a bool table are decided left to right; None: all of ``target``."""

    target: Any = None
    """Masked positions that candidates may fill at sequence scope, bool ``[batch, length]``, such as the block that is
    written; None: all that have logits."""

    attention_mask: Any = None
    """False at padding, which may be on either side, ``[batch, length]``: it is neither seen nor written."""

    offset: int | None = None
    """Position of the canvas to which the first logits belong, where the loop computes those of a block only; None:
    there are logits for every position."""

    t: Any = None
    """Time, for energies and ``window``: a number, or one a row; None: the share of real positions that are masked."""

    seeds: int | Sequence[int] | None = None
    """One a row, or an integer: row r gets ``seeds + r``. None draws them from the generator."""

    step: int = 0
    """Index of the step: equal seeds draw other tokens at other steps, the same as `EnergySampler` does."""

    block: int = 0
    """Index of the block that the step is one of: as ``step``, where the steps of each block are counted from 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(0, offset=self.offset, step=self.step, block=self.block)


def check_writes(on_impossible: str, why: str) -> None:
    """Refuse "keep", for a loop that counts on tokens being written: ``why`` says what it would do otherwise.

    Raises:
        ValueError: ``on_impossible`` is "keep".
    """
    if on_impossible == "keep":
        raise ValueError(f"on_impossible must be 'raise' or 'redraw': {why}, got 'keep'")


@torch.no_grad()
def rerank_step(
    canvas: Tensor,
    log_probs: Tensor,
    hidden: Sequence[Tensor] | None,
    energy: Energy | None,
    denoiser: Denoiser | int,
    *,
    generator: torch.Generator | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Decide the tokens of one step of a loop jointly; the same tokens as a step of `EnergySampler` for equal seeds.

    It keeps nothing between calls. Rows do not depend on each other.

    Args:
        canvas: Tokens, the mask token where unknown, int64, shape ``[batch, length]``; not changed.
        log_probs: Of the denoiser for the token at the same position, or its logits, any floating type, shape
            ``[batch, length, vocab_size]``; or of a block of the canvas, see ``offset``.
        hidden: States that enter each of the denoiser's blocks, each ``[batch, length, hidden_size]``, for energies
            that read them (``energy.reads_hidden``); None for others. The input of the output layer may follow as the
            last one: a head with a cold start needs it, and so do rows outside of ``window`` without candidates.
        energy: Judges candidates, or gives the law of one token after the other (``num_candidates=None``); None draws
            tokens independently.
        denoiser: The mask token; or a `Denoiser` of the network that the loop runs, for what it rules out, its
            tokenizer, its identity (which trained energies fit), and its embeddings and output layer for ``hidden``.
        generator: Draws one seed a row where none are given; None is torch's global one.
        options: Fields of `StepOptions`, such as ``reveal``, ``num_candidates``, ``temperature``, ``seeds``.

    Returns:
        ``tokens[batch, length]``: the canvas with the decided tokens written; and ``accepted``, bool, same shape: True
        where one was written. Only under ``on_impossible="keep"`` is a position that was to be revealed not accepted:
        in rows whose candidates are all impossible, which stay as they are.

    Raises:
        ValueError: a table has another shape or type; an option breaks its rule; the energy needs states, or tokens
            where masks would stay.
        ImpossibleCandidates: under ``on_impossible="raise"``, or when redraws run out.

    Example:
        >>> from edlm import CallableEnergy
        >>> alike = CallableEnergy(lambda candidates, x, log_p: 9.0 * (candidates[..., 0] != candidates[..., 2]))
        >>> canvas, logits = torch.tensor([[4, 2, 4]]), torch.zeros(1, 3, 4)
        >>> tokens, accepted = rerank_step(canvas, logits, None, alike, 4, num_candidates=64, seeds=0)
        >>> bool(tokens[0, 0] == tokens[0, 2]), accepted.tolist()
        (True, [[True, False, True]])
    """
    loop = StepOptions(**options)
    denoiser, energy = check("denoiser", denoiser, Denoiser | int), check("energy", energy, Energy | None)
    _check_pass(canvas, log_probs, hidden, loop.offset)
    if energy is not None and energy.reads_hidden and hidden is None:
        raise ValueError(f"{type(energy).__name__} reads hidden states: hidden must hold them, got None")
    x_t, index, real = canvas, None, _table("attention_mask", loop.attention_mask, canvas)
    if real is not None:
        index = (~real).long().argsort(dim=1, stable=True)  # padding goes to the right
        x_t, real = canvas.gather(1, index), real.gather(1, index)
    given = GivenPass(denoiser, log_probs, hidden, index, loop.offset or 0)
    kernel = _kernel(given, energy, loop)
    tables = [_ranks(loop.reveal, canvas), _target(loop, canvas, log_probs.shape[1])]
    step = _step(kernel, x_t, real, *(table if index is None else table.gather(1, index) for table in tables), loop.t)
    streams = RowStreams(row_seeds(len(canvas), loop.seeds, generator)).values(loop.step, loop.block)
    tokens, _ = decide(kernel, step, streams)
    tokens = tokens if index is None else canvas.scatter(1, index, tokens)
    return tokens, tokens != canvas


def _kernel(given: GivenPass, energy: Energy | None, loop: StepOptions) -> Kernel:
    """The law of the step. Its order is the loop's; energies of prefixes are told that it may be left to right."""
    options = {option.name: getattr(loop, option.name) for option in fields(SamplerOptions)}
    if energy is not None and energy.reads == "prefix":
        options["order"] = "left_to_right"
    return Kernel(given, energy, **options)


def _step(kernel: Kernel, x_t: Tensor, real: Tensor | None, ranks: Tensor, target: Tensor, t: Any) -> Step:
    """The step that reveals the target's masks of ``ranks >= 0``; at sequence scope candidates fill the others too."""
    chosen = (ranks >= 0) & target
    masked, real = check_tokens(kernel.denoiser, x_t, chosen if kernel.scope == "step" else target, real)
    check_completeness(kernel, x_t, masked, real)
    chosen = chosen & masked
    ranking = ranks.masked_fill(~chosen, torch.iinfo(torch.int64).max).argsort(dim=1, stable=True)
    slots = revealed = Slots.from_ranked(ranking, chosen.gather(1, ranking))
    due = chosen.any(1)
    t = _times(t, x_t == kernel.denoiser.mask_token_id, real)
    uses = due & kernel.uses_energy(t)
    if kernel.scope == "sequence" and uses.any():
        every = due | kernel.energy.needs_every_row
        slots = revealed.followed_by(Slots.where(masked & ~chosen & every[:, None]))
    return Step(kernel.denoiser, x_t, t.float(), kernel.denoiser.encoding(), slots, real, revealed, uses)


def _times(t: Tensor | float | None, masked: Tensor, real: Tensor | None) -> Tensor:
    """Times ``[batch]``, as precise as the device can."""
    real = torch.ones_like(masked) if real is None else real
    if t is None:
        return (masked & real).sum(1).to(widest_float(masked.device)) / real.sum(1).clamp(min=1)
    t = t if isinstance(t, Tensor) else torch.tensor(check("t", t, float), dtype=widest_float(masked.device))
    if t.shape not in ((), masked.shape[:1]):
        raise ValueError(f"t must be a number, or one a row [{len(masked)}], got {_described(t)}")
    return t.to(masked.device).expand(len(masked))


def _check_pass(canvas: Tensor, log_probs: Tensor, hidden: Sequence[Tensor] | None, offset: int | None) -> None:
    """Refuse tensors that are not those of one pass."""
    if not (isinstance(canvas, Tensor) and canvas.ndim == 2 and canvas.dtype == torch.int64):
        raise ValueError(f"canvas must be int64 [batch, length], got {_described(canvas)}")
    batch, length = canvas.shape
    fits = isinstance(log_probs, Tensor) and log_probs.ndim == 3 and log_probs.is_floating_point()
    width = log_probs.shape[1] if fits else 0
    if not fits or len(log_probs) != batch or not (width == length if offset is None else offset + width <= length):
        wanted = length if offset is None else f"at most {length - offset}"
        raise ValueError(f"log_probs must be floating [{batch}, {wanted}, vocab_size], got {_described(log_probs)}")
    for states in () if hidden is None else hidden:
        if not (isinstance(states, Tensor) and states.ndim == 3 and states.shape[:2] == canvas.shape):
            raise ValueError(f"hidden must be tensors [{batch}, {length}, hidden_size], got {_described(states)}")


def _table(name: str, table: Tensor | None, canvas: Tensor) -> Tensor | None:
    """A bool table of the canvas's shape, on its device."""
    if table is not None and (not isinstance(table, Tensor) or table.shape != canvas.shape):
        raise ValueError(f"{name} must be a table {list(canvas.shape)}, got {_described(table)}")
    return table if table is None else table.to(canvas.device).bool()


def _ranks(reveal: Tensor | None, canvas: Tensor) -> Tensor:
    """The decision order of each position, negative where nothing is decided, int64."""
    if isinstance(reveal, Tensor) and reveal.dtype == torch.int64 and reveal.shape == canvas.shape:
        return reveal.to(canvas.device)
    if isinstance(reveal, Tensor) and reveal.dtype != torch.bool:
        raise ValueError(f"reveal must be bool or int64 {list(canvas.shape)}, got {_described(reveal)}")
    reveal = _table("reveal", reveal, canvas)
    return torch.zeros_like(canvas) if reveal is None else reveal.long() - 1


def _target(loop: StepOptions, canvas: Tensor, width: int) -> Tensor:
    """Positions that may be filled: those of the target that have logits."""
    target = _table("target", loop.target, canvas)
    target = torch.ones_like(canvas, dtype=torch.bool) if target is None else target
    place = torch.arange(canvas.shape[1], device=canvas.device) - (loop.offset or 0)
    return target & (0 <= place) & (place < width)


def _described(value: Any) -> str:
    return (
        f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}" if isinstance(value, Tensor) else shown(value)
    )
