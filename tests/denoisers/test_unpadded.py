"""Rows of several lengths, run without their padding."""

import pytest
import torch

from edlm.denoisers.logits import unpadded

X_T = torch.tensor([[1, 2, 0, 0], [3, 4, 5, 6], [7, 8, 0, 0], [9, 0, 0, 0], [0, 0, 0, 0]])
LENGTHS = [2, 4, 2, 1, 0]
T = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
REAL = torch.arange(4) < torch.tensor(LENGTHS)[:, None]


def test_every_row_is_as_if_alone_and_equal_lengths_run_together():
    ran = []

    def run(x_t, t):
        ran.append(tuple(x_t.shape))
        return torch.stack([x_t.cumsum(1).flip(1).float(), t[:, None].expand(x_t.shape)], -1)

    features = unpadded(run)(X_T, T, REAL)
    assert sorted(ran) == [(1, 1), (1, 4), (2, 2)] and features.shape == (5, 4, 2)
    for row, length in enumerate(LENGTHS[:4]):
        alone = run(X_T[row : row + 1, :length], T[row : row + 1])[0]
        assert torch.equal(features[row, :length], alone) and not features[row, length:].any()
    ran.clear()
    unpadded(run)(X_T, T, None)
    unpadded(run)(X_T[:2], T[:2], torch.ones(2, 4, dtype=torch.long))
    assert ran == [(5, 4), (2, 4)]


def test_gradients_pass():
    scale = torch.tensor(2.0, requires_grad=True)
    unpadded(lambda x_t, t: scale * x_t[..., None].float())(X_T, T, REAL).sum().backward()
    assert scale.grad == X_T.sum()


def test_masks_that_are_no_right_padding():
    def run(x_t, t):
        return x_t[..., None].float()

    with pytest.raises(ValueError, match=r"rows must be padded on the right, got \[0, 1, 1, 1\] in row 1"):
        unpadded(run)(X_T[:2], T[:2], torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]]))
    with pytest.raises(ValueError, match=r"must have the shape \[5, 4\] of the tokens, got \[5, 3\]"):
        unpadded(run)(X_T, T, REAL[:, :3])
    with pytest.raises(ValueError, match="attention_mask must keep some tokens, got a mask of 5 rows that keeps none"):
        unpadded(run)(X_T, T, torch.zeros(5, 4))
