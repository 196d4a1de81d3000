"""Neighbour heads learn what neighbours say: trained on a Markov source whose marginals are known exactly."""

import pytest
import torch

from edlm import EnergySampler
from edlm.corpus.languages import MarkovChain
from edlm.diffusion.streams import BatchStreams
from edlm.energies import ChainHead, MarkovHead
from edlm.evaluation.languages.exact import exact_denoiser
from edlm.training.mixtures import EnergyObjectiveConfig
from edlm.training.objectives import EnergyObjective

LENGTH = 8
TRANSITIONS = [[0.7, 0.2, 0.05, 0.05], [0.05, 0.1, 0.8, 0.05], [0.1, 0.05, 0.05, 0.8], [0.6, 0.1, 0.1, 0.2]]


@pytest.mark.parametrize("kind", [MarkovHead, ChainHead])
def test_trained_heads_reach_the_entropy_of_the_source(kind):
    """One pass over a masked text: the base has the entropy of the marginals, the source that of its transitions."""
    language = MarkovChain(TRANSITIONS, [0.4, 0.1, 0.3, 0.2])
    denoiser = exact_denoiser(language)
    torch.manual_seed(0)
    head = kind.from_denoiser(denoiser, rank=4, num_likeliest=4, reads_states=False)
    config = EnergyObjectiveConfig(num_steps=(1, 2), orders=("left_to_right",)).of_kind("chain")
    objective = EnergyObjective(denoiser, config, reads_hidden=False)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    for update in range(120):
        rows = language.sample(64, LENGTH, torch.Generator().manual_seed(update))
        loss, _ = objective(head, rows, BatchStreams((0, update), 64, LENGTH))
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    rows = language.sample(400, LENGTH, torch.Generator().manual_seed(10**6))
    truth = -language.log_prob(rows)
    samplers = [EnergySampler(denoiser, energy, num_steps=1, order="left_to_right") for energy in (None, head.eval())]
    base, trained = ((s.likelihood_bound(rows, seeds=0) - truth).mean().item() / LENGTH for s in samplers)
    assert base > 0.3 and -0.001 < trained < 0.03
