"""The device that "auto" stands for."""

import torch

from edlm import load_denoiser


def test_auto_is_the_best_device_of_the_machine():
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    denoiser = load_denoiser("tinystories", device="auto")
    assert {weight.device.type for weight in denoiser.parameters()} == {best}
