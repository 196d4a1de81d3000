"""The proposal: candidates drawn from the product of the denoiser's marginals, tempered or truncated on request."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from edlm.diffusion.slots import Slots
from edlm.energies.decision import Decision, Step
from edlm.memory import parts_of_table
from edlm.numerics import check_mass, precise
from edlm.rules import check_options


@check_options
@dataclass(frozen=True)
class Proposal:
    """The law ``q'`` that tokens are drawn from, made of the marginals of each slot.

    Tempered first, then cut to the ``top_k`` likeliest tokens, then to the nucleus of the remaining ones: the fewest
    likeliest tokens that hold ``top_p`` of the mass. Ties go to the lowest token.

    Args:
        temperature: > 0; below 1 sharpens.
        top_p: In (0, 1].
        top_k: >= 1, or None for all tokens; 1 takes the likeliest token.

    Raises:
        ValueError: an option breaks its rule.

    References:
        Holtzman et al. 2020, arXiv:1904.09751 (nucleus).

    Example:
        >>> log_probs = torch.tensor([[0.5, 0.3, 0.2]]).log()
        >>> Proposal(top_k=2)(log_probs).exp()
        tensor([[0.6250, 0.3750, 0.0000]])
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            likeliest = "; top_k=1 takes the likeliest token" if self.temperature == 0 else ""
            raise ValueError(f"temperature must be > 0 and finite, got {self.temperature}{likeliest}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be >= 1 or None, got {self.top_k}")

    @property
    def is_default(self) -> bool:
        """Whether log-probabilities stay as they are."""
        return self == PLAIN

    def __call__(self, log_probs: Tensor) -> Tensor:
        """``log q'`` of log-probabilities ``[n, vocab_size]``, nats, normalised; by default the very input."""
        if self.is_default:
            return log_probs
        log_q = log_probs / self.temperature
        if self.top_k is not None or self.top_p < 1:
            ranked, tokens = log_q.sort(dim=-1, descending=True, stable=True)
            if self.top_k is not None:
                ranked[:, self.top_k :] = -torch.inf
            if self.top_p < 1:
                mass = precise(ranked).softmax(-1)
                ranked = ranked.masked_fill(mass.cumsum(-1) - mass >= self.top_p, -torch.inf)
            log_q = torch.empty_like(ranked).scatter(-1, tokens, ranked)
        return log_q.log_softmax(-1)


PLAIN = Proposal()
_RUN, _SMALL = 64, 2**17  # tokens of a run; weights that need no runs


def draw_categorical(log_probs: Tensor, uniforms: Tensor) -> Tensor:
    """Inverse-CDF draws, summed in float64: the same uniform gives the same token whatever the batch.

    Large tables are searched in two levels, runs of tokens and the tokens of one: sums of runs alone are in float64.

    Args:
        log_probs: Nats, normalised or not, shape ``[n, vocab_size]``; ``-inf`` is never drawn.
        uniforms: In [0, 1), float64, shape ``[n, k]``.

    Returns:
        Tokens, shape ``[n, k]``, on the device of ``log_probs``.

    Raises:
        ValueError: a row has no mass, or holds NaN or +inf.

    Note:
        Uniforms and sums in float32 would cut the tail of the law (arXiv:2409.02908); weights in float32 only have
        a relative error of 1e-7 each. MPS has no float64: there the draws are made on the CPU.
    """
    largest = log_probs.amax(-1, keepdim=True)
    check_mass(largest)
    return draw_by_weight((log_probs - largest).exp_(), uniforms)


def draw_by_weight(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The same by finite weights ``[n, vocab_size]`` that are not negative, and of which a row has one above 0."""
    device, vocab_size = weights.device, weights.shape[1]
    work = torch.device("cpu") if device.type == "mps" else device
    weights, uniforms = weights.to(work), uniforms.to(work)
    if not _runs_pay(len(weights), vocab_size, uniforms.shape[1]):
        return _search(weights.cumsum(1, dtype=torch.float64), uniforms)[0].to(device)
    whole = vocab_size // _RUN * _RUN
    sums = [weights[:, :whole].unflatten(1, (-1, _RUN)).sum(2, dtype=torch.float64)] if whole else []
    sums += [weights[:, whole:].sum(1, keepdim=True, dtype=torch.float64)] if whole < vocab_size else []
    run, left = _search(torch.cat(sums, 1).cumsum(1), uniforms)
    tokens = run[..., None] * _RUN + torch.arange(_RUN, device=work)
    inside = weights.gather(1, tokens.clamp(max=vocab_size - 1).flatten(1)).view_as(tokens)
    cdf = inside.masked_fill(tokens >= vocab_size, 0.0).cumsum(2, dtype=torch.float64)
    at = torch.searchsorted(cdf, _below(left[..., None], cdf[..., -1:]), right=True)
    return (run * _RUN + at[..., 0]).to(device)


def _runs_pay(rows: int, vocab_size: int, draws: int) -> bool:
    """Whether the table is large, and the runs that are searched hold far less than it."""
    return rows * vocab_size > _SMALL and 2 * _RUN * draws <= vocab_size


def _search(cdf: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Index of each uniform in a cdf that ends anywhere, and how far it reaches into that entry."""
    target = _below(uniforms * cdf[:, -1:], cdf[:, -1:])
    at = torch.searchsorted(cdf, target, right=True)
    return at, target - torch.where(at > 0, cdf.gather(1, (at - 1).clamp(min=0)), 0.0)


def _below(target: Tensor, total: Tensor) -> Tensor:
    """Targets that rounding has put at the end of the law, or behind it, within it."""
    return torch.minimum(target, total.nextafter(torch.zeros_like(total)))


def inverse_cdf(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Draws by weights ``[..., size]`` in the widest float, as indices ``[..., 1]``.

    Args:
        weights: Not negative, not normalised; without mass the draw is the last index.
        uniforms: In [0, 1), ``[..., 1]``.
    """
    cdf = weights.cumsum(-1)
    target = _below(uniforms * cdf[..., -1:], cdf[..., -1:])
    return torch.searchsorted(cdf, target.contiguous(), right=True).clamp(max=weights.shape[-1] - 1)


def draw_by_classes(weights: Tensor, uniforms: Tensor, class_size: int) -> Tensor:
    """A draw of each row by inverse CDF in two levels, residue classes and the entries of one.

    Each is summed in the widest float, classes themselves in that of the weights.

    Args:
        weights: Not negative, not normalised; without mass a draw is any index; ``[n, vocab_size]``.
        uniforms: In [0, 1), in the widest float, ``[n, 1]``.
        class_size: Entries of a class, at most.

    Returns:
        Tokens, ``[n, 1]``.
    """
    vocab_size = weights.shape[1]
    classes = -(-vocab_size // class_size)
    whole = vocab_size // classes * classes
    sums = weights[:, :whole].unflatten(1, (-1, classes)).sum(1)
    sums[:, : vocab_size - whole] += weights[:, whole:]
    at, left = _search(sums.cumsum(1, dtype=uniforms.dtype), uniforms)
    columns = at + classes * torch.arange(-(-vocab_size // classes), device=at.device)
    inside = weights.gather(1, columns.clamp(max=vocab_size - 1)).masked_fill(columns >= vocab_size, 0.0)
    cdf = inside.cumsum(1, dtype=uniforms.dtype)
    at = torch.searchsorted(cdf, _below(left, cdf[:, -1:]), right=True).clamp(max=columns.shape[1] - 1)
    return columns.gather(1, at).clamp(max=vocab_size - 1)


class Draws(NamedTuple):
    """Tokens that were drawn at some slots.

    Attributes:
        tokens: Shape ``[num_slots, k]``.
        log_p: Their log-probabilities under the denoiser, nats, the same shape.
        log_q: And under the proposal.
    """

    tokens: Tensor
    log_p: Tensor
    log_q: Tensor


def draw_candidates(step: Step, slots: Slots, proposal: Proposal, uniforms: Tensor) -> Draws:
    """Draw ``k`` tokens of each slot from the proposal; uniforms ``[num_slots, k]`` as for `draw_categorical`."""

    def draw(part: Tensor) -> Draws:
        logits = step.logits(slots.part(part))
        check_mass(logits.amax(-1))
        log_probs = logits.log_softmax(-1)
        log_q = proposal(log_probs)
        tokens = draw_categorical(log_q, uniforms[part.to(uniforms.device)])
        log_p = log_probs.gather(1, tokens)
        return Draws(tokens, log_p, log_p if proposal.is_default else log_q.gather(1, tokens))

    parts = [draw(part) for part in parts_of_table(len(slots), step.denoiser.vocab_size, slots.rows.device)]
    return Draws(*map(torch.cat, zip(*parts, strict=True)))


def make_decision(
    step: Step, slots: Slots, x_partial: Tensor, log_probs: Tensor, tokens: Tensor, log_q: Tensor | None = None
) -> Decision:
    """Candidates that fill the slots of ``x_partial[batch, length]`` with draws ``tokens[num_slots, k]``.

    ``log_probs[num_slots, vocab_size]`` are the marginals, nats; draws are from ``log_q``, by default these.
    """
    log_p = log_probs.gather(1, tokens)
    drawn_from = log_p if log_q is None or log_q is log_probs else log_q.gather(1, tokens)
    return decision_of(step, slots, x_partial, Draws(tokens, log_p, drawn_from))


def decision_of(step: Step, slots: Slots, x_partial: Tensor, draws: Draws) -> Decision:
    """Candidates that fill the slots of ``x_partial[batch, length]`` with draws."""
    candidates = x_partial[:, None].repeat(1, draws.tokens.shape[1], 1)
    candidates[slots.rows, :, slots.positions] = draws.tokens
    return Decision(step, slots, x_partial, candidates, draws.log_q, draws.log_p)
