"""Code that comes with a checkpoint runs if and only if the caller says so; modules of any code are wrapped."""

import json
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edlm import load_denoiser, wrap_denoiser
from edlm.denoisers.identity import weights_fingerprint
from edlm.denoisers.logits import LogitsDenoiser
from edlm.denoisers.vocabulary import Vocabulary
from edlm.diffusion.slots import Slots
from tests.denoisers import published_blocks
from tests.denoisers import published_decoders as published
from tests.denoisers.test_framing import bert_tokenizer

# A folder's own code: leaves a trace where it runs, and gives logits that tell it from the published network.
CONFIGURATION = """
from transformers import PretrainedConfig

class {name}Config(PretrainedConfig):
    model_type = "{type}"

    def __init__(self, mask_token_id=None, embedding_size=None, **kwargs):
        self.mask_token_id = mask_token_id
        self.embedding_size = embedding_size
        for key in ("vocab_size", "max_position_embeddings", "max_sequence_length"):
            setattr(self, key, kwargs.pop(key, 40))
        super().__init__(**kwargs)
"""
MODELING = """
from pathlib import Path
import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput
from .configuration import {name}Config

Path({trace!r}).write_text("ran")

class {name}Model(PreTrainedModel):
    config_class = {name}Config

    def __init__(self, config):
        super().__init__(config)
        self.table = torch.nn.Embedding(config.vocab_size, config.vocab_size)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, position_ids=None):
        return MaskedLMOutput(logits=self.table(input_ids) + input_ids.sum(1)[:, None, None] * {slope})
"""


@pytest.mark.parametrize(("family", "name"), [("llada", "LLaDA"), ("dream", "Dream")])
@torch.no_grad()
def test_a_folders_own_code_runs_only_if_trusted(family, name, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    for module in [name for name in sys.modules if name.split(".")[0] == "transformers_modules"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(tmp_path / "cache")
    path, trace = published.write(family, tmp_path), tmp_path / "trace"
    config = json.loads((path / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": f"configuration.{name}Config", "AutoModel": f"modeling.{name}Model"}
    (path / "config.json").write_text(json.dumps(config))
    (path / "configuration.py").write_text(CONFIGURATION.format(name=name, type=config["model_type"]))
    (path / "modeling.py").write_text(MODELING.format(name=name, trace=str(trace), slope="0.0"))
    weights = published.random_weights(family)
    row = torch.tensor([[3, published.MASK[family], 5]])
    loaded = load_denoiser(path)
    by_hand = published.log_probs_by_hand(family, weights, row[0])
    torch.testing.assert_close(loaded.log_probs(row)[0, 1:2], by_hand, rtol=1e-5, atol=1e-5)
    assert not trace.exists()

    for file in path.glob("*.safetensors"):
        file.unlink()
    table = torch.randn(40, 40, generator=torch.Generator().manual_seed(0))
    torch.save({"table.weight": table}, path / "pytorch_model.bin")
    own = load_denoiser(path, trust_remote_code=True)
    assert trace.read_text() == "ran" and isinstance(own, LogitsDenoiser) and own.family == family
    logits = table[3 if family == "dream" else published.MASK[family]].clone()  # Dream's are shifted
    logits[published.MASK[family]] = -torch.inf
    torch.testing.assert_close(own.log_probs(row)[0, 1], logits.log_softmax(-1))


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    """Writes a folder of SDAR with code of its own, of which a part is replaced."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    for module in [name for name in sys.modules if name.split(".")[0] == "transformers_modules"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(tmp_path / "cache")

    def folder(old="", new=""):
        path = published_blocks.write("sdar", tmp_path)
        config = json.loads((path / "config.json").read_text())
        config["auto_map"] = {"AutoConfig": "configuration.SDARConfig", "AutoModel": "modeling.NoOutputLayer"}
        config["auto_map"]["AutoModelForCausalLM"] = "modeling.SDARModel"
        (path / "config.json").write_text(json.dumps(config))
        (path / "configuration.py").write_text(CONFIGURATION.format(name="SDAR", type="sdar"))
        code = MODELING.format(name="SDAR", trace=str(tmp_path / "trace"), slope="0.0")
        code = code.replace("position_ids=None)", "position_ids=None, use_cache=None)")
        assert old in code
        (path / "modeling.py").write_text(code.replace(old, new))
        (path / "model.safetensors").unlink()
        save_file({"table.weight": torch.randn(40, 40)}, path / "model.safetensors")
        return path

    return folder


def test_own_code_with_an_output_layer_is_chosen(own_code):
    denoiser = load_denoiser(own_code(), trust_remote_code=True, mask_token_id=9, block_size=5)
    assert isinstance(denoiser, LogitsDenoiser) and denoiser.block_size == 5
    assert type(denoiser.network).__name__ == "SDARModel"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("import PreTrainedModel", "import PreTrainedModel, SlidingWindowCache", "ImportError: cannot import name"),
        ("self.post_init()", "self.all_gone()", "AttributeError: 'SDARModel' object has no attribute 'all_gone'"),
        ("return Masked", "self.config.use_return_dict_of_4_38\n        return Masked", "AttributeError: 'SDARConfig'"),
        ("self.table =", "self.other =", "(AttributeError|ValueError|RuntimeError|KeyError): "),
    ],
)
def test_own_code_of_another_version_fails_in_one_line(old, new, reason, own_code):
    path = own_code(old, new)
    with pytest.raises(ValueError, match=f"its own code does not run with transformers .*{reason}") as caught:
        load_denoiser(path, trust_remote_code=True, mask_token_id=9)
    assert "\n" not in str(caught.value) and str(caught.value).endswith("into a network of transformers or of edlm")


def test_own_code_that_is_causal_is_refused(own_code):
    path = own_code("self.table(input_ids) + input_ids.sum(1)[:, None, None] * 0.0", "self.table(input_ids).cumsum(1)")
    with pytest.raises(ValueError, match="must see whole blocks of 4 tokens, but .* on the right: it is causal"):
        load_denoiser(path, trust_remote_code=True, mask_token_id=9)


class Table(nn.Module):
    """Logits that depend on the token, the row's length and, if asked for, the time."""

    def __init__(self, vocab_size=6, ends_in_softmax=False):
        super().__init__()
        self.rows = nn.Parameter(torch.randn(vocab_size + 1, vocab_size, generator=torch.Generator().manual_seed(1)))
        self.ends_in_softmax = ends_in_softmax

    def forward(self, x_t, t=None):
        logits = self.rows[x_t] * x_t.shape[1] + x_t.sum(1)[:, None, None] * self.rows[0]
        logits = logits if t is None else logits * (1 + t)[:, None, None]
        return logits.softmax(-1) if self.ends_in_softmax else logits


@pytest.mark.parametrize("time_conditioned", [False, True])
@pytest.mark.parametrize("returns", ["logits", "probabilities"])
@torch.no_grad()
def test_modules_that_predict_clean_tokens(time_conditioned, returns):
    module = Table(ends_in_softmax=returns == "probabilities").double()
    options = {"time_conditioned": time_conditioned, "returns": returns}
    denoiser = wrap_denoiser(module, family="x0_prediction", mask_token_id=6, **options)
    assert (denoiser.mask_token_id, denoiser.vocab_size, denoiser.family) == (6, 6, "x0_prediction")
    assert denoiser.time_conditioned == time_conditioned
    assert denoiser.identity.revision == weights_fingerprint(module)
    lengths, t = (3, 7, 20), torch.tensor([0.3, 0.9, 0.5]).double()
    x_t = torch.randint(0, 6, (3, 20), generator=torch.Generator().manual_seed(2))
    x_t[:, [0, 2]] = 6
    real = torch.arange(20) < torch.tensor(lengths)[:, None]
    together = denoiser.log_probs(x_t, t, real)
    for i, length in enumerate(lengths):
        alone = x_t[i : i + 1, :length]
        output = Table().double()(alone, t[i : i + 1] if time_conditioned else None)
        expected = output.log_softmax(-1)[alone == 6]
        torch.testing.assert_close(together[i, :length][alone[0] == 6], expected)


def test_a_mask_inside_the_columns_of_a_wrapped_module_has_no_mass():
    denoiser = wrap_denoiser(
        Table(), family="x0_prediction", mask_token_id=2, vocab_size=6, time_conditioned=False, max_length=4
    )
    log_probs = denoiser.log_probs(torch.tensor([[2, 5]]))
    assert torch.isneginf(log_probs[0, 0, 2]) and torch.isfinite(log_probs[0, 0, [0, 1, 3, 4, 5]]).all()
    with pytest.raises(ValueError, match="at most max_length = 4 tokens, got 5"):
        denoiser.log_probs(torch.zeros(1, 5, dtype=torch.long))


def test_gradients_reach_a_wrapped_module():
    module = Table()
    denoiser = wrap_denoiser(module, family="x0_prediction", vocab_size=6, time_conditioned=False)
    x_t = torch.tensor([[6, 5, 1]])
    denoiser(x_t, Slots.where(x_t == 6))[:, 3].sum().backward()
    assert module.rows.grad.abs().max() > 0


def test_what_a_prediction_of_clean_tokens_needs(tmp_path):
    with pytest.raises(ValueError, match="vocab_size or mask_token_id must be given"):
        wrap_denoiser(Table(), family="x0_prediction")
    with pytest.raises(ValueError, match="returns must be 'logits' or 'probabilities', got 'score'"):
        wrap_denoiser(Table(), family="x0_prediction", vocab_size=6, returns="score")
    narrow = wrap_denoiser(Table(), family="x0_prediction", vocab_size=7, time_conditioned=False)
    with pytest.raises(ValueError, match=r"Table must give logits of shape \(1, 2, 7\), got \(1, 2, 6\)"):
        narrow.log_probs(torch.tensor([[1, 2]]))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="'x0_prediction' has no files of its own: build the module and use wrap"):
        load_denoiser(tmp_path, family="x0_prediction")


def test_smdm_has_one_mask_only():
    module = Table()
    module.lm_head = nn.Linear(4, 6)
    with pytest.raises(ValueError, match=r"mask_token_id of SMDM must be its vocab_size \(6\), got 3"):
        wrap_denoiser(module, family="smdm", mask_token_id=3)


def test_a_logits_denoiser_takes_only_declared_attributes():
    with pytest.raises(TypeError, match="shifts"):
        LogitsDenoiser(Table(), lambda *_: None, Vocabulary(6, 6), shifts=True)


def test_a_module_writes_no_special_tokens():
    words = bert_tokenizer()
    module = torch.nn.Sequential(torch.nn.Embedding(len(words) + 1, 4), torch.nn.Linear(4, len(words)))
    options = {"family": "x0_prediction", "vocab_size": len(words), "time_conditioned": False}
    denoiser = wrap_denoiser(module, words, **options)
    never = {words.mask_token_id, words.cls_token_id, words.sep_token_id, words.unk_token_id, words.pad_token_id}
    assert denoiser.mask_token_id == len(words) and never <= {*denoiser.vocabulary.impossible}
