"""The law of a step: a denoiser, an energy and the options by which they are combined."""

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from edlm.denoisers.base import Denoiser
from edlm.denoisers.scoring import check_rule
from edlm.diffusion.adaptive import MarginalRule
from edlm.diffusion.orders import RANDOM_ORDERS, RankedOrder
from edlm.diffusion.plan import RevealPlan, name_of_order, named_order, plan_in_blocks, plan_reveal
from edlm.diffusion.schedule import Schedule, get_schedule
from edlm.diffusion.streams import RowStreams
from edlm.energies.base import Energy
from edlm.energies.exact import ExactEnergy
from edlm.energies.gains import ALWAYS, Window
from edlm.energies.proposal import Proposal
from edlm.rules import check_options, shown
from edlm.sampler.notices import warn_left_out, warn_of_one_candidate, warn_of_order
from edlm.sampler.options import SamplerOptions, ScheduleName


@check_options
@dataclass(frozen=True, eq=False, repr=False)
class Kernel(SamplerOptions):
    """`SamplerOptions` with a denoiser and an energy; all functions of the sampler take one.

    Options that are "auto" (but for ``window``) hold their values afterwards: ``energy.recommended``, or the base's.
    ``dataclasses.replace(kernel, temperature=0.5)`` makes another one, whose options are checked again.

    Raises:
        ValueError: an option breaks its rule; the energy does not fit the denoiser, the scope or the order; or
            ``num_candidates`` is "auto" and the energy recommends no number.

    Warns:
        UserWarning: once for each energy and order: it was trained on others, is left out, or not run for k = 1.
    """

    denoiser: Denoiser = field(
        metadata={"rule": "a Denoiser (load_denoiser reads one, wrap_denoiser makes one of a network)"}
    )
    """Gives the marginals ``p_theta``; frozen."""

    energy: Energy | None = field(
        default=None,
        metadata={"rule": "an Energy or None (load_energy reads one, CallableEnergy makes one of a function)"},
    )
    """Judges candidates; None for the base sampler."""

    order: str | RankedOrder | MarginalRule = field(default="auto", kw_only=True)
    """A name, a function like those of `edlm.diffusion.orders.ORDERS`, or a `MarginalRule`."""

    schedule: ScheduleName | Schedule = field(default="log_linear", kw_only=True)
    """A name, or a `Schedule`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in self._recommended().items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "block_length", self._checked_block_length())
        self.denoiser.eval()
        _ = self.proposal, self.masking_schedule  # check their options
        if isinstance(self.reveal_order, MarginalRule):
            check_rule(self.reveal_order, self.denoiser)
        if self.num_candidates is None:
            self._check_tokenwise()
        if self.num_particles > 1:
            self._check_particles()
        if self.energy is not None:
            self.energy.eval()
            self._check_scope(self.energy)
            self.energy.check_denoiser(self.denoiser)
            if not self.energy_matters:
                warn_of_one_candidate(self.energy)
            elif self.window == "auto" and not self.energy_is_used:
                warn_left_out(self.energy, name_of_order(self.order), self.num_steps)
            else:
                warn_of_order(self.energy, name_of_order(self.order))

    @cached_property
    def proposal(self) -> Proposal:
        """What tokens are drawn from."""
        return Proposal(self.temperature, self.top_p, self.top_k)

    @cached_property
    def reveal_order(self) -> RankedOrder | MarginalRule:
        """What ranks positions."""
        return named_order(self.order) if isinstance(self.order, str) else self.order

    @cached_property
    def masking_schedule(self) -> Schedule:
        """Masking schedule."""
        return get_schedule(self.schedule)

    @property
    def energy_matters(self) -> bool:
        """Whether there is an energy that can change what is written; that of one candidate can only rule it out."""
        choice = (self.num_candidates, self.num_particles, self.on_impossible)
        return self.energy is not None and choice != (1, 1, "raise")

    @cached_property
    def energy_window(self) -> Window:
        """Times ``low < t <= high`` at which the energy is used; empty, ``low = high``, where it is left out."""
        if self.window == "auto" and self.tokenwise:
            return self.energy.gaining_window(name_of_order(self.order), self.num_steps, self.block_length)
        return ALWAYS if self.window == "auto" else self.window

    @cached_property
    def energy_is_used(self) -> bool:
        """Whether the energy matters, and any of the steps uses it; else the sampler is the base, in all it does."""
        near = int(self.energy_window[1] * self.num_steps) + torch.tensor([-1, 0, 1]).double()  # of times i / T
        return bool(self.uses_energy(near.clamp(1, self.num_steps) / self.num_steps).any())

    def uses_energy(self, t: Tensor) -> Tensor:
        """Whether the energy matters and times ``t[batch]`` lie in its window, bool, ``[batch]``."""
        low, high = self.energy_window
        return (low < t) & (t <= high) if self.energy_matters else torch.zeros_like(t, dtype=torch.bool)

    def plan(self, masked: Tensor, streams: RowStreams) -> RevealPlan:
        """When each position of ``masked[batch, length]`` is revealed; see `plan_reveal`."""

        def of_blocks(masked: Tensor, number: int) -> RevealPlan:
            return plan_reveal(masked, self.reveal_order, self.num_steps, self.masking_schedule, streams.order(number))

        return plan_in_blocks(masked, self.block_length, of_blocks, aligned=self.denoiser.block_size is not None)

    @property
    def options(self) -> dict[str, Any]:
        """All options by name, with values in place of "auto"."""
        return {o.name: getattr(self, o.name) for o in fields(SamplerOptions)} | {"window": self.energy_window}

    @property
    def device(self) -> torch.device:
        """Where the denoiser runs."""
        return self.denoiser.device

    def to(self, device: str | torch.device) -> Self:
        """Move the denoiser and the energy, in place, as modules do; returns the sampler itself."""
        for module in (self.denoiser, self.energy):
            if module is not None:
                module.to(device)
        return self

    def __repr__(self) -> str:
        """Denoiser, energy and the options that are not their defaults."""
        defaults = {option.name: option.default for option in fields(SamplerOptions)} | {"window": ALWAYS}
        parts = [shown(part).split()[-1] for part in (self.denoiser, self.energy) if part is not None]
        parts += [f"{name}={value!r}" for name, value in self.options.items() if value != defaults[name]]
        return f"{type(self).__name__}({', '.join(parts)})"

    @property
    def tokenwise(self) -> bool:
        """Whether tokens are decided one by one from a normalised energy, without candidates."""
        return self.energy is not None and self.num_candidates is None

    @property
    def candidates_weighed(self) -> int:
        """Number of candidates of a decision; 1 where there are no weights."""
        return 1 if self.energy is None or self.tokenwise else self.num_candidates

    @property
    def reads_hidden(self) -> bool:
        """Whether the energy or the order reads the denoiser's states."""
        by_energy = self.energy_is_used and self.energy.reads_hidden
        return by_energy or getattr(self.reveal_order, "reads_hidden", False)

    @property
    def keeps_impossible(self) -> bool:
        """Whether a row whose candidates are all impossible stays masked; as a particle it has no weight then."""
        return self.on_impossible == "keep" or self.num_particles > 1

    @property
    def bound_is_exact(self) -> bool:
        """Whether `EnergySampler.likelihood_bound` is ``-log P`` itself, for all seeds, where energies are finite."""
        is_fixed = isinstance(self.order, str | MarginalRule) and self.order not in RANDOM_ORDERS
        return is_fixed and self.candidates_weighed == self.num_particles == 1

    @property
    def round_size(self) -> int:
        """Tokens of a row that are drawn at once where they are decided without candidates."""
        return self.group_size or 1

    def _recommended(self) -> dict[str, Any]:
        """Values of the options that are "auto"."""
        recommended = {"num_candidates": 1} if self.energy is None else self.energy.recommended
        k, scope, group_size = self.num_candidates, self.scope, self.group_size
        if self.num_particles > 1:
            recommended = {**recommended, "num_candidates": 1, "scope": "step", "group_size": None}
        if k == "auto":
            if "num_candidates" not in recommended:
                name = type(self.energy).__name__
                raise ValueError(f"num_candidates must be given: {name} recommends none, got 'auto'")
            k = recommended["num_candidates"]
            if group_size is None and scope != "sequence":
                group_size = recommended.get("group_size")
        if scope == "auto":
            scope = "step" if k is None or group_size is not None else recommended.get("scope", "step")
        order = recommended.get("order", "bisecting") if self.order == "auto" else self.order
        return {"num_candidates": k, "scope": scope, "group_size": group_size, "order": order}

    def _checked_block_length(self) -> int | None:
        size = self.denoiser.block_size
        if size is not None and self.block_length not in (None, size):
            raise ValueError(f"block_length must be the denoiser's block_size ({size}), got {self.block_length}")
        return size if self.block_length is None else self.block_length

    def _check_tokenwise(self) -> None:
        if self.energy is not None and not isinstance(self.energy, ExactEnergy):
            raise ValueError(
                "num_candidates=None (exact decisions) needs an energy that can be drawn from (ExactEnergy), "
                f"got {type(self.energy).__name__}"
            )
        if self.scope != "step":
            raise ValueError(f"num_candidates=None (exact decisions) needs scope='step', got {self.scope!r}")
        if self.energy is not None and self.group_size is not None and not self.energy.draws_in_rounds:
            raise ValueError(
                f"group_size needs candidates with a {type(self.energy).__name__}, which draws all tokens of a step at "
                f"once; got {self.group_size}"
            )
        if self.weight_temperature != 1:
            raise ValueError(
                f"weight_temperature must be 1 where num_candidates=None: no weights, got {self.weight_temperature}"
            )
        if self.energy is not None and self.correct_proposal and not self.proposal.is_default:
            raise ValueError(
                "correct_proposal with num_candidates=None (no weights to correct by) needs temperature=1, top_p=1 and "
                f"top_k=None, got {self.proposal}"
            )

    def _check_particles(self) -> None:
        number = self.num_particles
        if self.energy is None or self.num_candidates is None:
            weights = "an energy" if self.energy is None else "candidates: exact decisions have no weights"
            raise ValueError(f"num_particles > 1 needs {weights}; got {number}")
        if self.scope != "step":
            raise ValueError(f"num_particles > 1 needs scope='step': the weights of steps multiply; got {self.scope!r}")
        if self.on_impossible != "raise":
            raise ValueError(
                "on_impossible must be 'raise' with num_particles > 1, where a particle whose candidates are all "
                f"impossible is resampled; got {self.on_impossible!r}"
            )

    def _check_scope(self, energy: Energy) -> None:
        if energy.reads != "slots" and self.on_impossible == "keep" and self.block_length is not None:
            raise ValueError(
                f"on_impossible='keep' may leave masks, and {type(energy).__name__} cannot judge the block after one: "
                f"use 'raise' or 'redraw' with blocks of {self.block_length}"
            )
        if energy.reads == "slots" or self.scope == "sequence":
            return
        if energy.reads == "sequence" or self.order != "left_to_right":
            instead = ", or order='left_to_right'" if energy.reads == "prefix" else ""
            raise ValueError(
                f"{type(energy).__name__} needs complete sequences: use scope='sequence'{instead}; "
                f"got scope='step', order={name_of_order(self.order)!r}"
            )
