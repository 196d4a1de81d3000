"""Keys and values held from earlier passes: the results of whole passes, for rows of unequal prefixes."""

import pytest
import torch

from edlm.diffusion.slots import Slots
from tests.denoisers.blockwise import BLOCK, KINDS, MASK, blockwise

each = pytest.mark.parametrize("kind", KINDS)
HELD, LENGTHS = (8, 4, 0, 12), (14, 16, 7, 16)


def rows():
    """Rows of `LENGTHS`, of which the first `HELD` tokens are given, and some of the others masked."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, MASK, (4, 16), generator=generator)
    places = torch.arange(16)
    held, real = (places < torch.tensor(counts)[:, None] for counts in (HELD, LENGTHS))
    masked = (torch.rand(4, 16, generator=generator) < 0.6) & ~held & real & (places > 0)
    return x.masked_fill(masked, MASK), held, real


def log_probs(denoiser, encoding, masked, rows):
    slots = Slots.where(masked & torch.isin(torch.arange(len(masked)), rows)[:, None])
    return denoiser.slot_log_probs(encoding, slots)[:, :MASK]


@each
@pytest.mark.parametrize("chosen", [[0, 1, 2, 3], [0, 3]])
@torch.no_grad()
def test_pass_that_goes_on_from_held_blocks_is_the_whole_pass(kind, chosen):
    denoiser, (x_t, held, real), chosen = blockwise(kind).double(), rows(), torch.tensor(chosen)
    cache = denoiser.prefill(x_t, held, keep_hidden=True)
    assert torch.equal(cache.held, held)
    options = {"attention_mask": real, "rows": chosen, "keep_hidden": True}
    whole, rest = denoiser.encode(x_t, **options), denoiser.encode(x_t, **options, cache=cache)
    masked = (x_t == MASK) & real
    expected = log_probs(denoiser, whole, masked, chosen)
    torch.testing.assert_close(log_probs(denoiser, rest, masked, chosen), expected, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(rest.hidden, whole.hidden, strict=True):
        torch.testing.assert_close(mine[real[chosen]], theirs[real[chosen]], rtol=1e-5, atol=1e-5)
    # Tokens of the prefix count: with other ones, the same pass gives something else.
    other = denoiser.encode(torch.where(held, (x_t + 1) % MASK, x_t), **options)
    assert (log_probs(denoiser, other, masked, chosen) - expected).abs().max() > 0.01


@each
@torch.no_grad()
def test_cache_that_grows_is_the_one_made_at_once(kind):
    denoiser, (x_t, held, _) = blockwise(kind), rows()
    x_t, later = x_t.masked_fill(x_t == MASK, 3), torch.arange(16) < torch.tensor([12, 4, 8, 16])[:, None]
    grown = denoiser.prefill(x_t[:, :12], held[:, :12], rows=torch.tensor([0, 1, 3]))
    grown = denoiser.prefill(x_t, later, rows=torch.tensor([0, 2, 3]), cache=grown)
    at_once = denoiser.prefill(x_t, later)
    assert torch.equal(grown.held, later) and grown.tables.keys() == at_once.tables.keys()
    for name, table in grown.tables.items():
        torch.testing.assert_close(table[later], at_once.tables[name][later], rtol=1e-5, atol=1e-5)
    assert grown.nbytes == at_once.nbytes > 0


@each
@torch.no_grad()
def test_held_tokens_are_not_run_again(kind):
    denoiser, (x_t, held, real) = blockwise(kind), rows()
    cache = denoiser.prefill(x_t, held)
    seen = []
    run = type(denoiser).run
    denoiser.run = lambda tokens, *others, **options: (
        seen.append(tokens.shape),
        run(denoiser, tokens, *others, **options),
    )[1]
    denoiser.encode(x_t, attention_mask=real, cache=cache)
    assert seen == [(4, max(n - h for n, h in zip(LENGTHS, HELD, strict=True)))]


@each
@torch.no_grad()
def test_keys_that_see_both_sides_are_exact_until_a_token_changes(kind):
    denoiser, (x_t, held, real) = blockwise(kind, block_size=None), rows()
    slots = Slots.where((x_t == MASK) & real)
    cache = denoiser.prefill(x_t, real).without(~held)
    exact = denoiser.slot_log_probs(denoiser.encode(x_t, attention_mask=real), slots)[:, :MASK]
    same = denoiser.slot_log_probs(denoiser.encode(x_t, attention_mask=real, cache=cache), slots)[:, :MASK]
    torch.testing.assert_close(same, exact, rtol=1e-5, atol=1e-5)
    changed = torch.where((x_t == MASK) & real, 2, x_t)
    after = slots.part(torch.arange(len(slots)))
    fresh = denoiser.slot_log_probs(denoiser.encode(changed, attention_mask=real), after)[:, :MASK]
    stale = denoiser.slot_log_probs(denoiser.encode(changed, attention_mask=real, cache=cache), after)[:, :MASK]
    assert (fresh - stale).abs().max() > 1e-3


def test_what_cannot_be_held_is_refused():
    denoiser, (x_t, held, _) = blockwise("decoder"), rows()
    with pytest.raises(ValueError, match=r"whole blocks of 4 tokens must be held, got rows of \[2, 2, 2, 2\]"):
        denoiser.prefill(x_t.masked_fill(x_t == MASK, 0), torch.arange(16).expand(4, 16) < 2)
    with pytest.raises(ValueError, match="a block must be finished before its keys are held, got a mask 11"):
        denoiser.prefill(torch.full((1, BLOCK), MASK))
    timed = blockwise("dit")
    timed.time_conditioned = True
    with pytest.raises(ValueError, match="DiTDenoiser reads the time, which changes all keys: it holds none"):
        timed.prefill(x_t, held)
