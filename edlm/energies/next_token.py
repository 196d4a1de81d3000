"""``log p_AR`` of given tokens: the output layer is applied part by part, and no table over the vocabulary is kept."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from edlm.energies.prefixes import at_least_float32
from edlm.memory import rows_at_once

STATES_AT_ONCE, TOKENS_AT_ONCE = 512, 2048  # on a CPU: 4 MiB of logits in float32, which stay in its cache


class NextToken:
    """Log-probabilities of tokens that follow, under a causal LM.

    Where the model's logits are what a linear layer gives, they are computed for some states at a time, on a CPU also
    for a part of the vocabulary at a time, and summed up: faster than all at once, and they are never there as a whole.
    Whether they are, the first call finds out from two tokens; models that change them after that layer are run as they
    are.

    Args:
        model: A causal LM; one that takes no ``logits_to_keep`` computes logits at all positions.
    """

    def __init__(self, model: PreTrainedModel):
        self.model = model
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._is_last: bool | None = None  # whether the output layer is a linear one, and the last thing that is done

    @property
    def logits_per_state(self) -> int:
        """Logits of a state that are held at once on a CPU, where they bound a pass."""
        return TOKENS_AT_ONCE if self._is_last else self.model.config.get_text_config().vocab_size

    def log_prob(self, tokens: Tensor, keep: Tensor, targets: Tensor, **options: Any) -> Tensor:
        """``log p_AR`` of the tokens that follow those at some positions, nats.

        Args:
            tokens: Read by the model, ``[n, length]``.
            keep: Positions, ``[kept]``.
            targets: The tokens that follow them, ``[n, kept]``.
            options: Of the model's ``forward``.

        Returns:
            At least float32, ``[n, kept]``.
        """
        layer = self.model.get_output_embeddings()
        options |= {"logits_to_keep": keep} if self._keeps else {}
        kept = slice(None) if self._keeps else keep
        if self._is_last is None:
            self._is_last = self._gives_logits(layer, tokens[:1, :2])
        if not self._is_last:
            logits = self.model(input_ids=tokens, **options).logits[:, kept]
            logits = logits.to(at_least_float32(logits))
            return logits.gather(-1, targets[..., None])[..., 0] - logits.logsumexp(-1)
        with _passing_by(layer) as entering:
            self.model(input_ids=tokens, **options)
        states, device = entering[0][:, kept].flatten(0, 1), targets.device
        width = TOKENS_AT_ONCE if device.type == "cpu" else layer.out_features
        size = rows_at_once(width, device, of_cpu=STATES_AT_ONCE * TOKENS_AT_ONCE)
        parts = zip(states.split(size), targets.flatten().split(size), strict=True)
        return torch.cat([_log_prob(layer, *part, width) for part in parts]).view(targets.shape)

    def _gives_logits(self, layer: nn.Module | None, tokens: Tensor) -> bool:
        """Whether a layer is a plain linear one, whose outputs are the model's logits of these few tokens."""
        # Subclasses may hold weights in other forms; so may modules whose forward was replaced, or has no weights yet.
        if type(layer) is not nn.Linear or "forward" in vars(layer) or layer.weight.is_meta:
            return False
        left = []
        with layer.register_forward_hook(lambda module, args, output: left.append(output)):
            logits = self.model(input_ids=tokens).logits
        return len(left) == 1 and left[0].shape == logits.shape and torch.equal(left[0].to(logits), logits)


@contextmanager
def _passing_by(layer: nn.Linear) -> Iterator[list[Tensor]]:
    """In the block the layer computes nothing, and its inputs are kept."""
    entering: list[Tensor] = []

    def keep(states: Tensor) -> Tensor:
        entering.append(states)
        return states[..., :0]

    layer.forward = keep
    try:
        yield entering
    finally:
        del layer.forward


def _log_prob(linear: nn.Linear, states: Tensor, targets: Tensor, tokens_at_once: int) -> Tensor:
    """Of states ``[n, width]`` and tokens ``[n]``, shape ``[n]``."""
    total = wanted = None
    for start in range(0, linear.out_features, tokens_at_once):
        part = slice(start, start + tokens_at_once)
        logits = F.linear(states, linear.weight[part], None if linear.bias is None else linear.bias[part])
        logits = logits.to(at_least_float32(logits))
        here = targets - start
        found = logits.gather(1, here.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
        mass = logits.logsumexp(1)
        is_here = (0 <= here) & (here < logits.shape[1])
        wanted = torch.where(is_here, found, 0.0 if wanted is None else wanted)
        total = mass if total is None else torch.logaddexp(total, mass)
    return wanted - total
