"""Which denoiser an energy belongs to."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import nn

from edlm.corpus.tokens import digest
from edlm.rules import check_options


@check_options
@dataclass(frozen=True)
class DenoiserIdentity:
    """Which denoiser an energy belongs to.

    Attributes:
        name: Name of the checkpoint, for people.
        revision: Fingerprint of its weights.
        vocab_size: Width of its logits.
        mask_token_id: Id of its mask token.
        vocabulary: Fingerprint of its tokenizer's vocabulary ("" without one).
    """

    name: str
    revision: str
    vocab_size: int
    mask_token_id: int
    vocabulary: str

    def check(self, other: DenoiserIdentity | None, what: str) -> None:
        """Raise ValueError for another denoiser, with the fields that differ and what belongs to this one."""
        differences = ["it has no identity"] if other is None else self.differences(other)
        if differences:
            got = f"the one given differs: {'; '.join(differences)}"
            raise ValueError(f"{what} belongs to denoiser {self.name!r}; {got}")

    def differences(self, other: DenoiserIdentity) -> list[str]:
        """The fields that differ, in words; the name is ignored, and the vocabulary where it is not known here."""
        theirs = asdict(other)
        ignored = {"name"} if self.vocabulary else {"name", "vocabulary"}
        return [
            f"{field} {mine!r} != {theirs[field]!r}"
            for field, mine in asdict(self).items()
            if field not in ignored and mine != theirs[field]
        ]


def weights_fingerprint(model: nn.Module, samples: int = 256) -> str:
    """Digest of evenly spaced weights, in float16 so that shipped float16 files and their source agree."""
    picked = []
    for _, weight in sorted(model.named_parameters()):
        flat = weight.detach().flatten()
        picked.append(flat[:: max(1, len(flat) // samples)].to(torch.float16).cpu())
    return digest(torch.cat(picked).numpy().tobytes())
