"""The autoregressive model of the MDLM code base, as a causal language model of transformers."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutput
from typing_extensions import Self

from edlm.denoisers.checkpoint import Checkpoint
from edlm.denoisers.families.dit import DiT, DiTShape
from edlm.denoisers.families.dit_denoiser import GPT2_ROWS, GPT2_SEPARATOR, mask_of
from edlm.denoisers.families.lightning import is_lightning, load_backbone, load_hub_network, settings_of, size
from edlm.denoisers.visibility import visible_positions


class MDLMCausalLMConfig(PretrainedConfig):
    """Sizes of an `MDLMCausalLM`.

    Args:
        vocab_size: Rows of the embedding, the mask included.
        hidden_size: Of the states.
        num_hidden_layers: Number of blocks.
        num_attention_heads: Of each block.
        max_position_embeddings: Tokens that it was trained on.
        mask_token_id: Token that gets no mass; the last one by default.
        options: Those of `PretrainedConfig`.
    """

    model_type = "edlm_mdlm_causal_lm"

    def __init__(
        self,
        vocab_size: int = GPT2_ROWS,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        max_position_embeddings: int = 1024,
        mask_token_id: int | None = None,
        **options: Any,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.mask_token_id = vocab_size - 1 if mask_token_id is None else mask_token_id
        super().__init__(**{"tie_word_embeddings": False, **options})


class MDLMCausalLM(PreTrainedModel):
    """Gives ``log p(x^{i+1} | x^0 .. x^i)``, nats, with no mass on the mask; for `AutoregressiveEnergy`.

    Args:
        config: Its sizes.

    References:
        The autoregressive baseline of Sahoo et al. 2024, arXiv:2406.07524, and the energy of EDLM-AR, Xu et al. 2025,
        arXiv:2410.21357.

    Example:
        >>> sizes = {"vocab_size": 5, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> model = MDLMCausalLM(MDLMCausalLMConfig(**sizes))
        >>> model(torch.tensor([[0, 3, 2]])).logits.exp()[..., 4]
        tensor([[0., 0., 0.]], grad_fn=<SelectBackward0>)
    """

    config_class = MDLMCausalLMConfig
    base_model_prefix = "backbone"

    def __init__(self, config: MDLMCausalLMConfig):
        super().__init__(config)
        shape = DiTShape(
            config.vocab_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads, None
        )
        self.backbone = DiT(shape)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Nothing: each module of the network initialises its own weights."""

    @classmethod
    def from_checkpoint(
        cls,
        path_or_hub_id: str | Path,
        *,
        revision: str | None = None,
        mask_token_id: int | None = None,
        bos_token_id: int | None = None,
        averaged: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Load ``ar.ckpt`` of MDLM, BD3-LM or DUO, or a hub folder of model type ``bd3lm`` that is causal.

        Args:
            path_or_hub_id: File, folder or hub id.
            revision: Of the hub's repository.
            mask_token_id: The last row by default.
            bos_token_id: Saved in the configuration; for GPT-2's tokens 50256 by default.
            averaged: Take the averaged weights of a Lightning file, where there are any. EDLM-AR as its authors ran it
                used the others.
            dtype: Of the weights.

        Raises:
            FileNotFoundError: it is not there, and cannot be a hub id.
            ValueError: it is not an autoregressive model of the MDLM code base, or its parts do not fit together.
        """
        backbone, length = _load_backbone(Checkpoint.open(path_or_hub_id, revision), averaged)
        rows = backbone.shape.vocab_size
        if bos_token_id is None and rows == GPT2_ROWS:
            bos_token_id = GPT2_SEPARATOR
        config = MDLMCausalLMConfig(
            rows,
            backbone.shape.hidden_size,
            backbone.shape.num_blocks,
            backbone.shape.num_heads,
            length,
            mask_of(rows, None, mask_token_id),
            bos_token_id=bos_token_id,
        )
        model = cls(config)
        model.backbone = backbone
        return model.to(dtype).eval()

    def get_input_embeddings(self) -> torch.nn.Module:
        """The table of tokens."""
        return self.backbone.vocab_embed

    def forward(
        self,
        input_ids: Tensor,
        logits_to_keep: int | Tensor = 0,
        past_key_values: Cache | None = None,
        **unused: Any,
    ) -> CausalLMOutput:
        """Log-probabilities of the next tokens, as ``logits``.

        Args:
            input_ids: Shape ``[n, length]``.
            logits_to_keep: The last so many positions (0: all), or the positions themselves.
            past_key_values: Keys and values of the tokens before, to which those of these are added.
            unused: Whatever else transformers hands on.

        Returns:
            ``logits`` of shape ``[n, kept, vocab_size]``.
        """
        begin = 0 if past_key_values is None else past_key_values.get_seq_length()
        end = begin + input_ids.shape[1]
        visible = visible_positions(end, 1, None, input_ids.device)[..., begin:, :]
        positions = torch.arange(begin, end, device=input_ids.device)[None]
        features = self.backbone.run(input_ids, None, visible, positions=positions, past=past_key_values)[0]()
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.backbone.output_layer.linear(features[:, kept]).float()
        mask = torch.tensor([self.config.mask_token_id], device=logits.device)
        return CausalLMOutput(logits=logits.index_fill(-1, mask, -torch.inf).log_softmax(-1))


def _load_backbone(checkpoint: Checkpoint, averaged: bool) -> tuple[DiT, int]:
    """The network, and how many tokens it was trained on."""
    source = checkpoint.path
    if checkpoint.model_type == "bd3lm" and checkpoint.config.get("causal"):
        if checkpoint.config.get("adaln", True):
            raise ValueError(f"{source} must have adaln false, since a causal model has no noise level, got true")
        backbone = load_hub_network(checkpoint, conditioned=False)
        return backbone, size(checkpoint.config, "model_length", source)
    config = settings_of(checkpoint) if is_lightning(checkpoint) else {}
    if "ar" in (config.get("backbone"), config.get("parameterization")):
        backbone = load_backbone(checkpoint, conditioned=False, averaged=averaged)
        return backbone, size(config, "model.length", source)
    raise ValueError(
        f"{source} must be a Lightning checkpoint with backbone 'ar' or a causal folder of model_type 'bd3lm', "
        f"got {checkpoint.describe()}"
    )


AutoConfig.register(MDLMCausalLMConfig.model_type, MDLMCausalLMConfig)
AutoModelForCausalLM.register(MDLMCausalLMConfig, MDLMCausalLM)
