"""The synthetic languages against enumeration; all numbers are asymmetric and some are zero."""

import math
from itertools import product

import pytest
import torch

from edlm.corpus import dyck, languages
from edlm.corpus.languages import Dyck, HiddenMarkov, MarkovChain

START = [0.2, 0.5, 0.3]
STEP = [[0.5, 0.3, 0.2], [0.1, 0.0, 0.9], [0.7, 0.25, 0.05]]
HIDDEN_START = [0.7, 0.3]
HIDDEN_STEP = [[0.0, 1.0], [0.35, 0.65]]
SHOWN = [[0.6, 0.3, 0.1], [0.0, 0.15, 0.85]]
LENGTH, MASK = 4, 3
G = torch.Generator()


def chain():
    return MarkovChain(STEP, START)


def hidden():
    return HiddenMarkov(HIDDEN_STEP, SHOWN, HIDDEN_START)


def chain_law():
    return {
        x: START[x[0]] * math.prod(STEP[a][b] for a, b in zip(x, x[1:], strict=False))
        for x in product(range(3), repeat=LENGTH)
    }


def hidden_law():
    def joint(x, z):
        return (
            HIDDEN_START[z[0]]
            * math.prod(HIDDEN_STEP[a][b] for a, b in zip(z, z[1:], strict=False))
            * math.prod(SHOWN[s][v] for s, v in zip(z, x, strict=False))
        )

    return {x: sum(joint(x, z) for z in product(range(2), repeat=LENGTH)) for x in product(range(3), repeat=LENGTH)}


def is_balanced(x, num_pairs, max_depth):
    stack = []
    for token in x:
        if token < num_pairs:
            stack.append(token)
        elif not stack or stack.pop() != token - num_pairs:
            return False
        if len(stack) > max_depth:
            return False
    return not stack


def dyck_law(num_pairs, max_depth, length):
    strings = [x for x in product(range(2 * num_pairs), repeat=length) if is_balanced(x, num_pairs, max_depth)]
    return {x: 1 / len(strings) for x in strings}


def every_pattern(law, vocab_size, length):
    """Every row over vocabulary and mask (row r is r in base vocab_size + 1); its mass."""
    base = vocab_size + 1
    mass = [0.0] * base**length
    for x, p in law.items():
        for keep in product((True, False), repeat=length):
            row = 0
            for v, kept in zip(x, keep, strict=False):
                row = row * base + (v if kept else vocab_size)
            mass[row] += p
    digits = torch.arange(base**length)[:, None] // base ** torch.arange(length - 1, -1, -1) % base
    return digits, torch.tensor(mass, dtype=torch.float64)


def chi_square(x, law):
    """Pearson's statistic of `x` against `law` (infinite if a row is impossible), and its df."""
    counts = dict.fromkeys(law, 0)
    for row in map(tuple, x.tolist()):
        counts[row] = counts.get(row, 0) + 1
    if any(counts[row] and not law.get(row) for row in counts):
        return math.inf, 1
    cells = [(counts[row], p * len(x)) for row, p in law.items() if p * len(x) >= 5]
    rest = [(counts[row], p * len(x)) for row, p in law.items() if 0 < p * len(x) < 5]
    cells += [tuple(map(sum, zip(*rest, strict=False)))] if rest else []
    return sum((got - want) ** 2 / want for got, want in cells), len(cells) - 1


def follows(x, law):
    # Mean df, deviation sqrt(2 df): past 5 deviations for 1 seed in 10,000 at most (df 30 to 250).
    statistic, df = chi_square(x, law)
    return statistic < df + 5 * math.sqrt(2 * df)


WORLDS = pytest.mark.parametrize(
    "language, law", [(chain(), chain_law()), (hidden(), hidden_law())], ids=["markov", "hidden"]
)


@WORLDS
def test_chain_log_prob_is_the_enumerated_sum_for_every_masking_pattern(language, law):
    x, mass = every_pattern(law, 3, LENGTH)
    assert (mass == 0).any() and (mass > 0).any()
    log_prob = language.log_prob(x)
    assert log_prob.dtype == torch.float64
    torch.testing.assert_close(log_prob, mass.log(), rtol=1e-12, atol=1e-12)
    assert math.isclose(log_prob[-1].item(), 0, abs_tol=1e-12)  # all masked


@WORLDS
def test_log_marginals_are_the_enumerated_posterior_for_every_pattern(language, law):
    x, mass = every_pattern(law, 3, LENGTH)
    index = {tuple(row): r for r, row in enumerate(x.tolist())}
    possible = (mass > 0).nonzero()[:, 0].tolist()
    want = torch.zeros(len(possible), LENGTH, 3, dtype=torch.float64)
    for n, r in enumerate(possible):
        for i, v in product(range(LENGTH), range(3)):
            row = x[r].tolist()
            if row[i] in (v, MASK):
                row[i] = v
                want[n, i, v] = mass[index[tuple(row)]] / mass[r]
    got = language.log_marginals(x[possible])
    assert got.dtype == torch.float64
    torch.testing.assert_close(got.exp(), want, rtol=1e-12, atol=1e-12)
    observed = x[possible] != MASK
    assert set(got[observed].unique().tolist()) == {0.0, -math.inf}
    assert (got.argmax(-1)[observed] == x[possible][observed]).all()


@WORLDS
def test_log_marginals_of_impossible_rows_raise_and_name_the_rows(language, law):
    x, mass = every_pattern(law, 3, LENGTH)
    good, bad = x[mass > 0][5], x[mass == 0][3]
    with pytest.raises(ValueError, match=r"observed tokens .* positive probability, got zero in rows \[1, 3\]"):
        language.log_marginals(torch.stack([good, bad, good, bad]))


@WORLDS
def test_chain_is_valid_is_positive_probability_and_refuses_masks(language, law):
    x = torch.tensor(list(law))
    valid = language.is_valid(x)
    assert valid.tolist() == [p > 0 for p in law.values()] and 0 < valid.sum() < len(x)
    x[2, 1] = MASK
    with pytest.raises(ValueError, match=r"x must have no mask token \(3\), got one in rows \[2\]"):
        language.is_valid(x)


@WORLDS
def test_chain_samples_follow_the_enumerated_law_and_not_its_mirror_image(language, law):
    x = language.sample(20_000, LENGTH, torch.Generator().manual_seed(5))
    assert x.dtype == torch.long and x.shape == (20_000, LENGTH)
    assert follows(x, law)
    assert not follows(x, {row[::-1]: p for row, p in law.items()})


@pytest.mark.parametrize("language", [chain(), hidden(), Dyck(2, 2)], ids=["markov", "hidden", "dyck"])
def test_sampling_uses_the_given_generator_only(language):
    state = torch.get_rng_state()
    first = language.sample(50, 6, torch.Generator().manual_seed(7))
    torch.manual_seed(123)
    again = language.sample(50, 6, torch.Generator().manual_seed(7))
    torch.set_rng_state(state)
    other = language.sample(50, 6, torch.Generator().manual_seed(8))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert language.sample(0, 6, torch.Generator()).shape == (0, 6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("language", [chain(), hidden(), Dyck(2, 2)], ids=["markov", "hidden", "dyck"])
def test_results_live_on_the_device_of_the_generator_and_equal_the_cpu(language):
    x = language.sample(500, 6, torch.Generator("cuda").manual_seed(7))
    assert x.device.type == "cuda" and language.is_valid(x).all() and language.is_valid(x).device.type == "cuda"
    x[:250, 2:5] = language.mask_token_id
    torch.testing.assert_close(language.log_prob(x).cpu(), language.log_prob(x.cpu()))
    if language.vocab_size == 3:
        torch.testing.assert_close(language.log_marginals(x).cpu(), language.log_marginals(x.cpu()))


@pytest.mark.parametrize("language", [chain(), hidden()], ids=["markov", "hidden"])
def test_a_batch_equals_its_rows_alone_across_passes(language, monkeypatch):
    x = language.sample(7, 5, torch.Generator().manual_seed(2)).int()
    x[[0, 2, 3, 6], [1, 4, 0, 2]] = MASK
    alone = torch.cat([language.log_prob(row[None]) for row in x])
    alone_marginals = torch.cat([language.log_marginals(row[None]) for row in x])
    monkeypatch.setattr(languages, "ROWS_PER_PASS", 3)
    torch.testing.assert_close(language.log_prob(x), alone)
    torch.testing.assert_close(language.log_marginals(x), alone_marginals)
    assert language.log_prob(x[:0]).shape == (0,) and language.log_marginals(x[:0]).shape == (0, 5, 3)


def test_draws_never_pick_probability_zero_at_the_ends_of_the_interval(monkeypatch):
    table = torch.tensor([[0.0, 0.7, 0.2, 0.1, 0.0], [0.25, 0.0, 0.25, 0.5, 0.0]], dtype=torch.float64)
    assert table[0].cumsum(0)[-1] == 1 - 2**-53  # unnormalised, the last u would fall off the end
    cdf = languages._cdf(table, G)
    u = torch.tensor([[0.0], [0.25], [1 - 2**-53]], dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: u)
    assert languages._draw(cdf, torch.tensor([0, 0, 0]), G).tolist() == [1, 1, 3]
    assert languages._draw(cdf, torch.tensor([1, 1, 1]), G).tolist() == [0, 2, 3]


def test_scaling_survives_probabilities_far_below_float64():
    # State 2 alone explains the row: 1e-200 of the mass from the left, and again from the right.
    language = HiddenMarkov(torch.eye(3), [[1, 0, 0], [0, 1, 0], [1e-20, 1e-20, 1]], [0.5, 0.3, 0.2])
    x_t = torch.tensor([[0] * 10 + [3] + [1] * 10])
    assert math.isclose(language.log_prob(x_t).item(), math.log(0.2) + 20 * math.log(1e-20), rel_tol=1e-12)
    torch.testing.assert_close(
        language.log_marginals(x_t)[0, 10],
        torch.tensor([1e-20, 1e-20, 1.0], dtype=torch.float64).log(),
    )
    assert language.is_valid(torch.where(x_t == 3, 2, x_t)).item()
    long = chain().sample(2, 3000, torch.Generator().manual_seed(1))
    steps = torch.tensor(STEP, dtype=torch.float64)[long[:, :-1], long[:, 1:]].log().sum(1)
    torch.testing.assert_close(
        chain().log_prob(long), torch.tensor(START, dtype=torch.float64)[long[:, 0]].log() + steps
    )
    assert (steps < -1000).all()


def test_markov_entropy_closed_form_is_the_enumerated_entropy():
    want = -sum(p * math.log(p) for p in chain_law().values() if p)
    assert math.isclose(chain().entropy_nats(LENGTH), want, rel_tol=1e-12)
    assert math.isclose(chain().entropy_nats(1), -sum(p * math.log(p) for p in START), rel_tol=1e-12)


def test_random_chain_has_its_likely_successors_and_smoothing():
    language = MarkovChain.random(7, 2, torch.Generator().manual_seed(4), smoothing=0.14)
    likely = language.transition > 0.0201
    assert likely.sum(1).tolist() == [2] * 7 and len(likely.unique(dim=0)) > 1
    torch.testing.assert_close(language.transition[~likely], torch.full((35,), 0.02, dtype=torch.float64))
    torch.testing.assert_close(language.transition.sum(1), torch.ones(7, dtype=torch.float64))
    assert MarkovChain.random(7, 2, torch.Generator().manual_seed(4), smoothing=0).transition.count_nonzero() == 14


def test_reference_language_is_rebuilt_as_method_section_7_says():
    language, g = HiddenMarkov.reference(), torch.Generator().manual_seed(1)
    for table, columns in ((language.transition, 16), (language.emission, 32)):
        for row in table:
            want = torch.zeros(columns, dtype=torch.float64)
            chosen = torch.randperm(columns, generator=g)[:3]
            want[chosen] = torch.rand(3, dtype=torch.float64, generator=g) + 0.2
            torch.testing.assert_close(row, 0.98 * want / want.sum() + 0.02 / columns, rtol=1e-14, atol=0)
    assert language.initial.tolist() == [1 / 16] * 16 and language.vocab_size == language.mask_token_id == 32


def test_reference_language_gives_the_tables_of_method_section_3():
    language, g = HiddenMarkov.reference(), torch.Generator().manual_seed(11)
    data = -language.log_prob(language.sample(4000, 32, g)) / 32
    assert abs(data.mean().item() - 2.289) < 4 * math.hypot(data.std() / 4000**0.5, data.std() / 1000**0.5)
    marginals = language.log_marginals(torch.full((1, 32), 32))[0].exp()  # one step of the base: independent tokens
    base = -language.log_prob(torch.multinomial(marginals, 4000, True, generator=g).T) / 32
    assert abs(base.mean().item() - 3.825) < 4 * math.hypot(base.std() / 4000**0.5, base.std() / 500**0.5)


@pytest.mark.parametrize("length", [6, 8])
def test_dyck_log_prob_is_the_enumerated_count_for_every_masking_pattern(length):
    x, mass = every_pattern(dyck_law(2, 2, length), 4, length)
    torch.testing.assert_close(Dyck(2, 2).log_prob(x), mass.log(), rtol=1e-12, atol=1e-12)
    assert (mass > 0).any() and (mass == 0).any()


def test_dyck_log_marginals_are_ratios_of_counts(monkeypatch):
    brackets = Dyck(2, 3)
    x_0 = brackets.sample(40, 8, torch.Generator().manual_seed(0))
    hidden = torch.rand(40, 8, generator=torch.Generator().manual_seed(1)) < 0.6
    x_t = x_0.masked_fill(hidden, 4)
    marginals = brackets.log_marginals(x_t).exp()
    for i in range(8):
        for v in range(4):
            one = x_t.clone()
            one[:, i] = v
            expected = (brackets.log_prob(one) - brackets.log_prob(x_t)).exp()
            expected = torch.where(hidden[:, i], expected, (x_t[:, i] == v).double())
            torch.testing.assert_close(marginals[:, i, v], expected)
    torch.testing.assert_close(marginals.sum(-1), torch.ones(40, 8, dtype=torch.float64))
    monkeypatch.setattr(dyck, "ENTRIES_AT_ONCE", 1)  # less than a single row has
    torch.testing.assert_close(brackets.log_marginals(x_t).exp(), marginals)
    with pytest.raises(ValueError, match=r"positive probability, got zero in rows \[1\]"):
        brackets.log_marginals(torch.tensor([[4, 4, 4, 4], [2, 4, 4, 4]]))


@pytest.mark.parametrize("length", [6, 8])
def test_dyck_is_valid_is_balanced_and_shallow_for_every_string(length):
    strings = list(product(range(4), repeat=length))
    valid = Dyck(2, 2).is_valid(torch.tensor(strings))
    assert valid.tolist() == [is_balanced(x, 2, 2) for x in strings]
    assert valid.sum() == Dyck(2, 2).count(length) < Dyck(2, 4).count(length)
    with pytest.raises(ValueError, match=r"x must have no mask token \(4\), got one in rows \[1\]"):
        Dyck(2, 2).is_valid(torch.tensor([[0, 2], [0, 4]]))


def test_dyck_counts_kinds_and_depth_apart():
    # Three kinds, depth 1: each pair is adjacent. Unlimited depth: Catalan numbers.
    assert Dyck(3, 1).count(10) == 3**5
    assert Dyck(1, 99).count(20) == math.comb(20, 10) // 11
    assert math.isclose(Dyck(3, 2).entropy_nats(8), math.log(8 * 3**4))
    x = torch.tensor([[0, 6, 6, 6], [6, 1, 6, 6], [6, 6, 6, 2], [6, 4, 1, 6]])
    law = dyck_law(3, 2, 4)
    want = [
        math.log(sum(p for s, p in law.items() if s[i] == v)) if ok else -math.inf
        for i, v, ok in [(0, 0, 1), (1, 1, 1), (0, 0, 0)]
    ]
    want.append(math.log(law[1, 4, 1, 4]))
    torch.testing.assert_close(Dyck(3, 2).log_prob(x), torch.tensor(want, dtype=torch.float64))


def test_dyck_samples_are_uniform_and_not_coin_flips():
    law = dyck_law(2, 3, 8)
    x = Dyck(2, 3).sample(20_000, 8, torch.Generator().manual_seed(3))
    assert x.dtype == torch.long and follows(x, law)

    def coin_flips(string):  # opens or closes with probability 1/2 where both are possible
        p, depth = 2.0**-4, 0
        for i, token in enumerate(string):
            p *= 0.5 if 0 < depth < min(3, 8 - i) else 1
            depth += 1 if token < 2 else -1
        return p

    flipped = {string: coin_flips(string) for string in law}
    assert math.isclose(sum(flipped.values()), 1)
    assert not follows(x, flipped)


def test_dyck_beyond_float64_scores_full_rows_and_refuses_masks():
    brackets = Dyck(5, 3)
    x = brackets.sample(3, 2000, torch.Generator().manual_seed(6))
    torch.testing.assert_close(
        brackets.log_prob(x), torch.full((3,), -math.log(brackets.count(2000)), dtype=torch.float64)
    )
    x[1, 7] = brackets.mask_token_id
    with pytest.raises(ValueError, match="length of rows with masks must keep the count below 1.8e[+]308, got 2000"):
        brackets.log_prob(x)


def test_dyck_odd_lengths_raise():
    brackets = Dyck(2, 2)
    odd = torch.zeros(1, 5, dtype=torch.long)
    for call in (
        brackets.log_prob,
        brackets.is_valid,
        lambda x: brackets.sample(1, 5, torch.Generator()),
        lambda x: brackets.count(5),
    ):
        with pytest.raises(ValueError, match="length must be even, got 5"):
            call(odd)


ERRORS = {
    r"initial must sum to 1 within 1e-6, got 0.9 at worst in rows \[0\]$": lambda: MarkovChain(STEP, [0.2, 0.4, 0.3]),
    r"transition must sum to 1 within 1e-6, got 1.00001 at worst in rows \[1\]": lambda: MarkovChain(
        [[1, 0], [0.50001, 0.5]], [1, 0]
    ),
    r"transition must be finite and non-negative, got -0.1 at \[1, 0\]": lambda: MarkovChain(
        [[1, 0], [-0.1, 1.1]], [1, 0]
    ),
    r"emission must be finite and non-negative, got nan at \[0, 1\]": lambda: HiddenMarkov([[1]], [[1, math.nan]], [1]),
    r"transition must have shape \[2, 2\], got \[2, 3\]": lambda: MarkovChain([[0, 1, 0]] * 2, [1, 0]),
    r"emission must have shape \[2, V\], got \[1, 3\]": lambda: HiddenMarkov(HIDDEN_STEP, [[0, 1, 0]], HIDDEN_START),
    r"initial must have shape \[S\], got \[1, 2\]": lambda: HiddenMarkov(HIDDEN_STEP, SHOWN, [HIDDEN_START]),
    r"x must hold ids in 0..3 \(3 is the mask token\), got 4": lambda: chain().log_prob(torch.tensor([[0, 4]])),
    r"x_t must hold ids in 0..3 \(3 is the mask token\), got -1": lambda: hidden().log_marginals(
        torch.tensor([[0, -1]])
    ),
    r"x must hold ids in 0..4 \(4 is the mask token\), got 5": lambda: Dyck(2, 1).log_prob(torch.tensor([[0, 5]])),
    r"x must have shape \[batch, length\] with length >= 1, got \[2\]": lambda: chain().log_prob(torch.tensor([0, 1])),
    r"x must be a tensor of integers, got torch.float32": lambda: chain().is_valid(torch.zeros(1, 2)),
    r"x must be a tensor of integers, got torch.bool": lambda: chain().is_valid(torch.zeros(1, 2, dtype=torch.bool)),
    r"emission must have shape \[1, V\], got \[1, 0\]": lambda: HiddenMarkov([[1]], [[]], [1]),
    r"x must be a tensor of integers, got list": lambda: chain().is_valid([[0]]),
    r"length must be >= 1, got 0": lambda: chain().sample(1, 0, G),
    r"n must be >= 0, got -2": lambda: hidden().sample(-2, 3, G),
    r"generator must be a torch.Generator, got int": lambda: Dyck(1, 1).sample(1, 2, 0),
    r"num_pairs must be >= 1, got 0": lambda: Dyck(0, 1),
    r"max_depth must be an integer >= 1, got 1.5": lambda: Dyck(1, 1.5),
    r"num_successors must be <= vocab_size 3, got 4": lambda: MarkovChain.random(3, 4, G),
    r"smoothing must be in 0..1, got 1.5": lambda: MarkovChain.random(3, 2, G, smoothing=1.5),
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors_say_the_rule_then_what_was_received(message):
    with pytest.raises(ValueError, match=message):
        ERRORS[message]()


def test_row_sums_within_the_tolerance_are_normalised_in_float64():
    loose = MarkovChain(torch.tensor(STEP, dtype=torch.float32).numpy() * (1 + 5e-7), START)
    assert loose.transition.dtype == torch.float64
    torch.testing.assert_close(
        loose.log_prob(torch.tensor([[0] * 3 + [3] * 200])),
        loose.log_prob(torch.tensor([[0] * 3])),
        rtol=1e-13,
        atol=1e-13,
    )
