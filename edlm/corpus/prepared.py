"""A prepared corpus: a folder with a tokenizer and blocks of tokens, made once and read by every run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from edlm.corpus.blocks import TokenBlocks, load_blocks, save_blocks
from edlm.corpus.tokens import vocabulary_fingerprint
from edlm.files import filling
from edlm.hub import load_tokenizer
from edlm.rules import check_given


@dataclass(frozen=True)
class PreparedCorpus:
    """Token blocks of two splits and the tokenizer that made them.

    Attributes:
        tokenizer: What made the blocks; a denoiser's own may lack a mask token.
        train: Blocks to train on; they get the tokenizer's fingerprint, if they have none.
        valid: Held-out blocks, the same.

    Raises:
        ValueError: blocks of another tokenizer.
    """

    tokenizer: PreTrainedTokenizerBase
    train: TokenBlocks
    valid: TokenBlocks

    def __post_init__(self) -> None:
        made_by = vocabulary_fingerprint(self.tokenizer)
        for name in ("train", "valid"):
            blocks = getattr(self, name)
            if blocks.vocabulary not in ("", made_by):
                got = f"{name} blocks of vocabulary {blocks.vocabulary}, and {made_by}"
                raise ValueError(f"blocks must be made with the corpus's tokenizer, got {got}")
            object.__setattr__(self, name, replace(blocks, vocabulary=made_by))

    def save(self, path: str | Path) -> None:
        """Write ``tokenizer/``, ``train.safetensors`` and ``valid.safetensors`` below ``path``, all or none."""
        with filling(path) as folder:
            self.tokenizer.save_pretrained(folder / "tokenizer")
            save_blocks(self.train, folder / "train.safetensors")
            save_blocks(self.valid, folder / "valid.safetensors")

    @classmethod
    def load(cls, path: str | Path, *, mapped: bool = False) -> PreparedCorpus:
        """Read a folder of `save`; ``mapped`` as in `load_blocks`.

        Raises:
            FileNotFoundError: ``path`` is no prepared corpus.
            ValueError: its blocks are of another tokenizer than its own.
        """
        check_given(corpus=path)
        path = Path(path)
        if not (path / "train.safetensors").is_file():
            raise FileNotFoundError(f"corpus must be a folder made by `edlm prepare corpus`, got {path}")
        return cls(
            load_tokenizer(path / "tokenizer"),
            load_blocks(path / "train.safetensors", mapped=mapped),
            load_blocks(path / "valid.safetensors", mapped=mapped),
        )
