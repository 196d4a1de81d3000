"""MDLM, D3PM, SEDD and BD3-LM in their published formats, against the network written out position by position."""

import math
from functools import partial

import pytest
import torch

from edlm import load_denoiser
from edlm.denoisers.columns import decoder_of
from edlm.diffusion.slots import Slots
from tests.denoisers import published
from tests.denoisers.plain_dit import plain_logits
from tests.denoisers.published import BLOCKS, LENGTH, MASK, ROWS, SIZE, backbone_weights, write_lightning, write_run
from tests.denoisers.published_edlm import write_edlm

X_T = torch.tensor([[3, MASK, 0, MASK, MASK, 7, MASK], [MASK, 5, MASK, 1, 2, MASK, 8]])
T = torch.tensor([0.3, 0.85])
BLOCK = 3


def sigma(t):
    return -math.log(1 - 0.999 * t)


TIMED = {"time_conditioning": True, "noise": "log-linear"}
FORMATS = {
    "mdlm": (published.write_mdlm_hub, "mdlm", False),
    "mdlm, timed": (partial(published.write_mdlm_hub, time_conditioning=True), "mdlm", True),
    "mdlm.ckpt": (write_lightning, "mdlm", False),
    "mdlm.ckpt, legacy": (partial(write_lightning, legacy=True), "mdlm", False),
    "mdlm.ckpt, compiled": (partial(write_lightning, compiled=True), "mdlm", False),
    "mdlm.ckpt, sedd": (partial(write_lightning, parameterization="sedd", time_conditioning=True), "mdlm", True),
    "d3pm.ckpt": (partial(write_lightning, parameterization="d3pm", time_conditioning=True), "d3pm", True),
    "edlm.ckpt": (write_edlm, "mdlm", False),
    "duo.ckpt, mdlm": (partial(published.write_algo, name="mdlm", noise="log-linear"), "mdlm", False),
    "duo.ckpt, sedd": (partial(published.write_algo, name="sedd", parameterization="score", **TIMED), "mdlm", True),
    "duo.ckpt, d3pm": (partial(published.write_algo, name="d3pm", parameterization="mean", **TIMED), "d3pm", True),
    "bd3lm.ckpt": (partial(published.write_algo, name="bd3lm", block_size=BLOCK), "bd3lm", False),
    "bd3lm.ckpt, compiled": (
        partial(published.write_algo, name="bd3lm", block_size=BLOCK, compiled=True),
        "bd3lm",
        False,
    ),
    "bd3lm.ckpt, no blocks": (partial(published.write_algo, name="mdlm", block_size="${model.length}"), "mdlm", False),
    "sedd": (published.write_sedd, "sedd", True),
    "sedd run": (write_run, "sedd", True),
    "bd3lm": (partial(published.write_bd3lm, block_size=BLOCK), "bd3lm", False),
    "bd3lm, no blocks": (partial(published.write_bd3lm, cross_attn=False), "bd3lm", False),
}
WITH_BLOCKS = {"bd3lm", "bd3lm.ckpt", "bd3lm.ckpt, compiled"}
each = pytest.mark.parametrize("name", FORMATS)


def load(name, tmp_path, **options):
    return load_denoiser(FORMATS[name][0](tmp_path / "tiny"), **options)


def expected_log_probs(name, weights, x_t, t):
    timed = FORMATS[name][2]
    reads = (lambda i, j: j // BLOCK <= i // BLOCK) if name in WITH_BLOCKS else lambda i, j: True
    rows = []
    for tokens, time in zip(x_t.tolist(), t.tolist(), strict=True):
        logits = plain_logits(weights, tokens, sigma(time) if timed else 0.0, reads)[:, :MASK]
        row = torch.cat([logits.log_softmax(-1), torch.full((len(tokens), 1), -torch.inf)], 1)
        for i, token in enumerate(tokens):
            if token != MASK:
                row[i] = torch.where(torch.arange(ROWS) == token, 0.0, -torch.inf)
        rows.append(row)
    return torch.stack(rows).float()


@each
@torch.no_grad()
def test_log_probs_of_a_published_checkpoint(name, tmp_path):
    denoiser = load(name, tmp_path)
    assert (denoiser.mask_token_id, denoiser.vocab_size, denoiser.max_length) == (MASK, ROWS, LENGTH)
    assert (denoiser.family, denoiser.time_conditioned) == FORMATS[name][1:]
    assert denoiser.block_size == (BLOCK if name in WITH_BLOCKS else None)
    assert denoiser.identity.name == "tiny" + ".ckpt" * ("ckpt" in name)
    expected = expected_log_probs(name, backbone_weights(), X_T, T)
    torch.testing.assert_close(denoiser.log_probs(X_T, T), expected, rtol=1e-5, atol=1e-5)
    assert expected[0, 1].exp().max() > 0.2  # far from uniform


@each
@torch.no_grad()
def test_time_matters_where_the_network_is_conditioned_on_it(name, tmp_path):
    denoiser = load(name, tmp_path)
    at_03, at_09 = (denoiser.log_probs(X_T, torch.full((2,), t))[0, 1, :MASK] for t in (0.3, 0.9))
    assert torch.equal(at_03, at_09) != denoiser.time_conditioned
    if denoiser.time_conditioned:
        assert (at_03 - at_09).abs().max() > 1e-2


@each
@torch.no_grad()
def test_padded_rows_equal_rows_alone(name, tmp_path):
    denoiser = load(name, tmp_path)
    draw = torch.Generator().manual_seed(3)
    lengths = (3, 7, 20)
    x_t = torch.randint(0, ROWS, (3, 20), generator=draw)
    x_t[:, 1], x_t[:, 2] = MASK, 4
    t = torch.tensor([0.2, 0.5, 0.9])
    mask = torch.arange(20) < torch.tensor(lengths)[:, None]
    log_probs = denoiser.log_probs(x_t, t, mask)
    for row, length in enumerate(lengths):
        alone = denoiser.log_probs(x_t[row : row + 1, :length], t[row : row + 1])[0]
        torch.testing.assert_close(log_probs[row, :length], alone, rtol=1e-5, atol=1e-6)
    other = torch.where(mask, x_t, (x_t + 1) % MASK)
    torch.testing.assert_close(denoiser.log_probs(other, t, mask)[mask], log_probs[mask])


@torch.no_grad()
def test_later_blocks_do_not_influence_earlier_ones(tmp_path):
    denoiser = load("bd3lm", tmp_path)
    before = denoiser.log_probs(X_T)
    changed = X_T.clone()
    changed[:, 2 * BLOCK :] = torch.tensor([[4], [MASK]])
    after = denoiser.log_probs(changed)
    torch.testing.assert_close(after[:, : 2 * BLOCK], before[:, : 2 * BLOCK], rtol=0, atol=1e-6)
    changed[:, BLOCK] = 6
    later = denoiser.log_probs(changed)
    torch.testing.assert_close(later[:, :BLOCK], before[:, :BLOCK], rtol=0, atol=1e-6)
    # A block reads all of itself, what lies on the right too.
    moved = (later[:, BLOCK + 1] - after[:, BLOCK + 1])[torch.isfinite(after[:, BLOCK + 1])]
    assert moved.abs().max() > 1e-2


@each
@torch.no_grad()
def test_hidden_states_embeddings_and_output_layer(name, tmp_path):
    denoiser = load(name, tmp_path)
    assert (denoiser.hidden_size, denoiser.num_blocks) == (SIZE, BLOCKS)
    encoding, ran = denoiser.encode(X_T, T, keep_hidden=True), []
    denoiser.network.blocks[-1].register_forward_hook(lambda *_: ran.append("last"))
    assert len(encoding.hidden) == BLOCKS and {tuple(h.shape) for h in encoding.hidden} == {(2, 7, SIZE)}
    torch.testing.assert_close(encoding.hidden[0], denoiser.embed(X_T))
    assert ran == []  # the last block only if it is asked for
    torch.testing.assert_close(encoding.features, denoiser.encode(X_T, T).features)
    rows = []
    denoiser.network.output_layer.linear.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    denoiser.log_probs(X_T, T)
    assert rows == [int((X_T == MASK).sum())]
    tokens = torch.tensor([[2, 0], [1, 3]])
    some = decoder_of(denoiser, tokens)(encoding.features)
    every = denoiser.decode(encoding.features.flatten(0, 1)).view(*X_T.shape, -1)
    torch.testing.assert_close(some, every.gather(2, tokens[:, None].expand(-1, X_T.shape[1], -1)))
    assert denoiser.output_layer


def test_training_reaches_all_weights(tmp_path):
    denoiser = load("mdlm, timed", tmp_path)
    denoiser(X_T, Slots.where(X_T == MASK), T)[:, 5].sum().backward()
    assert [name for name, weight in denoiser.named_parameters() if weight.grad is None or not weight.grad.any()] == []


@each
@torch.no_grad()
def test_half_precision_is_close(name, tmp_path):
    path = FORMATS[name][0](tmp_path / "tiny")
    half = load_denoiser(path, dtype=torch.bfloat16).log_probs(X_T, T)
    full = load_denoiser(path).log_probs(X_T, T)
    assert half.dtype == torch.float32
    finite = torch.isfinite(full)
    assert torch.equal(finite, torch.isfinite(half)) and (half - full)[finite].abs().max() < 0.3
