"""Properties of samplers, orders and packing, on drawn examples."""

from functools import cache

import pytest
import torch

hypothesis = pytest.importorskip("hypothesis")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from edlm import EnergySampler  # noqa: E402
from edlm.corpus.packing import pack_documents  # noqa: E402
from edlm.corpus.text import TooFewDocumentsError, train_tokenizer  # noqa: E402
from tests.golden.small import MASK, SIZE, network, scored, world  # noqa: E402
from tests.orders import NAMED  # noqa: E402

FEW = settings(max_examples=40, deadline=None, derandomize=True, database=None)
SAMPLERS = st.fixed_dictionaries(
    {
        "num_steps": st.integers(1, 5),
        "order": st.sampled_from(["random", "dilated", "bisecting", "left_to_right", "confidence", "ancestral"]),
        "temperature": st.sampled_from([0.5, 1.0, 1.7]),
        "top_k": st.sampled_from([None, 1, 2]),
    }
)
ROWS = st.lists(st.integers(0, SIZE), min_size=3, max_size=3)  # the mask among them
SEEDS = st.integers(0, 2**40)
ENERGIES = {
    "none": lambda: (world(), None, 1),
    "scored": lambda: (world(), scored(), 3),
    "network": lambda: (network(), None, 1),
}


@cache
def models(name):
    return ENERGIES[name]()


def sampler_of(name, options):
    denoiser, energy, candidates = models(name)
    return EnergySampler(denoiser, energy, num_candidates=candidates, **options)


@pytest.mark.parametrize("name", ENERGIES)
@FEW
@given(options=SAMPLERS, rows=st.lists(ROWS, min_size=1, max_size=4), seed=SEEDS)
def test_given_tokens_stay_and_no_mask_does(name, options, rows, seed):
    x_t = torch.tensor(rows)
    tokens = sampler_of(name, options).fill(x_t, seeds=range(seed, seed + len(rows))).tokens
    assert torch.equal(tokens[x_t != MASK], x_t[x_t != MASK])
    assert tokens.shape == x_t.shape and ((tokens >= 0) & (tokens < SIZE)).all()


@pytest.mark.parametrize("name", ["none", "scored"])
@FEW
@given(options=SAMPLERS, rows=st.lists(ROWS, min_size=2, max_size=4), seed=SEEDS)
def test_a_row_of_a_seed_is_the_same_alone_and_in_a_batch(name, options, rows, seed):
    sampler, x_t = sampler_of(name, options), torch.tensor(rows)
    seeds = [seed + 7 * i for i in range(len(rows))]
    together = sampler.fill(x_t, seeds=seeds).tokens
    alone = [sampler.fill(x_t[i : i + 1], seeds=[seeds[i]]).tokens for i in range(len(rows))]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("order", NAMED)
@FEW
@given(num_steps=st.integers(1, 6), masked=st.lists(st.booleans(), min_size=1, max_size=12), seed=SEEDS)
def test_an_order_reveals_each_position_once(order, num_steps, masked, seed):
    x_t = torch.tensor([[MASK if is_masked else 0 for is_masked in masked]])
    sampler = EnergySampler(flat(), None, num_steps=num_steps, order=order)
    output = sampler.fill(x_t, seeds=[seed])
    assert sum(int(step.num_revealed[0]) for step in output.steps) == sum(masked)
    assert (output.tokens != MASK).all() and torch.equal(output.tokens[x_t != MASK], x_t[x_t != MASK])


@cache
def flat():
    """A denoiser of rows of any length."""
    from edlm import FunctionDenoiser

    return FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, SIZE), MASK, SIZE)


@cache
def tokenizer():
    return train_tokenizer(["the cat sat on a mat, \n\té"], kind="character")


@FEW
@given(
    documents=st.lists(st.text("the cat sonmé,\n\t", min_size=1, max_size=30), min_size=1, max_size=8),
    length=st.integers(1, 9),
)
def test_blocks_concatenate_to_the_stream_of_tokens(documents, length):
    separator = tokenizer().eos_token_id
    stream = [separator]
    for document in documents:
        stream += [*tokenizer()(document, add_special_tokens=False)["input_ids"], separator]
    kept = len(stream) // length * length
    if not kept:
        with pytest.raises(TooFewDocumentsError):
            pack_documents(documents, tokenizer(), length)
        return
    blocks = pack_documents(documents, tokenizer(), length)
    assert blocks.tokens.flatten().tolist() == stream[:kept]
    assert (blocks.num_tokens, blocks.num_dropped) == (len(stream), len(stream) - kept)
