"""Puzzles against brute force: which rows are valid, which are drawn and how often, and every posterior."""

import math
from itertools import permutations, product

import pytest
import torch

from edlm.corpus.list_tasks import Replacement, Shuffling
from edlm.corpus.puzzles import LatinSquare, Sudoku
from edlm.corpus.synthetic import LanguageConfig, build_language, sample_corpus

ROWS = [*permutations(range(4))]
BOXES = [(0, 0), (0, 2), (2, 0), (2, 2)]


def columns_hold_each_symbol(rows):
    return all({row[c] for row in rows} == {0, 1, 2, 3} for c in range(4))


def boxes_hold_each_symbol(rows):
    return all({rows[i + r][j + c] for r in (0, 1) for c in (0, 1)} == {0, 1, 2, 3} for i, j in BOXES)


def is_shuffled(x):
    half = len(x) // 2
    return len({*x[:half]}) == half and sorted(x[:half]) == sorted(x[half:])


def is_replaced(num_replaced):
    def check(x):
        half = len(x) // 2
        item, before, after = x[0], x[1 : half + 1], x[half + 1 :]
        changed = [i for i in range(half) if after[i] != before[i]]
        whole = len({*x[: half + 1]}) == half + 1
        return whole and len(changed) == num_replaced and all(after[i] == item for i in changed)

    return check


def chi_square(x, possible):
    """Pearson's statistic against the uniform law over ``possible``, and its degrees of freedom."""
    counts = dict.fromkeys(possible, 0)
    for row in map(tuple, x.tolist()):
        counts[row] += 1  # KeyError for a row that is not possible
    expected = len(x) / len(counts)
    return sum((count - expected) ** 2 / expected for count in counts.values()), len(counts) - 1


@pytest.fixture(scope="module")
def valid_grids():
    """Of all 331,776 stacks of rows that hold each symbol once, without the package."""
    squares = [stack for stack in product(ROWS, repeat=4) if columns_hold_each_symbol(stack)]
    return {
        LatinSquare: {sum(stack, ()) for stack in squares},
        Sudoku: {sum(stack, ()) for stack in squares if boxes_hold_each_symbol(stack)},
    }


@pytest.mark.parametrize(("kind", "number"), [(LatinSquare, 576), (Sudoku, 288)])
def test_exactly_the_valid_grids_are_accepted(valid_grids, kind, number):
    puzzle, stacks = kind(), torch.tensor([*product(ROWS, repeat=4)]).flatten(1)
    accepted = {*map(tuple, stacks[puzzle.is_valid(stacks)].tolist())}
    assert accepted == valid_grids[kind] and len(accepted) == puzzle.count() == number
    assert accepted == {*map(tuple, puzzle.grids.tolist())}
    grids = torch.tensor([*accepted])
    for cell, other in product(range(16), range(1, 4)):  # rows that hold a symbol twice
        wrong = grids.clone()
        wrong[:, cell] = (wrong[:, cell] + other) % 4
        assert not puzzle.is_valid(wrong).any()


LISTS = {
    "shuffling": (Shuffling(3, 4), is_shuffled),
    "replacement": (Replacement(2, 1, 4), is_replaced(1)),
    "all replaced": (Replacement(2, 2, 3), is_replaced(2)),
}


@pytest.fixture(params=LISTS)
def task(request):
    """A list task with all of its valid rows."""
    puzzle, check = LISTS[request.param]
    return puzzle, [x for x in product(range(puzzle.vocab_size), repeat=puzzle.length) if check(x)]


def test_exactly_the_valid_lists_are_accepted(task):
    puzzle, valid = task
    x = torch.tensor([*product(range(puzzle.vocab_size), repeat=puzzle.length)])
    assert [*map(tuple, x[puzzle.is_valid(x)].tolist())] == valid
    assert puzzle.count() == len(valid) and math.isclose(puzzle.entropy_nats(), math.log(len(valid)))


def test_lists_are_drawn_with_equal_probability_and_all_of_them(task):
    puzzle, valid = task
    x = puzzle.sample(50 * len(valid), puzzle.length, torch.Generator().manual_seed(3))
    statistic, df = chi_square(x, valid)
    assert statistic < df + 5 * math.sqrt(2 * df)


@pytest.mark.parametrize("kind", [LatinSquare, Sudoku])
def test_grids_are_drawn_with_equal_probability_and_all_of_them(valid_grids, kind):
    x = kind().sample(20_000, 16, torch.Generator().manual_seed(5))
    statistic, df = chi_square(x, valid_grids[kind])
    assert statistic < df + 5 * math.sqrt(2 * df)


def check_law(puzzle, valid, x):
    """Probabilities and posteriors of rows with masks, against the valid rows that agree with them."""
    rows, mask = torch.tensor(valid), puzzle.mask_token_id
    agree = ((x[:, None] == rows) | (x == mask)[:, None]).all(2).double()
    torch.testing.assert_close(puzzle.log_prob(x), (agree.sum(1) / len(rows)).log(), rtol=1e-12, atol=1e-12)
    x, agree = (table[agree.any(1)] for table in (x, agree))
    tokens = torch.nn.functional.one_hot(rows, puzzle.vocab_size).double()
    want = torch.einsum("bv,vlk->blk", agree / agree.sum(1, keepdim=True), tokens)
    torch.testing.assert_close(puzzle.log_marginals(x).exp(), want, rtol=1e-9, atol=1e-12)


def test_probabilities_of_lists_are_enumerated_for_every_pattern(task):
    puzzle, valid = task
    x = torch.cartesian_prod(*[torch.arange(puzzle.vocab_size + 1)] * puzzle.length)
    check_law(puzzle, valid, x if len(x) < 10_000 else x[:: len(x) // 5_000 | 1])


@pytest.mark.parametrize("kind", [LatinSquare, Sudoku])
def test_probabilities_of_grids_are_enumerated(valid_grids, kind):
    puzzle, g = kind(), torch.Generator().manual_seed(2)
    x = puzzle.sample(300, 16, g)
    x[::5, 3] = torch.randint(4, (60,), generator=g)  # some contradict themselves
    x[torch.rand(x.shape, generator=g) < torch.rand(300, 1, generator=g)] = puzzle.mask_token_id
    check_law(puzzle, [*valid_grids[kind]], x)


def test_conflicts_are_the_cells_that_contradict_another_one():
    puzzle, grid = Sudoku(), torch.tensor([0, 1, 2, 3, 2, 3, 0, 1, 1, 0, 3, 2, 3, 2, 1, 0])
    x = grid.repeat(3, 1)
    x[1, 5] = 1  # as cell 1 (box, column) and cell 7 (row)
    x[2, [1, 5]] = torch.tensor([4, 1])  # masked: only cell 7 is left
    assert puzzle.conflicts(x)[0].sum() == 0
    assert [row.nonzero()[:, 0].tolist() for row in puzzle.conflicts(x)[1:]] == [[1, 5, 7], [5, 7]]
    boxed = torch.full((1, 16), 4)
    boxed[0, [0, 5]] = 2  # of one box only
    assert puzzle.conflicts(boxed).sum() == 2 and LatinSquare().conflicts(boxed).sum() == 0
    drawn = torch.randint(4, (500, 16), generator=torch.Generator().manual_seed(0))
    assert torch.equal(puzzle.conflicts(drawn).any(1), ~puzzle.is_valid(drawn))


def test_given_cells_are_any_and_given_tokens_of_lists_the_first():
    g = torch.Generator().manual_seed(1)
    given = Sudoku().given(4000, 16, 4, g)
    assert (given.sum(1) == 4).all() and (given.double().mean(0) - 0.25).abs().max() < 5 * math.sqrt(0.25 * 0.75 / 4000)
    for puzzle, number in ((Shuffling(3, 5), 3), (Replacement(4, 2, 6), 5)):
        (places,) = puzzle.given(2, puzzle.length, puzzle.num_given, g).unique(dim=0)
        assert places.tolist() == [True] * number + [False] * (puzzle.length - number)


def test_a_seed_draws_the_same_and_another_seed_other_rows():
    def draw(kind, seed):
        return sample_corpus(LanguageConfig(kind, vocab_size=9), 40, 10, None, seed)

    for kind in ("sudoku", "latin", "shuffling", "replacement"):
        language, corpus = build_language(LanguageConfig(kind, vocab_size=9)), draw(kind, 4)
        assert torch.equal(corpus.train.tokens, draw(kind, 4).train.tokens)
        assert not torch.equal(corpus.train.tokens, draw(kind, 5).train.tokens)
        assert corpus.valid.tokens.shape == (10, language.length) and language.is_valid(corpus.train.tokens).all()
        assert corpus.tokenizer.mask_token_id == language.mask_token_id
        assert corpus.tokenizer.decode(range(2)) == ("0 1" if "ing" in kind or "ment" in kind else "1 2")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Shuffling(1, 5), "num_items must be >= 2, got 1"),
        (lambda: Shuffling(9, 12), "num_items must be <= 8, got 9"),
        (lambda: Shuffling(4, 3), "vocab_size must be >= 4, the distinct items, got 3"),
        (lambda: Replacement(3, 4, 9), "num_replaced must be <= num_items, 3, got 4"),
        (lambda: Sudoku().sample(1, 9, torch.Generator()), "length must be the puzzle's 16, got 9"),
        (lambda: Sudoku().is_valid(torch.zeros(1, 9).long()), "rows must have the puzzle's 16 tokens, got 9"),
        (lambda: Sudoku().is_valid(torch.full((1, 16), 4)), r"x must have no mask token \(4\)"),
        (lambda: Sudoku().log_marginals(torch.zeros(1, 16).long()), r"positive probability, got zero in rows \[0\]"),
    ],
)
def test_errors_say_the_rule(call, message):
    with pytest.raises(ValueError, match=message):
        call()
