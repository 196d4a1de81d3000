"""Log-probabilities of next tokens, part by part, against the table over the whole vocabulary."""

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from edlm.energies.mdlm_causal_lm import MDLMCausalLM, MDLMCausalLMConfig
from edlm.energies.next_token import NextToken

VOCAB = 11


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=8, n_layer=1, n_head=2, n_positions=16))


class Older(GPT2LMHeadModel):
    """It computes logits at all positions."""

    def forward(self, input_ids, attention_mask=None, **options):
        assert "logits_to_keep" not in options
        return super().forward(input_ids, attention_mask=attention_mask, **options)


def older():
    return Older(GPT2Config(vocab_size=VOCAB, n_embd=8, n_layer=1, n_head=2, n_positions=16))


def opt():
    """Its states are projected to the embeddings' size before the output layer."""
    sizes = {"hidden_size": 8, "word_embed_proj_dim": 4, "ffn_dim": 8, "num_hidden_layers": 1}
    return OPTForCausalLM(OPTConfig(vocab_size=VOCAB, num_attention_heads=2, max_position_embeddings=16, **sizes))


def capped():
    """Logits are squashed after the output layer."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "head_dim": 4}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    return Gemma2ForCausalLM(Gemma2Config(vocab_size=VOCAB, final_logit_softcapping=0.1, **sizes, **heads))


def mdlm():
    return MDLMCausalLM(MDLMCausalLMConfig(VOCAB, 8, 1, 2, 16))


@torch.no_grad()
@pytest.mark.parametrize(("states_at_once", "tokens_at_once"), [(512, 2048), (3, 4), (1, 11), (512, 1)])
@pytest.mark.parametrize(
    ("make", "in_parts"), [(gpt2, True), (older, True), (opt, True), (capped, False), (mdlm, False)]
)
def test_parts_add_up_to_the_whole(make, in_parts, states_at_once, tokens_at_once, monkeypatch):
    monkeypatch.setattr("edlm.energies.next_token.STATES_AT_ONCE", states_at_once)
    monkeypatch.setattr("edlm.energies.next_token.TOKENS_AT_ONCE", tokens_at_once)
    torch.manual_seed(0)
    model = make().double().eval()
    for weight in model.parameters():
        weight.data += 0.5 * torch.randn_like(weight)
    if make is gpt2:
        model.lm_head.bias = torch.nn.Parameter(torch.randn(VOCAB).double())
    tokens, targets = torch.randint(0, VOCAB - 1, (2, 3, 6))
    keep = torch.tensor([1, 4])
    truth = model(tokens).logits.log_softmax(-1)[:, keep].gather(-1, targets[:, :2, None])[..., 0]
    next_token, widths = NextToken(model), []
    layer = model.get_output_embeddings() or torch.nn.Identity()  # that of MDLM's code is not public
    layer.register_forward_hook(lambda module, args, logits: widths.append(logits.shape[-1]))
    for _ in range(2):
        torch.testing.assert_close(next_token.log_prob(tokens, keep, targets[:, :2]), truth)
    assert widths == ([VOCAB, 0, 0] if in_parts else [VOCAB] * 3 if make is capped else [])
    again = model(tokens).logits.log_softmax(-1)[:, keep].gather(-1, targets[:, :2, None])[..., 0]
    assert torch.equal(again, truth)  # the model is as it was


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_single(dtype):
    torch.manual_seed(0)
    model = gpt2().to(dtype).eval()
    tokens, targets, keep = torch.zeros(2, 3, dtype=torch.long), torch.tensor([[1], [7]]), torch.tensor([2])
    next_token = NextToken(model)
    for _ in range(2):
        found = next_token.log_prob(tokens, keep, targets)
        assert found.dtype == torch.float32
        exact = model(tokens).logits[:, keep].float().log_softmax(-1).gather(-1, targets[..., None])[..., 0]
        torch.testing.assert_close(found, exact, rtol=1e-2, atol=1e-2)
