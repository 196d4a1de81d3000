"""The paper's trained energy: a bidirectional Transformer that judges whole sequences."""

import copy
import inspect
import json
import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedModel
from typing_extensions import Self

from edlm.denoisers.families.masked_lm import MaskedLMDenoiser
from edlm.energies.whole_sequence import WholeSequenceEnergy, mean_over

TIME_FEATURES = 128


class SequenceEnergy(WholeSequenceEnergy):
    """``E(x_0, x_t, t)``: scalar of a Transformer on a complete candidate (EDLM-NCE), nats.

    Its input is ``embedding(x_0) + [x_t is masked] * vector + mlp(t)``; its states are averaged over
    the real positions and projected to a scalar. Vector, time embedding and projection start at
    zero, so the energy does. All weights are trained, by noise-contrastive estimation.

    Args:
        encoder: A bidirectional transformers model without head, such as the denoiser's.
        max_tokens_per_pass: As for `WholeSequenceEnergy`.

    Raises:
        ValueError: the encoder takes no ``inputs_embeds``, or ``max_tokens_per_pass`` is below 1.

    Note:
        One full pass of the encoder for each candidate. Sequence scope only.

    References:
        Xu et al. 2025, arXiv:2410.21357 (EDLM-NCE).

    Example:
        >>> from transformers import ModernBertConfig, ModernBertForMaskedLM
        >>> shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> config = ModernBertConfig(vocab_size=6, intermediate_size=8, pad_token_id=None, **shape)
        >>> denoiser = MaskedLMDenoiser(ModernBertForMaskedLM(config), mask_token_id=5)
        >>> SequenceEnergy.from_denoiser(denoiser).denoiser_identity == denoiser.identity
        True
    """

    def __init__(self, encoder: PreTrainedModel, *, max_tokens_per_pass: int | None = None):
        super().__init__(max_tokens_per_pass)
        if "inputs_embeds" not in inspect.signature(encoder.forward).parameters:
            raise ValueError(f"an encoder must accept inputs_embeds, {type(encoder).__name__} does not")
        width = encoder.get_input_embeddings().embedding_dim
        self.encoder = encoder
        self.was_masked = nn.Parameter(torch.zeros(width))
        self.time_mlp = nn.Sequential(nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        # The same shift for all candidates needs no constant: weights are normalised.
        self.project = nn.Linear(encoder.config.hidden_size, 1, bias=False)
        for zero in (*self.time_mlp[-1].parameters(), self.project.weight):
            nn.init.zeros_(zero)

    @classmethod
    def from_denoiser(cls, denoiser: MaskedLMDenoiser, *, max_tokens_per_pass: int | None = None) -> Self:
        """A zero energy whose Transformer is a copy of the denoiser's; it belongs to that denoiser.

        Raises:
            ValueError: the denoiser holds no transformers network.
        """
        if not isinstance(denoiser, MaskedLMDenoiser):
            raise ValueError(
                f"an NCE energy starts from the network of a MaskedLMDenoiser, got a {type(denoiser).__name__}"
            )
        encoder = copy.deepcopy(denoiser.network.base_model).requires_grad_(True)
        energy = cls(encoder, max_tokens_per_pass=max_tokens_per_pass).to(encoder.device)
        energy.denoiser_identity = denoiser.identity
        return energy

    def settings(self) -> dict[str, Any]:
        return {
            "config": json.loads(self.encoder.config.to_json_string(use_diff=False)),
            "max_tokens_per_pass": self.max_tokens_per_pass,
        }

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        config = AutoConfig.for_model(**settings["config"])
        # Not AutoModel, whose BERT has a pooler that a masked LM lacks.
        model = AutoModelForMaskedLM.from_config(config, dtype=torch.float32)
        return cls(model.base_model, max_tokens_per_pass=settings["max_tokens_per_pass"])

    def judge(self, x_0: Tensor, x_t: Tensor, was_masked: Tensor, t: Tensor, real: Tensor | None) -> Tensor:
        embedded = self.encoder.get_input_embeddings()(x_0)
        dtype = self.project.weight.dtype
        time = self.time_mlp(_time_features(t).to(dtype))[:, None]
        added = was_masked[..., None] * self.was_masked + time
        states = self.encoder(
            inputs_embeds=embedded + added.to(embedded),
            attention_mask=real.long() if real is not None else None,
            return_dict=True,
        ).last_hidden_state.float()
        return self.project(mean_over(states, real).to(dtype))[:, 0]


def _time_features(t: Tensor) -> Tensor:
    """Sines and cosines of times in 0..1, with periods from 2 pi down to 2 pi / 1000; ``[n, TIME_FEATURES]``."""
    half = torch.arange(TIME_FEATURES // 2, device=t.device) / (TIME_FEATURES // 2 - 1)
    angles = t.float()[:, None] * torch.exp(math.log(1000.0) * half)
    return torch.cat([angles.cos(), angles.sin()], 1)
