"""A world of 3 symbols and 3 positions, where everything is summed exactly.

Nothing in it is symmetric: a flipped sign, reversed positions or swapped axes change every number.
"""

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from edlm.denoisers.base import Denoiser
from edlm.denoisers.function import FunctionDenoiser
from edlm.diffusion.slots import Slots
from edlm.energies.decision import Decision, Step
from edlm.energies.proposal import make_decision

VOCAB_SIZE = LENGTH = MASK = 3
BOS = 0  # a symbol like any other, so that the causal LM has exactly these three
SEQUENCES = torch.cartesian_prod(*[torch.arange(VOCAB_SIZE)] * LENGTH)


def random_denoiser(seed: int = 1, scale: float = 1.0) -> FunctionDenoiser:
    """Marginals from a table: any ``x_t`` and position has its own, unrelated to any joint."""
    table = scale * torch.randn((MASK + 1) ** LENGTH, LENGTH, VOCAB_SIZE, generator=_generator(seed))
    return FunctionDenoiser(lambda x_t, t: table[_code(x_t, MASK + 1)], MASK, VOCAB_SIZE)


def random_causal_lm(seed: int = 1, **settings) -> GPT2LMHeadModel:
    """A tiny GPT-2 whose law is far from uniform."""
    shape = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": VOCAB_SIZE}
    model = GPT2LMHeadModel(GPT2Config(**{**shape, "bos_token_id": BOS, "eos_token_id": 0, **settings}))
    generator = _generator(seed)
    for _, weight in sorted(model.named_parameters()):
        if weight.ndim > 1:
            weight.data = 0.5 * torch.randn(weight.shape, generator=generator)
    return model.eval()


@torch.no_grad()
def log_p_ar(model: GPT2LMHeadModel, tokens: Tensor, bos_token_id: int = BOS) -> Tensor:
    """Each term of ``log p_AR``, one full pass a sequence, no cache; nats, float64, ``[n, length]``."""
    terms = []
    for row in tokens:
        read = torch.cat([torch.tensor([bos_token_id]), row])[None, :-1]
        log_probs = model(read).logits[0].double().log_softmax(-1)
        terms.append(log_probs[torch.arange(len(row)), row])
    return torch.stack(terms)


def fillings(x_t: Tensor) -> Tensor:
    """All ways to fill the masks of one row ``[length]``, shape ``[3 ** masks, length]``."""
    given = x_t != MASK
    return SEQUENCES[(SEQUENCES == x_t)[:, given].all(1)]


def decide(denoiser: Denoiser, x_t: Tensor, candidates: Tensor, slots: Slots | None = None) -> Decision:
    """The decision between given candidates ``[batch, k, length]``, at all masks or at some slots."""
    t = (x_t == denoiser.mask_token_id).float().mean(1)
    slots = Slots.where(x_t == denoiser.mask_token_id) if slots is None else slots
    step = Step(denoiser, x_t, t, denoiser.encode(x_t, t), slots)
    tokens = candidates[slots.rows, :, slots.positions]
    return make_decision(step, slots, x_t, denoiser.slot_log_probs(step.encoding, slots), tokens)


def empirical_law(tokens: Tensor) -> Tensor:
    """Frequencies of the 27 sequences, float64, shape ``[27]``."""
    counts = torch.bincount(_code(tokens, VOCAB_SIZE), minlength=len(SEQUENCES))
    return counts.double() / len(tokens)


def total_variation(p: Tensor, q: Tensor) -> float:
    """``1/2 sum |p - q|``."""
    return 0.5 * (p - q).abs().sum().item()


def _code(tokens: Tensor, base: int) -> Tensor:
    """Number of each row ``[n, length]``, first position most significant, as in ``SEQUENCES``."""
    return (tokens * base ** torch.arange(LENGTH - 1, -1, -1, device=tokens.device)).sum(1)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
