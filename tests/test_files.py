"""Whatever is wrong with a file: one line that names it, from the command line with exit code 2."""

import json
import shutil
import time

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel, ModernBertConfig, ModernBertForMaskedLM

from edlm import AutoregressiveEnergy, load_denoiser, load_energy, rerank
from edlm.cli import main
from edlm.corpus.blocks import TokenBlocks, load_blocks, save_blocks
from edlm.corpus.prepared import PreparedCorpus
from edlm.corpus.text import train_tokenizer
from edlm.denoisers.families.masked_lm import MaskedLMDenoiser
from edlm.energies.causal_lm import load_causal_lm
from edlm.evaluation.experiment.results import Results
from edlm.evaluation.experiment.store import Entry, Store
from edlm.evaluation.samples.mauve import Featurizer
from edlm.files import filling, open_safetensors, read_json, replacing, write_atomically
from edlm.lock import LockedError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
SHAPE = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def damaged(content: bytes) -> dict[str, bytes]:
    return {"pointer": POINTER, "cut": content[: len(content) // 2], "empty": b"", "binary": b"\xff\xfe\x00\x01" * 9}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A denoiser, an energy of a causal LM, and that LM, all tiny, with a tokenizer."""
    folder, tokenizer = tmp_path_factory.mktemp("models"), train_tokenizer(["ab c"], kind="character")
    torch.manual_seed(0)
    config = ModernBertConfig(vocab_size=len(tokenizer), pad_token_id=None, max_position_embeddings=8, **SHAPE)
    MaskedLMDenoiser(ModernBertForMaskedLM(config), tokenizer).save_pretrained(folder / "denoiser")
    lm = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=2, n_positions=8))
    AutoregressiveEnergy(lm, bos_token_id=0, tokenizer=tokenizer).save_pretrained(folder / "energy")
    lm.save_pretrained(folder / "lm")
    tokenizer.save_pretrained(folder / "lm")
    save_blocks(
        TokenBlocks(torch.tensor([[0, 2, 3, 4], [5, 2, 3, 0]]), 1, 8, 0, 8), folder / "corpus" / "train.safetensors"
    )
    shutil.copy(folder / "corpus" / "train.safetensors", folder / "corpus" / "valid.safetensors")
    tokenizer.save_pretrained(folder / "corpus" / "tokenizer")
    return folder


FILES = {
    "denoiser": (load_denoiser, ["model.safetensors", "config.json", "tokenizer.json"]),
    "energy": (load_energy, ["model.safetensors", "energy.json", "tokenizer.json"]),
    "lm": (load_causal_lm, ["model.safetensors", "config.json", "tokenizer.json"]),
    "corpus": (PreparedCorpus.load, ["train.safetensors", "valid.safetensors", "tokenizer/tokenizer.json"]),
}


@pytest.mark.parametrize("how", damaged(b""))
@pytest.mark.parametrize(("what", "file"), [(what, file) for what in FILES for file in FILES[what][1]])
def test_a_damaged_file_is_named(models, tmp_path, what, file, how):
    folder = tmp_path / what
    shutil.copytree(models / what, folder)
    FILES[what][0](folder)
    (folder / file).write_bytes(damaged((folder / file).read_bytes())[how])
    with pytest.raises((ValueError, OSError)) as error:
        FILES[what][0](folder)
    assert str(folder) in str(error.value) and ("git lfs pull" in str(error.value)) == (
        how == "pointer" and "token" not in file
    )


@pytest.mark.parametrize("name", ["model.ckpt", "pytorch_model.bin"])
def test_a_pointer_in_place_of_a_pickle_is_named(models, tmp_path, name):
    shutil.copy(models / "denoiser" / "config.json", tmp_path)
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(ValueError, match=rf"{name} must hold weights, got a Git LFS pointer"):
        load_denoiser(tmp_path)


@pytest.mark.parametrize("content", [POINTER, b"GGUF\x03\0\0\0" + b"\1" * 40], ids=["pointer", "cut"])
@pytest.mark.parametrize("load", [load_causal_lm, Featurizer.from_pretrained])
def test_a_damaged_gguf_file_is_named(tmp_path, content, load):
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises((ValueError, ImportError), match="x.gguf must hold a|gguf.*install"):
        load(tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("change", "lacking"),
    [({"settings": {}}, "config"), ({"settings": None}, "NoneType"), ({"denoiser": {"name": "x"}}, "revision")]
    + [({"trained_for": {"orders": []}}, "num_steps"), ({"energy": "ScalarHead"}, "ScalarHead")],
    ids=str,
)
def test_energy_json_with_other_keys_is_named(models, tmp_path, change, lacking):
    shutil.copytree(models / "energy", tmp_path / "energy")
    path = tmp_path / "energy" / "energy.json"
    path.write_text(json.dumps(read_json(path) | change))
    with pytest.raises(ValueError, match="energy.json must") as error:
        load_energy(tmp_path / "energy")
    assert lacking in str(error.value)
    path.write_text("{}")
    with pytest.raises(ValueError, match="energy.json must describe an energy, got no 'energy'"):
        load_energy(tmp_path / "energy")


def test_weights_of_other_shapes_name_the_energy(models, tmp_path):
    shutil.copytree(models / "energy", tmp_path / "energy")
    with open_safetensors(tmp_path / "energy" / "model.safetensors") as file:
        weights = {name: file.get_tensor(name)[..., :1].clone() for name in file.keys()}
    save_file(weights, tmp_path / "energy" / "model.safetensors")
    with pytest.raises(ValueError, match="energy must hold weights that fit its settings, got .*size mismatch"):
        load_energy(tmp_path / "energy")


def test_damaged_results_are_named(tmp_path):
    results = tmp_path / "results.json"
    record = {"identity": {"seed": 0}, "settings": [{"name": "base", "order": "random", "num_steps": 2}]}
    results.write_text(json.dumps(record))
    with pytest.raises(FileNotFoundError, match="must have its rows next to it, got no .*results.rows.safetensors"):
        Results.load(tmp_path)
    save_file({"base, random, 2 steps": torch.ones(2)}, tmp_path / "results.rows.safetensors")
    assert Results.load(tmp_path).rows[0].name == "base"
    for content in damaged((tmp_path / "results.rows.safetensors").read_bytes()).values():
        (tmp_path / "broken.rows.safetensors").write_bytes(content)
        shutil.copy(results, tmp_path / "broken.json")
        with pytest.raises(ValueError, match="broken.rows.safetensors must be a whole safetensors file"):
            Results.load(tmp_path / "broken.json")
    for content in ("[]", "3", "{", json.dumps({**record, "settings": [3]}), json.dumps({})):
        results.write_text(content)
        with pytest.raises(ValueError, match="results.json"):
            Results.load(tmp_path)


def test_a_damaged_store_is_named(tmp_path):
    path = tmp_path / "results.store.safetensors"
    Store(path, {"seed": 0}).put("a", None, Entry(1, {"x": torch.ones(3)}))
    for content in damaged(path.read_bytes()).values():
        path.write_bytes(content)
        with pytest.raises(ValueError, match="results.store.safetensors must be a whole safetensors file"):
            Store(path, {"seed": 0})
    save_file({"x": torch.ones(1)}, path, metadata={"identity": json.dumps({"seed": 0})})
    with pytest.raises(ValueError, match="store.safetensors must hold what edlm evaluate measured, got no 'entries'"):
        Store(path, {"seed": 0})


@pytest.mark.parametrize("load", [load_denoiser, load_energy, load_causal_lm, load_blocks, Featurizer.from_pretrained])
def test_an_empty_name_is_not_the_current_folder(models, monkeypatch, load):
    monkeypatch.chdir(models / "denoiser")
    with pytest.raises((ValueError, OSError), match="must"):
        load("")


def test_text_of_half_a_character_is_refused():
    with pytest.raises(ValueError, match=r"texts must be valid Unicode, got 'a\\ud83d'"):
        rerank(["a"], [["a\ud83d"]], lambda texts: [0.0])


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["sample", "--denoiser", "denoiser", "--energy", "text:package:no_such_package"], "no_such_package"),
        (["sample", "--denoiser", "", "--length", "4"], "denoiser must not be empty"),
        (["sample", "--denoiser", "denoiser", "--energy", "causal:"], "model must be a name or a path"),
        (["sample", "--config", "denoiser/model.safetensors"], "denoiser/model.safetensors must hold YAML"),
        (["sample", "--denoiser", "denoiser", "--energy", "null", "--prompt", "caf\udce9"], "valid Unicode"),
        (["compare", "denoiser/config.json", "denoiser/config.json"], "denoiser/config.json"),
        (["evaluate", "--denoiser", "denoiser", "--measure", "[]"], "measure must not be empty"),
        (["evaluate", "--denoiser", "denoiser", "--num_steps", "[]"], "num_steps must not be empty"),
        (["evaluate", "--denoiser", "denoiser", "--output", ""], "output must not be empty"),
        (["prepare", "corpus", "--source", "x.txt", "--output_dir", ""], "output_dir must not be empty"),
        (["sample", "--denoiser", "tinystoris"], "there is no denoiser 'tinystoris'; did you mean 'tinystories'?"),
        (["sample", "--energy", "tinystories/heads"], "did you mean 'tinystories/head'? (shipped: sudoku, "),
    ],
    ids=str,
)
def test_a_users_mistake_is_one_line_and_exit_code_2(models, monkeypatch, capsys, argv, named):
    monkeypatch.chdir(models)
    monkeypatch.delenv("EDLM_DEBUG", raising=False)
    assert main(argv) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("edlm: error: ")]
    assert named in line


def test_a_foreign_results_json_is_not_overwritten(models, tmp_path, capsys):
    (tmp_path / "results.json").write_text('{"mine": 1}')
    data = ["--denoiser", str(models / "denoiser"), "--data", str(models / "corpus/valid.safetensors")]
    assert main(["evaluate", *data, "--output", str(tmp_path), "--measure", "[bounds]", "--num_steps", "[1]"]) == 2
    assert "results.json of an older version or from elsewhere" in capsys.readouterr().err
    assert (tmp_path / "results.json").read_text() == '{"mine": 1}'


def test_a_name_that_is_not_found_lists_the_shipped_ones_at_once(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://localhost:9")  # nobody answers
    started = time.monotonic()
    for load, name in ((load_denoiser, "no-such-model"), (load_energy, "me/no-such-energy")):
        with pytest.raises(FileNotFoundError, match=rf"{name}.* \(shipped: sudoku, "):
            load(name)
    for name in ("causal:no-such-model", "text:me/no-such-model"):
        with pytest.raises(FileNotFoundError, match="no-such-model"):
            load_energy(name)
    assert time.monotonic() - started < 5 and not constants.HF_HUB_OFFLINE  # retries take half a minute


def test_write_atomically_makes_folders_and_leaves_no_other_file(tmp_path):
    write_atomically(tmp_path / "a" / "b.json", b"{}")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.json"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=str)
def test_a_file_that_is_being_replaced_stays_after_an_error(tmp_path, error):
    path = tmp_path / "a.json"
    write_atomically(path, b"old")
    with pytest.raises(type(error)), replacing(path) as file:
        file.write(b"new")
        raise error
    assert path.read_bytes() == b"old" and [*tmp_path.iterdir()] == [path]


def test_an_output_has_one_writer_at_a_time(tmp_path):
    path, folder = tmp_path / "a.txt", tmp_path / "model"
    with replacing(path) as first:
        first.write(b"A" * 100_000)
        with pytest.raises(LockedError, match=f"{path} must have one writer, got a second"), replacing(path):
            pass
    with filling(folder) as first:
        (first / "x").write_text("A")
        with pytest.raises(LockedError, match=f"{folder} must have one writer, got a second"), filling(folder):
            pass
    assert path.read_bytes() == b"A" * 100_000 and (folder / "x").read_text() == "A"
    write_atomically(path, b"B")
    assert path.read_bytes() == b"B" and sorted(p.name for p in tmp_path.rglob("*")) == ["a.txt", "model", "x"]
