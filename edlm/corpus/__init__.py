"""Text or a synthetic language with known truth, turned into blocks of tokens."""

from edlm.corpus import languages
from edlm.corpus.blocks import TokenBlocks, load_blocks, save_blocks
from edlm.corpus.packing import pack_documents
from edlm.corpus.preparation import prepare_text
from edlm.corpus.prepared import PreparedCorpus
from edlm.corpus.recipe import TextConfig
from edlm.corpus.text import read_documents, split_documents, train_tokenizer

__all__ = [
    "PreparedCorpus",
    "TextConfig",
    "TokenBlocks",
    "languages",
    "load_blocks",
    "pack_documents",
    "prepare_text",
    "read_documents",
    "save_blocks",
    "split_documents",
    "train_tokenizer",
]
