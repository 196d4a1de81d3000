"""Sampling by a causal LM's energy as one would write it from the paper, to measure what this package saves."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def plain_samples(
    network: nn.Module, causal_lm: nn.Module, shape: tuple[int, int], special: tuple[int, int], num_steps: int, k: int
) -> Tensor:
    """Draw ``shape = (batch, length)`` tokens in random order, k candidates of the whole sequence in each step.

    Logits, their logarithms of probabilities and Gumbel noise at all positions; the LM reads k whole candidates.

    Args:
        network: Gives ``logits`` of masked tokens; of transformers.
        causal_lm: Gives ``logits`` of next tokens; of transformers.
        shape: Batch and length.
        special: The mask, and the token that goes before a row.
        num_steps: Passes of the network.
        k: Candidates.

    References:
        Xu et al. 2025, arXiv:2410.21357, Alg. 1 (EDLM-AR).
    """
    mask, begin = special
    x_t = torch.full(shape, mask, device=next(network.parameters()).device)
    batch, length = shape
    due = torch.rand(shape).argsort(1).argsort(1).to(x_t.device) * num_steps // length
    for i in range(num_steps):
        logits = network(input_ids=x_t).logits
        logits[..., mask] = -torch.inf
        given = torch.full_like(logits, -torch.inf).scatter_(-1, x_t[..., None], 0.0)
        log_p = torch.where((x_t == mask)[..., None], logits.log_softmax(-1), given)
        drawn = [(log_p - (-(torch.rand_like(log_p) + 1e-10).log() + 1e-10).log()).argmax(-1) for _ in range(k)]
        candidates = torch.stack(drawn, 1)
        log_q = log_p.gather(-1, candidates.transpose(1, 2)).sum(1)
        read = torch.cat([x_t.new_full((batch * k, 1), begin), candidates.flatten(0, 1)], 1)
        next_log_p = causal_lm(read[:, :-1]).logits.log_softmax(-1)
        log_p_ar = next_log_p.gather(-1, read[:, 1:, None]).sum((1, 2)).view(batch, k)
        chosen = (log_p_ar - log_q).softmax(1).multinomial(1)
        x_0 = candidates.gather(1, chosen[..., None].expand(-1, -1, length))[:, 0]
        x_t = torch.where(due == i, x_0, x_t)
    return x_t
