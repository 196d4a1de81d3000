"""What commands that write or score text load: a denoiser, an energy, and the sampler of both."""

from dataclasses import asdict, dataclass, field
from typing import Literal

import torch

from edlm.denoisers.loading import SHIPPED, load_denoiser
from edlm.energies.loading import load_energy
from edlm.rules import Config
from edlm.sampler.options import SamplerOptions
from edlm.sampler.sampler import EnergySampler


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Config):
    """Models, and how they sample."""

    denoiser: str = "tinystories"
    """Folder, hub id or shipped name."""

    energy: str | None = "auto"
    """Folder of an energy, a ``.ckpt`` file of EDLM, a shipped name, or a causal LM as "causal:PATH" (the denoiser's
    tokens), "text:PATH" (any tokens) or "server:URL#MODEL" (served elsewhere); null for the base sampler; "auto" for
    the shipped energy of a shipped denoiser, and none for any other."""

    sampler: SamplerOptions = field(default_factory=lambda: SamplerOptions(num_steps=8))
    """How to sample."""

    device: str = "auto"
    """Device of denoiser and energy: "cpu", "cuda", "mps", or "auto" for the best of these (of several processes, each
    one's own)."""

    denoiser_tokenizer: str | None = None
    """Folder or hub id of a tokenizer, for a denoiser whose checkpoint has none."""

    denoiser_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the denoiser's weights: those of 16 bits need half of the memory, and round."""

    denoiser_mask_token_id: int | None = field(default=None, metadata={"least": 0})
    """Mask of the denoiser, where its files do not say it, or say another."""

    denoiser_block_size: int | None = None
    """Tokens of the denoiser that see each other, of families that come with several; of its files by default."""

    def load_sampler(self, device: torch.device | None = None) -> EnergySampler:
        """Load both, on the ``device`` that "auto" stands for.

        Raises:
            OSError: there is no such model.
            ValueError: it does not fit, or there is no tokenizer.
        """
        where = device if device is not None and self.device == "auto" else self.device
        names = ("tokenizer", "dtype", "mask_token_id", "block_size")
        options = {name: getattr(self, f"denoiser_{name}") for name in names}
        denoiser, name = load_denoiser(self.denoiser, device=where, **options), self.energy
        if denoiser.tokenizer is None:
            raise ValueError(
                f"a denoiser of text must have a tokenizer, got none in {self.denoiser}: give denoiser_tokenizer"
            )
        if name == "auto":
            name = self.denoiser if (SHIPPED / self.denoiser / "head").is_dir() else None
        energy = None if name is None else load_energy(name)
        sampler = EnergySampler(denoiser, energy, **asdict(self.sampler))
        return sampler.to(sampler.device)
