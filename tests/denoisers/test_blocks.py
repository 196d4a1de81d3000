"""Decoders that see both sides or block by block: each published format against its law computed by hand."""

import pytest
import torch

from edlm import load_denoiser
from edlm.denoisers import DecoderDenoiser
from tests.denoisers import published_blocks as published

each = pytest.mark.parametrize("family", published.SHAPES)


def load(family, path, **options):
    return load_denoiser(path, **{**published.SHAPES[family].options, **options})


def some_rows(family):
    """Rows of several blocks; the first token is always given."""
    generator, mask = torch.Generator().manual_seed(3), published.SHAPES[family].mask
    rows = [torch.randint(6, 30, (length,), generator=generator) for length in (3, 9, 22)]
    for row in rows:
        row[1:][torch.rand(len(row) - 1, generator=generator) < 0.5] = mask
        row[2] = mask
    return rows


@each
@torch.no_grad()
def test_log_probs_are_those_computed_by_hand(family, tmp_path):
    weights, shape = published.random_weights(family), published.SHAPES[family]
    denoiser = load(family, published.write(family, tmp_path))
    assert denoiser.family == {"sdar_moe": "sdar"}.get(family, "a2d" if "a2d" in family else family)
    assert isinstance(denoiser, DecoderDenoiser) and not denoiser.training and denoiser.max_length == 48
    assert (denoiser.mask_token_id, denoiser.vocab_size) == (shape.mask, published.VOCAB)
    assert (denoiser.shift, denoiser.block_size) == (shape.shift, shape.block)
    assert denoiser.prefix_ids == () and denoiser.eos_token_id == shape.config["eos_token_id"]
    for row in some_rows(family):
        masked = row == denoiser.mask_token_id
        log_probs = denoiser.log_probs(row[None])[0]
        expected = published.log_probs_by_hand(family, weights, row)
        torch.testing.assert_close(log_probs[masked], expected, rtol=1e-5, atol=1e-5)
        assert expected.exp().max() > 0.1 and torch.isneginf(log_probs[masked][:, shape.mask]).all()
