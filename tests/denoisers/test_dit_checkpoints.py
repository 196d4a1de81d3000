"""Checkpoints of MDLM, D3PM, SEDD and BD3-LM: averaged weights, masks and tokenizers, and what does not fit."""

import pytest
import torch

from edlm import load_denoiser
from edlm.denoisers.families.dit_denoiser import vocabulary_of
from tests.denoisers import published
from tests.denoisers.published import MASK, ROWS, backbone_weights, write_lightning, write_run


def test_averaged_weights_are_taken(tmp_path):
    raw, averaged = backbone_weights(seed=1), backbone_weights()
    noise = [torch.tensor(0.0)]
    for name, average in (("a", averaged), ("b", published.shadow_params(averaged) + noise)):
        path = write_lightning(tmp_path / name, weights=raw, averaged=average)
        network = load_denoiser(path).network
        for parameter, weight in network.named_parameters():
            assert torch.equal(weight, averaged[parameter])
    # EDLM's checkpoints average their energy alone.
    energy = {"ebm.head.weight": torch.ones(2), "backbone.ebm.head.weight": torch.ones(2)}
    path = write_lightning(tmp_path / "edlm", weights=raw, averaged=[torch.ones(2)], extra=energy)
    torch.testing.assert_close(load_denoiser(path).embed(torch.tensor([2]))[0], raw["vocab_embed.embedding"][2])


@pytest.mark.parametrize("run", [False, True])
def test_averages_that_do_not_fit(tmp_path, run):
    shadows = published.shadow_params(backbone_weights())
    swapped = [*shadows[:5], shadows[6], shadows[5], *shadows[7:]]
    further = " and at most 1 of the noise" if not run else ""
    wanted = f"ema.shadow_params must be a list of {len(shadows)} tensors{further}, one a parameter, got "
    cases = [(shadows[:-1], wanted + str(len(shadows) - 1)), (shadows * 2, wanted + str(2 * len(shadows)))]
    cases += [(swapped, r"the average of blocks.0.norm1.weight must have shape \[16\], got \[48, 16\]")]
    for i, (averages, message) in enumerate(cases):
        if run:
            path = published.write_sedd_run(tmp_path / str(i), backbone_weights(), {})
            file = path / "checkpoints-meta" / "checkpoint.pth"
            torch.save({"model": backbone_weights(), "ema": {"shadow_params": averages}}, file)
        else:
            path = write_lightning(tmp_path / str(i), averaged=averages)
        with pytest.raises(ValueError, match=message):
            load_denoiser(path)


WRITERS = [published.write_mdlm_hub, write_lightning, published.write_sedd, published.write_bd3lm]


@pytest.mark.parametrize("write", WRITERS)
def test_weights_that_do_not_fit(tmp_path, write):
    weights = backbone_weights()
    missing = {name: weight for name, weight in weights.items() if name != "blocks.2.attn_out.weight"}
    with pytest.raises(ValueError, match=r"a.*: weights missing \['blocks.2.attn_out.weight'\], unexpected \[\]"):
        load_denoiser(write(tmp_path / "a", weights=missing))
    with pytest.raises(ValueError, match=r"weights missing \[\], unexpected \['blocks.0.bias'\]"):
        load_denoiser(write(tmp_path / "b", weights={**weights, "blocks.0.bias": torch.ones(3)}))
    with pytest.raises(ValueError, match=r"weight blocks.1.norm2.weight must have shape \[16\], got \[4\]"):
        load_denoiser(write(tmp_path / "c", weights={**weights, "blocks.1.norm2.weight": torch.ones(4)}))
    with pytest.raises(ValueError, match=r"rotary_emb.inv_freq must have base 10000 and 4 frequencies \(2 heads\)"):
        load_denoiser(write(tmp_path / "d", weights={**weights, "rotary_emb.inv_freq": torch.ones(4)}))
    without = {name: weight for name, weight in weights.items() if name != "rotary_emb.inv_freq"}
    load_denoiser(write(tmp_path / "e", weights=without))


def test_configurations_that_do_not_fit(tmp_path):
    folder = published.write_folder(tmp_path / "a", {"model_type": "mdlm"}, published.prefixed(backbone_weights()))
    with pytest.raises(ValueError, match=r"the configuration must have vocab_size, got \['model_type'\]"):
        load_denoiser(folder)
    with pytest.raises(ValueError, match="graph.type must be 'absorb', since a denoiser fills in masks, got 'uniform'"):
        load_denoiser(published.write_sedd(tmp_path / "b", graph={"type": "uniform"}))
    with pytest.raises(ValueError, match="noise.type must be 'loglinear', since .*, got 'geometric'"):
        load_denoiser(published.write_sedd(tmp_path / "c", noise={"type": "geometric"}))
    with pytest.raises(ValueError, match="backbone must be 'dit', got 'dimamba'"):
        load_denoiser(write_lightning(tmp_path / "d", backbone="dimamba"))
    with pytest.raises(ValueError, match="must be a diffusion model, got an autoregressive one: it makes an energy"):
        load_denoiser(published.write_ar_ckpt(tmp_path / "ar.ckpt"))
    with pytest.raises(ValueError, match="noise.type must be 'loglinear' with time_conditioning, got 'cosine'"):
        load_denoiser(write_lightning(tmp_path / "e", time_conditioning=True, noise={"type": "cosine"}))
    with pytest.raises(ValueError, match="must hold .hydra/config.yaml next to checkpoints-meta/checkpoint.pth"):
        path = write_run(tmp_path / "f")
        (path / ".hydra" / "config.yaml").unlink()
        load_denoiser(path)
    with pytest.raises(ValueError, match="hidden_size must be a multiple of twice num_heads .3., got 16"):
        load_denoiser(published.write_mdlm_hub(tmp_path / "g", n_heads=3))


def test_the_family_given_must_fit(tmp_path):
    mdlm, ckpt = published.write_mdlm_hub(tmp_path / "a"), write_lightning(tmp_path / "b")
    sedd = published.write_sedd(tmp_path / "c")
    with pytest.raises(ValueError, match="the configuration must have tokens"):
        load_denoiser(mdlm, "sedd")
    with pytest.raises(ValueError, match="must be a folder of model_type 'bd3lm'"):
        load_denoiser(mdlm, "bd3lm")
    with pytest.raises(ValueError, match="must be a folder of model_type 'mdlm' or a Lightning checkpoint"):
        load_denoiser(sedd, "mdlm")
    with pytest.raises(ValueError, match=r"parameterization must be one of \['d3pm'\] for family='d3pm', got 'subs'"):
        load_denoiser(ckpt, "d3pm")
    with pytest.raises(ValueError, match="family must be one of .*'mdlm'.*, got 'mdml'"):
        load_denoiser(mdlm, "mdml")


def test_which_token_is_the_mask(tmp_path):
    path = published.write_mdlm_hub(tmp_path / "a")
    assert load_denoiser(path, mask_token_id=4).mask_token_id == 4
    for wrong in (ROWS, -1):
        with pytest.raises(ValueError, match=f"mask_token_id must lie in 0..11, .* got {wrong}"):
            load_denoiser(path, mask_token_id=wrong)
    # A tokenizer with a mask of its own, as for LM1B, adds no row.
    bert = write_lightning(tmp_path / "b", data={"tokenizer_name_or_path": "bert-base-uncased"})
    with pytest.raises(ValueError, match="mask_token_id or the tokenizer must be given, .* with 'bert-base-uncased'"):
        load_denoiser(bert)
    assert load_denoiser(bert, mask_token_id=2).mask_token_id == 2


class Words:
    """A tokenizer of as many words."""

    bos_token_id = eos_token_id = 9

    def __init__(self, size, mask_token_id=None):
        self.size, self.mask_token_id = size, mask_token_id

    def __len__(self):
        return self.size

    def get_vocab(self):
        return {str(i): i for i in range(self.size)}


@torch.no_grad()
def test_the_tokenizer_says_what_text_holds(tmp_path):
    path = published.write_mdlm_hub(tmp_path / "a")
    denoiser = load_denoiser(path, tokenizer=Words(10))
    assert (denoiser.mask_token_id, denoiser.prefix_ids, denoiser.eos_token_id) == (MASK, (9,), 9)
    assert torch.isneginf(denoiser.log_probs(torch.full((1, 3), MASK))[0, 1]).nonzero()[:, 0].tolist() == [10, MASK]
    assert load_denoiser(path, tokenizer=Words(12, mask_token_id=3)).mask_token_id == 3
    with pytest.raises(ValueError, match="the tokenizer must have at most 12 tokens, .* got 13"):
        load_denoiser(path, tokenizer=Words(13))


def test_gpt2s_separator_is_known_by_its_size():
    gpt2, other = vocabulary_of(50258, None), vocabulary_of(ROWS, None)
    assert (gpt2.prefix_ids, gpt2.eos_token_id) == ((50256,), 50256)
    assert (other.prefix_ids, other.eos_token_id) == ((), None)
