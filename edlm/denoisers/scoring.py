"""What an order that looks at the marginals gets to see of a pass."""

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.denoisers.encoding import Encoding
from edlm.denoisers.identity import DenoiserIdentity
from edlm.diffusion.adaptive import MarginalRule
from edlm.diffusion.slots import Slots
from edlm.memory import parts_of_table


def check_rule(rule: MarginalRule, denoiser: Denoiser) -> None:
    """Refuse, by ValueError, a rule that was trained for another denoiser."""
    if rule.identity is not None:
        DenoiserIdentity(**rule.identity).check(denoiser.identity, "this order")


def scores_at(rule: MarginalRule, denoiser: Denoiser, encoding: Encoding | None, wanted: Tensor) -> Tensor:
    """The rule's scores at ``wanted[batch, length]``, ``inf`` elsewhere, same shape.

    Raises:
        ValueError: the rule reads states, and the pass has none.
    """
    slots, nothing = Slots.where(wanted), torch.full(wanted.shape, torch.inf, device=wanted.device)
    if not len(slots):
        return nothing
    states = None
    if rule.reads_hidden and encoding.hidden is not None:
        states = encoding.hidden[-1][encoding.place[slots.rows], slots.positions]
    parts = parts_of_table(len(slots), denoiser.vocab_size, wanted.device)
    raw = [rule.raw_scores(denoiser.slot_log_probs(encoding, slots.part(part))) for part in parts]
    scores = rule.scores(torch.cat(raw), slots, states)
    return slots.write(nothing.to(scores), scores)
