"""Bounds of texts: windows, blocks and batches, against sums over all texts and direct calls of the sampler."""

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import edlm
from edlm.denoisers.function import FunctionDenoiser
from edlm.energies.callable import CallableEnergy
from edlm.evaluation.likelihood.text import TextBounds, measure_recovery, middle_third, row_to_score, windows_of
from edlm.sampler.sampler import EnergySampler

V = 3


def left_reader(max_length=None):
    """Marginals that depend on all that is known on the left, and on how far away it is; nothing on the right."""
    table = torch.randn(V + 1, 6, V, generator=torch.Generator().manual_seed(4)) * 1.5
    table[V] = 0  # masks say nothing

    def f(x_t, t):
        logits = torch.zeros(*x_t.shape, V)
        for distance in range(1, min(6, x_t.shape[1])):
            logits[:, distance:] += table[x_t[:, :-distance], distance]
        return logits.log_softmax(-1)

    denoiser = FunctionDenoiser(f, mask_token_id=V, vocab_size=V)
    denoiser.max_length = max_length
    return denoiser


def frame(denoiser, prefix=(1,), suffix=(2,), framed=True):
    denoiser.prefix_ids, denoiser.suffix_ids, denoiser.is_framed = prefix, suffix, framed
    return denoiser


def all_texts(length):
    return [list(text) for text in itertools.product(range(V), repeat=length)]


def test_a_row_is_framed_as_generate_frames_it():
    row = row_to_score(frame(left_reader()), [0, 0], [2, 0])
    assert row.tokens.tolist() == [1, 0, 0, 2, 0, 2] and row.gaps == ((3, 5),)
    assert row_to_score(frame(left_reader()), [1, 0], [2]).tokens.tolist() == [1, 0, 2, 2]  # no second prefix
    assert row_to_score(frame(left_reader(), framed=False), [0], [2]).tokens.tolist() == [1, 0, 2]
    assert row_to_score(left_reader(), [0], []).gaps == ()


@pytest.mark.parametrize("framed", [True, False])
@pytest.mark.parametrize("context", [0, 1, 2, 3, None])
@pytest.mark.parametrize("before", [0, 1, 9])
@pytest.mark.parametrize("length", [1, 4, 5, 7, 20])
def test_windows_predict_each_token_once_and_fit(framed, context, before, length):
    denoiser = frame(left_reader(max_length=7), framed=framed)
    row = row_to_score(denoiser, [0] * before, [2] * length)
    views = windows_of(row, denoiser, context)
    predicted = torch.cat([view.index[view.target] for view in views])
    assert predicted.tolist() == torch.arange(*row.gaps[0]).tolist()
    for number, view in enumerate(views):
        assert len(view.index) == min(7, len(row.tokens))
        assert (view.index.diff() > 0).all()
        if framed:
            assert view.index[0] == 0 and view.index[-1] == len(row.tokens) - 1
        inside = view.index[1:-1] if framed else view.index
        assert len(inside) == 0 or (inside.diff() == 1).all()
        if 0 < number < len(views) - 1:
            observed = (~view.target).sum().item() - 2 * framed
            assert observed == ((2 if framed else 3) if context is None else context)
    if before and context != 0:  # shifted outputs need a token on their left
        assert (~views[0].target).sum() > 2 * framed
    if before and length == 5 - framed:  # fits with at least a token of the context
        assert len(views) == 1


def test_a_context_that_leaves_no_room_is_refused():
    denoiser = left_reader(max_length=4)
    with pytest.raises(ValueError, match=r"context must lie in 0..3, .* got 4"):
        windows_of(row_to_score(denoiser, [], [0] * 9), denoiser, 4)


@pytest.mark.parametrize("order", ["left_to_right", "dilated"])
@pytest.mark.parametrize(
    ("max_length", "options"),
    [(None, {}), (4, {}), (4, {"context": 1}), (None, {"blocks": 2}), (4, {"blocks": 3})],
)
def test_likelihoods_of_all_texts_sum_to_one(order, max_length, options):
    denoiser = left_reader(max_length)
    options = dict(options)
    sampler = EnergySampler(denoiser, num_steps=2, order=order, block_length=options.pop("blocks", None))
    rows = [row_to_score(denoiser, [2, 0], text) for text in all_texts(5)]
    nats = TextBounds(sampler, batch_size=100, **options).bounds(rows, [0] * len(rows))
    assert (-nats).exp().sum().item() == pytest.approx(1.0, abs=1e-6)
    assert nats.std() > 0.5


def test_it_is_the_law_of_what_generate_writes_in_blocks():
    denoiser = left_reader(max_length=4)
    sampler = EnergySampler(denoiser, num_steps=1, order="left_to_right")
    texts = all_texts(3)
    in_blocks = replace(sampler, block_length=2)
    law = (-TextBounds(in_blocks).bounds([row_to_score(denoiser, [2, 0], x) for x in texts], [0] * 27)).exp()
    output = in_blocks.generate([[2, 0]], 3, num_return_sequences=2000, seed=0, eos_token_id=None)
    counts = torch.zeros(27, dtype=torch.float64)
    for tokens in output.tokens:
        counts[texts.index(tokens[2:].tolist())] += 1
    assert (counts / 2000 - law).abs().sum().item() / 2 < 0.06
    at_once = TextBounds(sampler).bounds([row_to_score(denoiser, [2], x) for x in texts], [0] * 27)
    assert (counts / 2000 - (-at_once).exp()).abs().sum().item() / 2 > 0.1  # not by chance


def reranked(denoiser, **options):
    energy = CallableEnergy(
        lambda candidates, x, log_p: 0.7 * (candidates * torch.arange(candidates.shape[-1])).sum(-1)
    )
    return EnergySampler(denoiser, energy, **{"num_steps": 2, "num_candidates": 3, "order": "random", **options})


@pytest.mark.parametrize("scope", ["step", "sequence"])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_one_window_is_a_direct_call_whatever_the_batch(scope, batch_size):
    denoiser = left_reader()
    sampler = reranked(denoiser, scope=scope)
    pairs = [([0, 1], [2, 2, 0]), ([1], [0]), ([], [2, 1, 1, 0, 2]), ([0] * 6, [1, 0]), ([2], [])]
    rows, seeds = [row_to_score(denoiser, *pair) for pair in pairs], [5, 3, 3, 8, 1]
    expected = []
    for (context, text), row, seed in zip(pairs, rows, seeds, strict=True):
        given = torch.arange(len(row.tokens)) < len(context)
        bound = sampler.likelihood_bound(row.tokens[None], given=given[None], seeds=[seed]) if text else torch.zeros(1)
        expected.append(bound.item())
    nats = TextBounds(sampler, batch_size=batch_size).bounds(rows, seeds)
    assert nats.tolist() == pytest.approx(expected, abs=1e-5) and nats.dtype == torch.float64
    assert TextBounds(sampler).bounds([], []).shape == (0,)


def test_draws_are_averaged_and_one_will_do_where_it_is_exact():
    denoiser = left_reader()
    rows = [row_to_score(denoiser, [1], [2, 0, 1, 1])] * 3
    one = torch.stack([TextBounds(reranked(denoiser)).bounds(rows, range(i, i + 3)) for i in range(0, 300, 3)])
    several = TextBounds(reranked(denoiser), num_draws=50).bounds(rows, [0, 1, 2])
    assert several.std() < one.std() / 3
    assert several.mean().item() == pytest.approx(one.mean().item(), abs=4 * one.std().item() / 12)
    exact = EnergySampler(denoiser, num_steps=2, order="dilated")
    assert exact.bound_is_exact and TextBounds(exact, num_draws=50).num_draws == 1
    assert not reranked(denoiser, order="dilated").bound_is_exact
    assert not EnergySampler(denoiser, num_steps=2, order="random").bound_is_exact


def test_inner_draws_are_the_samplers():
    denoiser = left_reader()
    sampler, row = reranked(denoiser, scope="sequence"), row_to_score(denoiser, [1], [2, 0, 1, 1])
    given = torch.arange(5) < 1
    for inner_draws in (1, 4):
        options = {"given": given[None], "seeds": [3], "inner_draws": inner_draws}
        expected = sampler.likelihood_bound(row.tokens[None], **options).item()
        assert TextBounds(sampler, inner_draws=inner_draws).bounds([row], [3]).item() == pytest.approx(expected)
    with pytest.raises(ValueError, match="inner_draws"):
        TextBounds(sampler, inner_draws=0)


def test_it_knows_what_the_sampler_would_write():
    denoiser = left_reader(max_length=5)
    sampler = EnergySampler(denoiser, num_steps=2, order="dilated", top_k=1, block_length=3)
    written = sampler.generate([[2, 0]], 6, seed=0, eos_token_id=None).tokens[0][2:].tolist()
    others = [written[:i] + [(written[i] + 1) % V] + written[i + 1 :] for i in range(6)]
    rows = [row_to_score(denoiser, [2, 0], text) for text in [written, *others]]
    equal = TextBounds(sampler, batch_size=4).would_write(rows, [0] * 7)
    assert equal == [True] + [False] * 6


def test_recovery_is_the_share_of_spans_and_tokens_of_the_truth():
    """Three tokens of nine are masked, each true with probability 0.8: a span is with 0.8^3."""
    x_0 = torch.arange(9).remainder(4).expand(400, 9).contiguous()

    def f(x_t, t):
        log_probs = torch.full((*x_t.shape, 4), math.log(0.2 / 3))
        return log_probs.scatter(2, x_0[: len(x_t), :, None], math.log(0.8))

    gap = middle_third(x_0)
    assert gap[0].tolist() == [False] * 3 + [True] * 3 + [False] * 3
    sampler = EnergySampler(FunctionDenoiser(f, mask_token_id=4, vocab_size=4), num_steps=2, order="dilated")
    spans, tokens = measure_recovery(sampler, x_0, given=~gap, batch_size=64)
    assert spans.value == pytest.approx(0.512, abs=4 * math.sqrt(0.25 / 400)) and spans.n == 400
    assert tokens.value == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / 1200))
    assert measure_recovery(sampler, x_0, given=~gap, batch_size=400) == (spans, tokens)


def test_the_shipped_models_whole_rows():
    denoiser, head = edlm.load_denoiser("tinystories"), edlm.load_energy("tinystories")
    sampler = EnergySampler(denoiser, head, num_steps=4, num_candidates=None, order="dilated")
    ids = denoiser.tokenizer("Once upon a time, there was a little girl named Lily. " * 20)["input_ids"]
    row = row_to_score(denoiser, [], ids)
    views = windows_of(row, denoiser)
    assert len(ids) > 128 and [len(view.index) for view in views] == [128] * len(views)
    direct = sum(
        sampler.likelihood_bound(row.tokens[view.index][None], given=~view.target[None], seeds=[0]).item()
        for view in views
    )
    assert TextBounds(sampler).bounds([row], [0]).item() == pytest.approx(direct, rel=1e-5)


@pytest.mark.parametrize("option", ["batch_size", "num_draws"])
def test_options_are_checked(option):
    with pytest.raises(ValueError, match=option):
        TextBounds(SimpleNamespace(), **{option: 0})
