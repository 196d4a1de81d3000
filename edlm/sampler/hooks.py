"""Reranking inside another library's sampling loop, through the logits that the loop passes."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.diffusion.slots import Slots
from edlm.diffusion.streams import row_seeds
from edlm.energies.base import Energy
from edlm.energies.proposal import Proposal
from edlm.numerics import precise, widest_float
from edlm.rules import check
from edlm.sampler.given import GivenPass
from edlm.sampler.one_step import StepOptions, rerank_step

_SMALL, _LEAST, _LARGEST = 1e-3, 1e-6, 60.0  # logits; float16 distinguishes them


class RerankLogits:
    """Turns the logits of a loop into those of a candidate that an energy chose: ``(x, logits) -> logits``.

    For loops that take the largest logit at every masked position and, as confidence, its probability, such as
    LLaDA's ``generate`` at temperature 0: the largest logit is that of the chosen token, its softmax is the
    denoiser's own probability of it, and the remainder is spread evenly. So the loop keeps its order of confidence.

    Candidates fill all masked positions (sequence scope), drawn from the loop's own logits, which must predict the
    token at their own position. One object serves one batch from its first step to its last.

    Args:
        denoiser: The mask token, or a `Denoiser` of the same network, whose impossible tokens, tokenizer and identity
            (which trained energies fit) are then used.
        energy: Judges candidates. It may not read the denoiser's hidden states.
        num_candidates: ``k``, >= 1.
        options: Of `EnergySampler`: ``temperature``, ``top_p``, ``top_k``, ``correct_proposal``,
            ``weight_temperature``, ``window`` (``t`` is the share of the first call's masks that is left) and
            ``on_impossible``, "raise" or "redraw".
        seed: Row r gets ``seed + r``; or one seed a row; None draws them from torch's global generator.

    Raises:
        ValueError: an option breaks its rule, or the energy needs more than a loop gives it.

    Note:
        A token with ``p <= 1 / vocab_size`` cannot both be the largest and have its own probability when the others are
        spread evenly: its confidence is then just above ``1 / vocab_size``, the higher the likelier. A loop that adds
        noise or a temperature of its own undoes the choice. Rows that are padded on the left are judged with their
        padding.

    Example:
        >>> from edlm import CallableEnergy
        >>> sevens = CallableEnergy(lambda candidates, x, log_p: -9.0 * (candidates == 7).sum(-1))
        >>> rerank = RerankLogits(9, sevens, num_candidates=64, seed=0)
        >>> rerank(torch.tensor([[9, 2, 9]]), torch.zeros(1, 3, 9)).argmax(-1)[0, ::2]
        tensor([7, 7])
    """

    def __init__(
        self,
        denoiser: Denoiser | int,
        energy: Energy,
        num_candidates: int,
        *,
        seed: int | Sequence[int] | None = None,
        **options: Any,
    ):
        denoiser, energy = check("denoiser", denoiser, int | Denoiser), check("energy", energy, Energy)
        if energy.reads_hidden:
            raise ValueError(f"a loop passes logits only, and {type(energy).__name__} reads hidden states")
        allowed = {"temperature", "top_p", "top_k", "correct_proposal", "weight_temperature", "window", "on_impossible"}
        if not options.keys() <= allowed:
            raise ValueError(f"options must be among {sorted(allowed)}, got {sorted(options.keys() - allowed)}")
        if num_candidates is None or options.get("on_impossible") == "keep":
            raise ValueError(
                "a loop writes tokens at every step: num_candidates must be a number, and on_impossible 'raise' or "
                f"'redraw'; got {num_candidates} and {options.get('on_impossible', 'raise')!r}"
            )
        self.denoiser = denoiser
        self.energy = energy
        self.options = {"num_candidates": num_candidates, "scope": "sequence", **options}
        StepOptions(**self.options)  # checks them
        self.seed = check("seed", seed, int | Sequence[int] | None)
        self.reset()

    def reset(self) -> None:
        """Begin anew, with another batch."""
        self._seeds: list[int] | None = None
        self._num_masked: Tensor | None = None
        self._step = 0

    def __call__(self, x: Tensor, logits: Tensor) -> Tensor:
        """Logits that make the loop draw the chosen candidates.

        Args:
            x: Tokens, masks where unknown, shape ``[batch, length]``.
            logits: Of the denoiser, for the token at the same position, shape ``[batch, length, vocab_size]``.

        Returns:
            The same shape and dtype; unchanged where nothing is masked.
        """
        return as_logits(logits, *self._choose(x, logits), self.denoiser)

    def _choose(self, x: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens, with all masks filled, and where they were filled, both ``[batch, length]``."""
        masked = x == (self.denoiser if isinstance(self.denoiser, int) else self.denoiser.mask_token_id)
        if self._seeds is None:
            self._seeds = row_seeds(len(x), self.seed)
            self._num_masked = masked.sum(1)
        if len(self._num_masked) != len(x):
            raise ValueError(f"a batch must keep its {len(self._num_masked)} rows, got {len(x)}: reset() begins anew")
        t = masked.sum(1).to(widest_float(x.device)) / self._num_masked.clamp(min=1)
        call = {"t": t, "seeds": self._seeds, "step": self._step, **self.options}
        decided = rerank_step(x, logits, None, self.energy, self.denoiser, **call)
        self._step += 1
        return decided


class DreamLogitsHook(RerankLogits):
    """`RerankLogits` as Dream's ``generation_logits_hook_func``: ``(step, x, logits) -> logits``.

    Dream passes logits that are already shifted to their own positions. For ``alg="origin"`` at any temperature
    the chosen token is left as the only one; for the algorithms by confidence set ``keep_confidence``, and Dream's
    temperature to 0, so that its order of confidence stays. A call with step 0 begins anew.

    Args:
        args: Those of `RerankLogits`: ``denoiser``, ``energy``, ``num_candidates``.
        keep_confidence: Return the logits of `RerankLogits`.
        options: Those of `RerankLogits`, ``seed`` among them.
    """

    def __init__(self, *args: Any, keep_confidence: bool = False, **options: Any):
        super().__init__(*args, **options)
        self.keep_confidence = keep_confidence

    def __call__(self, step: int | None, x: Tensor, logits: Tensor) -> Tensor:
        """Logits that make Dream draw the chosen candidates.

        Args:
            step: Dream's; None is a call before the loop, and changes nothing.
            x: Tokens, shape ``[batch, length]``.
            logits: Shifted, shape ``[batch, length, vocab_size]``.
        """
        if step is None:
            return logits
        if step == 0:
            self.reset()
        if self.keep_confidence:
            return super().__call__(x, logits)
        tokens, accepted = self._choose(x, logits)
        slots = Slots.where(accepted)
        return _write_logits(logits, slots, slots.gather(tokens), -torch.inf, torch.zeros(len(slots), device=x.device))


def as_logits(
    logits: Tensor, tokens: Tensor, accepted: Tensor, denoiser: Denoiser | int, proposal: Proposal | None = None
) -> Tensor:
    """Logits whose largest is the decided token's, with its probability as their softmax there; see `RerankLogits`.

    Args:
        logits: Those of the loop, shape ``[batch, length, vocab_size]``; kept where nothing was decided.
        tokens: As `rerank_step` returns them.
        accepted: As `rerank_step` returns them.
        denoiser: As for `rerank_step`.
        proposal: The law whose probabilities are meant; by default the marginals.
    """
    slots = Slots.where(accepted)
    chosen, log_probs = slots.gather(tokens), GivenPass(denoiser, logits).slot_log_probs(None, slots)
    log_q = log_probs if proposal is None else proposal(log_probs)
    log_p = precise(log_q.gather(1, chosen[:, None])[:, 0])
    # softmax = p  <=>  logit = log(p / (1 - p)) + log(V - 1), all others 0
    margin = log_p - torch.log1p(-log_p.exp()) + math.log(logits.shape[-1] - 1)
    margin = torch.where(margin < _SMALL, _SMALL * (margin - _SMALL).exp(), margin)
    return _write_logits(logits, slots, chosen, 0.0, margin.clamp(_LEAST, _LARGEST))


def _write_logits(logits: Tensor, slots: Slots, chosen: Tensor, others: float, largest: Tensor) -> Tensor:
    """Logits with ``largest`` at the chosen tokens of the slots and ``others`` at all their other tokens."""
    at_slots = logits.new_full((len(slots), logits.shape[-1]), others)
    at_slots.scatter_(1, chosen[:, None], largest.to(logits)[:, None])
    return logits.index_put((slots.rows, slots.positions), at_slots)
