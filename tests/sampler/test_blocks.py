"""Denoisers that write in blocks: finished blocks are run once, rows go at their own pace, and nothing else changes."""

import itertools
import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from edlm import AutoregressiveEnergy, CallableEnergy, EnergySampler, ResidualHead
from edlm.diffusion.streams import BatchStreams
from edlm.evaluation.likelihood.continuous import continuous_nelbo
from edlm.evaluation.likelihood.published import published_perplexity
from edlm.sampler.bounds import likelihood_bounds
from edlm.training.mixtures import EnergyObjectiveConfig
from edlm.training.objectives import EnergyObjective
from tests.denoisers.blockwise import BLOCK, KINDS, MASK, VOCAB, blockwise

each = pytest.mark.parametrize("kind", KINDS)
PROMPTS = [[1, 2, 3, 4, 5, 6], [7, 8], [3, 1, 4, 1, 5, 9, 2, 6, 5], [2], [1, 2, 3, 4]]


def small_lm():
    torch.manual_seed(3)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=8, n_layer=2, n_head=2, n_positions=64))
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.5)
    return AutoregressiveEnergy(model, bos_token_id=0)


def disturbed_head(denoiser):
    torch.manual_seed(4)
    head = ResidualHead.from_denoiser(denoiser, start="cold")
    with torch.no_grad():
        for weight in head.parameters():
            weight.normal_(std=0.4)
    return head


def counted(denoiser):
    """The denoiser, and the numbers of tokens that its network runs, pass by pass."""
    sizes, run = [], denoiser.run

    def spy(tokens, *others, **options):
        sizes.append(tokens.numel())
        return run(tokens, *others, **options)

    denoiser.run = spy
    return denoiser, sizes


ENERGIES = {
    "base": (None, {}),
    "head": (disturbed_head, {"num_candidates": None, "order": "random"}),
    "head in a late window": (disturbed_head, {"num_candidates": 4, "window": (0.0, 0.5), "order": "random"}),
    "head in an early window": (disturbed_head, {"num_candidates": 4, "window": (0.5, 1.0), "group_size": 1}),
    "left to right": (lambda _: small_lm(), {"num_candidates": 4, "scope": "step", "order": "left_to_right"}),
    "sequence": (lambda _: small_lm(), {"num_candidates": 3, "scope": "sequence", "order": "random"}),
    "confidence": (None, {"order": "confidence"}),
}


@each
@pytest.mark.parametrize("name", ENERGIES)
def test_cached_text_is_the_text_without_a_cache(kind, name):
    make, options = ENERGIES[name]
    denoiser, sizes = counted(blockwise(kind))
    sampler = EnergySampler(denoiser, make and make(denoiser), num_steps=3, **options)
    texts = {}
    for cache in ("auto", "none"):
        sizes.clear()
        output = sampler.generate(PROMPTS, 11, seed=0, cache=cache, batch_size=3)
        assert output.marginals == "exact"
        texts[cache] = [row.tolist() for row in output.tokens], sum(sizes)
    assert texts["auto"][0] == texts["none"][0] and texts["auto"][1] < texts["none"][1]
    alone = [sampler.generate([p], 11, seed=r).tokens[0].tolist() for r, p in enumerate(PROMPTS)]
    assert alone == texts["auto"][0]


@each
@pytest.mark.parametrize("order", ["left_to_right", "random", "confidence"])
def test_filled_rows_are_the_generated_texts(kind, order):
    sampler = EnergySampler(blockwise(kind), num_steps=2, order=order)
    start = torch.tensor([[5, 1] + [MASK] * 10, [5, 3, 2] + [MASK] * 9])
    filled = sampler.fill(start, seeds=[3, 4])
    assert len(filled.steps) == 6 and not (filled.tokens == MASK).any()
    for row, seed in ((0, 3), (1, 4)):
        given = start[row][start[row] != MASK].tolist()
        text = sampler.generate([given], 12 - len(given), seed=[seed], eos_token_id=None)
        assert text.tokens[0].tolist() == filled.tokens[row].tolist()


def sequences(length):
    return torch.tensor([*itertools.product(range(MASK), repeat=length)])


@pytest.mark.parametrize("kind", ["decoder", "dit"])
@pytest.mark.parametrize(("order", "num_steps"), [("left_to_right", 1), ("left_to_right", 2), ("confidence", 2)])
def test_likelihood_in_blocks_sums_to_one_and_is_the_law_of_the_samples(kind, order, num_steps):
    sampler = EnergySampler(blockwise(kind, block_size=2), num_steps=num_steps, order=order)
    assert sampler.block_length == 2 and sampler.bound_is_exact
    log_p = -sampler.likelihood_bound(sequences(4), seeds=[0] * MASK**4)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-5)
    tokens = sampler.sample(4000, 4, seeds=range(4000), batch_size=1000).tokens
    of_samples = log_p[(tokens * torch.tensor([MASK**3, MASK**2, MASK, 1])).sum(1)]
    entropy = (log_p.exp() * log_p).sum()
    assert abs(of_samples.mean() - entropy) < 4 * of_samples.std() / math.sqrt(4000)
    # The second block has the law of its own masks after the first one.
    first = torch.tensor([[3, 7]])
    later = sampler.denoiser.log_probs(torch.cat([first, torch.full((1, 2), MASK)], 1))[0, 2:, :MASK]
    if num_steps == 1:
        mine = log_p.view([MASK] * 4)[3, 7]
        torch.testing.assert_close(
            mine - mine.logsumexp((0, 1)), later[0][:, None] + later[1].double(), rtol=1e-4, atol=1e-4
        )


@each
def test_bounds_in_blocks_share_passes_and_run_each_block_once(kind):
    denoiser, sizes = counted(blockwise(kind))
    energy, x_0 = small_lm(), torch.randint(0, MASK, (3, 16), generator=torch.Generator().manual_seed(2))
    given = torch.arange(16).expand(3, -1) < torch.tensor([1, 4, 6])[:, None]
    base = [EnergySampler(denoiser, num_steps=n, order="left_to_right") for n in (2, 4)]
    reranked = EnergySampler(denoiser, energy, num_steps=2, num_candidates=3, scope="step", order="left_to_right")
    together = likelihood_bounds([*base, reranked], x_0, [0, 1, 2], given=given)
    run = sum(sizes)
    for sampler, nats in zip([*base, reranked], together, strict=True):
        torch.testing.assert_close(sampler.likelihood_bound(x_0, given=given, seeds=[0, 1, 2]), nats)
    type(denoiser).can_prefill, held = property(lambda self: False), type(denoiser).can_prefill
    try:
        sizes.clear()
        whole = likelihood_bounds([*base, reranked], x_0, [0, 1, 2], given=given)
        assert run < 0.7 * sum(sizes)
    finally:
        type(denoiser).can_prefill = held
    for mine, theirs in zip(together, whole, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    sampled = [
        likelihood_bounds([base[0]], x_0, [s, s + 1, s + 2], given=given, sampled_steps=3)[0] for s in range(0, 900, 3)
    ]
    mean, stderr = torch.stack(sampled).mean(0), torch.stack(sampled).std(0) / math.sqrt(300)
    assert ((mean - together[0]).abs() < 4 * stderr + 1e-5).all()


@each
def test_a_finished_block_is_held_by_the_first_pass_of_the_next_one(kind):
    """As many runs of the network as passes; a new block's first one takes the finished one along."""
    denoiser, sizes = counted(blockwise(kind))
    sampler = EnergySampler(denoiser, num_steps=2, order="left_to_right")
    output = sampler.generate([[3, 1, 2, 4]], 8, seed=0, eos_token_id=None)
    assert len(sizes) == sum(step.denoiser_calls for step in output.steps) == 4
    assert sizes == [2 * BLOCK, BLOCK, 2 * BLOCK, BLOCK]


def test_both_sides_in_blocks_are_the_generated_text_and_its_bound():
    denoiser = blockwise("decoder", block_size=None)
    sampler = EnergySampler(denoiser, num_steps=1, block_length=3, order="left_to_right")
    start = torch.tensor([[5, 1] + [MASK] * 7])
    tokens = sampler.fill(start, seeds=[1]).tokens
    assert tokens[0].tolist() == sampler.generate([[5, 1]], 7, seed=[1], eos_token_id=None).tokens[0].tolist()
    nats, x_t = 0.0, start.clone()
    for begin in (2, 5, 8):
        log_p = denoiser.log_probs(x_t)[0, begin : begin + 3]
        nats -= log_p.gather(1, tokens[0, begin : begin + 3, None]).sum().item()
        x_t[0, begin : begin + 3] = tokens[0, begin : begin + 3]
    bound = sampler.likelihood_bound(tokens, given=start != MASK, seeds=[0]).item()
    assert bound == pytest.approx(nats, abs=1e-4)


@each
@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_approximate_caches_say_so_and_run_less(kind, cache):
    denoiser, sizes = counted(blockwise(kind, block_size=None))
    sampler = EnergySampler(denoiser, num_steps=4, block_length=4)
    exact = sampler.generate(PROMPTS, 16, seed=0)
    assert exact.marginals == "exact" and "approximate" not in repr(exact)
    run = sum(sizes)
    sizes.clear()
    output = sampler.generate(PROMPTS, 16, seed=0, cache=cache)
    assert output.marginals == "approximate" and "approximate" in repr(output)
    assert sum(sizes) < run * (0.85 if cache == "prefix" else 0.6)
    assert not any((tokens == MASK).any() for tokens in output.tokens)
    one_step = [
        EnergySampler(denoiser, num_steps=1, block_length=4).generate(PROMPTS, 16, seed=0, cache=name).tokens
        for name in (cache, "none")
    ]
    assert all(map(torch.equal, *one_step))  # keys are renewed with each block


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_a_new_block_renews_approximate_keys_though_nothing_was_written(cache):
    """Rows whose candidates are all impossible stay masked, and the tokens are those of the step before."""
    texts = []
    for name in (cache, "none"):
        calls = []

        def never_at_first(candidates, x_partial, log_p, calls=calls):
            calls.append(1)
            return torch.full(candidates.shape[:2], float("inf") if len(calls) % 2 else 0.0)

        options = {"num_steps": 1, "num_candidates": 2, "block_length": 4, "on_impossible": "keep"}
        sampler = EnergySampler(blockwise("decoder", block_size=None), CallableEnergy(never_at_first), **options)
        texts.append(sampler.generate([[3, 1]], 8, seed=0, cache=name, eos_token_id=None).tokens[0].tolist())
    assert texts[0] == texts[1] and texts[0].count(MASK) == 4


def test_caches_that_do_not_fit_are_refused():
    sampler = EnergySampler(blockwise("decoder", block_size=None), num_steps=2)
    with pytest.raises(ValueError, match="cache 'dual' needs block_length, since it is renewed .*; got None"):
        sampler.generate(PROMPTS, 4, cache="dual")
    with pytest.raises(
        ValueError, match="cache must be 'auto' or 'none' for a denoiser that writes in blocks, got 'dual'"
    ):
        EnergySampler(blockwise("decoder"), num_steps=2).generate(PROMPTS, 4, cache="dual")
    with pytest.raises(ValueError, match=r"block_length must be the denoiser's block_size \(4\), got 8"):
        EnergySampler(blockwise("decoder"), num_steps=2, block_length=8)
    options = {"num_steps": 2, "scope": "step", "order": "left_to_right", "on_impossible": "keep"}
    with pytest.raises(ValueError, match="'keep' may leave masks, and AutoregressiveEnergy cannot judge"):
        EnergySampler(blockwise("decoder"), small_lm(), **options)


def test_no_row_waits_for_another():
    """Rows that have one, two and five blocks: two lanes take each row's blocks one after the other."""
    denoiser, sizes = counted(blockwise("decoder", block_size=2))
    sampler = EnergySampler(denoiser, num_steps=2, order="left_to_right")
    ends = [[1, 1, 1, 1], [2, 2, 2], [3]]
    output = sampler.generate(ends, 8, seed=0, batch_size=2, eos_token_id=None)
    passes = sum(info.denoiser_calls for info in output.steps)
    steps = [sum(bool(info.num_revealed[r]) for info in output.steps) for r in range(3)]
    assert passes < sum(steps) and passes <= math.ceil((sum(steps) + max(steps)) / 2)


@pytest.mark.parametrize("kind", ["decoder", "dit"])
def test_continuous_bound_of_blocks_is_one_token_a_step_in_random_order(kind):
    denoiser = blockwise(kind)
    x_0 = torch.randint(0, MASK, (2, 10), generator=torch.Generator().manual_seed(2))
    given = torch.arange(10).expand(2, -1) < torch.tensor([1, 3])[:, None]
    sampler = EnergySampler(denoiser, num_steps=4, order="random")
    draws = sampler.likelihood_bound(x_0.repeat(600, 1), given=given.repeat(600, 1), seeds=range(1200)).view(600, 2)
    exact = continuous_nelbo(denoiser, x_0, given=given, estimator="enumerated")
    torch.testing.assert_close(exact.nats_per_row, draws.mean(0), rtol=0, atol=4 * float(draws.std(0).max()) / 24)
    with pytest.raises(ValueError, match="needs a denoiser of whole sequences, got blocks of 4"):
        published_perplexity(denoiser, small_lm(), x_0)


def test_energies_are_trained_on_the_states_that_are_sampled():
    """Clean blocks before the one that is decided, and masks of that block only among the slots."""
    denoiser, x_0 = blockwise("decoder"), torch.randint(0, MASK, (64, 16), generator=torch.Generator().manual_seed(2))
    config = EnergyObjectiveConfig(num_steps=(2,), orders=("random",))
    objective = EnergyObjective(denoiser, config, reads_hidden=True)
    decision = objective.draw_decision(x_0, 1, BatchStreams((3, 0), 64, 16))
    masked = decision.step.x_t == MASK
    first = masked.int().argmax(1) // 4
    assert set(first.tolist()) == {0, 1, 2, 3}
    slots = decision.slots
    assert (slots.positions // 4 == first[slots.rows]).all()
