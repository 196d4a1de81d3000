"""Soft targets: the denoiser's own law of each token given those before it, in place of the data's token."""

from dataclasses import replace

import pytest
import torch

from edlm.corpus.prepared import PreparedCorpus
from edlm.denoisers.loading import load_denoiser
from edlm.diffusion.slots import Slots
from edlm.diffusion.streams import BatchStreams
from edlm.energies.proposal import make_decision
from edlm.sampler.sampler import EnergySampler
from edlm.training.mixtures import EnergyObjectiveConfig
from edlm.training.objectives import EnergyObjective
from edlm.training.samples import SamplesOptions, corpus_of_samples
from edlm.training.soft_targets import with_soft_targets
from tests.energies.heads import MASK, VOCAB_SIZE, disturbed_head, modernbert, ranked, step_on

ROW, ORDER = torch.tensor([MASK, 2, MASK, MASK, MASK]), (3, 0, 2)
FILLINGS = torch.cartesian_prod(*[torch.arange(VOCAB_SIZE)] * 3)


@pytest.fixture(scope="module")
def denoiser():
    return modernbert().double()


def all_decisions(denoiser, round_size: int):
    """A batch of equal rows, each with another filling of its three slots as data; and the marginals."""
    step = step_on(denoiser, ROW.repeat(len(FILLINGS), 1), ranked(*[ORDER] * len(FILLINGS)))
    log_probs = denoiser.slot_log_probs(step.encoding, step.slots)
    decision = make_decision(step, step.slots, step.x_t, log_probs, FILLINGS.flatten()[:, None])
    return replace(decision, round_size=round_size), log_probs


def chain(denoiser, round_size: int) -> torch.Tensor:
    """``p_theta`` of each slot given the tokens of earlier rounds, by a pass for each: ``[fillings, 3, vocab]``."""
    rounds = [r % -(-3 // round_size) for r in range(3)]
    laws = []
    for tokens in FILLINGS:
        for r, position in enumerate(ORDER):
            x_t = ROW.clone()[None]
            for other, place in enumerate(ORDER):
                if rounds[other] < rounds[r]:
                    x_t[0, place] = tokens[other]
            slot = Slots.where(torch.arange(5)[None] == position)
            laws.append(denoiser.slot_log_probs(denoiser.encode(x_t, torch.ones(1)), slot)[0])
    return torch.stack(laws).exp().view(len(FILLINGS), 3, -1)


@torch.no_grad()
@pytest.mark.parametrize("round_size", [1, 2, 3])
def test_targets_are_marginals_given_earlier_rounds(denoiser, round_size):
    decision, log_probs = all_decisions(denoiser, round_size)
    soft = with_soft_targets(decision, log_probs, 3, torch.rand(len(FILLINGS), 5))
    expected = chain(denoiser, round_size).flatten(0, 1)
    assert soft.targets.index.tolist() == list(range(3 * len(FILLINGS)))
    torch.testing.assert_close(soft.targets.probs, expected)
    torch.testing.assert_close(soft.log_p[:, 0], (expected * log_probs)[:, :VOCAB_SIZE].sum(1).view(-1, 3).sum(1))


@pytest.mark.parametrize("num_blocks", [1, 2])
def test_on_the_chains_own_data_soft_and_hard_losses_agree(denoiser, num_blocks):
    """In the mean over its data, with its gradient: a soft target is the mean of the hard ones."""
    head = disturbed_head(denoiser, num_blocks=num_blocks).double()
    decision, log_probs = all_decisions(denoiser, 1)
    laws = chain(denoiser, 1)
    weights = laws.gather(2, FILLINGS[:, :, None])[..., 0].prod(1).double()
    assert weights.sum().item() == pytest.approx(1)
    losses = []
    for each in (decision, with_soft_targets(decision, log_probs, 3, torch.rand(len(FILLINGS), 5))):
        nll = (head(each) - each.log_proposal)[:, 0]
        loss = weights @ nll
        losses.append([loss, *torch.autograd.grad(loss, list(head.parameters()))])
    for hard, soft in zip(*losses, strict=True):
        torch.testing.assert_close(hard, soft, atol=1e-7, rtol=1e-5)


def test_some_slots_of_each_row_are_drawn_evenly(denoiser):
    decision, log_probs = all_decisions(denoiser, 1)
    whole = with_soft_targets(decision, log_probs, 3, torch.rand(len(FILLINGS), 5))
    uniforms = torch.rand(len(FILLINGS), 5, generator=torch.Generator().manual_seed(0))
    soft = with_soft_targets(decision, log_probs, 1, uniforms)
    rows, ranks = decision.slots.rows[soft.targets.index], decision.slots.ranks[soft.targets.index]
    assert rows.tolist() == list(range(len(FILLINGS)))
    assert ranks.tolist() == [min(range(3), key=lambda r: row[ORDER[r]]) for row in uniforms.tolist()]
    torch.testing.assert_close(soft.targets.probs, whole.targets.probs[soft.targets.index])
    assert (soft.slot_log_p[:, 0] != 0).nonzero()[:, 0].tolist() == soft.targets.index.tolist()


def test_they_are_learnt_in_training_and_data_is_what_validation_measures(denoiser):
    head = disturbed_head(denoiser).double()
    options = {"num_steps": (2,), "orders": ("bisecting",), "group_sizes": (None,)}
    hard, soft = (
        EnergyObjective(denoiser, EnergyObjectiveConfig(**options, soft_targets=n).of_kind("head"), reads_hidden=True)
        for n in (0, 2)
    )
    batch = torch.randint(VOCAB_SIZE, (6, 8), generator=torch.Generator().manual_seed(0))
    streams = BatchStreams((1,), 6, 8)
    head.eval()
    assert torch.equal(hard(head, batch, streams)[0].total, soft(head, batch, streams)[0].total)
    head.train()
    loss, metrics = soft(head, batch, streams)
    assert loss.count == 12 and not torch.equal(loss.total, hard(head, batch, streams)[0].total)
    assert metrics["gain_nats_per_token"].count == 12


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError, match="soft_targets must be >= 0, got -1"):
        EnergyObjectiveConfig(soft_targets=-1)


# Samples as a corpus


@pytest.fixture(scope="module")
def shipped():
    return load_denoiser("tinystories")


def test_samples_are_the_denoisers_at_one_token_a_pass(shipped):
    corpus = corpus_of_samples(shipped, SamplesOptions(num_rows=5, length=12, batch_size=2, seed=3))
    generator = torch.Generator().manual_seed(3)
    sampler = EnergySampler(shipped, num_steps=12, order="random")
    expected = torch.cat([sampler.sample(size, 12, generator=generator).tokens for size in (2, 2, 1)])
    assert torch.equal(torch.cat([corpus.train.tokens, corpus.valid.tokens]), expected)
    assert len(corpus.valid.tokens) == 1
    text = "".join(shipped.tokenizer.batch_decode(expected.tolist(), skip_special_tokens=True))
    both = corpus.train.num_characters + corpus.valid.num_characters
    assert both == pytest.approx(len(text), abs=1)


def test_samples_beside_a_corpus_keep_its_held_out_blocks(shipped, tmp_path):
    first = corpus_of_samples(shipped, SamplesOptions(num_rows=4, length=8, num_steps=2))
    first.save(tmp_path / "first")
    options = SamplesOptions(num_rows=3, num_steps=2, seed=1)
    alone, mixed = (corpus_of_samples(shipped, options, str(tmp_path / "first"), mixed=m) for m in (False, True))
    assert alone.train.tokens.shape == (3, 8) and not torch.equal(alone.train.tokens, first.train.tokens)
    assert torch.equal(mixed.train.tokens, torch.cat([alone.train.tokens, first.train.tokens]))
    for corpus in (alone, mixed):
        assert torch.equal(corpus.valid.tokens.long(), first.valid.tokens)
        corpus.save(tmp_path / "made")
        assert torch.equal(PreparedCorpus.load(tmp_path / "made").train.tokens.long(), corpus.train.tokens)


def test_what_samples_cannot_be_made_of_is_refused(shipped):
    first = corpus_of_samples(shipped, SamplesOptions(num_rows=2, length=8, num_steps=1))
    with pytest.raises(ValueError, match="mixed samples need a corpus to be mixed with, got none"):
        corpus_of_samples(shipped, SamplesOptions(num_rows=2), mixed=True)
    with pytest.raises(ValueError, match="length must be that of the corpus's blocks, 8, got 9"):
        corpus_of_samples(shipped, SamplesOptions(num_rows=2, length=9), first)
    with pytest.raises(ValueError, match="a denoiser with a tokenizer, got a MaskedLMDenoiser without"):
        corpus_of_samples(modernbert(), SamplesOptions(num_rows=2))
    with pytest.raises(ValueError, match="num_rows must be >= 2, got 1"):
        SamplesOptions(num_rows=1)
