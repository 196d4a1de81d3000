"""``edlm prepare corpus``: text, or a synthetic language -> a tokenizer and blocks of tokens."""

from dataclasses import dataclass

from edlm.corpus.preparation import prepare_text
from edlm.corpus.prepared import PreparedCorpus
from edlm.corpus.recipe import TextConfig
from edlm.corpus.synthetic import LanguageConfig, sample_corpus
from edlm.denoisers.loading import load_denoiser
from edlm.hub import load_tokenizer
from edlm.training.text import text_for


@dataclass(frozen=True)
class PrepareCorpusConfig(TextConfig):
    """Text, or else a synthetic language, and the folder that is written.

    Args:
        output_dir: Folder to write.
        denoiser: The denoiser that the text is for, by folder, hub id or shipped name: its tokenizer cuts the text, and
            tokens that it never writes are left out.
        tokenizer: Folder or hub id of a tokenizer with a mask token; by default one is trained.
        language: A synthetic language to sample from instead of text.
        num_train: Blocks to sample from it.
        num_valid: Held-out blocks to sample from it.
        seed: Seed of these samples; or of the random order of streamed text.
    """

    output_dir: str
    denoiser: str | None = None
    tokenizer: str | None = None
    language: LanguageConfig | None = None
    num_train: int = 50_000
    num_valid: int = 1_000


def run(config: PrepareCorpusConfig) -> None:
    """Read or sample, tokenise, pack, write, and print how many tokens were kept and dropped."""
    if (config.source is None) == (config.language is None):
        given = "none" if config.source is None else "both"
        raise ValueError(f"exactly one of source and language must be given, got {given}")
    if config.language is not None:
        sizes = config.num_train, config.num_valid, config.length
        corpus = sample_corpus(config.language, *sizes, config.seed)
        corpus.save(config.output_dir)
    else:
        corpus = _text_corpus(config)
    for name, blocks in (("train", corpus.train), ("valid", corpus.valid)):
        print(
            f"{name}: {blocks.num_documents} documents, {len(blocks.tokens)} blocks of {blocks.tokens.shape[1]} "
            f"tokens, {blocks.num_dropped} of {blocks.num_tokens} tokens dropped, "
            f"{blocks.characters_per_token:.2f} characters per token"
        )


def _text_corpus(config: PrepareCorpusConfig) -> PreparedCorpus:
    if config.denoiser is not None:
        if config.tokenizer is not None:
            raise ValueError(f"tokenizer must not be given with denoiser, which has one, got {config.tokenizer}")
        return text_for(load_denoiser(config.denoiser), config, config.output_dir)
    tokenizer = None if config.tokenizer is None else load_tokenizer(config.tokenizer)
    if tokenizer is not None and tokenizer.mask_token_id is None:
        raise ValueError(f"the tokenizer must have a mask token, got one without: {config.tokenizer}")
    return prepare_text(config, tokenizer, folder=config.output_dir)
