"""Masked LMs of transformers, tiny and random, from text to bounds and filled gaps."""

import math

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForMaskedLM, PreTrainedTokenizerFast

from edlm import EnergySampler
from edlm.evaluation import evaluate
from edlm.training import train_denoiser

KINDS = "bert roberta xlm-roberta modernbert distilbert albert deberta-v2 electra esm camembert".split()
SPECIAL = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
WORDS = "the cat sat on a mat dog ran to red big tree".split()
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
SIZES |= {"embedding_size": 32, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 2}
SIZES |= {"max_position_embeddings": 40, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}


def checkpoint(kind, folder):
    """A model with the special tokens of its family around its texts, as its folder would hold them."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL.values(), *WORDS])}
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    frame = [("<s>", 2), ("</s>", 3)]
    fast.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=frame)
    ends = {"bos_token": "<s>", "eos_token": "</s>"} if "roberta" in kind or kind in ("camembert", "esm") else {}
    PreTrainedTokenizerFast(tokenizer_object=fast, **SPECIAL, **ends).save_pretrained(folder)
    known = CONFIG_MAPPING[kind]()
    shape = {name: value for name, value in SIZES.items() if hasattr(known, name)}
    more = {"mask_token_id": 4, "position_embedding_type": "absolute"} if kind == "esm" else {}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=len(vocabulary), **shape, **more)
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_masked_lm_is_trained_on_text_measured_and_fills_gaps(kind, tmp_path):
    checkpoint(kind, tmp_path / "model")
    order = torch.Generator().manual_seed(0)
    documents = [" ".join(WORDS[i] for i in torch.randint(12, (30,), generator=order)) for _ in range(60)]
    text = tmp_path / "text.txt"
    text.write_text("\n<|endoftext|>\n".join(documents))
    options = {"num_steps": 20, "batch_size": 4, "valid_every": 20, "learning_rate": 1e-2, "ema_decay": 0.0}
    run = {"output_dir": str(tmp_path / "run"), "start_from": str(tmp_path / "model"), **options}
    denoiser = train_denoiser(str(text), **run)
    found = evaluate(denoiser, [], str(text), measure=("bounds",), num_rows=4, num_steps=(2,), orders=("random",))
    assert all(math.isfinite(row["bound_nats_per_token"].value) for row in found.rows)
    assert found.rows[0]["bound_nats_per_token"].value < 2 * math.log(12)
    filled = EnergySampler(denoiser, num_steps=2).infill("the cat <mask:2> on a <mask>", seed=0)
    assert filled.text[0].startswith("the cat ") and all(fill.split() for fill in filled.fills[0])
    assert not {0, 2, 3, 4} & {*filled.tokens[0][len(denoiser.prefix_ids) : -len(denoiser.suffix_ids) or None].tolist()}
