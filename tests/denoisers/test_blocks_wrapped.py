"""Modules of the families' own code, wrapped: called as that code calls them; and what is refused or recognised."""

import json
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM, Qwen3ForCausalLM

from edlm import load_denoiser, wrap_denoiser
from edlm.cli import main
from edlm.commands.models import ModelOptions
from tests.denoisers import published_blocks as published
from tests.denoisers import published_decoders
from tests.denoisers.decoders import FakeTokenizer, padded
from tests.denoisers.test_blocks import load, some_rows

each = pytest.mark.parametrize("family", published.SHAPES)
MASKED = {"sdar": "bool", "sdar_moe": "bool", "a2d-qwen3-bd3lm": "added", "stable_diffcoder": "added"}
MASKED |= {"llada2": "added", "decoder": "added"}


class ByHand(nn.Module):
    """Replaces a module of the family's own code: takes what that takes, computed by hand."""

    def __init__(self, family):
        super().__init__()
        self.family, self.w = family, published.random_weights(family)
        self.weight = nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(**published.SHAPES[family].config)

    def forward(self, input_ids, attention_mask=None, position_ids=None, use_cache=None, **options):
        n, length = input_ids.shape
        shape, real = published.SHAPES[self.family], torch.ones(n, length, dtype=torch.bool)
        if self.family in MASKED:
            assert use_cache is False and torch.equal(position_ids, torch.arange(length).expand(n, length))
            assert attention_mask.shape == (n, 1, length, length)
            assert (attention_mask.dtype == torch.bool) == (MASKED[self.family] == "bool")
            seen = attention_mask if attention_mask.dtype == torch.bool else attention_mask == 0
            real = torch.cat([seen[:, 0, -1, :-1], seen[:, 0, -1, -2:-1]], 1)  # the last token reads itself, if padding
            number = torch.arange(length) // shape.block
            read = (number[:, None] >= number) & real[:, None] | torch.eye(length, dtype=torch.bool)
            assert torch.equal(seen[:, 0], read)
        else:
            assert attention_mask is None
            wanted = {"open_dcoder": {"is_causal": False}, "fast_dllm": {"block_size": shape.block}}
            assert options == wanted.get(self.family, {})
        out = torch.zeros(n, length, published.VOCAB)
        for i, row in enumerate(input_ids):
            out[i, : real[i].sum()] = published.logits_by_hand(self.family, self.w, row[real[i]])
        return SimpleNamespace(logits=out)


def name_of(family):
    return {"sdar_moe": "sdar"}.get(family, "a2d" if "a2d" in family else family)


@each
@torch.no_grad()
def test_a_wrapped_module_is_called_as_its_own_code_calls_it(family):
    shape, module = published.SHAPES[family], ByHand(family)
    options = {"family": name_of(family), **shape.options}
    denoiser = wrap_denoiser(module, **options)
    assert (denoiser.family, denoiser.shift, denoiser.block_size) == (name_of(family), shape.shift, shape.block)
    assert (denoiser.mask_token_id, denoiser.vocab_size, denoiser.max_length) == (shape.mask, published.VOCAB, 48)
    rows = some_rows(family)
    x_t, real = padded(rows)
    together = denoiser.log_probs(x_t, attention_mask=real)
    for row, mine in zip(rows, together, strict=True):
        expected = published.log_probs_by_hand(family, module.w, row)
        torch.testing.assert_close(mine[: len(row)][row == shape.mask], expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="mask token must be one of the network's 40 embeddings, got 40$"):
        wrap_denoiser(module, **options | {"mask_token_id": published.VOCAB})
    if "block_size" not in options and shape.block is None and "a2d" not in family:
        with pytest.raises(ValueError, match=f"family '{family}' has no option 'block_size'"):
            wrap_denoiser(module, **options, block_size=4)


@torch.no_grad()
def test_a_causal_lm_of_transformers_is_a_decoder_family_only_if_asked(tmp_path):
    shape = published.SHAPES["decoder"]
    loaded = load("decoder", published.write("decoder", tmp_path))
    assert isinstance(loaded.network, Qwen3ForCausalLM)
    wrapped = wrap_denoiser(loaded.network, **shape.options)
    x_t, real = padded(some_rows("decoder"))
    ours, theirs = (d.log_probs(x_t, attention_mask=real)[real] for d in (loaded, wrapped))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="must be a checkpoint of one of the families"):
        load_denoiser(tmp_path / "tiny", mask_token_id=published.MASK)


def test_llada_moe_is_told_from_llada_by_its_architecture(tmp_path):
    for kind in ("llada", "lladamoe", "llada_moe"):
        assert load("lladamoe", published.write("lladamoe", tmp_path, model_type=kind)).family == "lladamoe"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "DUO"}, "a DUO model, which is not served: its noise replaces tokens by others"),
        ({"model_type": "udlm"}, "a UDLM model, which is not served: its noise"),
        ({"model_type": "diffusion_gemma"}, "a DiffusionGemma model, which is not served: it rewrites"),
        ({"architectures": ["DiffusionGemmaForBlockDiffusion"]}, "a DiffusionGemma model, which is not served"),
        ({"model_type": "llada21_moe"}, "a LLaDA2.1 model, which is not served: it rewrites"),
        ({"model_type": "wedlm"}, "a WeDLM model, which is not served: it moves"),
        ({"model_type": "lfm2"}, "a LFM2 model, which is not served: its short convolutions"),
        ({"model_type": "llada2_moe"}, "a LLaDA2.1 model, which is not served: it rewrites"),
    ],
)
def test_models_of_another_kind_are_refused_by_name(config, message, tmp_path):
    folder = tmp_path / ("LLaDA2.1-mini" if config.get("model_type") == "llada2_moe" else "model")
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "new", **config}))
    with pytest.raises(ValueError, match=f"^{folder} is {message}") as caught:
        load_denoiser(folder)
    assert "\n" not in str(caught.value)


class Words(FakeTokenizer):
    """A tokenizer with a vocabulary, of which some words have another id than their own."""

    def __init__(self, words=None, size=38, bos=None, mask=None):
        super().__init__(size, mask)
        self.words, self.bos_token_id = words or {}, bos

    def get_vocab(self):
        return {f"w{i}": i for i in range(self.size)} | self.words


def dream(tmp_path, tokenizer=None, **config):
    path = published_decoders.write("dream", tmp_path, **config)
    return load_denoiser(path, "dream", tokenizer=tokenizer)


def test_dream_never_frames_with_the_begin_token_of_another_model(tmp_path):
    assert dream(tmp_path).prefix_ids == (34,)  # its config's
    assert dream(tmp_path, Words(bos=33)).prefix_ids == (33,)
    for tokenizer, config in (
        (Words(), {}),  # has none
        (None, {"bos_token_id": 35}),  # its eos: left over from the model that it started from
        (None, {"model_type": "qwen2"}),  # Open-dCoder
    ):
        denoiser = dream(tmp_path, tokenizer, **config)
        assert denoiser.prefix_ids == () and not denoiser.is_framed and denoiser.shift
    masked = torch.tensor([[published_decoders.MASK["dream"], 3]])
    with pytest.raises(ValueError, match="x_t must begin with a given token, since nothing predicts the first one"):
        denoiser.log_probs(masked)


@torch.no_grad()
def test_the_expand_token_of_dreamon_is_never_written(tmp_path):
    for options in ({"expand_token_id": 30}, {"tokenizer": Words({"<|expand|>": 30})}):
        denoiser = dream(tmp_path, **options)
        assert 30 in denoiser.vocabulary.impossible
        assert torch.isneginf(denoiser.log_probs(torch.tensor([[3, denoiser.mask_token_id]]))[0, 1, 30])
    assert 30 not in dream(tmp_path).vocabulary.impossible
    (tmp_path / "dream-tiny/generation_config.json").write_text('{"expand_token_id": 30}')
    assert 30 in dream(tmp_path).vocabulary.impossible


@pytest.mark.parametrize(("pad", "never"), [(151643, True), (151667, False)])
def test_dreams_token_after_the_mask_is_text_only_of_diffucoder(pad, never):
    config = {**published_decoders.DREAM, "vocab_size": 152064, "mask_token_id": 151666, "pad_token_id": pad}
    denoiser = wrap_denoiser(SimpleModule(config), family="dream")
    assert (151667 in denoiser.vocabulary.impossible) == never and denoiser.mask_token_id == 151666


class SimpleModule(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = SimpleNamespace(**config)


@pytest.mark.parametrize(
    ("family", "word"), [("sdar", "<|MASK|>"), ("a2d-qwen3", "<|mask|>"), ("illada", "<[MASK_TOKEN]>")]
)
def test_a_tokenizers_mask_goes_before_the_configs(family, word, tmp_path):
    path = published.write(family, tmp_path, mask_token_id=11)
    assert load_denoiser(path).mask_token_id == 11
    assert load_denoiser(path, tokenizer=Words({word: 12})).mask_token_id == 12
    denoiser = load_denoiser(path, tokenizer=Words({word: 12}, mask=13))
    assert denoiser.mask_token_id == 13 and denoiser.vocabulary.impossible == (13, 38, 39)


def test_open_dcoder_is_an_ordinary_qwen2_in_its_files(tmp_path):
    denoiser = load("open_dcoder", published.write("open_dcoder", tmp_path))
    assert isinstance(denoiser.network, Qwen2ForCausalLM) and denoiser.prefix_ids == ()


def test_commands_give_a_mask_and_a_block_size(tmp_path, capsys):
    path = str(published.write("llada2", tmp_path))
    assert main(["info", path, "--mask_token_id=36", "--block_size=7"]) == 0
    lines = {" ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    assert {"family llada2", "mask id 36", "block size 7", "shift no", "longest sequence 48"} <= lines
    path = str(published.write("decoder", tmp_path))
    assert main(["info", path, "--family=decoder", "--mask_token_id=36", "--shift=true"]) == 0
    assert "shift yes" in " ".join(capsys.readouterr().out.split())
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(published.VOCAB)}, unk_token="w1"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w1").save_pretrained(tmp_path / "tokenizer")
    options = {"denoiser": str(published.write("sdar", tmp_path)), "denoiser_mask_token_id": 0}
    options["denoiser_tokenizer"] = str(tmp_path / "tokenizer")
    denoiser = ModelOptions(**options, denoiser_block_size=8).load_sampler(torch.device("cpu")).denoiser
    assert (denoiser.mask_token_id, denoiser.block_size) == (0, 8)
