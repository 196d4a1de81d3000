"""Heads whose tokens see their left neighbour alone: what `MarkovHead` and `ChainHead` have in common."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from edlm.denoisers.base import Denoiser
from edlm.diffusion.slots import Slots
from edlm.energies.decision import Decision, Step
from edlm.energies.exact import ExactEnergy
from edlm.energies.laws import Likeliest
from edlm.energies.neighbours import NUM_DISTANCES, Neighbours
from edlm.energies.pretrained import PretrainedEnergy
from edlm.energies.proposal import PLAIN, Proposal
from edlm.energies.shortlist import Shortlist
from edlm.numerics import precise


@dataclass(frozen=True, kw_only=True)
class NeighbourOptions:
    """Options of a new `MarkovHead` or `ChainHead`.

    Args:
        rank: Of the pairwise potentials.
        num_likeliest: The likeliest tokens of each position, which it corrects; the others keep their shares among
            themselves.
        reads_states: Gates and corrections of single tokens come from the denoiser's states; else it reads
            log-probabilities only, and serves engines that pass no states.
        blind: Make the control: tokens do not see their neighbours.
    """

    rank: int = 64
    num_likeliest: int = 64
    reads_states: bool = True
    blind: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1 or self.num_likeliest < 1:
            raise ValueError(f"rank and num_likeliest must be >= 1, got {self.rank} and {self.num_likeliest}")
        if self.blind and not self.reads_states:
            raise ValueError("blind needs reads_states: without neighbours and states there is nothing to read")


@dataclass(frozen=True, kw_only=True)
class NeighbourSettings(NeighbourOptions):
    """`NeighbourOptions` with the sizes of the denoiser; saved with a head.

    Attributes:
        vocab_size: Tokens of the denoiser.
        hidden_size: Size of its states; None if they are not read.
    """

    vocab_size: int
    hidden_size: int | None


class NeighbourHead(PretrainedEnergy, ExactEnergy):
    """Potentials of the tokens of a step, and of each with its left neighbour, in position order.

    ``u_j(v) = U[v] . (A h_j)`` and ``b_j(w, v) = W_2[v] . (g_j * W_1[w])`` for the likeliest tokens ``v`` of position
    j, and 0 for all others. The neighbour ``w`` is the nearest decided or given token on the left, whatever the reveal
    order; ``g_j`` depends on how far it is, on whether the denoiser saw it, and on the state ``h_j``. All potentials
    are 0 before training.

    Args:
        settings: Its shape. `from_denoiser` makes a head that fits.
    """

    def __init__(self, settings: NeighbourSettings):
        super().__init__()
        self.shape = settings
        self.reads_hidden, self.is_control = settings.reads_states, settings.blind
        rank, size = settings.rank, settings.vocab_size
        if not settings.blind:
            self.left, self.right = nn.Embedding(size, rank), nn.Embedding(size, rank)  # W_1 and W_2
            self.distance = nn.Parameter(
                torch.stack([torch.ones(NUM_DISTANCES, rank), torch.zeros(NUM_DISTANCES, rank)])
            )
            nn.init.zeros_(self.right.weight)
        if settings.reads_states:
            self.norm = nn.LayerNorm(settings.hidden_size, elementwise_affine=False)
            self.token, self.state = nn.Embedding(size, rank), nn.Linear(settings.hidden_size, rank, bias=False)
            nn.init.zeros_(self.token.weight)
            if not settings.blind:
                self.gate = nn.Linear(settings.hidden_size, rank, bias=False)
                nn.init.zeros_(self.gate.weight)

    @classmethod
    def from_denoiser(cls, denoiser: Denoiser, **options: Any) -> Self:
        """A head for this denoiser that leaves its marginals as they are until it is trained.

        Args:
            denoiser: Frozen; the head belongs to it from now on.
            options: Fields of `NeighbourOptions`.

        Raises:
            ValueError: an option breaks its rule.
        """
        shape = NeighbourOptions(**options)
        hidden_size = denoiser.hidden_size if shape.reads_states else None
        head = cls(NeighbourSettings(**vars(shape), vocab_size=denoiser.vocab_size, hidden_size=hidden_size))
        head.denoiser_identity = denoiser.identity
        return head

    def settings(self) -> dict[str, Any]:
        return asdict(self.shape)

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        return cls(NeighbourSettings(**settings))

    def forward(self, decision: Decision) -> Tensor:
        """``log p_theta - log q`` of the candidates, nats, ``[batch, k]``; 0 for rows that decide nothing."""
        if not len(decision.slots):
            return torch.zeros_like(decision.log_p)
        field = self._field(decision.step, decision.slots, decision.x_partial, PLAIN)
        tokens = decision.candidates[field.slots.rows, :, field.slots.positions]
        return decision.log_p - field.slots.sum_rows(self._log_q(field, tokens))

    def log_prob(self, step: Step, tokens: Tensor, round_size: int = 1, proposal: Proposal = PLAIN) -> Tensor:
        if not len(tokens):
            return precise(torch.zeros(len(step.x_t), device=tokens.device))
        field = self._field(step, step.slots, step.x_t, proposal)
        return field.slots.sum_rows(self._log_q(field, tokens[field.neighbours.order, None]))[:, 0]

    def sample(
        self,
        step: Step,
        uniforms: Tensor,
        round_size: int = 1,
        proposal: Proposal = PLAIN,
        num_likeliest: int = 0,
    ) -> tuple[Tensor, Likeliest]:
        if not len(step.slots):
            return step.slots.positions, None
        field = self._field(step, step.slots, step.x_t, proposal)
        uniforms = uniforms[field.neighbours.order.cpu()]
        states, others, laws = self._draw(field, uniforms)
        listed = field.shortlist.tokens.gather(1, states[:, None].clamp(max=field.shortlist.size - 1))[:, 0]
        tokens = torch.where(states < field.shortlist.size, listed, others)
        back = field.neighbours.order.argsort()
        likeliest = field.shortlist.likeliest(laws, num_likeliest)
        return tokens[back], None if likeliest is None else tuple(table[back] for table in likeliest)

    @abstractmethod
    def _log_q(self, field: Field, tokens: Tensor) -> Tensor:
        """Terms of ``log q`` of ``tokens[num_slots, k]``, whose sums over rows count; float64, the same shape."""

    @abstractmethod
    def _draw(self, field: Field, uniforms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States, tokens for the state "any other", both ``[num_slots]``, and the laws ``[num_slots, m + 1]``."""

    def _field(self, step: Step, slots: Slots, x_partial: Tensor, proposal: Proposal) -> Field:
        neighbours = Neighbours.of(step, slots, x_partial)
        slots = neighbours.slots
        logits = step.denoiser.possible(step.denoiser.slot_logits(step.encoding, slots))
        logits = logits if proposal.is_default else proposal(logits.log_softmax(-1))
        shortlist = Shortlist.of(logits, self.shape.num_likeliest)
        sharpness, unary = 1 / proposal.temperature, precise(shortlist.log_mass)
        states = self._states(step, slots) if self.shape.reads_states else None
        if states is not None:
            single = (self.token(shortlist.tokens) @ self.state(states)[..., None])[..., 0]
            unary = unary + F.pad(sharpness * single, (0, 1))
        if self.shape.blind:
            return Field(neighbours.without(), shortlist, unary, None)
        gate = self.distance[neighbours.seen.long(), neighbours.distance]
        if states is not None:
            gate = gate * (1 + self.gate(states))
        right = self.right(shortlist.tokens) * (sharpness * gate)[:, None]
        is_given = neighbours.given >= 0
        left = self.left(neighbours.given.clamp(min=0)) * is_given[:, None]
        after_given = (right @ left[..., None])[..., 0]
        return Field(neighbours, shortlist, unary + F.pad(after_given, (0, 1)), right)

    def _states(self, step: Step, slots: Slots) -> Tensor:
        """The states that enter the denoiser's last block, at the slots."""
        if step.encoding.hidden is None:
            raise ValueError(f"a {type(self).__name__} reads states, and {type(step.denoiser).__name__} gives none")
        states = step.encoding.hidden[-1][step.encoding.place[slots.rows], slots.positions]
        return self.norm(states.to(self.state.weight))

    def _links(self, field: Field, others: Tensor | None = None) -> Tensor:
        """Log-weights of a linked slot's states after each state on its left, ``[num_linked, m + 1, m + 1]``.

        After the state "any other" those of the tokens ``others[num_slots]``; without them no pairwise term.
        """
        linked = field.neighbours.linked
        if not len(linked):
            size = field.unary.shape[1]
            return field.unary.new_empty(0, size, size)
        source = field.neighbours.previous[linked]
        tokens = field.shortlist.tokens[source]
        if others is not None:
            tokens = torch.cat([tokens, others[source, None]], 1)
        pairs = self.left(tokens) @ field.right[linked].transpose(1, 2)
        return F.pad(pairs, (0, 1, 0, int(others is None))) + field.unary[linked][:, None]


@dataclass(frozen=True)
class Field:
    """The potentials of slots that are decided together.

    Attributes:
        neighbours: The slots, from left to right, and their neighbours.
        shortlist: Their states.
        unary: Log-weights of the states, with the term of a given neighbour; float64, ``[num_slots, m + 1]``.
        right: ``g_j * W_2[v]`` of the listed tokens, ``[num_slots, m, rank]``; None for the control.
    """

    neighbours: Neighbours
    shortlist: Shortlist
    unary: Tensor
    right: Tensor | None

    @property
    def slots(self) -> Slots:
        return self.neighbours.slots
