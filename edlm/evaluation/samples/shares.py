"""Where the time of a sampler goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from edlm.denoisers.base import Denoiser
from edlm.sampler.sampler import EnergySampler

PARTS = ("trunk", "output layer", "energy", "rest")


class Stopwatch:
    """Seconds of parts of a program; of parts inside each other the inner one counts."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._clock, self._open, self._since = clock, ["rest"], clock()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What runs in the block is this part."""
        self._turn_to(name)
        try:
            yield
        finally:
            self._turn_to(None)

    def _turn_to(self, name: str | None) -> None:
        now = self._clock()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now
        if name is None:
            self._open.pop()
        else:
            self._open.append(name)

    def watching(self, owner: Any, method: str, name: str) -> Callable[..., Any]:
        """The method of an object, timed."""
        run = getattr(owner, method)

        def timed(*arguments: Any, **options: Any) -> Any:
            with self.part(name):
                return run(*arguments, **options)

        return timed


def seconds_of_parts(sampler: EnergySampler, batch_size: int, length: int, seed: int) -> dict[str, float]:
    """Seconds in which a batch is sampled, by `PARTS`.

    ``trunk`` is the denoiser without its output layer; ``output layer`` includes what heads decode; ``energy`` is all
    else that the energy does; draws, candidates, weights and bookkeeping are the ``rest``.
    """
    watch = Stopwatch()
    with ExitStack() as stack:
        denoiser, energy = sampler.denoiser, sampler.energy
        stack.enter_context(_replaced(denoiser, "encode_tokens", _timed_trunk(watch, denoiser)))
        stack.enter_context(_replaced(denoiser, "decode", watch.watching(denoiser, "decode", "output layer")))
        for method in ("forward", "sample") if energy is not None else ():
            if hasattr(energy, method):
                stack.enter_context(_replaced(energy, method, watch.watching(energy, method, "energy")))
        with watch.part("rest"):
            sampler.sample(batch_size, length, seeds=range(seed, seed + batch_size))
    return {name: watch.seconds[name] for name in PARTS}


def _timed_trunk(watch: Stopwatch, denoiser: Denoiser) -> Callable[..., Any]:
    encode = watch.watching(denoiser, "encode_tokens", "trunk")

    def timed(*arguments: Any) -> Any:
        finish, hidden = encode(*arguments)

        def finished() -> Any:
            with watch.part("trunk"):
                return finish()

        return finished, hidden

    return timed


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """In the block an object has another method of this name."""
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name)
