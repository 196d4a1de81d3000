"""Modules of the official code, wrapped: called as that code calls them."""

import math

import pytest
import torch
from torch import nn

from edlm import wrap_denoiser
from edlm.denoisers.families.dit import DiT, DiTShape
from edlm.denoisers.families.dit_denoiser import build_dit, total_noise
from tests.denoisers.published import BLOCKS, COND, HEADS, MASK, ROWS, SIZE, backbone_weights
from tests.denoisers.test_dit_families import X_T, T, expected_log_probs


class Official(nn.Module):
    """Called as the official modules are; SEDD's gives log scores."""

    def __init__(self, kind, config=None):
        super().__init__()
        shape = DiTShape(ROWS, SIZE, BLOCKS, HEADS, COND)
        self.backbone = build_dit(shape, backbone_weights(), "test")
        self.kind = kind
        self.config = config

    def forward(self, input_ids, timesteps, sample_mode=False):
        assert timesteps.shape == input_ids.shape[:1] and sample_mode == (self.kind == "bd3lm")
        block = torch.arange(input_ids.shape[1]) // _Config.block_size
        visible = (block[:, None] >= block)[None, None] if self.kind == "bd3lm" else None
        logits = self.backbone(input_ids, timesteps, visible)
        if self.kind == "sedd":
            offset = timesteps.expm1().log() + math.log(ROWS - 1)
            return (logits - offset[:, None, None]).scatter(-1, input_ids[..., None], 0.0)
        return logits if self.kind == "mdlm" else {"d3pm": (logits,), "bd3lm": _Output(logits)}[self.kind]


class _Output:
    def __init__(self, logits):
        self.logits = logits


class _Config:
    block_size, attn_backend, name_or_path = 8, "sdpa", "official"  # the rows are of one block


@pytest.mark.parametrize("kind", ["mdlm", "d3pm", "sedd", "bd3lm"])
@torch.no_grad()
def test_official_modules_are_called_as_their_code_does(kind):
    module = Official(kind, _Config() if kind == "bd3lm" else None)
    denoiser = wrap_denoiser(module, family=kind)
    timed = kind in ("d3pm", "sedd")
    assert denoiser.time_conditioned == timed and denoiser.mask_token_id == MASK
    assert denoiser.block_size == (8 if kind == "bd3lm" else None)
    expected = expected_log_probs("sedd" if timed else "mdlm", backbone_weights(), X_T, T)
    torch.testing.assert_close(denoiser.log_probs(X_T, T), expected, rtol=1e-5, atol=1e-5)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]])
    alone = denoiser.log_probs(X_T[:1, :4], T[:1])
    torch.testing.assert_close(denoiser.log_probs(X_T, T, mask)[:1, :4], alone)
    assert torch.isfinite(denoiser.log_probs(X_T, torch.zeros(2))[0, 1, :MASK]).all()


def test_modules_that_cannot_be_wrapped():
    with pytest.raises(ValueError, match="must have a parameter vocab_embed.embedding, Linear has none"):
        wrap_denoiser(nn.Linear(2, 2), family="mdlm")
    with pytest.raises(ValueError, match="block_size must be given, since DiT has none in its configuration"):
        wrap_denoiser(DiT(DiTShape(ROWS, SIZE, 1, HEADS, COND)), family="bd3lm")
    module = Official("bd3lm", _Config())
    module.config.attn_backend = "flex"
    with pytest.raises(ValueError, match="attn_backend must be 'sdpa' to take x_t alone, got 'flex'"):
        wrap_denoiser(module, family="bd3lm")


def test_total_noise_is_the_log_linear_schedules():
    noise = total_noise(torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(noise.exp(), torch.tensor([1.0, 1 / 0.5005, 1000.0]), rtol=1e-4, atol=0)
