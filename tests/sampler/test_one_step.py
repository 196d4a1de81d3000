"""`rerank_step`: the tokens of `EnergySampler`, step by step; its law by enumeration; what it refuses."""

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from edlm import CallableEnergy, EnergySampler, SequenceEnergy, rerank_step
from edlm.denoisers.decoder import DecoderDenoiser
from edlm.denoisers.vocabulary import Vocabulary
from edlm.diffusion.streams import RowStreams
from edlm.energies import AutoregressiveEnergy
from edlm.sampler.impossible import ImpossibleCandidates
from edlm.sampler.step import denoise
from tests.chance import assert_law
from tests.energies.heads import MASK as BERT_MASK
from tests.energies.heads import disturbed_head, modernbert
from tests.enumerable import random_causal_lm
from tests.sampler.brute_force import MASK, SEQUENCES, L, V, World, code, count

WORLD = World()
NETWORK = modernbert()
LENGTH, SEEDS, STEPS = 8, [3, 4, 5], 3
CANVAS = torch.tensor([[0, 4, 4, 2, 4, 4, 4, 4], [4, 1, 4, 4, 4, 4, 0, 4], [4] * LENGTH])


def head(**settings):
    return disturbed_head(NETWORK, **settings)


def sequence_energy(denoiser=NETWORK):
    torch.manual_seed(2)
    energy = SequenceEnergy.from_denoiser(denoiser)
    for weight in energy.parameters():
        weight.data += 0.2 * torch.randn(weight.shape)
    return energy.eval()


def states_and_logits(x, real=None, denoiser=NETWORK):
    encoding = denoiser.encode(x, None, real, keep_hidden=True)
    hidden = tuple(states[encoding.place] for states in (*encoding.hidden, encoding.features))
    return hidden, denoiser.decode(hidden[-1].flatten(0, 1)).unflatten(0, x.shape).detach()


@pytest.mark.parametrize("order", ["bisecting", "random", "confidence", "left_to_right"])
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (head, {"num_candidates": None}),
        (head, {"num_candidates": None, "group_size": 2, "temperature": 0.7, "top_k": 3}),
        (head, {"num_candidates": 4}),
        (head, {"num_candidates": 4, "group_size": 2, "weight_temperature": 0.5}),
        (lambda: disturbed_head(NETWORK, form="unnormalized"), {"num_candidates": 4, "top_p": 0.9}),
        (lambda: head(start="cold", width=16, num_blocks=1), {"num_candidates": None}),
        (sequence_energy, {"num_candidates": 5, "correct_proposal": True, "temperature": 1.3}),
        (sequence_energy, {"num_candidates": 4, "scope": "sequence"}),
        (head, {"num_candidates": None, "window": (0.0, 0.7)}),
        (lambda: None, {}),
    ],
    ids="exact rounds candidates groups scalar cold sequence whole window base".split(),
)
@pytest.mark.parametrize("padded", [False, True])
def test_tokens_are_those_of_the_sampler_step_by_step(make, options, order, padded):
    energy = make()
    sampler = EnergySampler(NETWORK, energy, num_steps=STEPS, order=order, **options)
    real = torch.ones_like(CANVAS, dtype=torch.bool)
    if padded:
        real[0, 6:] = real[1, 7:] = False
    x_t, wrote = CANVAS, 0
    for x_s, info in denoise(sampler, CANVAS, RowStreams(SEEDS), attention_mask=real):
        i = info.step
        ranks = torch.full_like(x_t, -1)
        for choice in info.choices:  # groups, in order; at sequence scope they hold more than is written
            places = choice.slots.write(torch.full_like(x_t, -1), choice.slots.ranks)
            ranks = torch.where(places >= 0, places + ranks.amax(1, keepdim=True) + 1, ranks)
        ranks = ranks.masked_fill(x_s == x_t, -1)
        t = torch.full((len(x_t),), 1 - i / STEPS, dtype=torch.float64)
        hidden, logits = states_and_logits(x_t, real)
        tokens, accepted = rerank_step(
            x_t, logits, hidden, energy, NETWORK, reveal=ranks, attention_mask=real, t=t, seeds=SEEDS, step=i, **options
        )
        assert torch.equal(tokens, x_s), i
        assert torch.equal(accepted, x_s != x_t)
        x_t, wrote = x_s, wrote + int(accepted.sum())
    assert wrote == int(((CANVAS == BERT_MASK) & real).sum())


def test_a_shifted_decoder_whose_states_are_where_its_network_has_them():
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    network = LlamaForCausalLM(LlamaConfig(vocab_size=5, initializer_range=0.5, **shape)).eval()
    denoiser = DecoderDenoiser(network, Vocabulary(5, BERT_MASK), shift=True)
    energy, x = disturbed_head(denoiser, start="cold", width=16, num_blocks=2), CANVAS.clone()
    x[:, 0] = 0
    hidden, logits = states_and_logits(x, denoiser=denoiser)
    tokens, _ = rerank_step(x, logits, hidden, energy, denoiser, seeds=SEEDS)
    expected = EnergySampler(denoiser, energy, num_steps=1).fill(x, seeds=SEEDS).tokens
    assert torch.equal(tokens, expected)
    base, _ = rerank_step(x, logits, None, None, denoiser, seeds=SEEDS)
    assert not torch.equal(tokens, base)


def test_a_generator_draws_the_seeds_and_nothing_else_is_kept():
    x, denoiser, energy = torch.full((4, L), MASK), WORLD.denoiser(), WORLD.energy()
    logits = denoiser.f(x, torch.ones(4))
    sampler = EnergySampler(denoiser, energy, num_steps=1, num_candidates=3, order="left_to_right")

    def drawn(seed, **options):
        generator = torch.Generator().manual_seed(seed)
        call = {"num_candidates": 3, "generator": generator, **options}
        return [rerank_step(x, logits, None, energy, MASK, **call)[0] for _ in range(2)]

    first, second = drawn(0)
    assert torch.equal(first, sampler.fill(x, generator=torch.Generator().manual_seed(0)).tokens)
    assert not torch.equal(first, second)  # the generator has moved on
    assert all(map(torch.equal, drawn(0), (first, second)))
    assert not torch.equal(drawn(1)[0], first)
    by_seed = [rerank_step(x, logits, None, energy, MASK, num_candidates=3, seeds=[5, 6, 7, 5])[0] for _ in range(2)]
    assert torch.equal(*by_seed)
    assert (x == MASK).all()


def test_rows_do_not_depend_on_each_other():
    hidden, logits = states_and_logits(CANVAS)
    for options in ({"num_candidates": None}, {"num_candidates": 4}):
        together, _ = rerank_step(CANVAS, logits, hidden, head(), NETWORK, seeds=SEEDS, **options)
        for r in range(len(CANVAS)):
            row = slice(r, r + 1)
            states = [h[row] for h in hidden]
            alone, _ = rerank_step(CANVAS[row], logits[row], states, head(), NETWORK, seeds=SEEDS[row], **options)
            assert torch.equal(alone[0], together[r])


# The law, by enumeration


@pytest.mark.parametrize("logits_are", ["normalised", "shifted"])
def test_the_chosen_candidate_tends_to_p_times_exp_minus_e(logits_are, bulk_streams):
    rows, k = 20_000, 64
    x = torch.full((rows, L), MASK)
    logits = WORLD.denoiser().f(x[:1], torch.ones(1))
    logits = logits.log_softmax(-1) if logits_are == "normalised" else logits + torch.tensor([[[7.0], [-3.0], [0.5]]])
    energies = torch.tensor([WORLD.scores[code(sequence)] for sequence in SEQUENCES])
    scores = WORLD.scores
    energy = CallableEnergy(lambda candidates, x, log_p: scores[(candidates * torch.tensor([16, 4, 1])).sum(-1)])
    tokens, accepted = rerank_step(x, logits.expand(rows, -1, -1), None, energy, MASK, num_candidates=k)
    p = torch.tensor([math.prod(logits[0, i].softmax(-1)[s[i]].item() for i in range(L)) for s in SEQUENCES])
    law = p * (-energies).exp()
    assert accepted.all()
    frequencies = count(tokens) / rows
    away = 0.5 * (frequencies - law / law.sum()).abs().sum()
    assert away < 0.03
    for other in (p, p * energies.exp()):  # no energy, the other sign
        assert 0.5 * (frequencies - other / other.sum()).abs().sum() > 0.2


def test_one_candidate_draws_from_the_logits_and_a_constant_energy_too(bulk_streams):
    x = torch.full((30_000, L), MASK)
    logits = WORLD.denoiser().f(x[:1], torch.ones(1))
    p = logits[0].softmax(-1).tolist()
    law = torch.tensor([math.prod(p[i][s[i]] for i in range(L)) for s in SEQUENCES], dtype=torch.float64)
    constant = CallableEnergy(lambda candidates, x, log_p: torch.full_like(log_p, 2.5))
    for energy, k in ((WORLD.energy(), 1), (constant, 4), (None, 1)):
        tokens, _ = rerank_step(x, logits.expand(len(x), -1, -1), None, energy, MASK, num_candidates=k)
        assert_law(count(tokens), law)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_impossible_tokens_stay_impossible(dtype):
    logits = torch.zeros(50, 2, 5, dtype=dtype)
    logits[:, 0, 1:4] = -math.inf
    logits[:, 1, 0] = -math.inf
    x = torch.full((50, 2), 4)  # the mask has a column, which nothing draws
    loves_1 = CallableEnergy(lambda candidates, x, log_p: -50.0 * (candidates == 1).sum(-1))
    tokens, _ = rerank_step(x, logits, None, loves_1, 4, num_candidates=16, seeds=0)
    assert (tokens[:, 0] == 0).all() and set(tokens[:, 1].tolist()) <= {1, 2, 3}
    assert (tokens[:, 1] == 1).float().mean() > 0.9
    with pytest.raises(
        ValueError, match="every masked position needs finite mass on a real token, got a maximum of -inf"
    ):
        rerank_step(x, torch.full_like(logits, -math.inf), None, loves_1, 4, num_candidates=2, seeds=0)


def test_where_all_candidates_are_impossible_the_policy_decides():
    never_2_first = CallableEnergy(lambda c, x, log_p: torch.where(c[..., 0] == 2, 0.0, math.inf))
    x = torch.tensor([[MASK, MASK, 0], [1, MASK, MASK], [2, MASK, 1]])
    call = {"num_candidates": 2, "seeds": 0}
    with pytest.raises(ImpossibleCandidates):
        rerank_step(x, torch.zeros(3, L, V), None, never_2_first, MASK, **call)
    tokens, accepted = rerank_step(x, torch.zeros(3, L, V), None, never_2_first, MASK, on_impossible="keep", **call)
    assert torch.equal(tokens[1], x[1]) and not accepted[1].any()
    assert accepted[2].tolist() == [False, True, False] and tokens[2, 1] != MASK
    first = x[:1].repeat(20, 1)
    tokens, _ = rerank_step(first, torch.zeros(20, L, V), None, never_2_first, MASK, on_impossible="redraw", **call)
    assert (tokens[:, 0] == 2).all()


# What is decided


def test_only_what_is_revealed_is_written():
    x, logits = torch.full((1, L), MASK), torch.randn(1, L, V, generator=torch.Generator().manual_seed(0))
    seen = []

    def noted(candidates, x_partial, log_p):
        seen.append(candidates)
        return 0.0 * log_p

    reveal = torch.tensor([[False, True, False]])
    tokens, accepted = rerank_step(
        x, logits, None, CallableEnergy(noted), MASK, reveal=reveal, num_candidates=2, seeds=0
    )
    assert accepted.tolist() == reveal.tolist() and (tokens == MASK).tolist() == (~reveal).tolist()
    assert (seen.pop()[..., [0, 2]] == MASK).all()
    call = {"reveal": reveal, "num_candidates": 2, "scope": "sequence", "seeds": 0}
    tokens, accepted = rerank_step(x, logits, None, CallableEnergy(noted), MASK, **call)
    assert accepted.tolist() == reveal.tolist() and (seen.pop() != MASK).all()
    target = torch.tensor([[True, True, False]])
    rerank_step(x, logits, None, CallableEnergy(noted), MASK, target=target, **call)
    candidates = seen.pop()
    assert (candidates[..., 2] == MASK).all() and (candidates[..., :2] != MASK).all()
    nothing, accepted = rerank_step(
        torch.tensor([[1, 2, 0]]), logits, None, CallableEnergy(noted), MASK, num_candidates=2
    )
    assert nothing.tolist() == [[1, 2, 0]] and not accepted.any()


def test_a_function_sees_whole_sequences_of_rows_that_decide_nothing_too():
    x, seen = torch.full((2, L), MASK), []
    reveal = torch.tensor([[True, False, False], [False] * 3])
    noted = CallableEnergy(lambda candidates, x, log_p: seen.append(candidates) or 0.0 * log_p, complete=True)
    tokens, accepted = rerank_step(x, torch.zeros(2, L, V), None, noted, MASK, reveal=reveal, num_candidates=2, seeds=0)
    assert (seen[0] != MASK).all() and torch.equal(accepted, reveal) and torch.equal(tokens[1], x[1])


def test_logits_of_a_block_fill_the_block_of_a_whole_canvas():
    torch.manual_seed(0)
    lm = random_causal_lm()
    energy = AutoregressiveEnergy(lm, bos_token_id=0)
    x = torch.tensor([[0, 1, MASK, MASK, MASK], [2, 2, MASK, 1, MASK]])
    logits = torch.randn(2, 5, V)
    target = torch.zeros_like(x, dtype=torch.bool)
    target[:, 2:4] = True
    call = {"num_candidates": 8, "seeds": [1, 2]}
    whole, _ = rerank_step(x, logits, None, energy, MASK, target=target, **call)
    block, accepted = rerank_step(x, logits[:, 2:4], None, energy, MASK, offset=2, **call)
    assert torch.equal(whole, block)
    assert accepted.tolist() == [[False, False, True, True, False], [False, False, True, False, False]]


def three(energy):
    """The energy on the first three tokens of rows that are padded on the right."""
    return CallableEnergy(lambda candidates, x, log_p: energy.f(candidates[..., :3], x[..., :3], log_p))


@pytest.mark.parametrize("kind", ["autoregressive", "function"])
@pytest.mark.parametrize("pad", [0, 2, MASK])
def test_padding_on_the_left_is_not_judged(kind, pad):
    lm = AutoregressiveEnergy(random_causal_lm(), bos_token_id=0)
    energy, of_padded = (lm, lm) if kind == "autoregressive" else (WORLD.energy(), three(WORLD.energy()))
    alone = torch.tensor([[1, MASK, MASK]])
    logits = torch.randn(1, 3, V, generator=torch.Generator().manual_seed(0))
    call = {"num_candidates": 8, "seeds": [4], "scope": "sequence"}
    expected, _ = rerank_step(alone, logits, None, energy, MASK, **call)
    x, real = torch.cat([torch.full((1, 2), pad), alone], 1), torch.tensor([[0, 0, 1, 1, 1]])
    longer = torch.cat([torch.full((1, 2, V), 5.0), logits], 1)
    tokens, accepted = rerank_step(x, longer, None, of_padded, MASK, attention_mask=real, **call)
    assert torch.equal(tokens[:, 2:], expected) and torch.equal(tokens[:, :2], x[:, :2])
    assert accepted.tolist() == [[False, False, False, True, True]]


def test_time_is_the_share_of_masks_or_what_is_given():
    x = torch.tensor([[MASK, 1, 2, 0], [MASK, MASK, MASK, 0]])
    real = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    loves_2 = CallableEnergy(lambda candidates, x, log_p: -60.0 * (candidates == 2).sum(-1))
    call = {"num_candidates": 64, "attention_mask": real.repeat(20, 1), "seeds": 0, "window": (0.5, 1.0)}
    x, logits = x.repeat(20, 1), torch.zeros(40, 4, V)
    for t, used in (
        (None, (False, True)),
        (0.9, (True, True)),
        (0.5, (False, False)),
        (torch.tensor(0.6), (True, True)),
    ):
        tokens, _ = rerank_step(x, logits, None, loves_2, MASK, t=t, **call)
        share = [(tokens[r::2, 0] == 2).float().mean() for r in (0, 1)]
        assert tuple(part > 0.75 for part in share) == used
    per_row = torch.tensor([0.9, 0.1]).repeat(20)
    tokens, _ = rerank_step(x, logits, None, loves_2, MASK, t=per_row, **call)
    assert (tokens[::2, 0] == 2).all() and (tokens[1::2, 0] == 2).float().mean() < 0.75


def test_states_of_a_row_that_is_padded_on_the_left():
    x = CANVAS[:1]
    hidden, logits = states_and_logits(x)
    expected, _ = rerank_step(x, logits, hidden, head(), NETWORK, num_candidates=None, seeds=0)
    pad = lambda table, value: torch.cat([torch.full_like(table[:, :2], value), table], 1)  # noqa: E731
    real = torch.tensor([[False] * 2 + [True] * LENGTH])
    states = [pad(h, 9.0) for h in hidden]
    call = {"num_candidates": None, "seeds": 0, "attention_mask": real}
    tokens, _ = rerank_step(pad(x, BERT_MASK), pad(logits, 0.0), states, head(), NETWORK, **call)
    assert torch.equal(tokens[:, 2:], expected)


# Mistakes

LOGITS = torch.zeros(2, L, V)
X = torch.full((2, L), MASK)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"canvas": X[0]}, r"canvas must be int64 \[batch, length\], got int64 \[3\]"),
        ({"canvas": X.int()}, r"canvas must be int64 \[batch, length\], got int32 \[2, 3\]"),
        ({"canvas": X + 1}, r"tokens must lie in 0..2 or be the mask, got 4"),
        ({"log_probs": LOGITS[0]}, r"log_probs must be floating \[2, 3, vocab_size\], got float32 \[3, 3\]"),
        ({"log_probs": LOGITS[:, :2]}, r"log_probs must be floating \[2, 3, vocab_size\], got float32 \[2, 2, 3\]"),
        ({"offset": 1}, r"log_probs must be floating \[2, at most 2, vocab_size\], got float32 \[2, 3, 3\]"),
        ({"denoiser": None}, "denoiser must be a Denoiser or an integer, got None"),
        ({"energy": 3}, "energy must be an Energy or None, got 3"),
        ({"energy": head(), "denoiser": 4}, "ResidualHead reads hidden states: hidden must hold them, got None"),
        ({"hidden": [torch.zeros(2, L, 4)]}, "hidden needs the Denoiser whose states they are"),
        ({"hidden": [torch.zeros(2, 5, 4)]}, r"hidden must be tensors \[2, 3, hidden_size\], got float32 \[2, 5, 4\]"),
        ({"reveal": torch.ones(2, 2, dtype=torch.bool)}, r"reveal must be a table \[2, 3\], got bool \[2, 2\]"),
        ({"reveal": torch.ones(2, 3)}, r"reveal must be bool or int64 \[2, 3\], got float32 \[2, 3\]"),
        ({"target": [True]}, r"target must be a table \[2, 3\], got \[True\]"),
        ({"t": torch.ones(3)}, r"t must be a number, or one a row \[2\], got float32 \[3\]"),
        ({"t": "late"}, "t must be a number, got 'late'"),
        ({"seeds": [1]}, r"there must be one seed a row \(2\), got 1"),
        ({"num_candidate": 3}, "StepOptions has no option 'num_candidate'; did you mean 'num_candidates'"),
        ({"num_steps": 3}, "StepOptions has no option 'num_steps'"),
        ({"num_candidates": None}, "num_candidates=None .* needs an energy that can be drawn from"),
        ({"temperature": 0.0}, "temperature must be > 0 and finite, got 0.0"),
    ],
    ids=lambda value: str([*value]) if isinstance(value, dict) else "",
)
def test_mistakes_are_errors_of_one_line(call, message):
    full = {"canvas": X, "log_probs": LOGITS, "hidden": None, "energy": WORLD.energy(), "denoiser": MASK}
    full |= {"num_candidates": 2, **call}
    with pytest.raises(ValueError, match=message) as error:
        rerank_step(**full)
    assert "\n" not in str(error.value)


def test_states_that_are_not_the_denoisers():
    hidden, logits = states_and_logits(CANVAS)
    with pytest.raises(ValueError, match=r"hidden must be 4 or 5 tensors \[3, length, 16\], got 2 of \[\[3, 8, 16\]\]"):
        rerank_step(CANVAS, logits, hidden[:2], head(), NETWORK)
    cold = head(start="cold", width=16, num_blocks=1)
    with pytest.raises(ValueError, match="hidden must hold the input of the output layer too"):
        rerank_step(CANVAS, logits, hidden[:4], cold, NETWORK)
    with pytest.raises(ValueError, match="the one given differs"):
        rerank_step(CANVAS, logits, hidden, head(), modernbert(seed=1))
    tokens, _ = rerank_step(CANVAS, logits, hidden[:4], head(), NETWORK, seeds=SEEDS)
    assert torch.equal(tokens, rerank_step(CANVAS, logits, hidden, head(), NETWORK, seeds=SEEDS)[0])
