"""Heads whose tokens see their left neighbour alone: what `MarkovHead` and `ChainHead` have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from edlm.denoisers.base import Denoiser
from edlm.diffusion.slots import Slots
from edlm.energies.chains import draw_apart
from edlm.energies.decision import Decision, Step
from edlm.energies.exact import ExactEnergy
from edlm.energies.laws import Likeliest
from edlm.energies.neighbours import NUM_DISTANCES, Neighbours
from edlm.energies.pretrained import PretrainedEnergy
from edlm.energies.proposal import PLAIN, Proposal
from edlm.energies.shortlist import Shortlist, shortlist_and_draws, shortlist_and_shares
from edlm.memory import rows_at_once
from edlm.numerics import precise, widest_float

_ENTRIES_OF_CPU = 2**20  # of the tables of chains that are computed together


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
        neighbours = Neighbours.of(decision.step, decision.slots, decision.x_partial)
        tokens = decision.candidates[neighbours.slots.rows, :, neighbours.slots.positions]
        return decision.log_p - self._log_law(decision.step, neighbours, tokens, PLAIN)

    def log_prob(self, step: Step, tokens: Tensor, round_size: int = 1, proposal: Proposal = PLAIN) -> Tensor:
        if not len(tokens):
            return precise(torch.zeros(len(step.x_t), device=tokens.device))
        neighbours = Neighbours.of(step, step.slots, step.x_t)
        return self._log_law(step, neighbours, tokens[neighbours.order, None], proposal)[:, 0]

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
        neighbours, device = Neighbours.of(step, step.slots, step.x_t), step.x_t.device
        uniforms = uniforms[neighbours.order.cpu()].to(device, widest_float(device))
        size = self.shape.num_likeliest
        shortlist, others = shortlist_and_draws(step, neighbours.slots, proposal, size, uniforms[:, 1:])
        drawn = [
            self._draw(field, others[part], uniforms[part, :1])
            if len(field.neighbours.linked)
            else draw_apart(field.unary, uniforms[part, :1])
            for part, field in self._fields(step, neighbours, shortlist, proposal)
        ]
        states, laws = map(torch.cat, zip(*drawn, strict=True))
        back = neighbours.order.argsort()
        likeliest = shortlist.likeliest(laws, num_likeliest)
        tokens = shortlist.tokens_of(states, others)[back]
        return tokens, None if likeliest is None else tuple(table[back] for table in likeliest)

    def _log_law(self, step: Step, neighbours: Neighbours, tokens: Tensor, proposal: Proposal) -> Tensor:
        """``log q`` of ``tokens[num_slots, k]``, nats, ``[batch, k]``."""
        size = self.shape.num_likeliest
        shortlist, shares = shortlist_and_shares(step, neighbours.slots, proposal, size, tokens)
        terms = [
            self._log_q(field, tokens[part]) for part, field in self._fields(step, neighbours, shortlist, proposal)
        ]
        return neighbours.slots.sum_rows(torch.cat(terms) + shares)

    @abstractmethod
    def _log_q(self, field: Field, tokens: Tensor) -> Tensor:
        """Terms of ``log q`` of the states of ``tokens[num_slots, k]``, whose sums over rows count; float64."""

    @abstractmethod
    def _draw(self, field: Field, others: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """States, and weights that they are drawn by, ``[num_slots, m + 1]``; some slots are linked.

        ``others[num_slots]`` are the tokens of the state "any other"; uniforms ``[num_slots, 1]``.
        """

    def _fields(
        self, step: Step, neighbours: Neighbours, shortlist: Shortlist, proposal: Proposal
    ) -> Iterator[tuple[slice, Field]]:
        """Whole chains, so many that their tables are small, and their potentials."""
        width = (shortlist.size + 1) * max(shortlist.size + 1, self.shape.rank)
        for part in neighbours.parts(rows_at_once(width, step.x_t.device, _ENTRIES_OF_CPU)):
            yield part, self._field(step, neighbours.part(part), shortlist.part(part), 1 / proposal.temperature)

    def _field(self, step: Step, neighbours: Neighbours, shortlist: Shortlist, sharpness: float) -> Field:
        unary = precise(shortlist.log_mass)
        states = self._states(step, neighbours.slots) if self.shape.reads_states else None
        if states is not None:
            single = (self.token(shortlist.tokens) @ self.state(states)[..., None])[..., 0]
            unary = unary + F.pad(sharpness * single, (0, 1))
        if self.shape.blind:
            return Field(neighbours.without(), shortlist, unary, None)
        gate = sharpness * self.distance[neighbours.seen.long(), neighbours.distance]
        if states is not None:
            gate = gate * (1 + self.gate(states))
        field, after = Field(neighbours, shortlist, unary, gate), (neighbours.given >= 0).nonzero()[:, 0]
        after_given = self._pairs(field, after, neighbours.given[after, None])[:, 0]
        return replace(field, unary=unary.index_add(0, after, precise(F.pad(after_given, (0, 1)))))

    def _states(self, step: Step, slots: Slots) -> Tensor:
        """The states that enter the denoiser's last block, at the slots."""
        if step.encoding.hidden is None:
            raise ValueError(f"a {type(self).__name__} reads states, and {type(step.denoiser).__name__} gives none")
        states = step.encoding.hidden[-1][step.encoding.place[slots.rows], slots.positions]
        return self.norm(states.to(self.state.weight))

    def _pairs(self, field: Field, at: Tensor, left: Tensor) -> Tensor:
        """``b_j(w, v)`` of slots ``at[n]``, left neighbours ``left[n, k]`` and the listed tokens, ``[n, k, m]``."""
        right = self.right(field.shortlist.tokens[at])
        return (self.left(left) * field.gate[at, None]) @ right.transpose(1, 2)

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
        pairs = self._pairs(field, linked, tokens)
        links = field.unary[linked, None].repeat(1, field.unary.shape[1], 1)
        links[:, : pairs.shape[1], :-1] += pairs
        return links


@dataclass(frozen=True)
class Field:
    """The potentials of slots that are decided together.

    Attributes:
        neighbours: The slots, from left to right, and their neighbours.
        shortlist: Their states.
        unary: Log-weights of the states, with the term of a given neighbour; float64, ``[num_slots, m + 1]``.
        gate: ``g_j``, ``[num_slots, rank]``; None for the control.
    """

    neighbours: Neighbours
    shortlist: Shortlist
    unary: Tensor
    gate: Tensor | None
