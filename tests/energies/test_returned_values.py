"""What a user's function may return: numbers of the right shape, of any kind; all else is one line."""

from fractions import Fraction

import numpy as np
import pytest
import torch

import edlm
from edlm import CallableEnergy, EnergySampler, FunctionDenoiser
from edlm.energies.callable import as_numbers

NUMBERS = {
    "tensor": torch.tensor([1.0, 2.0]),
    "half": torch.tensor([1.0, 2.0], dtype=torch.float16),
    "integers": [1, 2],
    "NumPy": np.array([1.0, 2.0]),
    "a NumPy view": np.array([2.0, 1.0])[::-1],
    "NumPy, other bytes": np.array([1.0, 2.0], dtype=">f4"),
    "NumPy scalars": [np.float32(1), np.int64(2)],
    "bool": (True, 2.0),
}
OTHERS = {
    "nothing": None,
    "text": "12",
    "texts": ["1", "2"],
    "a dict": {0: 1.0, 1: 2.0},
    "a generator": (x for x in (1.0, 2.0)),
    "objects": np.array([Fraction(1), None]),
    "complex": torch.tensor([1.0 + 1j, 2.0]),
    "sparse": torch.tensor([1.0, 2.0]).to_sparse(),
    "without content": torch.empty(2, device="meta"),
    "beyond all floats": [1, 10**400],
    "ragged": [[1.0], [1.0, 2.0]],
    "another shape": [[1.0, 2.0]],
    "too few": [1.0],
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_of_all_kinds_are_taken(kind):
    values = as_numbers(NUMBERS[kind], torch.empty(2, dtype=torch.float64))
    assert values.tolist() == [1.0, 2.0] and values.dtype == torch.float64


@pytest.mark.parametrize("kind", OTHERS)
def test_anything_else_is_refused_in_one_line(kind):
    uniform = FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, 4), mask_token_id=4, vocab_size=4)
    of_tokens = CallableEnergy(lambda *args: OTHERS[kind])
    of_text = CallableEnergy.on_text(lambda texts: OTHERS[kind], decode=lambda ids: str(list(ids)))
    for energy in (of_tokens, of_text):
        sampler = EnergySampler(uniform, energy, num_steps=1, num_candidates=2, scope="sequence")
        with pytest.raises(ValueError, match="f must return energies, numbers of shape"):
            sampler.sample(2, 3, seeds=[0, 1])
    with pytest.raises(ValueError, match=r"f must return energies, numbers of shape \(2,\), got"):
        edlm.rerank(["a"], [["b", "c"]], lambda texts: OTHERS[kind])


@pytest.mark.parametrize("kind", ["integers", "NumPy", "nothing", "complex", "without content"])
def test_log_probs_are_floating_point_tables(kind):
    tables = {
        "integers": lambda shape: torch.zeros(shape, dtype=torch.long),
        "NumPy": np.zeros,
        "nothing": lambda shape: None,
        "complex": lambda shape: torch.zeros(shape, dtype=torch.cfloat),
        "without content": lambda shape: torch.zeros(shape[:-1], device="meta"),
    }
    denoiser = FunctionDenoiser(lambda x_t, t: tables[kind]((*x_t.shape, 4)), mask_token_id=4, vocab_size=4)
    with pytest.raises(ValueError, match=r"f must return log_probs, a floating-point tensor of shape \(1, 3, 4\), got"):
        EnergySampler(denoiser, num_steps=1).sample(1, 3, seeds=[0])
    for wrong in (True, 4.0, "4", None):
        with pytest.raises(ValueError, match="mask_token_id must be an integer, got"):
            FunctionDenoiser(denoiser.f, mask_token_id=wrong, vocab_size=4)
