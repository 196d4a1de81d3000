"""What stands around a text, what text never holds, how long it may be: masked LMs of transformers."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from edlm import EnergySampler, load_denoiser
from edlm.denoisers import MaskedLMDenoiser

BERT_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[user]", "a", "b", "c", "d"]
ROBERTA_WORDS = ["<s>", "<pad>", "</s>", "<unk>", "a", "b", "c", "d", "<mask>"]
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 24}


def tokenizer_of(words, **special):
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=special["unk_token"]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def bert_tokenizer():
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return tokenizer_of(BERT_WORDS, **names, additional_special_tokens=["[user]"])


def roberta_tokenizer():
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    return tokenizer_of(ROBERTA_WORDS, **names, pad_token="<pad>", unk_token="<unk>", mask_token="<mask>")


def bert(**settings):
    return BertForMaskedLM(BertConfig(vocab_size=10, max_position_embeddings=12, **LAYERS, **settings))


def roberta():
    special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    return RobertaForMaskedLM(RobertaConfig(vocab_size=9, max_position_embeddings=12, **LAYERS, **special))


def modernbert():
    special = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    return ModernBertForMaskedLM(ModernBertConfig(vocab_size=10, max_position_embeddings=12, **LAYERS, **special))


def distilbert():
    shape = {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 12}
    return DistilBertForMaskedLM(DistilBertConfig(vocab_size=10, **shape))


def denoiser_of(make):
    torch.manual_seed(0)
    model = make().eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, 0.0, 0.6)
    return MaskedLMDenoiser(model, roberta_tokenizer() if make is roberta else bert_tokenizer())


each = pytest.mark.parametrize("make", [bert, roberta, modernbert, distilbert], ids=lambda f: f.__name__)


@each
@torch.no_grad()
def test_special_tokens_are_never_sampled(make):
    denoiser = denoiser_of(make)
    special = [0, 1, 2, 3, 8] if make is roberta else [0, 1, 2, 3, 4]
    assert (denoiser.prefix_ids, denoiser.suffix_ids) == (((0,), (2,)) if make is roberta else ((2,), (3,)))
    assert denoiser.is_framed and denoiser.family == "masked_lm" and not denoiser.shift
    x_t = torch.full((1, 8), denoiser.mask_token_id)
    x_t[0, 0], x_t[0, -1] = denoiser.prefix_ids[0], denoiser.suffix_ids[0]
    log_probs = denoiser.log_probs(x_t)[0, 1:-1]
    assert torch.isneginf(log_probs[:, special]).all()
    others = [i for i in range(denoiser.vocab_size) if i not in special]
    assert torch.isfinite(log_probs[:, others]).all()  # also the further special token, which chats are made of
    drawn = EnergySampler(denoiser, num_steps=3).fill(x_t.repeat(16, 1), seeds=range(16)).tokens
    assert not torch.isin(drawn[:, 1:-1], torch.tensor(special)).any() and (drawn[:, 0] == x_t[0, 0]).all()


@each
@torch.no_grad()
def test_the_longest_sequence_runs_and_the_next_is_refused(make):
    denoiser = denoiser_of(make)
    longest = 10 if make is roberta else 12  # of RoBERTa's 12 positions, the first 2 are not used
    assert denoiser.max_length == longest
    x_t = torch.full((1, longest), denoiser.mask_token_id)
    assert torch.isfinite(denoiser.log_probs(x_t).amax())
    with pytest.raises(ValueError, match=f"x_t must hold at most max_length = {longest} tokens, got {longest + 1}"):
        denoiser.log_probs(torch.full((1, longest + 1), denoiser.mask_token_id))
    if make is roberta:
        with pytest.raises((IndexError, RuntimeError)):  # what it would say itself
            denoiser.network(input_ids=torch.full((1, longest + 1), denoiser.mask_token_id))


@each
@torch.no_grad()
def test_rows_padded_on_the_right_are_as_if_alone(make):
    denoiser = denoiser_of(make)
    pad = denoiser.tokenizer.pad_token_id
    generator = torch.Generator().manual_seed(2)
    rows = [torch.randint(4, 8, (length,), generator=generator) for length in (3, 7, 10)]
    for row in rows:
        row[1::2] = denoiser.mask_token_id
    x_t, real = torch.full((3, 10), pad), torch.zeros(3, 10, dtype=torch.bool)
    for i, row in enumerate(rows):
        x_t[i, : len(row)], real[i, : len(row)] = row, True
    together = denoiser.log_probs(x_t, attention_mask=real)
    for row, mine in zip(rows, together, strict=True):
        torch.testing.assert_close(mine[: len(row)], denoiser.log_probs(row[None])[0], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_shipped_denoisers_law_is_its_networks_with_the_separator():
    denoiser = load_denoiser("tinystories")
    mask, separator = denoiser.mask_token_id, denoiser.tokenizer.eos_token_id
    assert (mask, separator, denoiser.vocab_size) == (1, 0, 8192)
    x_t = torch.randint(2, 8192, (2, 40), generator=torch.Generator().manual_seed(0))
    x_t[:, 3::4] = mask
    logits = denoiser.network(input_ids=x_t).logits
    logits[..., mask] = -torch.inf  # and nothing else
    masked = x_t == mask
    log_probs = denoiser.log_probs(x_t)[masked]
    torch.testing.assert_close(log_probs, logits[masked].log_softmax(-1), rtol=1e-5, atol=1e-5)
    assert torch.isfinite(log_probs[:, separator]).all()
    assert denoiser.prefix_ids == (separator,) and denoiser.suffix_ids == () and not denoiser.is_framed
    assert denoiser.eos_token_id == separator and denoiser.max_length == 128
