"""Python blocks of README and docs run as they stand, on tiny models for published ones; commands have known keys."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import edlm
from edlm.commands.parsing import COMMANDS, parse
from edlm.denoisers import checkpoint
from edlm.denoisers.families import decoders, llada, llada2
from edlm.energies import causal_lm as causal_lms
from edlm.evaluation.languages.audit import audit, reference_chain
from tests.denoisers import published, published_blocks, published_decoders, published_edlm
from tests.denoisers.test_framing import bert_tokenizer, modernbert

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs" / "models.md", ROOT / "docs" / "guide.md")
TEXT = "\n".join(page.read_text() for page in PAGES)
BLOCKS = {
    "sdar": "JetLM/SDAR-1.7B-Chat",
    "llada2": "inclusionAI/LLaDA2.0-mini",
    "fast_dllm": "Efficient-Large-Model/Fast_dLLM_v2_7B",
    "a2d-qwen3-bd3lm": "dllm-hub/Qwen3-0.6B-diffusion-bd3lm-v0.1",
}
WORDS = "the cat a dog sat on and ran".split()


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def shell_commands() -> list[list[str]]:
    """Words after `edlm` of every command, in a block of its own or in a sentence."""
    commands = re.findall(r"^    edlm (.*)$|`edlm ([a-z][^`]*)`", TEXT, re.MULTILINE)
    return [shlex.split(block or sentence) for block, sentence in commands]


def tokenizer_of(size: int, special: dict[str, int]) -> PreTrainedTokenizerFast:
    """``size`` words, some of them special ones at given ids."""
    words = [*WORDS, *(f"word{i}" for i in range(size))][:size]
    for name, index in special.items():
        words[index] = f"<{name}>"
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[1]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **{f"{name}_token": f"<{name}>" for name in special})


def save_causal_lm(path: Path, tokenizer: PreTrainedTokenizerFast, vocab_size: int) -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id}
    LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **shape, **ids)).save_pretrained(path)
    tokenizer.save_pretrained(path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Tiny models in the formats of the published ones, under their names."""
    monkeypatch.chdir(tmp_path)
    gpt2 = tokenizer_of(published.ROWS - 1, {"eos": published.ROWS - 2})
    save_causal_lm(tmp_path / "gpt2", gpt2, published.ROWS - 1)
    size = published_decoders.VOCAB
    qwen = tokenizer_of(size, {"eos": 35, "bos": 34})
    save_causal_lm(tmp_path / "qwen", qwen, size)
    modernbert().save_pretrained(tmp_path / "bert")
    bert_tokenizer().save_pretrained(tmp_path / "bert")
    published.write_lightning(tmp_path / "mdlm")
    published.write_ar_ckpt(tmp_path / "ar.ckpt")
    published_edlm.write_edlm(tmp_path / "edlm")
    smdm = published_decoders.write("smdm", tmp_path)
    smdm.rename(tmp_path / smdm.name)
    places = {
        "answerdotai/ModernBERT-base": tmp_path / "bert",
        "kuleshov-group/mdlm-owt": published.write_mdlm_hub(tmp_path / "mdlm-owt"),
        "louaaron/sedd-small": published.write_sedd(tmp_path / "sedd"),
        "kuleshov-group/bd3lm-owt-block_size16": published.write_bd3lm(tmp_path / "bd3lm", block_size=4),
        "GSAI-ML/LLaDA-8B-Instruct": published_decoders.write("llada", tmp_path),
        "Dream-org/Dream-v0-Instruct-7B": published_decoders.write("dream", tmp_path),
        "diffusionfamily/diffullama": published_decoders.write("diffullama", tmp_path),
        "diffusionfamily/diffugpt-m": published_decoders.write("diffugpt", tmp_path),
        "TinyLlama/TinyLlama_v1.1": tmp_path / "qwen",
        "Qwen/Qwen2.5-0.5B": tmp_path / "qwen",
        "gpt2": tmp_path / "gpt2",
    }
    for family, name in {"llada": "GSAI-ML/LLaDA-8B-Instruct", "dream": "Dream-org/Dream-v0-Instruct-7B"}.items():
        special = {"eos": 35, "bos": 34, "mask": published_decoders.MASK[family]}
        tokenizer_of(size, special).save_pretrained(places[name])
    for family, name in BLOCKS.items():
        (tmp_path / family).mkdir()
        places[name] = published_blocks.write(family, tmp_path / family)
        tokenizer_of(size, {"eos": 35, "mask": published_blocks.MASK}).save_pretrained(places[name])
    published_blocks.write("decoder", tmp_path).rename(tmp_path / "my-qwen3")
    for name, mask in {"diffusionfamily/diffullama": 31, "diffusionfamily/diffugpt-m": 39}.items():
        tokenizer_of(size, {"eos": 35, "bos": 34, "mask": mask}).save_pretrained(places[name])
    monkeypatch.setattr(checkpoint, "snapshot_download", lambda name, **options: str(places[name]))
    load, locate = AutoTokenizer.from_pretrained, causal_lms.locate
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda name, **o: load(places.get(str(name), name), **o))
    monkeypatch.setattr(causal_lms, "locate", lambda name, *rest: locate(places.get(str(name), name), *rest))


def test_readme_is_short_and_its_links_lead_somewhere():
    readme = PAGES[0].read_text()
    assert len(readme.splitlines()) <= 130
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)


def test_every_kind_of_family_has_a_block():
    named = " ".join(python_blocks()).lower()
    files = ("mdlm.ckpt", "ar.ckpt", "edlm.ckpt")
    for kind in ("modernbert", "mdlm-owt", *files, "sedd", "bd3lm", "llada-8b", "dream", "mdm-170m"):
        assert kind in named, kind
    for kind in ("diffullama", "diffugpt", "x0_prediction", "decoder", *map(str.lower, BLOCKS.values())):
        assert kind in named, kind


def test_the_table_of_families_says_what_is_in_the_code():
    lines = [re.split(r"(?<!\\)\|", line) for line in PAGES[1].read_text().splitlines()]
    table = {name: cells for cells in lines if len(cells) == 8 for name in re.findall(r"`(\w+)`", cells[1])}
    assert set(table) == {"family", *edlm.denoisers.loading.FAMILIES}  # and its heading
    for row in (*decoders.ROWS, llada.ROW, llada2.ROW):
        layout, mask, shift, cache = (cell.strip() for cell in table[row.name][3:7])
        if row.name in ("a2d", "decoder"):  # of two layouts
            continue
        assert shift == ("yes" if row.shift else "no") and mask == str(row.mask or "the tokenizer's")
        assert layout.startswith("both sides" if row.block_size is None else f"block-causal {row.block_size}")
        assert cache == ("approximate, optional" if row.block_size is None else "exact")


@pytest.mark.parametrize("block", python_blocks(), ids=lambda block: block.strip().splitlines()[0])
def test_python_block_runs(block, hub):
    names = {"edlm": edlm, "torch": torch}
    exec(block, names)  # noqa: S102
    if "output" not in names:  # a sampler, to be audited
        assert audit(names["sample"], reference_chain(), length=4, num_samples=1000).passed
        return
    written = names["output"].tokens
    assert len(written) == 2
    for row in written:
        assert (row != names["denoiser"].mask_token_id).all()


@pytest.mark.parametrize("words", shell_commands(), ids=" ".join)
def test_shell_command_has_known_keys(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert " ".join(words) in COMMANDS or parse(words)[1] is not None
