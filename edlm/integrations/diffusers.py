"""Reranking inside the ``LLaDA2Pipeline`` of diffusers: by its scheduler, or by its callback at the end of a step."""

from typing import Any

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.energies.base import Energy
from edlm.energies.proposal import Proposal
from edlm.integrations.passes import run_pass
from edlm.rules import check, check_names, shown
from edlm.sampler.hooks import as_logits
from edlm.sampler.one_step import check_writes, rerank_step


class RerankScheduler:
    """A scheduler of ``LLaDA2Pipeline`` that lets an energy choose among candidates of the block.

    ``LLaDA2Pipeline(model, RerankScheduler(BlockRefinementScheduler(), energy, num_candidates=8), tokenizer)``. At each
    step ``k`` candidates fill the block's masks, drawn from the pipeline's logits at the pipeline's ``temperature``,
    ``top_k`` and ``top_p``; the energy chooses one. Which of its tokens are committed, and edits of committed ones, is
    decided by the wrapped scheduler as ever: the chosen tokens come to it as greedy ones, each with its own
    probability as confidence. With one candidate the pipeline's law is as without this.

    Args:
        scheduler: ``BlockRefinementScheduler``, or one with the same ``step``.
        energy: Judges candidates: the block alone, since the pipeline passes no more. It may not read hidden states.
        num_candidates: ``k``, >= 1.
        denoiser: A `Denoiser` of the pipeline's model, for tokens that it rules out, text and trained energies; by
            default the pipeline's mask token is all that is known.
        options: ``correct_proposal``, ``weight_temperature`` and ``on_impossible`` ("raise" or "redraw") of
            `SamplerOptions`.

    Note:
        Masks of the last block beyond ``gen_length`` are filled and judged too: let prompt and ``gen_length`` add up to
        a multiple of ``block_length``. Edits are greedy.
    """

    def __init__(
        self,
        scheduler: Any,
        energy: Energy | None,
        num_candidates: int = 1,
        denoiser: Denoiser | None = None,
        **options: Any,
    ):
        check_names(type(self).__name__, options, ["correct_proposal", "weight_temperature", "on_impossible"])
        check_writes(options.get("on_impossible", "raise"), "the scheduler commits at every step")
        self.scheduler = scheduler
        self.energy = check("energy", energy, Energy | None)
        self.denoiser = check("denoiser", denoiser, Denoiser | None)
        self.options = {"num_candidates": check("num_candidates", num_candidates, int), **options}

    def __getattr__(self, name: str) -> Any:
        if name == "scheduler":  # while a copy is made
            raise AttributeError(name)
        return getattr(self.scheduler, name)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        *,
        mask_token_id: int | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Any:
        """The wrapped scheduler's step, on logits that make the chosen tokens its greedy ones.

        Raises:
            ValueError: there is no mask token (uniform noise), or candidates are greedy and would all be the same.
        """
        if mask_token_id is None:
            raise ValueError("mask_token_id must be given: candidates fill masks, got None")
        greedy = not options.get("temperature", 0.0) > 0 or options.get("sampling_method") == "greedy"
        if greedy and self.options["num_candidates"] > 1:
            method, temperature = options.get("sampling_method", "auto"), options.get("temperature", 0.0)
            rule = "the pipeline's temperature must be > 0 where there are candidates to choose from"
            raise ValueError(f"{rule}, got temperature={temperature}, sampling_method={method!r}")
        proposal = Proposal(top_k=1) if greedy else self._proposal(options)
        denoiser = mask_token_id if self.denoiser is None else self.denoiser
        settings = {**vars(proposal), **self.options, "generator": generator}
        tokens, accepted = rerank_step(sample, model_output, None, self.energy, denoiser, **settings)
        # Greedy: of the proposal's law all tokens would have probability 1.
        logits = as_logits(model_output, tokens, accepted, denoiser, None if greedy else proposal)
        taken = {"temperature": 0.0, "top_p": None, "top_k": None, "sampling_method": "greedy"}
        call = {**options, **taken, "mask_token_id": mask_token_id, "generator": generator}
        return self.scheduler.step(logits, timestep, sample, **call)

    @staticmethod
    def _proposal(options: dict[str, Any]) -> Proposal:
        """The law that the pipeline asks for."""
        top_p, top_k = options.get("top_p"), options.get("top_k")
        return Proposal(options["temperature"], 1.0 if top_p is None else top_p, top_k or None)


class RerankCallback:
    """``callback_on_step_end`` of ``LLaDA2Pipeline``: the tokens that a step committed are decided anew, jointly.

    The pipeline's scheduler says which positions a step commits; the energy sees the whole text so far, and states if
    it reads them. That takes one more pass of the network a step::

        callback = RerankCallback(denoiser, energy)
        pipeline(..., callback_on_step_end=callback, callback_on_step_end_tensor_inputs=callback.tensor_inputs)

    Args:
        denoiser: Runs the pipeline's model, such as `wrap_denoiser` gives.
        energy: Decides the tokens.
        attention_mask: Of the prompts, 0 at padding, on either side, which is not judged; ``[batch, prompt_length]``.
        keep_eos: A committed end of text (``eos_token_id`` of the pipeline) stays: the pipeline has stopped there.
            The exact law needs False here and ``eos_early_stop=False`` there.
        generator: Draws the seeds; by default torch's global one.
        options: Of `StepOptions`, such as ``num_candidates``, ``temperature``.
    """

    tensor_inputs = ("block_x", "transfer_index")

    def __init__(
        self,
        denoiser: Denoiser,
        energy: Energy | None,
        *,
        attention_mask: Tensor | None = None,
        keep_eos: bool = True,
        generator: torch.Generator | None = None,
        **options: Any,
    ):
        self.denoiser = check("denoiser", denoiser, Denoiser)
        self.energy = check("energy", energy, Energy | None)
        self.attention_mask = attention_mask
        self.keep_eos = keep_eos
        self.generator = generator
        self.options = options

    def __call__(self, pipeline: Any, step: int, timestep: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """``{"block_x": tokens[batch, length]}``, the text so far with the step's tokens decided anew.

        Raises:
            ValueError: the pipeline does not pass `tensor_inputs`.
        """
        if not set(self.tensor_inputs) <= tensors.keys():
            wanted = list(self.tensor_inputs)
            raise ValueError(f"callback_on_step_end_tensor_inputs must hold {wanted}, got {shown(sorted(tensors))}")
        text, transfer = tensors["block_x"], tensors["transfer_index"]
        block, mask = text[:, -transfer.shape[1] :], self.denoiser.mask_token_id
        committed = transfer & (block != mask)
        if self.keep_eos and pipeline.eos_token_id is not None:
            committed = committed & (block != pipeline.eos_token_id)
        canvas, reveal = text.clone(), torch.zeros_like(text, dtype=torch.bool)
        reveal[:, -transfer.shape[1] :] = committed
        canvas = canvas.masked_fill(reveal, mask)
        real, energy = self._real(text), self.energy
        wanted = canvas[:, -transfer.shape[1] :] == mask
        keep_hidden = energy is not None and energy.reads_hidden
        logits, hidden = run_pass(self.denoiser, canvas, wanted, real, keep_hidden)
        call = {"reveal": reveal, "attention_mask": real, "offset": text.shape[1] - transfer.shape[1], **self.options}
        tokens, _ = rerank_step(canvas, logits, hidden, energy, self.denoiser, generator=self.generator, **call)
        return {"block_x": tokens}

    def _real(self, text: Tensor) -> Tensor | None:
        """Which tokens are no padding of the prompts."""
        if self.attention_mask is None:
            return None
        given = self.attention_mask.to(text.device).bool()
        written = torch.ones(len(text), max(0, text.shape[1] - given.shape[1]), dtype=torch.bool, device=text.device)
        return torch.cat([given, written], 1)[:, : text.shape[1]]
