"""``edlm demo``: the shipped model with and without its energy, side by side, and the bounds of both."""

from dataclasses import dataclass

from rich.table import Table

from edlm.commands.sample import decode, num_new_tokens
from edlm.commands.terminal import console, print_table
from edlm.denoisers.loading import load_denoiser
from edlm.energies.loading import load_energy
from edlm.evaluation.experiment.config import EvaluateConfig
from edlm.evaluation.experiment.parts import MethodConfig, SamplesConfig
from edlm.evaluation.experiment.rows import TERMINAL
from edlm.evaluation.experiment.run import run as evaluate
from edlm.sampler.sampler import EnergySampler

AS_PUBLISHED = "random"
BEST = "dilated"


@dataclass(frozen=True)
class DemoConfig:
    """Options of ``edlm demo``.

    Args:
        num_steps: Denoiser passes of the stories.
        prompt: Beginning of the stories.
        num_stories: Number of stories.
        table_steps: Denoiser passes of the table.
        num_rows: Held-out blocks that the bounds are measured on.
        seed: Of stories, orders and candidates.
    """

    num_steps: int = 8
    prompt: str = "Once upon a time"
    num_stories: int = 3
    table_steps: tuple[int, ...] = (4, 8, 16)
    num_rows: int = 64
    seed: int = 0


def run(config: DemoConfig) -> None:
    """Write stories with both samplers, then measure both."""
    screen = console()
    denoiser, energy = load_denoiser("tinystories"), load_energy("tinystories")
    length = denoiser.max_length
    size, head_size = (sum(p.numel() for p in module.parameters()) for module in (denoiser, energy))
    screen.print(
        f"A masked diffusion model of {size / 1e6:.1f}M parameters writes {length} tokens in {config.num_steps} "
        f"passes, {length // config.num_steps} tokens at a time. Left: alone, it draws the tokens of a pass "
        "independently. Right: far-apart tokens at each pass, and an energy head of "
        f"{head_size / 1e6:.2f}M parameters decides them jointly."
    )
    options = {"num_return_sequences": config.num_stories, "seed": config.seed, "eos_token_id": None}
    new = num_new_tokens(denoiser, config.prompt, length)
    base = EnergySampler(denoiser, num_steps=config.num_steps, order=AS_PUBLISHED)
    reranked = EnergySampler(denoiser, energy, num_steps=config.num_steps, order=BEST)
    table = Table(f"base, {AS_PUBLISHED} order, as published", f"reranked, {BEST} order", show_lines=True)
    columns = [sampler.generate(config.prompt, new, **options).tokens for sampler in (base, reranked)]
    for left, right in zip(*columns, strict=True):
        table.add_row(decode(denoiser, left), decode(denoiser, right))
    screen.print(table)

    method = MethodConfig(name="reranked", energy="tinystories", orders=(BEST,))
    results = evaluate(
        EvaluateConfig(
            methods=(method,),
            orders=(AS_PUBLISHED, BEST),
            num_steps=config.table_steps,
            num_rows=config.num_rows,
            samples=SamplesConfig(timed_batches=1, judged=0),
            seed=config.seed,
        )
    )
    print_table("likelihood bounds (low = good)", sorted(results.rows, key=lambda row: row.num_steps), TERMINAL)
    screen.print(
        f"Bounds on {config.num_rows} held-out blocks of {length} tokens. The gain is over the base of the same order "
        "and passes. In dilated order the bounds of base and reranked are their exact -log likelihoods."
    )
