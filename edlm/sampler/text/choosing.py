"""Probabilities of the options for a gap in a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise

import torch
from torch import Tensor

from edlm.denoisers.base import Denoiser
from edlm.diffusion.streams import row_seeds
from edlm.memory import in_batches
from edlm.rules import check, check_least, check_options, check_unicode, shown
from edlm.sampler.bounds import likelihood_bounds
from edlm.sampler.kernel import Kernel
from edlm.sampler.text.blocks import views_of
from edlm.sampler.text.pieces import Piece, pad_pieces, pieces_of
from edlm.sampler.text.prompts import Reader, Row
from edlm.sampler.text.transcript import Transcript

Option = str | Sequence[int]
Texts = str | Sequence[str] | Sequence[Sequence[int]]
Options = Sequence[Option] | Sequence[Sequence[Option]]

_SHOWN = 4  # texts of an output


@check_options
@dataclass(frozen=True, kw_only=True)
class ChooseOptions:
    """Options of `EnergySampler.choose`."""

    mask: str = "<mask>"
    """Marks the gap."""

    num_draws: int = 16
    """Draws of an option's probability that are averaged, where it is not exact."""

    inner_draws: int = 1
    """Draws of other candidates in each, see `EnergySampler.likelihood_bound`."""

    seed: int = 0
    """Text r has the seed ``seed + r``, and so do all of its options: differences between them are paired."""

    batch_size: int = 64
    """Options at a time; changes memory and speed only."""

    def __post_init__(self) -> None:
        check_least(1, num_draws=self.num_draws, inner_draws=self.inner_draws, batch_size=self.batch_size)
        check_least(0, seed=self.seed)


@dataclass(frozen=True)
class ChooseOutput:
    """The options of each text, and how probable they are.

    Attributes:
        text: Each text with its likeliest option; "" for a denoiser without a tokenizer.
        chosen: Index of the likeliest option of each text.
        options: Those of each text, as they were given.
        probs: ``softmax(-nats)`` over the options of each text, float64, ``[options]``.
        nats: ``-log P(option | text, number of tokens of the option)``, low = likely, float64, ``[options]``; ``inf``
            for an option that cannot be written.
        num_tokens: Of the options, int64, ``[options]``.
        exact: Whether the nats are exact; else each is an upper bound in expectation, which more draws tighten.
        num_draws: Draws that were averaged; 1 where exact.
    """

    text: list[str]
    chosen: list[int]
    options: list[list[Option]]
    probs: list[Tensor]
    nats: list[Tensor]
    num_tokens: list[Tensor]
    exact: bool
    num_draws: int

    @property
    def nats_per_token(self) -> list[Tensor]:
        """The nats of each option divided by its number of tokens: a score that does not favour short ones."""
        return [nats / counts for nats, counts in zip(self.nats, self.num_tokens, strict=True)]

    def __repr__(self) -> str:
        about = "exact" if self.exact else f"bounds, {self.num_draws} draws"
        lines = [f"ChooseOutput({len(self.chosen)} texts, {about})"]
        for r, (options, nats, per_token) in enumerate(zip(self.options, self.nats, self.nats_per_token, strict=True)):
            if r == _SHOWN:
                return "\n".join([*lines, "  ..."])
            names = [shown(option) for option in options]
            width = max(map(len, names))
            lines.append(f"  {shown(self.text[r]) if self.text[r] else f'text {r}'}")
            for i in nats.argsort().tolist():
                p, n, each = self.probs[r][i].item(), nats[i].item(), per_token[i].item()
                lines.append(f"    {names[i]:{width}}  {p:6.1%}  {n:7.3f} nats, {each:7.3f} per token")
        return "\n".join(lines)


def choose(kernel: Kernel, texts: Texts, options: Options, how: ChooseOptions) -> ChooseOutput:
    """Probabilities of the options for the gap of each text.

    ``p(option) = P(option | text, n) / sum over the options``, where ``n`` is its own number of tokens.

    The gap takes as many masks as the option has tokens, and ``P`` is the law of what the kernel writes there, given
    the text on both sides. A denoiser has no law of the length of a gap, so options of different lengths are different
    events: to compare them, each length is taken to be equally likely beforehand. For another prior of the options add
    its logarithm: ``(log_prior - output.nats[0]).softmax(0)``. Long options have many nats; to rank them by
    ``nats_per_token`` is common, but is a score and no probability.

    Args:
        kernel: ``num_steps`` passes for each option, or as many as it has tokens: so many that tokens are written one
            by one, unless the sampler has fewer.
        texts: A text, or several, with one ``mask`` each; or token lists with one run of masks, however long. A space
            on the left of the gap belongs to the option, where the tokenizer has it so.
        options: Texts or token lists, for all texts; or a list of such for each text.
        how: Number of draws, seed and batch size.

    Returns:
        Exact where the order looks at no random number and there are no candidates (`Kernel.bound_is_exact`); else from
        bounds.

    Raises:
        ValueError: a text has no gap or several; there is no option, or two are the same tokens; no option can be
            written; or the row is longer than the denoiser's ``max_length`` and the kernel writes all at once.
    """
    denoiser = kernel.denoiser
    texts, options = _paired(texts, options)
    rows = [_rows(denoiser, text, of_text, how.mask) for text, of_text in zip(texts, options, strict=True)]
    seeds = row_seeds(len(texts), how.seed)
    num_draws = 1 if kernel.bound_is_exact else how.num_draws
    of_rows = [(row, seed) for of_text, seed in zip(rows, seeds, strict=True) for row in of_text]
    pieces = [
        piece
        for number, (row, seed) in enumerate(of_rows)
        for piece in pieces_of(
            number, row, views_of(row, denoiser, kernel.block_length), seed, num_draws, denoiser.mask_token_id
        )
    ]
    nats = _nats(kernel, pieces, len(of_rows), how)
    parts = [nats[start:stop] for start, stop in pairwise(accumulate(map(len, rows), initial=0))]
    for text, of_text, values in zip(texts, options, parts, strict=True):
        if values.isposinf().all():
            raise ValueError(f"a text needs an option that can be written, got {shown(of_text)} for {shown(text)}")
    chosen = [int(values.argmin()) for values in parts]
    transcript = Transcript(denoiser)
    return ChooseOutput(
        text=[transcript.read(of_text[i], of_text[i].tokens)[0] for of_text, i in zip(rows, chosen, strict=True)],
        chosen=chosen,
        options=options,
        probs=[(-values).softmax(0) for values in parts],
        nats=parts,
        num_tokens=[torch.tensor([int(row.is_gap().sum()) for row in of_text]) for of_text in rows],
        exact=kernel.bound_is_exact,
        num_draws=num_draws,
    )


def _nats(kernel: Kernel, pieces: list[Piece], num_rows: int, how: ChooseOptions) -> Tensor:
    """``-log`` of the mean probability over the draws of each window, summed over the windows of each row."""
    # Those of one text and length begin with the same tokens, of which a pass runs each row once.
    pieces = sorted(pieces, key=lambda piece: len(piece.x_0), reverse=True)

    def bounds(places: slice) -> Tensor:
        batch = pieces[places]
        x_0, target, real = pad_pieces(batch, kernel.denoiser, kernel.device)
        given = {"given": ~target, "attention_mask": real, "inner_draws": [how.inner_draws]}
        return likelihood_bounds([kernel], x_0, [piece.seed for piece in batch], **given)[0].cpu()

    drawn = torch.cat([nats for _, nats in in_batches(bounds, range(len(pieces)), how.batch_size)]).double()
    of_window = sorted(range(len(pieces)), key=lambda i: (pieces[i].row, pieces[i].window))
    totals = torch.zeros(num_rows, dtype=torch.float64)
    for (row, _), draws in groupby(of_window, key=lambda i: (pieces[i].row, pieces[i].window)):
        nats = drawn[[*draws]]
        totals[row] += math.log(len(nats)) - (-nats).logsumexp(0)
    return totals


def _paired(texts: Texts, options: Options) -> tuple[list[str | list[int]], list[list[Option]]]:
    """Texts, and the options of each."""
    texts = check("texts", [texts] if isinstance(texts, str) else texts, Sequence[str | Sequence[int]])
    rule = "a list of texts or token lists, or such a list for each text"
    options = check("options", options, Sequence[str | Sequence[int]] | Sequence[Sequence[str | Sequence[int]]], rule)
    shared = all(isinstance(option, str) or all(isinstance(token, int) for token in option) for option in options)
    options = [options] * len(texts) if shared else options
    if not texts or len(options) != len(texts):
        raise ValueError(f"there must be options for each text, got {len(texts)} texts and {len(options)} of options")
    if bad := [of_text for of_text in options if isinstance(of_text, str) or not of_text]:
        raise ValueError(f"options must be {rule}, at least one for each, got {shown(bad[0])}")
    return texts, options


def _rows(denoiser: Denoiser, text: str | list[int], options: list[Option], mask: str) -> list[Row]:
    """The row of each option, whose gap holds the option; framed where sequences always are."""
    reader, prefix = Reader(denoiser), list(denoiser.prefix_ids) if denoiser.is_framed else []
    if isinstance(text, str):
        gaps = reader.gaps(text, mask) if mask else []
        if len(gaps) != 1 or gaps[0][2] is not None:
            raise ValueError(f"a text must hold one gap, spelled {mask or '<mask>'} alone, got {shown(text)}")
        before, _, after = reader.pieces(text, mask, 1)
        space = reader.space_of_gap(text[: gaps[0][0]])
    else:
        places = [i for i, token in enumerate(text) if token == denoiser.mask_token_id]
        if places != [*range(min(places, default=0), max(places, default=-1) + 1)] or not places:
            raise ValueError(f"a text must hold one gap, of masks ({denoiser.mask_token_id}), got {shown(text)}")
        before, after, space = text[: places[0]], text[places[-1] + 1 :], ""
    rows, seen = [], set()
    for option in options:
        if option and isinstance(option, str):
            option = reader.read(space + check_unicode("an option", option), inside=bool(before))
        if not option or denoiser.mask_token_id in option or tuple(option) in seen:
            rule = "of at least one token, different in their tokens, and without masks"
            raise ValueError(f"options must be {rule}, got {shown(options)}")
        seen.add(tuple(option))
        row = reader.row([before, len(option), after], prefix)
        row.tokens[row.is_gap()] = torch.tensor(option)
        rows.append(row)
    return rows
