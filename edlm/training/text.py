"""The corpus of a training run, which may be plain text."""

from pathlib import Path

from edlm.corpus.preparation import prepare_text
from edlm.corpus.prepared import PreparedCorpus
from edlm.corpus.recipe import TextConfig
from edlm.denoisers.base import Denoiser
from edlm.denoisers.framing import check_blocks
from edlm.processes import join


def corpus_of(corpus: str | Path | PreparedCorpus, denoiser: Denoiser | None = None) -> PreparedCorpus:
    """A prepared corpus, that of a folder, or of text, by the tokenizer of the denoiser that it is for.

    Args:
        corpus: A prepared corpus, its folder, or text as `read_documents` reads it, of which a part is held out; it is
            prepared once, see `prepare_text`.
        denoiser: What is trained, or what an energy is trained for; None trains a tokenizer on text.

    Raises:
        FileNotFoundError: there is no such folder or text.
        ValueError: the content is damaged; or it is no text of this denoiser, see `check_blocks`.
    """
    if not isinstance(corpus, PreparedCorpus):
        if (Path(corpus) / "train.safetensors").is_file():
            corpus = PreparedCorpus.load(corpus, mapped=True)
        else:
            text = TextConfig(source=str(corpus))
            join()  # before one process prepares it, and the others wait
            corpus = prepare_text(text) if denoiser is None else text_for(denoiser, text)
    if denoiser is not None:
        check_blocks(denoiser, corpus.train, corpus.valid)
    return corpus


def text_for(denoiser: Denoiser, text: TextConfig, folder: str | Path | None = None) -> PreparedCorpus:
    """Text as a denoiser reads it; ``folder`` as in `prepare_text`.

    Raises:
        ValueError: it has no tokenizer; and what `prepare_text` raises.
    """
    if denoiser.tokenizer is None:
        raise ValueError(f"text needs a denoiser with a tokenizer, got a {type(denoiser).__name__} without")
    vocabulary = denoiser.vocabulary
    return prepare_text(text, denoiser.tokenizer, vocabulary.impossible, denoiser.longest_text, folder=folder)
