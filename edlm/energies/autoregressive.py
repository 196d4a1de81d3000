"""The energy of a causal language model: no training, exact in the limit of many candidates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from typing_extensions import Self

from edlm.energies.base import Decision
from edlm.energies.causal_scoring import CausalScorer
from edlm.energies.pretrained import PretrainedEnergy


class AutoregressiveEnergy(PretrainedEnergy):
    """``E = log p_theta(slots | x_t) - log p_AR(x_0 | clean prefix)``, nats, from any causal LM.

    ``log p_AR`` sums the terms ``log p_AR(x^i | x^0 .. x^{i-1})`` of a row from its first slot to
    the first position that is still masked (the end, at sequence scope). Terms before the first
    slot are equal for all candidates of a row and are left out. With every step reranked and many
    candidates the samples follow ``p_AR``, whatever the number of steps.

    Args:
        model: A causal LM over the denoiser's token ids; put into evaluation mode.
        bos_token_id: Token that goes before each row, so that its first token has a term. None: the
            LM scores from the second token on, and the first one must be given.
        carry_over: "coAR": only the terms at the slots, so ``Z = 1``; right for one step, but blind
            to what is revealed on the right of a slot.
        max_tokens_per_pass: Bounds the tokens of a pass, cached ones included (a longer row alone
            is still one pass); changes memory and speed only.

    Raises:
        ValueError: an option breaks its rule, or the model takes no ``logits_to_keep``.

    Note:
        Ids must mean the same text in both models; that is not checked. ``p_AR`` keeps its own
        normalisation: mass on tokens that the denoiser cannot produce (its mask, padded columns)
        is lost to all candidates alike at sequence scope, where it cancels; with
        ``carry_over`` or at step scope it makes ``Z < 1``. No gradient is kept.

    References:
        Xu et al. 2025, arXiv:2410.21357 (EDLM-AR and EDLM-coAR).

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> shape = {"vocab_size": 5, "n_embd": 8, "n_layer": 1, "n_head": 2}
        >>> energy = AutoregressiveEnergy(GPT2LMHeadModel(GPT2Config(**shape)), bos_token_id=4)
        >>> energy.log_prob(torch.tensor([[2, 0, 3], [1, 1, 1]])).shape
        torch.Size([2])
    """

    needs_complete = True
    prefix_suffices = True

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        bos_token_id: int | None,
        carry_over: bool = False,
        max_tokens_per_pass: int = 16384,
    ):
        super().__init__()
        vocab_size = model.config.get_text_config().vocab_size
        if bos_token_id is not None and not 0 <= bos_token_id < vocab_size:
            raise ValueError(f"bos_token_id must lie in 0..{vocab_size - 1} or be None, got {bos_token_id}")
        if max_tokens_per_pass < 1:
            raise ValueError(f"max_tokens_per_pass must be >= 1, got {max_tokens_per_pass}")
        self.model = model.eval()
        self.bos_token_id = bos_token_id
        self.carry_over = carry_over
        self.max_tokens_per_pass = max_tokens_per_pass
        self._scorer = CausalScorer(model, bos_token_id, max_tokens_per_pass)

    @classmethod
    def from_causal_lm(
        cls,
        path: str | Path,
        *,
        bos_token_id: int | None | str = "auto",
        carry_over: bool = False,
        max_tokens_per_pass: int = 16384,
        **model_options: Any,
    ) -> Self:
        """Load a transformers causal LM as an energy.

        Args:
            path: Folder or hub id.
            bos_token_id: As for the class; ``"auto"`` takes it from the model's configuration, or
                else from its tokenizer, and is None if neither has one.
            carry_over: As for the class.
            max_tokens_per_pass: As for the class.
            model_options: Handed on to transformers, ``dtype`` for one (float32 by default).

        Raises:
            OSError: no model is found there.
            ValueError: the token found lies outside of the model's vocabulary.
        """
        options = {"dtype": torch.float32, **model_options}
        model = AutoModelForCausalLM.from_pretrained(path, **options)
        if bos_token_id == "auto":
            bos_token_id = model.config.get_text_config().bos_token_id
            if bos_token_id is None:
                bos_token_id = _bos_of_tokenizer(path)
        return cls(
            model,
            bos_token_id=bos_token_id,
            carry_over=carry_over,
            max_tokens_per_pass=max_tokens_per_pass,
        )

    def settings(self) -> dict[str, Any]:
        return {
            "config": json.loads(self.model.config.to_json_string(use_diff=False)),
            "bos_token_id": self.bos_token_id,
            "carry_over": self.carry_over,
            "max_tokens_per_pass": self.max_tokens_per_pass,
        }

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        config = AutoConfig.for_model(**settings["config"])
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        return cls(model, **{name: v for name, v in settings.items() if name != "config"})

    @torch.no_grad()
    def forward(self, decision: Decision) -> Tensor:
        """Energies ``[batch, k]``; 0 in rows without slots.

        Raises:
            ValueError: something before a slot is masked; position 0 is a slot and there is no BOS;
                a row is too long for the model; a token lies outside of its vocabulary.
        """
        terms = self._terms(decision)
        energy = torch.zeros_like(decision.log_proposal)
        active = decision.slots.counts.nonzero()[:, 0]
        if len(active):
            k = decision.num_candidates
            rows = active.repeat_interleave(k)
            tokens = decision.candidates[active].flatten(0, 1)
            # Identical candidates of a row are scored once.
            some, kind = _distinct(torch.cat([rows[:, None], tokens], 1))
            log_p_ar = self._scorer.sum_terms(tokens[some], terms[rows[some]], rows[some])[kind]
            energy[active] = decision.log_proposal[active] - log_p_ar.view(-1, k).to(energy)
        return energy

    @torch.no_grad()
    def log_prob(self, tokens: Tensor) -> Tensor:
        """``log p_AR`` of whole sequences, nats; without BOS: given their first token.

        Args:
            tokens: Shape ``[n, length]``.

        Returns:
            Shape ``[n]``, float64.

        Raises:
            ValueError: a row is too long for the model, or a token outside of its vocabulary.
        """
        terms = torch.ones_like(tokens, dtype=torch.bool)
        if self.bos_token_id is None:
            terms[:, :1] = False
        return self._scorer.sum_terms(tokens, terms, torch.arange(len(tokens), device=tokens.device))

    def _terms(self, decision: Decision) -> Tensor:
        """Positions whose tokens are scored, bool ``[batch, length]``."""
        step, slots = decision.step, decision.slots
        at_slot = torch.zeros_like(decision.x_partial, dtype=torch.bool)
        at_slot[slots.rows, slots.positions] = True
        unknown = (decision.x_partial == step.denoiser.mask_token_id) & ~at_slot
        if step.attention_mask is not None:
            unknown = unknown | ~step.attention_mask.bool()
        readable = unknown.cumsum(1) == 0
        if (at_slot & ~readable).any():
            rows = (at_slot & ~readable).any(1).nonzero()[:, 0].tolist()
            raise ValueError(
                f"a causal LM reads from the left: nothing before a slot may be masked, got masks "
                f"(or padding) in rows {rows}; use scope='sequence' or order='left_to_right'"
            )
        if self.bos_token_id is None and at_slot[:, :1].any():
            raise ValueError(
                "without bos_token_id the LM has no term for position 0, which is a slot: "
                "give a bos_token_id, or let the first token of every row be given"
            )
        return at_slot if self.carry_over else readable & (at_slot.cumsum(1) > 0)


def _distinct(sequences: Tensor) -> tuple[Tensor, Tensor]:
    """One index of each distinct sequence, and for each sequence which of these equals it.

    Sorting 64-bit keys is much faster than sorting sequences; should two keys collide, all count
    as distinct.
    """
    count = len(sequences)
    everyone = torch.arange(count, device=sequences.device)
    draw = torch.Generator().manual_seed(0)
    odd = torch.randint(-(2**62), 2**62, (sequences.shape[1],), generator=draw) * 2 + 1
    kind = (sequences * odd.to(sequences.device)).sum(1).unique(return_inverse=True)[1]
    some = torch.full((int(kind.max()) + 1,), count, device=sequences.device)
    some.scatter_reduce_(0, kind, everyone, "amin")
    if not torch.equal(sequences[some[kind]], sequences):
        return everyone, everyone
    return some, kind


def _bos_of_tokenizer(path: str | Path) -> int | None:
    if not get_tokenizer_config(path):  # AutoTokenizer would make one up
        return None
    return AutoTokenizer.from_pretrained(path).bos_token_id
