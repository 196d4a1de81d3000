"""Text or a synthetic language with known truth, turned into blocks of tokens."""

from edlm.corpus import languages
from edlm.corpus.blocks import TokenBlocks, load_blocks, save_blocks
from edlm.corpus.packing import pack_documents
from edlm.corpus.text import read_documents, split_documents, train_tokenizer

__all__ = [
    "TokenBlocks",
    "languages",
    "load_blocks",
    "pack_documents",
    "read_documents",
    "save_blocks",
    "split_documents",
    "train_tokenizer",
]
