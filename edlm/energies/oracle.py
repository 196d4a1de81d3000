"""The exact residual energy of a language with known truth: an upper limit for trained energies."""

import math

import torch.nn.functional as F
from torch import Tensor

from edlm.corpus.languages import HiddenMarkov, MarkovChain
from edlm.diffusion.slots import Slots
from edlm.energies.decision import Decision, Step
from edlm.energies.exact import TokenwiseEnergy


class OracleEnergy(TokenwiseEnergy):
    """``E = log p_theta(x_R | x_t) - log p_true(x_R | x_partial)``, by exact inference.

    Args:
        language: Gives exact probabilities; its mask token must be the denoiser's.
    """

    proposal_share = 1.0

    def __init__(self, language: MarkovChain | HiddenMarkov):
        super().__init__()
        self.language = language

    def forward(self, decision: Decision) -> Tensor:
        batch, k, length = decision.candidates.shape
        log_joint = self.language.log_prob(decision.candidates.reshape(-1, length)).view(batch, k)
        log_given = self.language.log_prob(decision.x_partial)
        return decision.log_proposal - (log_joint - log_given[:, None])

    def start(self, step: Step, round_size: int = 1) -> int:
        return step.denoiser.vocab_size

    def next_logits(self, state: int, x_partial: Tensor, slots: Slots) -> Tensor:
        logits = self.language.log_marginals(x_partial)[slots.rows, slots.positions]
        return F.pad(logits, (0, state - logits.shape[-1]), value=-math.inf)  # the denoiser's mask column
