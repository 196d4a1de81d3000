"""How texts came about: each step with its text, its candidates and their weights, as values and as one HTML page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import Tensor

from edlm.files import write_atomically
from edlm.sampler.output import Choice, Steps
from edlm.sampler.text.blocks import View
from edlm.sampler.text.picture import picture_of
from edlm.sampler.text.prompts import Row

_CONTEXT = 4  # tokens before a piece of text, by which its first one is spelled as in running text


@dataclass(frozen=True)
class Trace:
    """Texts and their steps.

    Attributes:
        rows: For each text its ``seed`` and its ``steps``: ``step``, ``t``; the ``positions`` that were
            written; the ``pieces`` of the text after it, each with ``kind`` ("given", "earlier", "new", "masked") and
            ``text``; and its ``decisions``. A decision has either ``candidates``, of the largest weights, with
            ``text``, ``energy`` (nats), ``weight`` and whether it was ``chosen``, and their number ``k``, ``ess``,
            ``redraws`` and whether the row was ``kept`` masked; or else ``tokens`` with ``position``, ``text`` and the
            ``likeliest`` ones, pairs of text and probability.
    """

    rows: list[dict[str, Any]]

    def html(self) -> str:
        """One page, which fetches and runs nothing; texts are escaped."""
        loader = PackageLoader("edlm.sampler.text", "")
        options = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
        return Environment(loader=loader, **options).get_template("trace.html.j2").render(rows=self.rows)

    def svg(self) -> str:
        """A picture of the first text after each step."""
        return picture_of(self.rows[0]["steps"])

    def save(self, path: str | Path) -> None:
        """Write the page (.html, .htm) or the picture (.svg); ValueError for any other suffix."""
        check_trace(path)
        write_atomically(path, self.svg() if Path(path).suffix == ".svg" else self.html())


def check_trace(path: str | Path) -> None:
    """ValueError unless a trace can be written to a file of this name."""
    if Path(path).suffix not in (".html", ".htm", ".svg"):
        raise ValueError(f"a trace must end in .html or .svg, got {path}")


def trace_of(
    rows: Sequence[tuple[Row, int]],
    views: Sequence[Sequence[View | None]],
    steps: Steps,
    tokenizer: Any,
    max_candidates: int,
) -> Trace:
    """The trace of the first rows of a batch, in which steps decide nothing of rows that have no part in them.

    Args:
        rows: The rows as they began, and their seeds.
        views: What was seen of each row of the batch in each block.
        steps: Their diagnostics.
        tokenizer: Decodes tokens; None shows their ids.
        max_candidates: Candidates of a decision that are shown, besides the chosen one.
    """
    spell = _Speller(tokenizer)
    return Trace(
        [
            {"seed": seed, "steps": _steps(r, row, views, steps, spell, max_candidates)}
            for r, (row, seed) in enumerate(rows)
        ]
    )


def _steps(
    r: int,
    row: Row,
    views: Sequence[Sequence[View | None]],
    steps: Steps,
    spell: "_Speller",
    max_candidates: int,
) -> list[dict[str, Any]]:
    tokens = row.tokens.tolist()
    kinds = ["masked" if is_gap else "given" for is_gap in row.is_gap().tolist()]
    described = []
    for number, info in steps.taken.items():
        of_batch, decisions, new = views[number // steps.num_steps], [], {}
        for choice in info.choices if of_batch[r] is not None else ():
            mine = (choice.slots.rows == r).nonzero()[:, 0]
            if not len(mine):
                continue
            positions = of_batch[r].index[choice.slots.positions[mine].cpu()].tolist()
            candidates = choice.tokens[mine].T.tolist()
            chosen = candidates[0 if choice.chosen is None else int(choice.chosen[r])]
            ranks = choice.slots.ranks[mine].tolist()
            is_written = [rank < info.num_revealed[r] and not choice.kept[r] for rank in ranks]
            new |= {p: token for p, token, is_new in zip(positions, chosen, is_written, strict=True) if is_new}
            decisions.append(_decision(choice, r, mine, positions, candidates, spell, max_candidates))
        for position, token in new.items():
            tokens[position], kinds[position] = token, "new"
        if decisions:
            about = {"step": number, "t": info.t, "positions": sorted(new), "decisions": decisions}
            described.append({**about, "pieces": spell.pieces(tokens, kinds)})
        kinds = ["earlier" if kind == "new" else kind for kind in kinds]
    return described


def _decision(
    choice: Choice,
    r: int,
    mine: Tensor,
    positions: list[int],
    candidates: list[list[int]],
    spell: "_Speller",
    max_candidates: int,
) -> dict[str, Any]:
    if choice.weights is None or not choice.judged[r]:
        tops: list[list[tuple[str, float]]] = [[] for _ in positions]
        if choice.likeliest is not None:
            for top, ids, shares in zip(tops, *(table[mine].tolist() for table in choice.likeliest), strict=True):
                top += [(spell([token]), share) for token, share in zip(ids, shares, strict=True)]
        listed = zip(positions, candidates[0], tops, strict=True)
        return {"tokens": [{"position": p, "text": spell([token]), "likeliest": top} for p, token, top in listed]}
    weights, chosen = choice.weights[r].tolist(), int(choice.chosen[r])
    order = sorted(range(len(candidates)), key=lambda j: (-weights[j], j != chosen))
    best = order[:max_candidates]
    return {
        "candidates": [
            {
                "text": spell.runs(positions, candidates[j]),
                "energy": choice.energies[r, j].item(),
                "weight": weights[j],
                "chosen": j == chosen and not choice.kept[r],
            }
            for j in [*best, *([] if chosen in best else [chosen])]
        ],
        "k": len(candidates),
        "ess": choice.ess[r].item(),
        "redraws": int(choice.redraws[r]),
        "kept": bool(choice.kept[r]),
    }


class _Speller:
    """Spells tokens, special ones too."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def __call__(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids)) if self.tokenizer is None else self.tokenizer.decode(list(ids))

    def runs(self, positions: Sequence[int], ids: Sequence[int]) -> str:
        """Tokens in the order of their positions; gaps between them are marked."""
        at = sorted(zip(positions, ids, strict=True))
        runs = groupby(enumerate(at), key=lambda item: item[1][0] - item[0])
        return " … ".join(self([token for _, (_, token) in run]) for _, run in runs)

    def pieces(self, ids: Sequence[int], kinds: Sequence[str]) -> list[Mapping[str, str]]:
        """Neighbours of one kind together; what is masked as one mark a token."""
        pieces, before = [], []
        for kind, run in groupby(range(len(ids)), key=kinds.__getitem__):
            run = [ids[i] for i in run]
            if kind == "masked":
                pieces.append({"kind": kind, "text": "·" * len(run)})
                before = []
                continue
            text, through = self(before), self([*before, *run])
            spelled = through[len(text) :] if through.startswith(text) else self(run)
            pieces.append({"kind": kind, "text": spelled})
            before = [*before, *run][-_CONTEXT:]
        return pieces
