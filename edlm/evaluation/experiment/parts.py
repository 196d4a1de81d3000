"""Parts of the options of ``edlm evaluate``: methods, samples, frontier, continuous time, ratios of time."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from edlm.rules import Config
from edlm.sampler.options import SamplerOptions

_OF_CELLS = ("order", "num_steps", "block_length")


@dataclass(frozen=True, kw_only=True)
class MethodConfig(SamplerOptions):
    """A sampler that is measured next to the base; options of the sampler as for ``edlm sample``.

    Args:
        name: What tables call it.
        energy: Folder of an energy, a shipped name, or a causal LM ("causal:PATH", "text:PATH", "server:URL#MODEL");
            null for the denoiser alone, with a proposal of its own.
        carry_over: Autoregressive energies only: count the terms at the slots alone ("coAR").
        orders: Only in these reveal orders; null for all of the table's.
        order: One of ``orders``; null for those.
        num_steps: Only at these numbers of steps; null for all of the table's.
        sampled_steps: Estimate the gain from so many steps of each row; null for all of them.
        inner_draws: Draws inside of the bound's logarithm: more of them cost energy passes and make it tighter. null
            for 16 where candidates are whole sequences, whose bound is very loose otherwise, and else 1.
    """

    name: str = "head_exact"
    energy: str | None = "tinystories"
    carry_over: bool = False
    orders: tuple[str, ...] | None = None
    order: str | None = None
    num_steps: tuple[int, ...] | None = None
    block_length: int | None = field(default=None, init=False)  # that of the order
    sampled_steps: int | None = None
    inner_draws: int | None = None

    def __post_init__(self) -> None:
        Config.__post_init__(self)
        if self.order is not None:
            if self.orders not in (None, (self.order,)):
                raise ValueError(f"a method must have order or orders, got {self.order!r} and {list(self.orders)}")
            object.__setattr__(self, "orders", (self.order,))

    @property
    def sampler_options(self) -> dict[str, Any]:
        """Options of its samplers, which also have an order and a number of steps."""
        return {f.name: getattr(self, f.name) for f in fields(SamplerOptions) if f.name not in _OF_CELLS}


@dataclass(frozen=True)
class SamplesConfig(Config):
    """Samples that are timed and judged.

    Args:
        timed_batches: Batches that are sampled and timed for each setting, on an idle machine; 0 for none.
        max_seconds: None starts after so many seconds of a setting.
        batch_size: Sequences of a batch.
        judged: Samples whose diversity (and loss under the judge) is measured; 0 for none.
        judged_steps: Numbers of steps at which they are drawn; null for all.
        judged_orders: Reveal orders in which they are drawn; null for all.
        judged_methods: Methods that they are drawn from; null for all.
        judge: A causal LM: folder, hub id, a .gguf file, "package:NAME" of an installed package that holds one, or
            an autoregressive energy. "auto" is the LM that is shipped with a shipped denoiser, and none for others.
        allow_judge_as_energy: Allow a judge that is also an energy of the samples; the result says so.
        known_words: Training text (a file or folder), or a list of its words: the share of samples with another word
            is a proxy for the error rate. "auto" is the list shipped with a shipped denoiser, and none for others.
        features: MAUVE of the samples against held-out text, by states of this model: folder, hub id, a .gguf file, or
            "package:NAME" of an installed package that holds one; null for no MAUVE. Needs the extra "mauve".
    """

    timed_batches: int = field(default=3, metadata={"least": 0})
    max_seconds: float = 60.0
    batch_size: int = 16
    judged: int = field(default=64, metadata={"least": 0})
    judged_steps: tuple[int, ...] | None = None
    judged_orders: tuple[str, ...] | None = None
    judged_methods: tuple[str, ...] | None = None
    judge: str | None = "auto"
    allow_judge_as_energy: bool = False
    known_words: str | None = "auto"
    features: str | None = None


@dataclass(frozen=True)
class FrontierConfig(Config):
    """Curves of judge loss against entropy, over the temperature of the proposal.

    Args:
        temperatures: Of the proposal.
        num_steps: At these numbers of steps; null for the smallest that is at least 4.
        orders: In these reveal orders; null for the last of the table's.
        methods: In addition to the base; null for all.
        num_samples: At each temperature; null for as many as are judged.
        sigmas: A point is below the base's curve where it is so by more than so many standard errors, or as rare a
            value of Student's t where samples are few.
    """

    temperatures: tuple[float, ...] = field(default=(0.7, 0.8, 0.9, 1.0, 1.1), metadata={"least": 0})
    num_steps: tuple[int, ...] | None = None
    orders: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    num_samples: int | None = None
    sigmas: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(not temperature > 0 for temperature in self.temperatures):
            raise ValueError(f"temperatures must be > 0, got {list(self.temperatures)}")
        if not self.sigmas > 0:
            raise ValueError(f"sigmas must be > 0, got {self.sigmas}")


@dataclass(frozen=True)
class ContinuousConfig(Config):
    """Likelihoods in continuous time, which the literature reports; they do not depend on the sampler.

    Args:
        num_rows: Blocks, from the first; 0 for none.
        num_draws: Noisy versions of each, a denoiser pass each.
        published: Also the formula of arXiv:2410.21357 with energies, which is no bound: to compare with the paper
            only. "normalized": with those whose normaliser is known; "all": also with the others, at the cost of
            ``num_candidates`` of their passes for a noisy version; or "none".
        num_candidates: Draws behind each log Z.
    """

    num_rows: int = field(default=64, metadata={"least": 0})
    num_draws: int = 8
    published: Literal["normalized", "all", "none"] = "normalized"
    num_candidates: int = field(default=16, metadata={"least": 2})


@dataclass(frozen=True)
class RatioConfig(Config):
    """Time that a method needs to reach the bound of another, as a share of the other's time.

    Args:
        name: The method, or "base".
        order: Its reveal order.
        than: The method that it is compared with.
        than_order: In this reveal order.
        than_steps: At this number of steps.
    """

    name: str
    order: str
    than: str = "base"
    than_order: str = "random"
    than_steps: int = 32


def methods_named(energies: Sequence[str]) -> tuple[MethodConfig, ...]:
    """A method for each energy, as it recommends, named after its folder.

    Example:
        >>> [method.name for method in methods_named(["runs/a/final", "runs/b/final", "runs/b", "causal:gpt2"])]
        ['a', 'b', 'b_2', 'gpt2']
    """
    names: list[str] = []
    for energy in energies:
        parts = [
            part for part in energy.split(":")[-1].replace("#", "/").split("/") if part not in ("", "final", "energy")
        ]
        name = parts[-1] if parts else energy
        names.append(name if name not in names else f"{name}_{len(names)}")
    return tuple(MethodConfig(name=name, energy=energy) for name, energy in zip(names, energies, strict=True))


SHIPPED_DENOISER = "tinystories"
_HEAD, _SPREAD = f"{SHIPPED_DENOISER}/head", ("dilated", "bisecting")
DEFAULT_METHODS = (
    MethodConfig(name="head_exact", energy=_HEAD, orders=_SPREAD),
    MethodConfig(name="head_exact", energy=f"{SHIPPED_DENOISER}/head_random", orders=("random",)),
    MethodConfig(name="head_rounds_of_4", energy=_HEAD, group_size=4, orders=_SPREAD),
    MethodConfig(name="head_blind_exact", energy=f"{SHIPPED_DENOISER}/head_blind", orders=_SPREAD),
)
