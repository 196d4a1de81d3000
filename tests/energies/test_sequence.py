"""The energy of a bidirectional Transformer: zero at first, then of (x_0, x_t, t), row by row."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from edlm.denoisers import FunctionDenoiser, MaskedLMDenoiser
from edlm.energies import SequenceEnergy, load_energy
from edlm.sampler import EnergySampler
from tests.enumerable import decide

VOCAB, LENGTH, MASK = 9, 6, 8
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
FAMILIES = {"modernbert": {"pad_token_id": None}, "bert": {"max_position_embeddings": 32}}


def masked_lm(family="modernbert", seed=0, **settings):
    torch.manual_seed(seed)
    shape = {"vocab_size": VOCAB, **SMALL, **FAMILIES[family], **settings}
    config = AutoConfig.for_model(family, initializer_range=0.3, **shape)
    return MaskedLMDenoiser(AutoModelForMaskedLM.from_config(config).eval(), mask_token_id=MASK)


def perturbed(energy, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for weight in energy.parameters():
        weight.data += 0.2 * torch.randn(weight.shape, generator=generator)
    return energy.eval()


def decision(denoiser, num_candidates=3):
    """Rows with 3, 0, 6 and 1 masks."""
    generator = torch.Generator().manual_seed(2)
    x_t = torch.randint(MASK, (4, LENGTH), generator=generator)
    for row, masks in enumerate(([0, 2, 3], [], range(LENGTH), [5])):
        x_t[row, list(masks)] = MASK
    drawn = torch.randint(MASK, (4, num_candidates, LENGTH), generator=generator)
    return decide(denoiser, x_t, torch.where(x_t[:, None] == MASK, drawn, x_t[:, None]))


def rows_of(decision, rows):
    alone = decide(decision.step.denoiser, decision.x_partial[rows], decision.candidates[rows])
    return replace(alone, step=replace(alone.step, t=decision.step.t[rows]))


def update(energy, decision):
    """One gradient step towards telling candidate 0 from the others."""
    energy.zero_grad()
    (-energy(decision).neg().log_softmax(1)[:, 0].sum()).backward()
    with torch.no_grad():
        for weight in energy.parameters():
            weight -= 0.1 * weight.grad


@pytest.mark.parametrize("family", FAMILIES)
def test_zero_at_start_and_a_copy_of_the_denoiser(family):
    denoiser = masked_lm(family)
    energy = SequenceEnergy.from_denoiser(denoiser)
    asked = decision(denoiser)
    assert torch.equal(energy(asked), torch.zeros(4, 3).double())
    mine = denoiser.network.base_model.state_dict()
    copied = energy.encoder.state_dict()
    assert all(torch.equal(copied[name], weight) for name, weight in mine.items())
    before = denoiser.log_probs(asked.x_partial)
    perturbed(energy)
    assert torch.equal(denoiser.log_probs(asked.x_partial), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_every_parameter(family):
    denoiser = masked_lm(family)
    denoiser.requires_grad_(False)  # frozen denoisers are copied too
    energy, asked = SequenceEnergy.from_denoiser(denoiser).train(), decision(denoiser)
    for _ in range(3):  # from the zero projection back, through the zero end of the time embedding
        update(energy, asked)
    idle = [name for name, weight in energy.named_parameters() if not weight.grad.any()]
    # A key's bias cancels in a softmax; its gradient is rounding.
    assert not [name for name in idle if "key.bias" not in name]
    assert all(weight.grad is None for weight in denoiser.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_depends_on_x_0_x_t_and_t(family):
    denoiser = masked_lm(family)
    energy, asked = perturbed(SequenceEnergy.from_denoiser(denoiser)), decision(denoiser)
    energies = energy(asked)
    assert (energies[1] == 0).all()  # nothing to decide
    assert energies[[0, 2, 3]].std(1).min() > 1e-3  # x_0
    later = replace(asked, step=replace(asked.step, t=asked.step.t / 2))
    assert ((energy(later) - energies).abs()[[0, 2, 3]] > 1e-3).all()
    noisier = asked.step.x_t.clone()
    noisier[:, 4] = MASK
    noisier = replace(asked, step=replace(asked.step, x_t=noisier))
    difference = (energy(noisier) - energies).abs()
    assert (difference[[0, 3]] > 1e-3).all() and (difference[2] == 0).all()


@pytest.mark.parametrize("max_tokens", [1, 13, 16384])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_row_is_judged_as_if_alone(family, max_tokens):
    denoiser = masked_lm(family)
    energy, asked = perturbed(SequenceEnergy.from_denoiser(denoiser)), decision(denoiser)
    alone = torch.cat([energy(rows_of(asked, [row])) for row in range(4)])
    energy.max_tokens_per_pass = max_tokens
    torch.testing.assert_close(energy(asked), alone, atol=1e-5, rtol=0)
    swapped = replace(asked, candidates=asked.candidates.flip(1))
    torch.testing.assert_close(energy(swapped), alone.flip(1), atol=1e-5, rtol=0)


def test_passes_stay_within_max_tokens_but_for_training():
    denoiser = masked_lm()
    energy, asked = SequenceEnergy.from_denoiser(denoiser, max_tokens_per_pass=13), decision(denoiser)
    sizes = []
    energy.encoder.register_forward_hook(lambda m, args, out: sizes.append(len(out.last_hidden_state)))
    energy.eval()(asked)
    assert sizes == [2, 2, 2, 2, 1]
    energy.train()(asked)
    assert sizes[5:] == [9]


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing(family):
    denoiser = masked_lm(family)
    energy, asked = perturbed(SequenceEnergy.from_denoiser(denoiser)), decision(denoiser)
    candidates = torch.nn.functional.pad(asked.candidates, (0, 2), value=MASK)
    x_t = torch.nn.functional.pad(asked.step.x_t, (0, 2), value=MASK)
    real = torch.arange(LENGTH + 2).expand(4, -1) < LENGTH
    step = replace(asked.step, x_t=x_t, attention_mask=real)
    padded = replace(asked, step=step, candidates=candidates)
    torch.testing.assert_close(energy(padded), energy(asked), atol=1e-5, rtol=0)


def test_masks_in_a_candidate_are_an_error():
    denoiser = masked_lm()
    asked = decision(denoiser)
    asked.candidates[2, 1, 4] = MASK
    with pytest.raises(ValueError, match="needs complete candidates, got masks"):
        SequenceEnergy.from_denoiser(denoiser)(asked)
    with pytest.raises(ValueError, match="SequenceEnergy needs complete sequences: use scope='sequence'; got"):
        energy = SequenceEnergy.from_denoiser(denoiser)
        EnergySampler(denoiser, energy, num_steps=2, scope="step", order="left_to_right")


def test_starts_from_a_masked_lm_only():
    uniform = FunctionDenoiser(lambda x_t, t: torch.zeros(*x_t.shape, 4), 4, 4)
    with pytest.raises(ValueError, match="starts from the network of a MaskedLMDenoiser, got a FunctionDenoiser"):
        SequenceEnergy.from_denoiser(uniform)
    with pytest.raises(ValueError, match="max_tokens_per_pass must be >= 1, got 0"):
        SequenceEnergy.from_denoiser(masked_lm(), max_tokens_per_pass=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_loaded_gives_the_same_energies(family, tmp_path):
    denoiser = masked_lm(family)
    energy = perturbed(SequenceEnergy.from_denoiser(denoiser, max_tokens_per_pass=50))
    energy.save_pretrained(tmp_path)
    loaded = load_energy(tmp_path)
    assert isinstance(loaded, SequenceEnergy) and loaded.max_tokens_per_pass == 50
    assert torch.equal(loaded(decision(denoiser)), energy(decision(denoiser)))
    loaded.check_denoiser(denoiser)
    with pytest.raises(ValueError, match="revision"):
        loaded.check_denoiser(masked_lm(family, seed=5))
