"""``edlm demo``: the shipped model at few passes, alone and reranked, side by side, and what that is worth."""

from collections.abc import Collection
from dataclasses import dataclass
from math import inf

import torch
from rich.table import Table
from rich.text import Text

from edlm.commands.terminal import console, show
from edlm.denoisers.loading import SHIPPED, load_denoiser
from edlm.energies.loading import load_energy
from edlm.evaluation.evaluation import run as evaluate
from edlm.evaluation.experiment.config import EvaluateConfig
from edlm.evaluation.experiment.metrics import format_estimate
from edlm.evaluation.experiment.parts import MethodConfig, SamplesConfig
from edlm.evaluation.likelihood.speedup import Curve, worth
from edlm.evaluation.samples.text_measures import words_in
from edlm.rules import Config
from edlm.sampler.sampler import EnergySampler
from edlm.sampler.text.prompts import num_new_tokens
from edlm.sampler.text.transcript import decode

AS_PUBLISHED = "random"
NUM_STEPS, REFERENCE_STEPS = 4, (4, 8, 16)


@dataclass(frozen=True)
class DemoConfig(Config):
    """Options of ``edlm demo``.

    Args:
        prompt: Beginning of the stories.
        num_stories: Number of stories.
        num_rows: Held-out blocks that the likelihoods are measured on.
        seed: Of stories, orders and blocks.
    """

    prompt: str = "Once upon a time"
    num_stories: int = 3
    num_rows: int = 32
    seed: int = 0


def run(config: DemoConfig) -> None:
    """Write stories with three samplers, then measure what the last one saves."""
    screen = console()
    denoiser, energy = load_denoiser("tinystories"), load_energy("tinystories")
    words = set((SHIPPED / "tinystories" / "words.txt").read_text(encoding="utf-8").split())
    best, length = energy.recommended["order"], denoiser.max_length
    method = MethodConfig(name="reranked", energy="tinystories", orders=(best,), num_steps=(NUM_STEPS,))
    measured = EvaluateConfig(
        methods=(method,),
        orders=(AS_PUBLISHED, best),
        num_steps_of={AS_PUBLISHED: REFERENCE_STEPS, best: (NUM_STEPS,)},
        num_rows=config.num_rows,
        samples=SamplesConfig(timed_batches=1, batch_size=8, judged=0),
        measure=("bounds", "time"),
        seed=config.seed,
    )
    size, head_size = (sum(p.numel() for p in module.parameters()) for module in (denoiser, energy))
    screen.print(
        f"A masked diffusion model of {size / 1e6:.1f}M parameters writes {length} tokens in {NUM_STEPS} passes, "
        f"{length // NUM_STEPS} tokens at a time. Left and middle: alone, it draws the tokens of a pass independently. "
        f"Right: an energy head of {head_size / 1e6:.1f}M parameters decides them jointly. \\[Words] that the training "
        "text does not have are marked.",
        highlight=False,
    )
    samplers = {
        f"base, {AS_PUBLISHED} order (as published)": EnergySampler(denoiser, num_steps=NUM_STEPS, order=AS_PUBLISHED),
        f"base, {best} order": EnergySampler(denoiser, num_steps=NUM_STEPS, order=best),
        f"reranked, {best} order": EnergySampler(denoiser, energy, num_steps=NUM_STEPS, order=best),
    }
    options = {"num_return_sequences": config.num_stories, "seed": config.seed, "eos_token_id": None}
    new = num_new_tokens(denoiser, config.prompt, length)
    table, columns, counts = Table(show_lines=True), [], []
    for title, sampler in samplers.items():
        tokens = sampler.generate(config.prompt, new, **options).tokens
        texts, unknown, total = zip(*(marked(decode(denoiser, row), words) for row in tokens), strict=True)
        table.add_column(title)
        columns.append(texts)
        counts.append(f"{sum(unknown)} of {sum(total)} words are unknown")
    for row in zip(*columns, strict=True):
        table.add_row(*row)
    table.add_row(*counts)
    show(screen, table)
    results = evaluate(measured).results
    curves = {(curve.name, curve.order): curve for curve in results.curves()}
    line = worth_of(curves["reranked", best], curves["base", AS_PUBLISHED], torch.Generator().manual_seed(config.seed))
    screen.print(f"{line} (Likelihood bounds of {config.num_rows} held-out blocks.)", highlight=False)


def marked(text: str, words: Collection[str]) -> tuple[Text, int, int]:
    """A text with each word that is not in ``words`` in red brackets; how many these are, and of how many words.

    First and last word do not count, as in `unknown_word_rate`: they may be parts of words.

    Example:
        >>> text, unknown, total = marked("The dog was wery, wery happ", {"the", "dog", "was", "happy"})
        >>> text.plain, unknown, total
        ('The dog was [wery], [wery] happ', 2, 4)
    """
    found, shown, end = [*words_in(text)], Text(), 0
    unknown = [(at, word) for at, word in found[1:-1] if word not in words]
    for at, _ in unknown:
        shown.append(text[end : at.start])
        shown.append(f"[{text[at]}]", style="bold red")
        end = at.stop
    shown.append(text[end:])
    return shown, len(unknown), len(found[1:-1])


def worth_of(reranked: Curve, published: Curve, generator: torch.Generator) -> str:
    """How many passes of the published base the reranked sampler is worth, and the share of their time that it takes.

    Args:
        reranked: At one number of passes.
        published: The base at several.
        generator: Of the bootstrap.
    """
    (num_steps,) = reranked.num_steps
    passes, share = worth(reranked, num_steps, published, generator=generator)
    if passes == inf or published.bounds[0] < reranked.bounds[0]:  # beyond the base's numbers of passes
        than, at = ("better", -1) if passes == inf else ("worse", 0)
        of_time = (reranked.times[0] / published.times[at]).item()
        return (
            f"Reranked at {num_steps} passes: {than} likelihood than {published.num_steps[at]} passes of the published "
            f"base, in {of_time:.2f} of its time."
        )
    return (
        f"Reranked at {num_steps} passes: same likelihood as {passes:.0f} passes of the published base, "
        f"in {format_estimate(share, 2)} of its time."
    )
