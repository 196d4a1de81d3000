"""ResidualHead: normalised and causal in every way of deciding, zero before training, bound to its denoiser."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from edlm.energies import Step, load_energy
from edlm.sampler import EnergySampler
from tests.energies.heads import (
    MASK,
    NUM_LAYERS,
    VOCAB_SIZE,
    bert,
    decision_of,
    decisions_in_groups,
    disturbed_head,
    log_q,
    modernbert,
    new_head,
    ranked,
    step_on,
)

COLD = {"start": "cold", "width": 12, "num_heads": 2}
SHAPES = [
    pytest.param({"num_blocks": blocks, **start}, id=f"{blocks}-{start.get('start', 'warm')}")
    for blocks in (1, 2, 3)
    for start in ({}, COLD)
]
LAWS = SHAPES + [
    pytest.param({"num_listed": number, **shape.values[0]}, id=f"{shape.id}-{number}")
    for shape, number in ((SHAPES[0], 1), (SHAPES[0], 2), (SHAPES[0], 3), (SHAPES[2], 9), (SHAPES[3], 2))
]  # of 4 tokens; 9 lists all of them
WAYS = ["forward", "exact", 1, 2]
FILLINGS = torch.cartesian_prod(*[torch.arange(VOCAB_SIZE)] * 3)  # all tokens of 3 slots
ORDER = (3, 0, 2)  # not left to right; position 1 is given, 4 stays masked
ROW = torch.tensor([MASK, 2, MASK, MASK, MASK])


@pytest.fixture(scope="module")
def denoiser():
    return modernbert()


def every_filling(denoiser) -> tuple[Step, torch.Tensor]:
    """A batch of equal rows, one for each filling of their three slots; tokens ``[num_slots]``."""
    step = step_on(denoiser, ROW.repeat(len(FILLINGS), 1), ranked(*[ORDER] * len(FILLINGS)))
    return step, FILLINGS.flatten()


def ragged(denoiser) -> tuple[Step, torch.Tensor]:
    """Rows that decide 3, 0, 1, 5 and 2 tokens; five candidates at each slot."""
    x_t = torch.tensor([[4, 2, 4, 4, 4], [1, 4, 0, 3, 4], [4, 0, 1, 4, 2], [4, 4, 4, 4, 4], [3, 4, 1, 4, 4]])
    slots = ranked(ORDER, (), (3,), (2, 4, 0, 3, 1), (4, 1))
    return step_on(denoiser, x_t, slots), torch.randint(
        VOCAB_SIZE, (len(slots), 5), generator=torch.Generator().manual_seed(3)
    )


def row_of(step: Step, tokens: torch.Tensor, row: int) -> tuple[Step, torch.Tensor]:
    """One row of a step, as a batch of its own."""
    mine = step.slots.rows == row
    return step_on(step.denoiser, step.x_t[row][None], ranked(tuple(step.slots.positions[mine].tolist()))), tokens[mine]


# Before training


@pytest.mark.parametrize("order", ["random", "dilated"])
@pytest.mark.parametrize("shape", LAWS)
def test_before_training_exact_decisions_are_the_base(denoiser, shape, order):
    head = new_head(denoiser, **shape)
    base = EnergySampler(denoiser, num_steps=2, order=order)
    exact = EnergySampler(denoiser, head, num_steps=2, order=order, num_candidates=None)
    x_0, seeds = torch.randint(VOCAB_SIZE, (8, 6), generator=torch.Generator().manual_seed(1)), range(8)
    expected = base.likelihood_bound(x_0, seeds=seeds)
    torch.testing.assert_close(exact.likelihood_bound(x_0, seeds=seeds), expected, atol=1e-4, rtol=0)
    if head.shape.num_listed is None:  # else the law is the same, and its tokens have another sequence in the CDF
        # A uniform would have to fall within rounding (1e-6) of a step of the CDF: probability about 1e-4 in all.
        assert torch.equal(exact.sample(8, 6, seeds=seeds).tokens, base.sample(8, 6, seeds=seeds).tokens)
    for options in ({"num_candidates": 4}, {"num_candidates": 4, "group_size": 2}):
        weighed = EnergySampler(denoiser, head, num_steps=2, order=order, **options)
        torch.testing.assert_close(weighed.likelihood_bound(x_0, seeds=seeds), expected, atol=1e-4, rtol=0)


def test_a_cold_head_suits_any_masked_lm():
    denoiser = bert()
    step, tokens = (
        step_on(denoiser, ROW.repeat(2, 1), ranked(ORDER, (4,))),
        torch.tensor([[0, 3], [1, 2], [3, 3], [2, 0]]),
    )
    for form in ("normalized", "unnormalized"):
        before = new_head(denoiser, form=form, num_blocks=2, **COLD)(decision_of(step, tokens))
        assert before.abs().max() < 1e-5
        assert disturbed_head(denoiser, form=form, num_blocks=2, **COLD)(decision_of(step, tokens)).abs().min() > 1e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_scalar_head_is_exactly_zero_before_training(denoiser, shape):
    step, tokens = ragged(denoiser)
    head = new_head(denoiser, form="unnormalized", **shape)
    for decision in [*decisions_in_groups(step, tokens, 2), *decisions_in_groups(step, tokens, None)]:
        assert torch.equal(head(decision), torch.zeros(5, 5, dtype=torch.float64))


# Z = 1


@pytest.mark.parametrize("shape", LAWS)
def test_q_sums_to_one_over_all_fillings(denoiser, shape):
    x_t = torch.stack([ROW, torch.tensor([MASK] * 5)])
    step, head = step_on(denoiser, x_t, ranked(ORDER, (4, 1, 2))), disturbed_head(denoiser, **shape)
    decision = decision_of(step, FILLINGS.T.repeat(2, 1))
    energy = head(decision)
    total = (decision.log_proposal - energy).exp().sum(1)
    torch.testing.assert_close(total, torch.ones(2).double(), atol=1e-5, rtol=0)
    assert energy.std(1).min() > 0.3  # the corrections are not small


@pytest.mark.parametrize("group_size", [1, 2, 3])
@pytest.mark.parametrize("shape", LAWS)
def test_the_energies_of_the_groups_add_up_to_that_of_the_whole_step(denoiser, shape, group_size):
    step, tokens = ragged(denoiser)
    head = disturbed_head(denoiser, **shape)
    whole = head(decision_of(step, tokens))[:, 0]
    in_groups = sum(head(decision)[:, 0] for decision in decisions_in_groups(step, tokens, group_size))
    torch.testing.assert_close(in_groups, whole, atol=1e-4, rtol=1e-4)
    assert whole[1] == 0 and whole[[0, 2, 3, 4]].abs().min() > 1e-3  # row 1 decides nothing


@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize("shape", LAWS)
def test_every_way_of_deciding_gives_the_same_conditionals(denoiser, shape, blind):
    step, tokens = ragged(denoiser)
    head = disturbed_head(denoiser, blind=blind, **shape)
    decision = decision_of(step, tokens[:, :1])
    expected = log_q("exact", head, step, tokens[:, 0])
    for way in ("forward", 1, 2):
        torch.testing.assert_close(log_q(way, head, step, tokens[:, 0]), expected, atol=1e-4, rtol=1e-4)
    of_data = step.slots.sum_rows(expected.gather(1, tokens[:, :1])[:, 0].double())
    torch.testing.assert_close(decision.log_proposal[:, 0] - of_data, head(decision)[:, 0], atol=1e-4, rtol=1e-4)


# What a token sees


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", LAWS)
def test_a_token_sees_only_those_decided_before_it(denoiser, shape, way):
    step, tokens = every_filling(denoiser)
    table = log_q(way, disturbed_head(denoiser, **shape), step, tokens).view(4, 4, 4, 3, VOCAB_SIZE + 1)[..., :MASK]
    for rank in range(3):
        at_rank = table[..., rank, :]
        for other in range(3):
            spread = (at_rank - at_rank.movedim(other, 0)[:1].movedim(0, other)).abs()
            if other < rank:  # every other value of every earlier token makes a difference
                assert spread.movedim(other, 0)[1:].amax(-1).min() > 1e-3
            else:
                assert spread.max() < 1e-4


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", LAWS)
def test_a_blind_head_sees_none_of_them_but_corrects_marginals(denoiser, shape, way):
    step, tokens = every_filling(denoiser)
    table = log_q(way, disturbed_head(denoiser, blind=True, **shape), step, tokens).view(64, 3, VOCAB_SIZE + 1)[
        ..., :MASK
    ]
    assert (table - table[:1]).abs().max() < 1e-4
    marginals = denoiser.slot_log_probs(step.encoding, step.slots).view(64, 3, -1)[..., :MASK]
    assert (table - marginals).abs().amax(-1).min() > 1e-2


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("num_blocks", "block", "rank"), [(1, 0, 0), (1, 0, 1), (2, 0, 0), (2, 1, 0), (2, 1, 1), (3, 1, 0), (3, 2, 1)]
)
def test_the_stale_state_of_a_decided_token_is_not_seen(denoiser, num_blocks, block, rank, way):
    """Block ``block`` reads a state at the rank's position; later ranks must not, but for the token's own content.

    A token's content is the state that enters the first block plus the embedded token. So there the state is moved
    by what turns token 1's content into token 2's, and the token is changed back.
    """
    head, tokens = disturbed_head(denoiser, num_blocks=num_blocks), torch.tensor([2, 2, 0])
    step, position = step_on(denoiser, ROW[None], ranked(ORDER)), ORDER[rank]
    hidden = [states.clone() for states in step.encoding.hidden]
    moved = tokens.clone()
    shift = torch.randn(hidden[0].shape[-1], generator=torch.Generator().manual_seed(5))
    if block == 0:
        embedded = head.token(head.token_norm(denoiser.embed(torch.tensor([1, 2]))))
        shift, moved[rank] = embedded[1] - embedded[0], 1
    hidden[NUM_LAYERS - num_blocks + block][0, position] += shift.detach()
    other = replace(step, encoding=replace(step.encoding, hidden=tuple(hidden)))
    difference = (log_q(way, head, step, tokens) - log_q(way, head, other, moved))[:, :MASK].abs().amax(1)
    assert difference[rank + 1 :].max() < 1e-4
    assert difference[: rank + 1].max() > 1e-3  # not decided yet when these are: they do see the state


@pytest.mark.parametrize("form", ["normalized", "unnormalized"])
def test_it_matters_where_the_other_token_stands(denoiser, form):
    """With equal states everywhere, only rotary positions tell a neighbour from a far token."""
    head = disturbed_head(denoiser, form=form, num_blocks=2)
    energies = []
    for order in ((0, 1), (0, 4)):
        step = step_on(denoiser, torch.tensor([[MASK] * 5]), ranked(order))
        equal = [states[:, :1].expand_as(states) for states in step.encoding.hidden]
        step = replace(step, encoding=replace(step.encoding, hidden=tuple(equal)))
        decision = decision_of(step, torch.tensor([[0, 1, 2], [3, 3, 1]]))
        energies.append(head(replace(decision, slot_log_p=torch.zeros(2, 3))))
    assert (energies[0] - energies[1]).abs().min() > 1e-3


@pytest.mark.parametrize("start", [{}, COLD])
@pytest.mark.parametrize("form", ["normalized", "unnormalized"])
def test_a_candidate_is_judged_alone(denoiser, form, start):
    """Whatever k, the sequence of the candidates, the other rows, and their number of slots."""
    step, tokens = ragged(denoiser)
    head = disturbed_head(denoiser, form=form, num_blocks=2, **start)
    together = head(decision_of(step, tokens))
    order = torch.tensor([3, 0, 4, 2, 1])
    close = {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(head(decision_of(step, tokens[:, order])), together[:, order], **close)
    for k in range(5):
        torch.testing.assert_close(head(decision_of(step, tokens[:, [k]])), together[:, [k]], **close)
    for row in (0, 2, 3, 4):
        torch.testing.assert_close(head(decision_of(*row_of(step, tokens, row)))[0], together[row], **close)
    assert torch.equal(together[1], torch.zeros(5).double())  # decides nothing
    assert together[[0, 3, 4]].std(1).min() > 1e-2


def test_a_step_that_decides_nothing_has_zero_energy(denoiser):
    step = step_on(denoiser, ROW.repeat(2, 1), ranked((0,), (3,)))
    nothing = replace(step, slots=ranked((), ()))
    for form in ("normalized", "unnormalized"):
        energy = disturbed_head(denoiser, form=form)(decision_of(nothing, torch.zeros(0, 3, dtype=torch.long)))
        assert torch.equal(energy, torch.zeros(2, 3).double())


def test_padding_is_not_seen(denoiser):
    """Garbage at padded positions changes nothing, nor does cutting them off."""
    real = torch.tensor([[True] * 5 + [False] * 2])
    garbage = torch.tensor([[0, 1], [3, 3]])
    for settings in ({}, {"blind": True}, {"form": "unnormalized"}):
        head = disturbed_head(denoiser, num_blocks=2, **settings)
        padded = [step_on(denoiser, torch.cat([ROW, end])[None], ranked(ORDER), real) for end in garbage]
        short = step_on(denoiser, ROW[None], ranked(ORDER))
        expected = head(decision_of(short, FILLINGS.T))
        for step in padded:
            torch.testing.assert_close(head(decision_of(step, FILLINGS.T)), expected, atol=1e-4, rtol=1e-4)
        unmasked = replace(padded[0], attention_mask=None)
        assert (head(decision_of(unmasked, FILLINGS.T)) - expected).abs().max() > 1e-3
        if head.is_normalized:
            cut = log_q("exact", head, short, FILLINGS[27])
            torch.testing.assert_close(log_q("exact", head, padded[1], FILLINGS[27]), cut, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(log_q(1, head, padded[1], FILLINGS[27]), cut, atol=1e-4, rtol=1e-4)


# ScalarHead


@pytest.mark.parametrize("shape", SHAPES)
def test_scalar_head_tokens_of_a_group_see_each_other(denoiser, shape):
    head = disturbed_head(denoiser, form="unnormalized", **shape)
    energies = {}
    for order in ((3, 0), (0, 3)):
        tokens = FILLINGS[:16, 1:].T if order == (3, 0) else FILLINGS[:16, 1:].flip(1).T
        energies[order] = head(decision_of(step_on(denoiser, ROW[None], ranked(order)), tokens))[0]
    torch.testing.assert_close(energies[3, 0], energies[0, 3], atol=1e-4, rtol=1e-4)
    table = energies[3, 0].view(4, 4)  # a sum of one-token energies would have no interaction
    interaction = table - table.mean(0) - table.mean(1, keepdim=True) + table.mean()
    assert interaction.abs().max() > 1e-3  # rounding leaves 1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_scalar_head_sees_earlier_groups_and_not_later_ones(denoiser, shape):
    head = disturbed_head(denoiser, form="unnormalized", **shape)
    step = step_on(denoiser, ROW[None], ranked(ORDER))
    first = [decisions_in_groups(step, torch.tensor([[2], [value], [1]]), 2)[1] for value in range(4)]
    energies = torch.cat([head(decision) for decision in first])[:, 0]
    assert energies.max() - energies.min() > 1e-3  # rounding leaves 1e-6
    tokens = torch.tensor([[2, 0], [3, 1]])
    alone = head(decision_of(step_on(denoiser, ROW[None], ranked(ORDER[:2])), tokens))
    with_later = head(decision_of(step, tokens, step.slots.groups(2)[0]))
    torch.testing.assert_close(alone, with_later)


def test_scalar_head_does_not_see_stale_states_of_its_group(denoiser):
    """As for the normalised form: move a state, and change the token so that its content stays."""
    head = disturbed_head(denoiser, form="unnormalized", num_blocks=1)
    step = step_on(denoiser, ROW[None], ranked(ORDER))
    embedded = head.token(head.token_norm(denoiser.embed(torch.tensor([1, 2])))).detach()
    hidden = [states.clone() for states in step.encoding.hidden]
    hidden[NUM_LAYERS - 1][0, ORDER[1]] += embedded[1] - embedded[0]
    other = replace(step, encoding=replace(step.encoding, hidden=tuple(hidden)))
    energy = head(decision_of(step, torch.tensor([[3], [2], [0]])))
    torch.testing.assert_close(head(decision_of(other, torch.tensor([[3], [1], [0]]))), energy, atol=1e-4, rtol=1e-4)
    assert (head(decision_of(other, torch.tensor([[3], [2], [0]]))) - energy).abs() > 1e-3


# Making, saving and loading


@pytest.mark.parametrize(
    ("make", "settings", "said"),
    [
        (bert, {}, "got bert with .*: use start='cold'"),
        (lambda: modernbert(global_attn_every_n_layers=3), {}, "sliding_attention.*: use start='cold'"),
        (lambda: modernbert(attention_bias=True), {}, "no biases"),
        (modernbert, {"num_blocks": NUM_LAYERS}, "num_blocks must lie in 1..3, got 4"),
        (modernbert, {"width": 8}, "takes the sizes of the denoiser's blocks"),
        (modernbert, {"form": "unnormalized", "num_blocks": 1, "blind": True}, "blind must be False"),
    ],
)
def test_a_warm_start_that_would_not_be_the_denoiser_is_refused(make, settings, said):
    """``global_attn_every_n_layers=3`` makes layers 0 and 3 global: of the last two blocks, one is local."""
    with pytest.raises(ValueError, match=said):
        new_head(make(), **{"num_blocks": 2, "start": "warm", **settings})


def test_a_head_starts_cold_by_default_where_it_cannot_start_warm(denoiser):
    assert new_head(bert()).shape.start == new_head(denoiser, width=8).shape.start == "cold"
    assert new_head(denoiser).shape.start == "warm"


@pytest.mark.parametrize(
    "settings", [{}, {"num_blocks": 2, **COLD}, {"form": "unnormalized"}, {"blind": True}, {"num_listed": 2}]
)
@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_a_saved_head_comes_back(denoiser, tmp_path, settings, dtype):
    head = disturbed_head(denoiser, **settings)
    head.save_pretrained(tmp_path / "head", dtype=dtype)
    on_disk = load_file(tmp_path / "head" / "model.safetensors")
    assert {weight.dtype for weight in on_disk.values()} == {dtype or torch.float32}
    step, tokens = ragged(denoiser)
    expected = head(decision_of(step, tokens))
    for loaded in (load_energy(tmp_path / "head"), type(head).from_pretrained(tmp_path / "head")):
        assert type(loaded) is type(head) and loaded.shape == head.shape and not loaded.training
        assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}
        loaded.check_denoiser(denoiser)
        energy = loaded(decision_of(step, tokens))
        torch.testing.assert_close(
            energy, expected, **({"atol": 0.05, "rtol": 0.02} if dtype else {"atol": 0, "rtol": 0})
        )
    assert expected.std() > 0.3  # so that the tolerance means something


def test_only_the_head_learns(denoiser):
    """Gradients reach every weight of a head, and none of the denoiser once it is frozen."""
    frozen = modernbert().requires_grad_(False)
    for settings in ({}, COLD, {"form": "unnormalized"}, {"num_listed": 2}):
        head = disturbed_head(frozen, num_blocks=2, **settings)
        step, tokens = ragged(frozen)
        head(decision_of(step, tokens)).square().sum().backward()
        assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in head.parameters())
    assert all(weight.grad is None for weight in frozen.parameters())


# The denoiser's last block, whose work a warm head that replaces it saves


def runs_of_blocks(denoiser) -> list[int]:
    """Index of each block of the denoiser that is run, from now on."""
    runs = []
    for index, block in enumerate(denoiser.network.model.layers):
        block.register_forward_hook(lambda *_, index=index: runs.append(index))
    return runs


@pytest.mark.parametrize(
    ("shape", "options", "times"),
    [
        ({}, {}, 0),
        ({"num_blocks": 3}, {}, 0),
        ({}, {"order": "left_to_right"}, 0),
        (COLD, {}, 2),  # it corrects the features
        ({}, {"order": "confidence"}, 2),  # asks for the marginals
        ({}, {"window": (0.0, 0.5)}, 1),  # the first step is the base's
        ({}, {"num_candidates": 3}, 2),
        ({}, {"num_candidates": 3, "group_size": 2}, 2),
        ({"form": "unnormalized"}, {"num_candidates": 3}, 2),
    ],
    ids=str,
)
def test_exact_decisions_of_a_warm_head_never_run_the_denoisers_last_block(shape, options, times):
    """Two steps of three tokens each; where the block is run it is run once a step, whatever is asked."""
    denoiser = modernbert()
    options = {"num_steps": 2, "num_candidates": None, "order": "random"} | options
    sampler = EnergySampler(denoiser, disturbed_head(denoiser, **shape), **options)
    runs = runs_of_blocks(denoiser)
    output = sampler.sample(4, 6, seeds=range(4))
    assert not (output.tokens == MASK).any()
    assert [runs.count(index) for index in range(NUM_LAYERS)] == [2] * (NUM_LAYERS - 1) + [times]
    runs.clear()
    sampler.likelihood_bound(output.tokens, seeds=range(4))
    assert [runs.count(index) for index in range(NUM_LAYERS)] == [2] * (NUM_LAYERS - 1) + [times]


@pytest.mark.parametrize("start", [{}, COLD], ids=["warm", "cold"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_float32_head_reads_a_denoiser_in_half_precision(start, dtype):
    denoiser = modernbert()
    head = disturbed_head(denoiser, **start)
    full = log_q("exact", head, *every_filling(denoiser))
    half = log_q("exact", head, *every_filling(denoiser.to(dtype)))
    head.check_denoiser(denoiser)
    torch.testing.assert_close(half.exp().sum(-1), torch.ones(len(half)))
    torch.testing.assert_close(half.exp(), full.exp(), rtol=0, atol=0.1)
