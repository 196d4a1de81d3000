"""Decoder architectures of transformers as published denoisers: what sets families apart, and one way to load all."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from edlm.denoisers.checkpoint import Checkpoint
from edlm.denoisers.decoder import DecoderDenoiser, build_network, rename
from edlm.denoisers.families.calls import Call, Caller, with_additive_mask
from edlm.denoisers.families.experts import stack_experts
from edlm.denoisers.families.family import Family, LoadOptions, setting_of
from edlm.denoisers.logits import LogitsDenoiser
from edlm.denoisers.vocabulary import Vocabulary, first_given, token_id
from edlm.files import read_json, reading
from edlm.rules import check, check_least, check_names

Architecture = tuple[type[PreTrainedModel], type[PretrainedConfig]]
LLAMA: Architecture = (LlamaForCausalLM, LlamaConfig)
QWEN2: Architecture = (Qwen2ForCausalLM, Qwen2Config)
QWEN3: Architecture = (Qwen3ForCausalLM, Qwen3Config)
QWEN3_MOE: Architecture = (Qwen3MoeForCausalLM, Qwen3MoeConfig)
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_ROPE = {"head_dim", "rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"}
_UNUSED = {"use_cache", "layer_types", "sliding_window", "use_sliding_window", "max_window_layers", "dtype"}
_UNUSED |= {"pad_token_id", "bos_token_id", "eos_token_id", "architectures", "output_router_logits"}
_BLOCKS = ("block_size", "block_length", "bd_size")  # names of one setting


@dataclass(frozen=True, kw_only=True)
class DecoderFamily:
    """How one family of decoders is published.

    Attributes:
        name: In ``family=``.
        title: For people.
        model_types: ``model_type`` of its config -> architecture; the first one is meant where another is loaded
            under this family's name.
        mark: What one of the config's ``architectures`` or the checkpoint's name holds too, in lower case; None if the
            family is only asked for by its name.
        mask: Id of its mask token; None if only a tokenizer or a config can say.
        mask_text: The mask in its tokenizer, which may not declare it as its mask token.
        begin: Token that frames every text, since nothing predicts the first token; None without.
        end: Token that ends a text.
        never: Tokens that no text holds, unless they are the padding of a model, which it may write after an end.
        shift: Whether output i - 1 predicts token i.
        block_size: Tokens that see each other; None for all.
        options: Those of ``block_size`` and ``shift`` that it takes.
        fixed: Settings that must have this value, if the config has them: with another, the network would be another
            function.
        settings: The config under the names of transformers.
        names: Prefixes of tensors -> those of transformers, for this number of layers.
        call: How the family's own code calls its module.
    """

    name: str
    title: str
    model_types: Mapping[str, Architecture]
    mark: str | None = ""
    mask: int | None = None
    mask_text: str = "<|mask|>"
    begin: int | None = None
    end: int | None = None
    never: tuple[int, ...] = ()
    shift: bool = False
    block_size: int | None = None
    options: frozenset[str] = frozenset()
    fixed: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    settings: Callable[[dict[str, Any]], dict[str, Any]] = dict
    names: Callable[[int], dict[str, str]] = lambda num_layers: {}
    call: Caller = with_additive_mask

    @property
    def family(self) -> Family:
        return Family(self.name, self.recognizes, self.load, self.wrap, has_own_code=True, options=self.options)

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        if self.mark is None or checkpoint.model_type not in self.model_types:
            return False
        names = [*(checkpoint.config.get("architectures") or ()), checkpoint.name]
        return any(self.mark in str(name).lower() for name in names)

    def load(self, checkpoint: Checkpoint, options: LoadOptions) -> DecoderDenoiser:
        """The denoiser of a checkpoint.

        Raises:
            ValueError: the config lacks a size, or has a setting of another function; the tensors or the mask do not
                fit; or the mask or the layout is not known.
        """
        tokenizer = checkpoint.tokenizer(options.tokenizer)
        network_class, config = self._config(checkpoint)
        weights = rename(checkpoint.weights(), self.names(config.num_hidden_layers))
        weights = stack_experts(weights, config, checkpoint.path)
        network = build_network(network_class, config, weights, options.dtype, checkpoint.path)
        has_generation = "generation_config.json" in checkpoint.files
        generation = read_json(checkpoint.path / "generation_config.json") if has_generation else {}
        said = {"expand_token_id": generation.get("expand_token_id"), **checkpoint.config}
        return DecoderDenoiser(
            network,
            self._vocabulary(said, config.vocab_size, tokenizer, options.mask_token_id),
            name=checkpoint.name,
            max_length=config.max_position_embeddings,
            shift=self.shift if options.shift is None else options.shift,
            block_size=self._block_size(checkpoint.config, checkpoint.name, options.block_size),
        )

    def wrap(
        self, module: nn.Module, tokenizer: Any = None, *, mask_token_id: int | None = None, **options: Any
    ) -> LogitsDenoiser:
        """A denoiser of a module built by the family's own code; ``options`` are those of the family.

        Raises:
            ValueError: the family takes no such option; or the mask or the layout is not known.
        """
        check_names(f"family {self.name!r}", options, sorted(self.options))
        config = getattr(module, "config", None)
        name = str(getattr(config, "name_or_path", ""))
        size = first_given(setting_of(config, "embedding_size"), setting_of(config, "vocab_size"), of="vocab_size")
        lengths = (setting_of(config, f"max_{kind}") for kind in ("sequence_length", "position_embeddings"))
        block_size = self._block_size(config, name, options.get("block_size"))
        shift, vocabulary = options.get("shift"), self._vocabulary(config, size, tokenizer, mask_token_id)
        if vocabulary.mask_token_id == size:
            raise ValueError(f"the mask token must be one of the network's {size} embeddings, got {size}")
        call: Call = self.call(module, block_size)
        return LogitsDenoiser(
            module,
            call,
            vocabulary,
            max_length=next((length for length in lengths if length is not None), None),
            shift=self.shift if shift is None else shift,
            block_size=block_size,
        )

    def _config(self, checkpoint: Checkpoint) -> tuple[type[PreTrainedModel], PretrainedConfig]:
        published = checkpoint.config
        settings = self.settings(published)
        if missing := [name for name in _SIZES if settings.get(name) is None]:
            raise ValueError(f"a {self.title} config must say {missing}, got {checkpoint.describe()}")
        for name, wanted in {"use_sliding_window": False, **self.fixed}.items():
            if published.get(name, wanted) not in (wanted, None):
                raise ValueError(f"a {self.title} config must have {name} = {wanted!r}, got {published[name]!r}")
        first = next(iter(self.model_types.values()))
        network_class, config_class = self.model_types.get(checkpoint.model_type, first)
        known = {option.name for option in fields(config_class)} | _ROPE
        kept = {name: settings[name] for name in known - _UNUSED if settings.get(name) not in (None, {})}
        ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
        with reading(checkpoint.path / "config.json", "hold the settings of a network"):
            return network_class, config_class(**copy.deepcopy(kept), **ids)

    def _block_size(self, config: Any, name: str, given: int | None) -> int | None:
        if "block_size" not in self.options:
            return self.block_size
        said = next((size for size in (setting_of(config, key) for key in _BLOCKS) if size is not None), None)
        size = self.block_size if said is None else check("block_size of the config", said, int)
        size = size if given is None else check("block_size", given, int)
        check_least(1, block_size=size)
        if size is None and "bd3lm" in name.lower():
            raise ValueError(f"block_size must be given, since {name} was trained block by block (BD3-LM)")
        return size

    def _vocabulary(self, config: Any, size: int, tokenizer: Any, mask_token_id: int | None) -> Vocabulary:
        """Its tokens; ids of the family's own vocabulary hold with the family's own mask only."""
        words = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else {}
        mask = first_given(
            mask_token_id,
            token_id(tokenizer, "mask"),
            words.get(self.mask_text),
            setting_of(config, "mask_token_id"),
            self.mask,
            of=f"mask_token_id of a {self.title} model",
        )
        said = setting_of(config, "eos_token_id")
        said = said[0] if isinstance(said, list | tuple) and said else said
        own = self.end if mask == self.mask else None
        end = next((token for token in (token_id(tokenizer, "eos"), said, own) if token is not None), None)
        begin = self._begin(config, tokenizer, mask, said)
        never = {*self.never} if mask == self.mask else set()
        never -= {setting_of(config, "pad_token_id"), token_id(tokenizer, "pad")}
        never |= {setting_of(config, "expand_token_id"), words.get("<|expand|>")} - {None}
        return Vocabulary.of(
            tokenizer,
            size,
            mask,
            impossible=tuple(token for token in never if token < size),
            prefix_ids=() if begin is None else (begin,),
            is_framed=begin is not None,
            eos_token_id=end,
        )

    def _begin(self, config: Any, tokenizer: Any, mask: int, end: int | None) -> int | None:
        """The begin token: the tokenizer's, if there is one; another model's under this family's name has none."""
        if self.begin is None:
            return None
        if tokenizer is not None:
            return token_id(tokenizer, "bos")
        if setting_of(config, "model_type") not in (None, *self.model_types):
            return None
        said = setting_of(config, "bos_token_id")
        if said is not None and said != end:  # else it is left over from the model that it started from
            return said
        return self.begin if mask == self.mask else None
