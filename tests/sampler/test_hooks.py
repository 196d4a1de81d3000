"""Reranking inside other people's loops: the law of what they draw is the reranked one, by enumeration."""

import math
from collections import defaultdict

import pytest
import torch
from torch import Tensor

from edlm import CallableEnergy, SequenceEnergy, load_denoiser
from edlm.sampler import DreamLogitsHook, RerankLogits
from edlm.sampler.impossible import ImpossibleCandidates
from tests.chance import assert_law
from tests.energies.heads import disturbed_head, modernbert
from tests.sampler.brute_force import MASK, NOTHING, SEQUENCES, BruteForce, L, Options, V, World, count, write

WORLD = World()
ROWS = 40_000
CONSTANT = CallableEnergy(lambda candidates, x, log_p: torch.full_like(log_p, 2.5))


def model(x: Tensor, t: float) -> Tensor:
    """Raw logits, with a column for the mask that the hosts do not suppress."""
    logits = WORLD.denoiser().f(x, torch.full((len(x),), t))
    return torch.cat([logits, torch.full((*x.shape, 1), 2.0, dtype=logits.dtype)], 2)


def dream(hook, num_steps: int, alg: str, rows: int = ROWS, temperature: float = 1.0, seed: int = 0) -> Tensor:
    """The loop of Dream's ``diffusion_generate``, in miniature."""
    generator = torch.Generator().manual_seed(seed)
    x, times = torch.full((rows, L), MASK), torch.linspace(1, 0, num_steps + 1)
    for i in range(num_steps):
        masked = x == MASK
        ahead = model(x, times[i].item()).roll(-1, 1)  # as the network gives them: the output before a token is its own
        logits = torch.cat([ahead[:, -1:], ahead[:, :-1]], 1)  # Dream's shift
        logits = hook(i, x, logits)[masked]
        if temperature > 0:
            p = (logits / temperature).softmax(-1)
            drawn = torch.multinomial(p, 1, generator=generator)[:, 0]
            confidence = p.gather(1, drawn[:, None])[:, 0]
        else:
            confidence, drawn = logits.softmax(-1).max(-1)
        if alg == "origin":
            share = 1 - times[i + 1] / times[i] if i < num_steps - 1 else 1.0
            moved = torch.rand(len(drawn), generator=generator) < share
            x[masked] = torch.where(moved, drawn, MASK)
        else:  # maskgit_plus: the most confident ones
            number = int(masked.sum() / rows * (1 - times[i + 1] / times[i] + 1e-6)) if i < num_steps - 1 else L
            x = _transfer(x, masked, drawn, confidence, number)
    return x


def llada(rerank, num_steps: int, rows: int = ROWS, noise: bool = False, seed: int = 0) -> Tensor:
    """The loop of LLaDA's ``generate`` with low-confidence remasking, in miniature: one block."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.full((rows, L), MASK)
    numbers = [L // num_steps + (i < L % num_steps) for i in range(num_steps)]
    for i in range(num_steps):
        masked = x == MASK
        logits = rerank(x, model(x, 1 - i / num_steps))
        noisy = logits.clone()
        if noise:  # temperature 1
            noisy = logits.exp() / -torch.rand(logits.shape, generator=generator, dtype=torch.float64).log()
        drawn = noisy.argmax(-1)
        confidence = logits.softmax(-1).gather(2, drawn[..., None])[..., 0]
        x = _transfer(x, masked, drawn[masked], confidence[masked], numbers[i])
    return x


def _transfer(x: Tensor, masked: Tensor, drawn: Tensor, confidence: Tensor, number: int) -> Tensor:
    everywhere = torch.full(x.shape, -torch.inf, dtype=confidence.dtype)
    everywhere[masked] = confidence
    chosen = torch.zeros_like(masked).scatter(1, everywhere.topk(min(number, L), 1).indices, True) & masked
    filled = x.clone()
    filled[masked] = drawn
    return torch.where(chosen, filled, x)


def by_confidence(options: Options, base: bool, num_steps: int) -> Tensor:
    """Law of the hosts that reveal the surest tokens of what was chosen, summed over everything."""
    brute = BruteForce(WORLD, options, base=base)
    law, numbers = {NOTHING: 1.0}, [L // num_steps + (i < L % num_steps) for i in range(num_steps)]
    for i in range(num_steps):
        following = defaultdict(float)
        for x_t, p in law.items():
            fills = tuple(position for position in range(L) if x_t[position] == MASK)
            marginals = WORLD.marginals(x_t, 1 - i / num_steps)
            for tokens, q in brute._chosen_law(x_t, i, x_t, fills)[0].items():
                surest = sorted(zip(fills, tokens, strict=True), key=lambda ft: -marginals[ft[0]][ft[1]])[: numbers[i]]
                following[write(x_t, [f for f, _ in surest], [t for _, t in surest])] += p * q
        law = following
    return torch.tensor([law.get(x, 0.0) for x in SEQUENCES], dtype=torch.float64)


def unheard(i, x, logits):
    return logits.index_fill(2, torch.tensor([MASK]), -torch.inf)


@pytest.mark.parametrize("num_steps", [1, 2])
@pytest.mark.parametrize("temperature", [1.0, 0.3, 0.0])
def test_dream_origin_draws_from_the_reranked_law(num_steps, temperature, bulk_streams):
    options = Options(num_steps=num_steps, num_candidates=3, scope="sequence", order="ancestral")
    law = BruteForce(WORLD, options).law()
    drawn = dream(DreamLogitsHook(MASK, WORLD.energy(), 3, seed=0), num_steps, "origin", temperature=temperature)
    assert_law(count(drawn), law)
    base = BruteForce(WORLD, options, base=True).law()
    assert (law - base).abs().sum() > 0.2
    constant = dream(DreamLogitsHook(MASK, CONSTANT, 3, seed=0), num_steps, "origin", temperature=temperature)
    assert_law(count(constant), base)
    if temperature == 1:
        assert_law(count(dream(unheard, num_steps, "origin")), base)


@pytest.mark.parametrize("num_steps", [1, 3])
def test_dream_by_confidence(num_steps, bulk_streams):
    options = Options(num_steps=num_steps, num_candidates=3, scope="sequence")
    for energy, base in ((WORLD.energy(), False), (CONSTANT, True)):
        hook = DreamLogitsHook(MASK, energy, 3, seed=0, keep_confidence=True)
        drawn = dream(hook, num_steps, "maskgit_plus", temperature=0.0, rows=20_000)
        assert_law(count(drawn), by_confidence(options, base, num_steps))


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_llada_draws_from_the_reranked_law(num_steps, bulk_streams):
    options = Options(num_steps=num_steps, num_candidates=3, scope="sequence")
    law, base = (by_confidence(options, which, num_steps) for which in (False, True))
    assert_law(count(llada(RerankLogits(MASK, WORLD.energy(), 3, seed=0), num_steps)), law)
    assert_law(count(llada(RerankLogits(MASK, CONSTANT, 3, seed=0), num_steps)), base)
    assert_law(count(llada(lambda x, logits: unheard(0, x, logits), num_steps, noise=True)), base)
    assert (law - base).abs().sum() > 0.2


# Logits


def one_call(energy, k=4, **options):
    x = torch.tensor([[1, MASK, MASK], [0, 2, 1], [MASK, MASK, MASK]])
    logits = model(x, 0.7)
    return x, logits, RerankLogits(MASK, energy, k, **{"seed": 3, **options})(x, logits)


def test_largest_logit_is_chosen_and_its_softmax_is_its_probability():
    x, logits, out = one_call(CallableEnergy(lambda candidates, x, log_p: 1.5 * log_p), k=50)  # likes the unlikely
    assert out.shape == logits.shape and out.dtype == logits.dtype
    assert torch.equal(out[x != MASK], logits[x != MASK])
    p = logits[..., :V].softmax(-1)
    chosen = out[x == MASK].argmax(-1)
    assert (chosen != MASK).all()
    own, confidence = p[x == MASK].gather(1, chosen[:, None])[:, 0], out[x == MASK].softmax(-1).amax(-1)
    sure = own > 0.26
    assert 0 < sure.sum() < len(own)
    torch.testing.assert_close(confidence[sure], own[sure], rtol=1e-6, atol=0)
    assert ((confidence[~sure] > 0.25) & (confidence[~sure] < 0.251)).all()
    assert torch.equal(confidence.argsort(), own.argsort())
    others = out[x == MASK].scatter(1, chosen[:, None], 0.0)
    assert (others == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_and_extreme_probabilities(dtype):
    logits = torch.zeros(1, 2, 5000, dtype=dtype)
    logits[0, 0, 7] = 60.0  # all but certain
    low = CallableEnergy(lambda candidates, x, log_p: torch.where(candidates[..., 1] < 50, 0.0, 80.0))
    out = RerankLogits(5000, low, 2000, seed=0)(torch.full((1, 2), 5000), logits)
    first, second = out.argmax(-1)[0].tolist()
    assert out.dtype == dtype and first == 7 and 0 < second < 50 and torch.isfinite(out).all()
    assert out[0, 0].float().softmax(-1)[7] > 0.999


def test_rows_have_their_own_seeds_and_steps_their_own_draws():
    x, logits = torch.full((6, L), MASK), model(torch.full((6, L), MASK), 1.0)
    together = RerankLogits(MASK, WORLD.energy(), 4, seed=[5, 6, 7, 8, 9, 5])
    first, second = together(x, logits).argmax(-1), together(x, logits).argmax(-1)
    assert torch.equal(first[0], first[-1]) and not torch.equal(first, second)
    alone = RerankLogits(MASK, WORLD.energy(), 4, seed=7)
    assert torch.equal(alone(x[2:3], logits[2:3]).argmax(-1)[0], first[2])
    assert torch.equal(alone(x[2:3], logits[2:3]).argmax(-1)[0], second[2])
    with pytest.raises(ValueError, match=r"a batch must keep its 6 rows, got 2: reset\(\) begins anew"):
        together(x[:2], logits[:2])
    together.reset()
    assert torch.equal(together(x, logits).argmax(-1), first)
    hook = DreamLogitsHook(MASK, WORLD.energy(), 4, seed=[5, 6, 7, 8, 9, 5])
    for _ in range(2):  # step 0 begins anew
        assert torch.equal(hook(0, x, logits).argmax(-1), first)
        assert torch.equal(hook(1, x, logits).argmax(-1), second)
    assert hook(None, x, logits) is logits


def test_equal_tokens_may_have_unequal_logits():
    """A loop may know more of a row than its tokens say, such as a condition."""
    x, logits = torch.full((2, 1), MASK), torch.full((2, 1, 3), -20.0)
    logits[0, 0, 1], logits[1, 0, 2] = 20.0, 20.0
    assert RerankLogits(MASK, CONSTANT, 2, seed=0)(x, logits).argmax(-1)[:, 0].tolist() == [1, 2]


def test_the_window_and_the_proposal_are_the_samplers():
    loves_2 = CallableEnergy(lambda candidates, x, log_p: -60.0 * (candidates == 2).sum(-1))
    x, logits = torch.full((40, L), MASK), torch.zeros(40, L, V)
    later = RerankLogits(MASK, loves_2, 64, seed=0, window=(0.0, 0.5))
    assert (later(x, logits).argmax(-1) == 2).float().mean() < 0.6
    x_third = x.clone()
    x_third[:20, :2] = 0  # of these rows a third is left masked
    assert ((later(x_third, logits).argmax(-1)[:, 2] == 2).view(2, 20).float().mean(1) > 0.7).tolist() == [True, False]
    tilted = torch.tensor([0.0, 0.1, 0.2]).expand(40, L, V)
    assert (RerankLogits(MASK, CONSTANT, 2, seed=0, top_k=1)(x, tilted).argmax(-1) == 2).all()


def test_impossible_candidates():
    never = CallableEnergy(lambda candidates, x, log_p: torch.full_like(log_p, math.inf))
    with pytest.raises(ImpossibleCandidates):
        one_call(never)
    rare = CallableEnergy(lambda candidates, x, log_p: torch.where(candidates[..., 2] == 0, 0.0, math.inf))
    x, _, out = one_call(rare, k=1, on_impossible="redraw")
    assert (out.argmax(-1)[x[:, 2] == MASK, 2] == 0).all()


def test_a_denoiser_says_what_is_impossible_and_which_energies_fit():
    denoiser = modernbert()
    energy = SequenceEnergy.from_denoiser(denoiser)
    x = torch.tensor([[1, 4, 4, 0]])
    out = RerankLogits(denoiser, energy, 3, seed=0)(x, torch.randn(1, 4, 5))
    assert (out.argmax(-1)[0, 1:3] < 4).all()
    with pytest.raises(ValueError, match="it has no identity"):
        RerankLogits(4, energy, 3, seed=0)(x, torch.randn(1, 4, 5))
    with pytest.raises(ValueError, match="logits must have vocab_size = 5 columns, got 7"):
        RerankLogits(denoiser, energy, 3, seed=0)(x, torch.randn(1, 4, 7))
    stories = load_denoiser("tinystories")
    hook = DreamLogitsHook(stories, CONSTANT, 2, seed=0)
    ids = torch.tensor([[*stories.prefix_ids, stories.mask_token_id, stories.mask_token_id]])
    assert stories.mask_token_id not in hook(0, ids, torch.zeros(1, 3, stories.vocab_size)).argmax(-1)[0, 1:].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_candidates": None}, "num_candidates must be a number"),
        ({"on_impossible": "keep"}, "on_impossible 'raise' or 'redraw'; got 2 and 'keep'"),
        ({"num_steps": 3}, r"options must be among \[.*\], got \['num_steps'\]"),
        ({"energy": disturbed_head(modernbert())}, "ResidualHead reads hidden states"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        RerankLogits(MASK, **{"energy": CONSTANT, "num_candidates": 2, **options})
