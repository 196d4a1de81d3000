"""The autoregressive model of the MDLM code base as an energy."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from edlm import AutoregressiveEnergy, load_energy
from edlm.energies import MDLMCausalLM
from tests.denoisers import published
from tests.denoisers.plain_dit import plain_logits
from tests.denoisers.published import LENGTH, MASK, ROWS, backbone_weights

TOKENS = torch.tensor([[3, 1, 0, 10, 2, 7], [9, 5, 5, 1, 2, 8]])


def write_hub(path, **config):
    weights = backbone_weights(conditioned=False)
    return published.write_bd3lm(path, weights, causal=True, cross_attn=False, adaln=False, **config)


def write_ckpt(path):
    return published.write_ar_ckpt(path.with_suffix(".ckpt"))


both = pytest.mark.parametrize("write", [write_ckpt, write_hub])


def expected_terms(bos):
    terms = []
    for row in TOKENS.tolist():
        logits = plain_logits(backbone_weights(conditioned=False), [bos, *row], None, lambda i, j: j <= i)
        log_probs = logits[:, :MASK].log_softmax(-1)
        terms.append([log_probs[i, token].item() for i, token in enumerate(row)])
    return torch.tensor(terms, dtype=torch.float64)


@both
@torch.no_grad()
def test_log_probabilities_of_a_published_checkpoint(write, tmp_path):
    model = MDLMCausalLM.from_checkpoint(write(tmp_path / "ar"))
    assert model.config.max_position_embeddings == LENGTH and model.config.vocab_size == ROWS
    energy = AutoregressiveEnergy(model, bos_token_id=4)
    torch.testing.assert_close(energy.log_prob(TOKENS), expected_terms(4).sum(1), rtol=1e-5, atol=1e-5)
    log_probs = model(TOKENS).logits
    assert torch.isneginf(log_probs[..., MASK]).all()
    torch.testing.assert_close(log_probs.logsumexp(-1), torch.zeros(2, 6), atol=1e-5, rtol=0)
    torch.testing.assert_close(model(TOKENS, logits_to_keep=2).logits, log_probs[:, -2:])
    torch.testing.assert_close(model(TOKENS, logits_to_keep=torch.tensor([0, 3])).logits, log_probs[:, [0, 3]])


def test_averaged_weights_are_taken(tmp_path):
    averaged = backbone_weights(seed=1, conditioned=False)
    model = MDLMCausalLM.from_checkpoint(published.write_ar_ckpt(tmp_path / "ar.ckpt", averaged=averaged))
    torch.testing.assert_close(model.backbone.embed(TOKENS[0]), averaged["vocab_embed.embedding"][TOKENS[0]])


@torch.no_grad()
def test_edlm_ar_as_it_was_run_takes_the_weights_that_are_not_averaged(tmp_path):
    raw, averaged = (backbone_weights(seed=seed, conditioned=False) for seed in (0, 1))
    path = published.write_ar_ckpt(tmp_path / "ar.ckpt", weights=raw, averaged=averaged)
    energy = AutoregressiveEnergy(MDLMCausalLM.from_checkpoint(path, averaged=False), bos_token_id=4)
    torch.testing.assert_close(energy.log_prob(TOKENS), expected_terms(4).sum(1), rtol=1e-5, atol=1e-5)
    by_name = AutoregressiveEnergy.from_causal_lm(path, averaged=False, bos_token_id=4)
    assert torch.equal(by_name.log_prob(TOKENS), energy.log_prob(TOKENS)) and by_name.tokenizer is None
    of_averages = AutoregressiveEnergy(MDLMCausalLM.from_checkpoint(path), bos_token_id=4).log_prob(TOKENS)
    assert (of_averages - energy.log_prob(TOKENS)).abs().min() > 0.1


@torch.no_grad()
def test_a_checkpoint_is_an_energy_by_its_name(tmp_path):
    path = published.write_ar_ckpt(tmp_path / "ar.ckpt")
    energy = load_energy(f"causal:{path}")
    assert isinstance(energy, AutoregressiveEnergy) and energy.bos_token_id is None  # GPT-2's is not in a table of 12
    expected = AutoregressiveEnergy(MDLMCausalLM.from_checkpoint(path), bos_token_id=None)
    assert torch.equal(energy.log_prob(TOKENS), expected.log_prob(TOKENS))
    with pytest.raises(ValueError, match="a causal LM of texts must have a tokenizer, got .*ar.ckpt: it scores tokens"):
        load_energy(f"text:{path}")


@torch.no_grad()
def test_the_energy_comes_back_without_the_checkpoint(tmp_path):
    model = MDLMCausalLM.from_checkpoint(write_ckpt(tmp_path / "ar"), bos_token_id=4)
    energy = AutoregressiveEnergy(model, bos_token_id=4)
    energy.save_pretrained(tmp_path / "energy")
    loaded = load_energy(tmp_path / "energy")
    assert torch.equal(loaded.log_prob(TOKENS), energy.log_prob(TOKENS))
    model.save_pretrained(tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.equal(again(TOKENS).logits, model(TOKENS).logits)
    from_folder = AutoregressiveEnergy.from_causal_lm(tmp_path / "model")
    assert from_folder.bos_token_id == 4 and torch.equal(from_folder.log_prob(TOKENS), energy.log_prob(TOKENS))


def test_what_is_no_autoregressive_checkpoint(tmp_path):
    wanted = "must be a Lightning checkpoint with backbone 'ar' or a causal folder of model_type 'bd3lm'"
    with pytest.raises(ValueError, match=wanted):
        MDLMCausalLM.from_checkpoint(published.write_mdlm_lightning(tmp_path / "mdlm.ckpt"))
    with pytest.raises(ValueError, match=wanted):
        MDLMCausalLM.from_checkpoint(published.write_bd3lm(tmp_path / "bd3lm"))
    path = published.write_bd3lm(tmp_path / "b", causal=True, cross_attn=False, adaln=True)
    with pytest.raises(ValueError, match="must have adaln false, since a causal model has no noise level, got true"):
        MDLMCausalLM.from_checkpoint(path)
    weights = backbone_weights(conditioned=False)
    weights.pop("blocks.1.attn_out.weight")
    with pytest.raises(ValueError, match="weights missing .'blocks.1.attn_out.weight'"):
        MDLMCausalLM.from_checkpoint(published.write_ar_ckpt(tmp_path / "c.ckpt", weights))
