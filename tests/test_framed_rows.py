"""Blocks of text in a denoiser's frame, or given their first token: sampled, learnt and measured as they are used."""

import pytest
import torch

import edlm
from edlm.corpus.blocks import TokenBlocks, save_blocks
from edlm.denoisers.framing import blocks_of_rows, check_blocks, empty_rows, rows_of_blocks
from edlm.diffusion.schedule import LogLinear
from edlm.diffusion.streams import BatchStreams
from edlm.evaluation import evaluate
from edlm.evaluation.experiment.parts import ContinuousConfig, SamplesConfig
from edlm.training import samples
from edlm.training.dependency import DependencyObjective
from edlm.training.gains import independent_rows, measure_gains
from edlm.training.objectives import DenoiserObjective, EnergyObjective
from edlm.training.samples import SamplesOptions
from tests.energies.heads import MASK, disturbed_head, modernbert
from tests.training.test_gains import blocks, mixture

LENGTH, CLS, SEP = 6, 0, 1
TEXT = torch.randint(2, MASK, (16, LENGTH), generator=torch.Generator().manual_seed(3))


def framed():
    """``[CLS] text [SEP]``."""
    denoiser = modernbert()
    denoiser.prefix_ids, denoiser.suffix_ids, denoiser.is_framed = (CLS,), (SEP,), True
    return denoiser


def shifted():
    """Output ``i - 1`` predicts token ``i``; a separator may come before a text."""
    denoiser = modernbert()
    denoiser.shift, denoiser.prefix_ids = True, (CLS,)
    return denoiser


KINDS = {"framed": (framed, LENGTH + 2, [0, LENGTH + 1]), "shifted": (shifted, LENGTH, [0])}
each = pytest.mark.parametrize("kind", KINDS)


def listening(denoiser):
    """All rows that the denoiser is given from now on."""
    seen, encode = [], denoiser.encode_tokens

    def listen(x_t, *args):
        seen.append(x_t)
        return encode(x_t, *args)

    denoiser.encode_tokens = listen
    return seen


def assert_rows_are_whole(kind, seen):
    """Every row that was read has the frame, or else a first token, and something to predict."""
    _, length, given = KINDS[kind]
    rows = torch.cat(seen)
    assert rows.shape[1] == length and (rows[:, given] != MASK).all() and (rows == MASK).any(0).sum() > 1
    if kind == "framed":
        assert (rows[:, 0] == CLS).all() and (rows[:, -1] == SEP).all()


@each
def test_a_block_becomes_a_row_and_a_row_a_block(kind):
    make, length, positions = KINDS[kind]
    denoiser = make()
    rows, given = rows_of_blocks(denoiser, TEXT)
    assert rows.shape == (16, length) and given[0].nonzero()[:, 0].tolist() == positions and (given == given[:1]).all()
    assert torch.equal(blocks_of_rows(denoiser, rows), TEXT)
    assert kind == "shifted" or rows[0].tolist() == [CLS, *TEXT[0].tolist(), SEP]


@each
def test_sequences_from_nothing_begin_as_the_denoiser_reads_them(kind):
    make, length, _ = KINDS[kind]
    denoiser = make()
    seen = listening(denoiser)
    tokens = edlm.EnergySampler(denoiser, num_steps=2).sample(5, length, seeds=range(5)).tokens
    assert_rows_are_whole(kind, seen)
    assert (tokens[:, 0] == CLS).all() and (tokens != MASK).all()
    least = 2 if kind == "framed" else 1
    with pytest.raises(
        ValueError, match=f"length must be above the {least} tokens that frame each sequence, got {least}"
    ):
        empty_rows(denoiser, 1, least)


@each
@pytest.mark.parametrize("objective", ["denoiser", "head", "nce", "soft targets", "dependency"])
def test_an_objective_sees_whole_rows_and_learns_their_text_alone(kind, objective):
    denoiser = KINDS[kind][0]()
    seen, streams = listening(denoiser), BatchStreams((1,), 16, LENGTH)
    if objective == "denoiser":
        loss, _ = DenoiserObjective(denoiser, LogLinear())(denoiser, TEXT, streams)
        assert loss.count == 16 * (LENGTH - (kind == "shifted"))
    elif objective == "dependency":
        loss, _ = DependencyObjective(denoiser)(lambda a, b, c: torch.zeros(len(a), 1, b.shape[1]), TEXT, streams)
    else:
        soft = {"soft_targets": 2} if objective == "soft targets" else {}
        kinds = {"orders": ("random", "bisecting"), "num_steps": (1, 2)}
        config = mixture(**kinds, **soft) if objective != "nce" else mixture(**kinds, loss="ranking", num_candidates=3)
        head = disturbed_head(denoiser) if objective != "nce" else disturbed_head(denoiser, form="unnormalized")
        loss, _ = EnergyObjective(denoiser, config, reads_hidden=True)(head.train(), TEXT, streams)
    assert_rows_are_whole(kind, seen)
    assert torch.isfinite(loss.total) and loss.count > 0


@each
def test_gains_are_those_of_samplers_given_the_frame(kind):
    denoiser = KINDS[kind][0]()
    head, config = disturbed_head(denoiser), mixture(orders=("bisecting",), num_steps=(2, 3), block_lengths=(None, 4))
    rows, given = rows_of_blocks(denoiser, independent_rows(blocks(TEXT), 16))
    written = int((~given[0]).sum())
    for gain in measure_gains(head, denoiser, config, blocks(TEXT), batch_size=16):
        options = {
            "num_steps": gain.num_steps,
            "order": gain.order,
            "block_length": gain.block_length,
            "window": (0, 1),
        }
        nats = [
            edlm.EnergySampler(denoiser, energy, **options).likelihood_bound(rows, given=given, seeds=range(16))
            for energy in (None, head)
        ]
        assert gain.gain == pytest.approx((nats[0] - nats[1]).mean().item() / written, abs=1e-5)
        assert gain.length == written


@each
def test_an_evaluation_measures_framed_text_and_samples(kind, tmp_path):
    denoiser = KINDS[kind][0]()
    save_blocks(
        TokenBlocks(TEXT, 16, TEXT.numel(), 0, 3 * TEXT.numel(), torch.arange(16)), tmp_path / "valid.safetensors"
    )
    seen = listening(denoiser)
    evaluation = evaluate(
        denoiser,
        [disturbed_head(denoiser)],
        str(tmp_path),
        num_rows=16,
        num_steps=(2,),
        orders=("bisecting",),
        measure=("bounds", "samples", "continuous"),
        samples=SamplesConfig(judged=4, timed_batches=1, batch_size=4),
        continuous=ContinuousConfig(num_rows=16, num_draws=2),
    )
    assert_rows_are_whole(kind, seen)
    rows, given = rows_of_blocks(denoiser, TEXT)
    base = edlm.EnergySampler(denoiser, num_steps=2, order="bisecting")
    nats = base.likelihood_bound(rows, given=given, seeds=range(16)) / (~given).sum(1)
    assert evaluation.rows[0]["bound_nats_per_token"].value == pytest.approx(nats.mean().item(), rel=1e-6)
    examples = [words.split() for words in evaluation.rows[0].notes["examples"]]
    assert all(len(words) == LENGTH for words in examples)


def test_rows_from_nothing_need_a_first_token(tmp_path):
    denoiser = shifted()
    denoiser.prefix_ids = ()
    with pytest.raises(ValueError, match="rows from nothing need prefix_ids of a denoiser with shifted outputs"):
        edlm.EnergySampler(denoiser, num_steps=2).sample(1, LENGTH, seeds=[0])
    save_blocks(TokenBlocks(TEXT, 16, TEXT.numel(), 0, 99, torch.arange(16)), tmp_path / "valid.safetensors")
    options = {"num_rows": 4, "num_steps": (2,), "orders": ("bisecting",)}
    with pytest.raises(ValueError, match="measure must leave out judge, samples, time: rows from nothing"):
        evaluate(denoiser, [], str(tmp_path), **options)
    assert len(evaluate(denoiser, [], str(tmp_path), measure=("bounds",), **options).rows) == 1


def test_own_samples_are_blocks_without_their_frame():
    denoiser = framed()
    seen = listening(denoiser)
    tokens = samples._sample(denoiser, SamplesOptions(num_rows=5, batch_size=2), LENGTH)
    assert tokens.shape == (5, LENGTH) and (tokens != MASK).all()
    assert all(len(row) == LENGTH + 2 for rows in seen for row in rows)


def test_blocks_that_leave_no_room_for_the_frame_are_refused():
    denoiser = framed()
    longest = denoiser.max_length
    long = TokenBlocks(torch.full((2, longest - 1), 2), 1, 2 * (longest - 1), 0, 0)
    with pytest.raises(ValueError, match=f"at most {longest - 2} tokens .max_length = {longest} less a frame of 2."):
        check_blocks(denoiser, long)
    check_blocks(denoiser, TokenBlocks(long.tokens[:, 1:], 1, 2 * (longest - 2), 0, 0))
