"""Loaded and wrapped decoders of the published formats, and rows for them."""

from types import SimpleNamespace

import torch
from torch import nn

from edlm import load_denoiser, wrap_denoiser
from tests.denoisers import published_decoders as published

LENGTHS = (3, 7, 20)


def load(family, path, **options):
    """The test's masks are not the published ones, which a vocabulary of 40 lacks."""
    if family in ("diffullama", "diffugpt"):
        options = {"mask_token_id": published.MASK[family], **options}
    return load_denoiser(path, **options)


def some_rows(family, masked=0.5):
    """Rows of `LENGTHS`; the first token is always given."""
    generator = torch.Generator().manual_seed(3)
    rows = []
    for length in LENGTHS:
        row = torch.randint(0, 30, (length,), generator=generator)
        row[1:][torch.rand(length - 1, generator=generator) < masked] = published.MASK[family]
        row[2] = published.MASK[family]
        rows.append(row)
    return rows


def padded(rows, with_token=5):
    length = max(map(len, rows))
    x_t = torch.full((len(rows), length), with_token)
    real = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, row in enumerate(rows):
        x_t[i, : len(row)], real[i, : len(row)] = row, True
    return x_t, real


class ByHand(nn.Module):
    """Replaces a module of the family's own code: called as that code is called, computed by hand."""

    def __init__(self, family, weights, config=None):
        super().__init__()
        self.family, self.w, self.calls = family, weights, []
        self.lm_head = nn.Linear(published.WIDTH, published.VOCAB, bias=False)
        self.config = config

    def forward(self, input_ids, attention_mask=None, position_ids=None):
        assert (input_ids <= published.VOCAB).all()
        self.calls.append((input_ids.shape, attention_mask))
        n, length = input_ids.shape
        real = torch.ones(n, length, dtype=torch.bool)
        if self.family == "dream":
            assert torch.equal(position_ids, torch.arange(length).expand(n, length))
            if not isinstance(attention_mask, str):
                assert attention_mask.dtype == torch.bool and attention_mask.shape == (n, 1, length, length)
                real = attention_mask[:, 0, -1]
            else:
                assert attention_mask == "full"
        elif self.family in ("diffullama", "diffugpt"):
            assert attention_mask.is_floating_point() and attention_mask.shape == (n, 1, length, length)
            real = attention_mask[:, 0, 0] == 0
        else:
            assert attention_mask is None
        out = torch.zeros(n, length, published.VOCAB)
        for i, row in enumerate(input_ids):
            out[i, real[i]] = published.logits_by_hand(self.family, self.w, row[real[i]])
        return out


def wrapped(family, weights):
    config = SimpleNamespace(**{"max_position_embeddings": 32, "block_size": 32, **published.CONFIGS.get(family, {})})
    module = ByHand(family, weights, config)
    options = {} if family in ("llada", "dream", "smdm") else {"mask_token_id": published.MASK[family]}
    denoiser = wrap_denoiser(module, family=family, **options)
    module.calls.clear()  # of its probe
    return denoiser, module


class FakeTokenizer:
    bos_token_id, eos_token_id = 34, 35

    def __init__(self, size=published.VOCAB, mask_token_id=None):
        self.size, self.mask_token_id = size, mask_token_id

    def __len__(self):
        return self.size
