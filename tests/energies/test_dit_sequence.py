"""The trained energy in a checkpoint of EDLM's own code: its values, its sign, its rows, and what does not fit."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from edlm import EnergySampler, load_denoiser, load_energy
from edlm.energies import DiTSequenceEnergy
from tests.denoisers import published
from tests.denoisers.published import LENGTH, MASK, ROWS
from tests.denoisers.published_edlm import (
    energy_order,
    energy_weights,
    plain_energy,
    preferring,
    shadows_of,
    write_edlm,
)
from tests.enumerable import decide

X_T = torch.tensor([[3, MASK, 0, MASK, MASK, 7], [MASK, 5, MASK, 1, 2, MASK], [MASK] * 6])
T = torch.tensor([0.3, 0.85, 1.0])
NUM_CANDIDATES = 4


def decision_on(denoiser, x_t=X_T, num_candidates=NUM_CANDIDATES):
    drawn = torch.randint(MASK, (len(x_t), num_candidates, x_t.shape[1]), generator=torch.Generator().manual_seed(2))
    decision = decide(denoiser, x_t, torch.where(x_t[:, None] == MASK, drawn, x_t[:, None]))
    return replace(decision, step=replace(decision.step, t=T[: len(x_t)]))


@pytest.mark.parametrize("timed", [False, True])
@torch.no_grad()
def test_energies_are_those_computed_by_hand(timed, tmp_path):
    path = write_edlm(tmp_path / "edlm", time_conditioning=timed)
    energy, decision = load_energy(path), decision_on(load_denoiser(path))
    assert isinstance(energy, DiTSequenceEnergy) and not energy.training and energy.time_conditioned == timed
    expected = [
        [plain_energy(energy_weights(), x_t, x_0, -math.log(1 - 0.999 * t) if timed else 0.0) for x_0 in candidates]
        for x_t, candidates, t in zip(X_T.tolist(), decision.candidates.tolist(), T.tolist(), strict=True)
    ]
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(energy(decision), expected, rtol=1e-5, atol=1e-5)
    assert expected.std(1).min() > 1e-2  # candidates differ
    raw = plain_energy(energy_weights(seed=6), X_T[0].tolist(), decision.candidates[0, 0].tolist())
    assert abs(raw - expected[0, 0]) > 1e-2  # the averaged weights are others


@torch.no_grad()
def test_without_averages_the_weights_themselves_are_taken(tmp_path):
    energy = load_energy(write_edlm(tmp_path / "edlm", averaged=[], raw=energy_weights(seed=6), ema=None))
    x_0 = torch.tensor([[3, 1, 0, 4, 9, 7]])
    expected = plain_energy(energy_weights(seed=6), X_T[0].tolist(), x_0[0].tolist())
    value = energy.judge(x_0, X_T[:1], X_T[:1] == MASK, T[:1], None)
    torch.testing.assert_close(value.item(), expected, rtol=1e-5, atol=1e-5)


def test_low_energy_is_what_the_sampler_picks(tmp_path):
    weights = published.backbone_weights()
    weights |= {name: 0.1 * weights[name] for name in ("output_layer.linear.weight", "output_layer.linear.bias")}
    path = write_edlm(tmp_path / "edlm", weights, averaged=shadows_of(preferring(token=2)))
    denoiser, energy = load_denoiser(path), load_energy(path)
    x_t = torch.randint(MASK, (40, 5), generator=torch.Generator().manual_seed(0))
    x_t[:, 1] = MASK
    probability = denoiser.log_probs(x_t)[:, 1, 2].exp()
    assert 0.05 < probability.min() and probability.max() < 0.2  # so that among 200 candidates there are some

    def share(judge):
        sampler = EnergySampler(denoiser, judge, num_steps=1, num_candidates=200, scope="sequence")
        return (sampler.fill(x_t, generator=torch.Generator().manual_seed(1)).tokens[:, 1] == 2).double().mean()

    assert share(energy) == 1 and share(-energy) == 0


@torch.no_grad()
def test_rows_and_candidates_are_judged_as_if_alone(tmp_path):
    path = write_edlm(tmp_path / "edlm")
    denoiser, energy = load_denoiser(path), load_energy(path)
    decision = decision_on(denoiser)
    together = energy(decision)
    for i in range(3):
        alone = decide(denoiser, X_T[i : i + 1], decision.candidates[i : i + 1])
        alone = replace(alone, step=replace(alone.step, t=T[i : i + 1]))
        torch.testing.assert_close(energy(alone), together[i : i + 1], rtol=0, atol=1e-5)
        for j in range(NUM_CANDIDATES):
            x_0 = decision.candidates[i, j][None]
            one = energy.judge(x_0, X_T[i : i + 1], X_T[i : i + 1] == MASK, T[i : i + 1], None)
            torch.testing.assert_close(one[0].double(), together[i, j], rtol=0, atol=1e-5)
    energy.max_tokens_per_pass = 13
    torch.testing.assert_close(energy(decision), together, rtol=0, atol=1e-5)
    real = torch.arange(X_T.shape[1] + 2).expand(3, -1) < X_T.shape[1]
    step = replace(decision.step, x_t=F.pad(X_T, (0, 2), value=MASK), attention_mask=real)
    padded = replace(decision, step=step, candidates=F.pad(decision.candidates, (0, 2), value=MASK))
    torch.testing.assert_close(energy(padded), together, rtol=0, atol=1e-5)


def test_the_energy_belongs_to_the_denoiser_of_its_file(tmp_path):
    path, other = write_edlm(tmp_path / "edlm"), published.write_mdlm_hub(tmp_path / "a", published.backbone_weights(9))
    energy = load_energy(path)
    energy.check_denoiser(load_denoiser(path))
    # The same denoiser from the hub; its tokenizer is not in the file.
    hub = load_denoiser(published.write_mdlm_hub(tmp_path / "b"), tokenizer=Letters())
    assert hub.identity.vocabulary
    energy.check_denoiser(hub)
    with pytest.raises(ValueError, match=r"belongs to denoiser 'edlm.ckpt'; the one given differs: revision '.*' != "):
        energy.check_denoiser(load_denoiser(other))
    with pytest.raises(ValueError, match="differs: mask_token_id 11 != 4"):
        energy.check_denoiser(load_denoiser(path, mask_token_id=4))
    with_letters = DiTSequenceEnergy.from_checkpoint(path, tokenizer=Letters())
    with_letters.check_denoiser(hub)
    with pytest.raises(ValueError, match="differs: vocabulary"):
        with_letters.check_denoiser(load_denoiser(path))


@torch.no_grad()
def test_saved_and_loaded_gives_the_same_energies(tmp_path):
    path = write_edlm(tmp_path / "edlm", time_conditioning=True)
    denoiser, energy = load_denoiser(path), DiTSequenceEnergy.from_checkpoint(path, max_tokens_per_pass=50)
    energy.save_pretrained(tmp_path / "saved")
    loaded = load_energy(tmp_path / "saved")
    assert loaded.max_tokens_per_pass == 50
    assert torch.equal(loaded(decision_on(denoiser)), energy(decision_on(denoiser)))
    loaded.check_denoiser(denoiser)


def test_averages_that_do_not_fit(tmp_path):
    shadows = shadows_of(energy_weights())
    wanted = (
        rf"edlm.ckpt: ema.shadow_params must be a list of {len(shadows)} tensors and at most 1 of the noise, .* got "
    )
    denoiser = published.shadow_params(published.backbone_weights())
    for wrong in (shadows[:-1], shadows + shadows[:2], denoiser + shadows):
        with pytest.raises(ValueError, match=wanted + str(len(wrong))):
            load_energy(write_edlm(tmp_path / "edlm", averaged=wrong))
    at = energy_order().index("vocab_proj.weight")
    wrong = [*shadows[:at], shadows[at].T.contiguous(), *shadows[at + 1 :]]
    with pytest.raises(ValueError, match=r"average of vocab_proj.weight must have shape \[16, 32\], got \[32, 16\]"):
        load_energy(write_edlm(tmp_path / "edlm", averaged=wrong))
    with pytest.raises(ValueError, match=r"average of vocab_embed.embedding must have shape \[12, 16\], got str"):
        load_energy(write_edlm(tmp_path / "edlm", averaged=["?", *shadows[1:]]))


def test_checkpoints_that_do_not_fit(tmp_path):
    def edlm(**options):
        return write_edlm(tmp_path / "edlm", **options)

    def without(name):
        return {key: weight for key, weight in energy_weights().items() if key != name}

    cases = [
        (lambda: edlm(raw=without("vocab_proj.bias")), r"edlm.ckpt: weights missing \['vocab_proj.bias'\]"),
        (
            lambda: edlm(raw={"a": torch.ones(1)}),
            r"edlm.ckpt: state_dict must hold a matrix ebm.vocab_embed.embedding, got ",
        ),
        (lambda: edlm(raw={**energy_weights(), "more": torch.ones(1)}), r"unexpected \['more'\]"),
        (lambda: edlm(ebm_backbone="ar"), r"ebm_backbone must be one of .*, got 'ar': .* is 'causal:PATH'"),
        (lambda: edlm(model={"length": LENGTH}), r"edlm.ckpt: the configuration must have model.hidden_size"),
        (lambda: edlm(parameterization="d3pm"), r"parameterization must be one of \['subs', 'sedd'\]"),
        (
            lambda: published.write_mdlm_lightning(tmp_path / "a.ckpt"),
            r"a.ckpt: ebm_backbone must be one of .* got None",
        ),
        (lambda: published.write_ar_ckpt(tmp_path / "b.ckpt"), r"b.ckpt: .* got None: .* is 'causal:PATH'"),
    ]
    for make, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            load_energy(make())
        assert "\n" not in str(caught.value)
    large = {**energy_weights(), "vocab_embed.embedding": torch.ones(ROWS + 1, published.SIZE)}
    with pytest.raises(ValueError, match="the energy must have the denoiser's 12 tokens, got 13"):
        load_energy(edlm(raw=large, averaged=shadows_of(large)))
    not_finite = {**energy_weights(), "vocab_proj.bias": torch.full((published.SIZE,), torch.nan)}
    with pytest.raises(ValueError, match="edlm.ckpt: weights must be finite, got NaN or infinity in vocab_proj.bias"):
        load_energy(edlm(averaged=shadows_of(not_finite)))
    with pytest.raises(FileNotFoundError, match="must be a folder, a file, a hub id"):
        load_energy(tmp_path / "none.ckpt")
    (tmp_path / "text.ckpt").write_text("no pickle")
    with pytest.raises(ValueError, match=r"text.ckpt must hold tensors and plain containers only"):
        load_energy(tmp_path / "text.ckpt")
    with pytest.raises(ValueError, match="must be a Lightning checkpoint of EDLM, got files"):
        DiTSequenceEnergy.from_checkpoint(published.write_mdlm_hub(tmp_path / "hub"))


class Letters:
    """A tokenizer of 11 letters."""

    bos_token_id = eos_token_id = 9
    mask_token_id = None

    def __len__(self):
        return MASK

    def get_vocab(self):
        return {"abcdefghijk"[i]: i for i in range(MASK)}
