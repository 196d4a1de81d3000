"""Logits of some tokens only, in place of a whole row of the output layer."""

from collections.abc import Callable

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.memory import parts_of_table
from edlm.modules import is_plain_linear


def decoder_of(denoiser: Denoiser, tokens: Tensor) -> Callable[[Tensor], Tensor]:
    """`Denoiser.decode` at the columns ``tokens[rows, m]``: features ``[rows, n, width]`` to logits ``[rows, n, m]``.

    The columns of a linear output layer are copied here, once for all calls. Where the denoiser names none, or one that
    is quantised, adapted or watched, the function decodes all columns and leaves most of them out.
    """
    transform, layer = denoiser.output_layer or (None, None)
    if layer is None or not is_plain_linear(layer):
        return lambda features: _all_columns(denoiser, features, tokens)
    with torch.no_grad():
        weight = layer.weight[tokens].transpose(1, 2)
        bias = None if layer.bias is None else layer.bias[tokens][:, None]

    def decode(features: Tensor) -> Tensor:
        features = transform(features)
        return features @ weight if bias is None else torch.baddbmm(bias, features, weight)

    return decode


def _all_columns(denoiser: Denoiser, features: Tensor, tokens: Tensor) -> Tensor:
    wanted = tokens[:, None].expand(-1, features.shape[1], -1).flatten(0, 1)
    flat, logits = features.flatten(0, 1), []
    for part in parts_of_table(len(flat), denoiser.vocab_size, flat.device):
        logits.append(denoiser.decode(flat[part]).gather(1, wanted[part]))
    return torch.cat(logits).unflatten(0, features.shape[:2])
