"""What an evaluation works with, all loaded before anything is measured."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from accelerate import PartialState
from torch import Tensor

from edlm.corpus.blocks import TokenBlocks, load_blocks
from edlm.corpus.packing import pack_documents
from edlm.corpus.text import read_documents
from edlm.denoisers.base import Denoiser
from edlm.denoisers.framing import check_begins, check_blocks, rows_of_blocks
from edlm.denoisers.loading import SHIPPED, load_denoiser
from edlm.energies.base import Energy
from edlm.evaluation.estimates.estimate import TextUnits
from edlm.evaluation.experiment.config import EvaluateConfig
from edlm.evaluation.experiment.plan import Setting, frontier_settings, judged_settings, settings_of
from edlm.evaluation.experiment.provenance import origin
from edlm.evaluation.experiment.results import STORE
from edlm.evaluation.experiment.store import Store
from edlm.evaluation.likelihood.text import middle_third
from edlm.evaluation.samples.judge import Judge, load_judge
from edlm.evaluation.samples.text import texts_of, tokens_per_word
from edlm.evaluation.samples.text_measures import TextMeasures
from edlm.files import read_json
from edlm.processes import join, together
from edlm.training.checkpoints import fingerprint

logger = logging.getLogger(__name__)
FROM_NOTHING = {"time", "cost", "samples", "judge", "mauve", "frontier", "energies"}  # stages whose rows begin empty


@dataclass(frozen=True)
class Lab:
    """What an evaluation works with.

    Attributes:
        config: What is requested.
        denoiser: The frozen denoiser.
        x_0: Held-out rows, framed as the denoiser reads them, ``[n, length]``.
        given: True where a token is given, ``[n, length]``; None: nowhere.
        units: Of the held-out text.
        settings: What is measured.
        judge: The causal LM that judges samples, or None.
        texts: Measures of samples' texts, or None.
        store: Where all is kept.
        documents: Index of each row's document, ``[n]``; None: each row is one.
        clusters: What ``documents`` counts: "documents", or "stretches" of too few.
    """

    config: EvaluateConfig
    denoiser: Denoiser
    x_0: Tensor
    given: Tensor | None
    units: TextUnits
    settings: Sequence[Setting]
    judge: Judge | None
    texts: TextMeasures | None
    store: Store
    documents: Tensor | None = None
    clusters: Literal["documents", "stretches"] = "documents"

    @classmethod
    def load(cls, config: EvaluateConfig, models: Mapping[str, Denoiser | Energy] | None = None) -> Lab:
        """Load denoiser, data, energies, judge and earlier results; whatever can be refused is refused here.

        Args:
            config: What is requested.
            models: Denoiser and energies that are loaded already, by their names in the config.

        Raises:
            ValueError: the data is corrupt, the output is of another denoiser, data or seed, or something does not
                exist that is requested.
        """
        models = models or {}
        device = join(in_step=False).device if config.device == "auto" else config.device
        denoiser = models.get(config.denoiser) or load_denoiser(
            config.denoiser, device=device, tokenizer=config.denoiser_tokenizer, dtype=config.denoiser_dtype
        )
        shipped = SHIPPED / config.denoiser / "valid.safetensors"
        if config.data is None and (config.denoiser in models or not shipped.is_file()):
            raise ValueError(f"data must be given for a denoiser that is not shipped, got none for {config.denoiser}")
        blocks = load_held_out(config.data or shipped, denoiser, config.length)
        clustered = blocks.with_stretches()
        if clustered is not blocks:
            logger.warning("%s: fewer than ten documents, so errors are clustered by stretches of them", config.data)
        if from_nothing := sorted(set(config.measure) & FROM_NOTHING):
            try:
                check_begins(denoiser)
            except ValueError as error:
                raise ValueError(f"measure must leave out {', '.join(from_nothing)}: {error}") from error
        rows = clustered.draw(config.num_rows, config.seed)
        text = rows.tokens.to(denoiser.device)
        x_0, given = rows_of_blocks(denoiser, text)
        if config.given is not None:
            given = ~middle_third(x_0) | given
        settings = settings_of(config, denoiser, models)
        known = (
            asdict(denoiser.identity) if denoiser.identity is not None else {"name": config.denoiser, "revision": "-"}
        )
        identity = {"denoiser": known, "data": fingerprint(x_0), "seed": config.seed}
        return cls(
            config,
            denoiser,
            x_0,
            given if given.any() else None,
            TextUnits(blocks.characters_per_token, tokens_per_word(denoiser, text)),
            settings,
            _judge(config, denoiser, settings),
            _text_measures(config, denoiser, text),
            _store(config, identity),
            rows.documents,
            "documents" if clustered is blocks else "stretches",
        )

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return self.x_0.shape[1]

    @property
    def num_documents(self) -> int:
        """Documents that the rows are of."""
        return len(self.x_0 if self.documents is None else self.documents.unique())

    @cached_property
    def judged(self) -> list[Setting]:
        """Settings whose samples are measured."""
        return judged_settings(self.config, self.settings)

    @cached_property
    def frontier(self) -> list[Setting]:
        """A setting for each point of the frontier."""
        return frontier_settings(self.config, self.settings) if self.judge is not None else []

    @property
    def frontier_samples(self) -> int:
        """Samples of a point of the frontier."""
        return self.config.frontier.num_samples or self.config.samples.judged

    def batches(self, title: str | None = None, **options: Any) -> dict[str, Any]:
        """Fields of `Batches`: this evaluation's, rows shared out; the main process has a progress bar with a title."""
        shown = title if PartialState().is_main_process else None
        common = {"seed": self.config.seed, "batch_size": self.config.batch_size}
        return {**common, "share": together, "progress": shown, **options}

    def base_of(self, setting: Setting) -> Setting | None:
        """The base of the same order, number of steps and schedule."""
        schedule = setting.sampler.masking_schedule
        bases = (s for s in self.settings if s.row.is_base and s.row.cell == setting.row.cell)
        return next((s for s in bases if s.sampler.masking_schedule == schedule), None)


def _store(config: EvaluateConfig, identity: Mapping[str, Any]) -> Store:
    """Earlier results; refuses those of another denoiser, data or seed, of older versions, and files of others."""
    path = config.json_path
    if path is None:
        return Store(None, identity)
    store = Store(path.with_suffix(STORE), identity, origin(), writes=PartialState().is_main_process)
    if path.exists() and (not store.path.exists() or read_json(path).get("identity") != json.loads(store.identity)):
        raise ValueError(
            f"output must be new or hold {path.name} and {store.path.name} of the same evaluation, got a {path} of an "
            "older version or from elsewhere: remove it, or write elsewhere"
        )
    return store


def energies_of_judge(judge: Judge, settings: Sequence[Setting]) -> list[str]:
    """Names of settings whose energy runs the judge."""
    energies = {(s.name, id(s.energy)): s for s in settings}
    return list(dict.fromkeys(s.name for s in energies.values() if judge.has_part_in(s.energy)))


def _judge(config: EvaluateConfig, denoiser: Denoiser, settings: Sequence[Setting]) -> Judge | None:
    """The judge, if one is needed; refuses the energy of a method that it is to judge, unless that is allowed."""
    name = config.samples.judge
    if name == "auto":
        name = f"{config.denoiser}/autoregressive" if (SHIPPED / config.denoiser / "autoregressive").is_dir() else None
    if name is None or not {"judge", "frontier"} & set(config.measure):
        return None
    if denoiser.tokenizer is None:
        raise ValueError(f"a judge needs a denoiser with a tokenizer, got {name} and one without")
    judge = load_judge(name, denoiser)
    judged = [*judged_settings(config, settings), *frontier_settings(config, settings)]
    if (names := energies_of_judge(judge, judged)) and not config.samples.allow_judge_as_energy:
        raise ValueError(
            f"a judge must have no part in the samples that it judges, got {judge.name}, which is the energy of "
            f"{', '.join(names)}: take another, leave those out of samples.judged_methods and frontier.methods, or "
            "set samples.allow_judge_as_energy, and the result will say so"
        )
    return judge


def _text_measures(config: EvaluateConfig, denoiser: Denoiser, text: Tensor) -> TextMeasures | None:
    if denoiser.tokenizer is None or not {"samples", "mauve"} & set(config.measure):
        return None
    words = config.samples.known_words
    if words == "auto":
        shipped = SHIPPED / config.denoiser / "words.txt"
        words = shipped if shipped.is_file() else None
    features = config.samples.features if "mauve" in config.measure else None
    return TextMeasures.load(texts_of(denoiser, text), words, features)


def load_held_out(path: str | Path, denoiser: Denoiser, length: int | None = None) -> TokenBlocks:
    """Blocks of a ``.safetensors`` file, or those that text is cut into by the denoiser's tokenizer.

    Args:
        path: A folder that ``edlm prepare corpus`` wrote, or a file of blocks in it; or text, as `read_documents` reads
            it: one text holds the same documents in a corpus and here.
        denoiser: Its tokenizer reads the text.
        length: Tokens of a block of text; by default the longest that the denoiser takes, with its framing tokens.
            Blocks that are cut already have theirs, and any other is an error.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: it is corrupt (names file and line), too short, or its length is not known; or its blocks are not of
            ``length``, of another tokenizer, or hold a token that the denoiser rules out.
    """
    path = Path(path) / "valid.safetensors" if (Path(path) / "valid.safetensors").is_file() else path
    if Path(path).suffix == ".safetensors":
        blocks = load_blocks(path)
        if length not in (None, blocks.tokens.shape[1]):
            raise ValueError(
                f"length must be that of the blocks, {blocks.tokens.shape[1]}, where data are cut already, "
                f"got {length} with {path}"
            )
        check_blocks(denoiser, blocks)
        return blocks
    documents = read_documents(path)
    if denoiser.tokenizer is None:
        raise ValueError(f"text needs a denoiser with a tokenizer, got {path} and {type(denoiser).__name__} without")
    if length is None:
        length = denoiser.longest_text
        if length is None:
            raise ValueError(f"length must be given for text where the denoiser has no longest one, got {path}")
    try:
        blocks = pack_documents(documents, denoiser.tokenizer, length, denoiser.vocabulary.impossible)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    check_blocks(denoiser, blocks)
    return blocks
