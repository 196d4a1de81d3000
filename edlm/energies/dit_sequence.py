"""The trained energy of the EDLM code base: its network, from the checkpoints that its code writes."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from edlm.denoisers.checkpoint import Checkpoint, check_finite
from edlm.denoisers.families import FAMILIES
from edlm.denoisers.families.dit import DiT, DiTShape
from edlm.denoisers.families.dit_denoiser import noise_level
from edlm.denoisers.families.family import LoadOptions
from edlm.denoisers.families.lightning import flag, is_lightning, load_energy_network, settings_of
from edlm.denoisers.visibility import visible_positions
from edlm.energies.whole_sequence import WholeSequenceEnergy, mean_over

_BACKBONES = ("hf_dit", "dit")  # ebm_backbone


class PairDiT(DiT):
    """A `DiT` that reads, at each position, a pair of tokens, ``(x_t, x_0)``, and gives features of ``hidden_size``.

    Modules are defined in the published order, which is the order of averaged weights.

    Args:
        shape: Sizes; ``vocab_size`` is that of the embedding.
    """

    def __init__(self, shape: DiTShape):
        super().__init__(shape)
        width = shape.hidden_size
        self.output_layer.linear = nn.Linear(width, width)
        self.vocab_proj = nn.Linear(2 * width, width)
        self.energy_head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1, bias=False))

    def embed(self, tokens: Tensor) -> Tensor:
        """States ``[..., hidden_size]`` of pairs ``[..., 2]``."""
        return self.vocab_proj(super().embed(tokens).flatten(-2))


class DiTSequenceEnergy(WholeSequenceEnergy):
    """``E(x_0, x_t, t)``: the scalar of EDLM-NCE as its authors trained it, nats.

    A `PairDiT` reads ``x_t`` and the candidate side by side, conditioned on the noise level where the denoiser is; its
    features are averaged over the real positions (theirs had no padding), and two layers make a scalar of the mean.

    Args:
        network: The network.
        time_conditioned: Give it ``sigma(t)``; else 0.
        max_tokens_per_pass: As for `WholeSequenceEnergy`.

    Raises:
        ValueError: the network has no condition, or ``max_tokens_per_pass`` is below 1.

    Note:
        The scalar of the checkpoint is the energy as it is: its loss ``-log sigmoid(-E(data)) - log sigmoid(E(drawn))``
        and its perplexity ``log p_theta - E`` both make low plausible. Its sampler weighs candidates by ``exp(+E)``
        instead, swaps those of different rows, and gives a time-conditioned network ``t`` in place of ``sigma(t)``.
        Here weights are ``exp(-E)``.

    References:
        Xu et al. 2025, arXiv:2410.21357 (EDLM-NCE), and their code, MinkaiXu/Energy-Diffusion-LLM.

    Example:
        >>> network = PairDiT(DiTShape(vocab_size=5, hidden_size=8, num_blocks=1, num_heads=2, cond_dim=6))
        >>> x_0, x_t = torch.tensor([[0, 1, 2]]), torch.tensor([[0, 4, 2]])
        >>> DiTSequenceEnergy(network).judge(x_0, x_t, x_t == 4, torch.ones(1), None).shape
        torch.Size([1])
    """

    def __init__(self, network: PairDiT, *, time_conditioned: bool = False, max_tokens_per_pass: int | None = None):
        super().__init__(max_tokens_per_pass)
        if network.shape.cond_dim is None:
            raise ValueError("network must have a cond_dim, got None")
        self.network = network
        self.time_conditioned = time_conditioned

    @classmethod
    def from_checkpoint(
        cls,
        path_or_hub_id: str | Path,
        *,
        revision: str | None = None,
        tokenizer: Any = None,
        mask_token_id: int | None = None,
        max_tokens_per_pass: int | None = None,
    ) -> Self:
        """Load the energy in an official ``.ckpt`` file of EDLM, with its averaged weights, as float32.

        It belongs to the denoiser in the same file, which `load_denoiser` reads.

        Args:
            path_or_hub_id: The file; or a folder or a hub id with it.
            revision: Of the hub's repository.
            tokenizer: Of the denoiser, or its name; without one, any tokenizer will do.
            mask_token_id: Of the denoiser; by default as for `load_denoiser`.
            max_tokens_per_pass: As for the class.

        Raises:
            FileNotFoundError: it is not there, and cannot be a hub id.
            ValueError: it holds no such energy, or its parts do not fit together.
        """
        checkpoint = Checkpoint.open(path_or_hub_id, revision)
        source = checkpoint.path
        if not is_lightning(checkpoint):
            raise ValueError(f"{source} must be a Lightning checkpoint of EDLM, got {checkpoint.describe()}")
        config = settings_of(checkpoint)
        if (backbone := config.get("ebm_backbone")) not in _BACKBONES:
            is_causal = "ar" in (backbone, config.get("backbone"), config.get("parameterization"))
            hint = ": the energy of an autoregressive model is 'causal:PATH', with its own ar.ckpt" if is_causal else ""
            raise ValueError(f"{source}: ebm_backbone must be one of {list(_BACKBONES)}, got {backbone!r}{hint}")
        denoiser = FAMILIES["mdlm"].load(checkpoint, LoadOptions(tokenizer, mask_token_id))
        network = load_energy_network(checkpoint, PairDiT)
        if network.shape.vocab_size != denoiser.vocab_size:
            raise ValueError(
                f"{source}: the energy must have the denoiser's {denoiser.vocab_size} tokens, "
                f"got {network.shape.vocab_size}"
            )
        check_finite(network, source)
        energy = cls(
            network.float(),
            time_conditioned=flag(config, "time_conditioning", source),
            max_tokens_per_pass=max_tokens_per_pass,
        )
        energy.denoiser_identity = denoiser.identity
        return energy.eval()

    def settings(self) -> dict[str, Any]:
        return {
            "shape": asdict(self.network.shape),
            "time_conditioned": self.time_conditioned,
            "max_tokens_per_pass": self.max_tokens_per_pass,
        }

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        others = {name: value for name, value in settings.items() if name != "shape"}
        return cls(PairDiT(DiTShape(**settings["shape"])), **others)

    def judge(self, x_0: Tensor, x_t: Tensor, was_masked: Tensor, t: Tensor, real: Tensor | None) -> Tensor:
        visible = visible_positions(x_0.shape[1], None, real, x_0.device)
        features = self.network(torch.stack([x_t, x_0], -1), noise_level(t, self.time_conditioned), visible)
        pooled = mean_over(features.float(), real).to(features)
        return self.network.energy_head(pooled)[:, 0]
