"""Generation by actors of Ray, on any number of machines; the driver alone writes, as their items arrive."""

import builtins
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from edlm.jobs.generation import Generation, Outline, write
from edlm.jobs.job import Finished
from edlm.jobs.manifest import differences, plain
from edlm.jobs.parts import Key
from edlm.packages import install_line
from edlm.processes import join
from edlm.rules import Config, check_options

Build = Callable[[], Generation]


@check_options
@dataclass(frozen=True, kw_only=True)
class RayOptions(Config):
    """Actors, in the cluster that the variable RAY_ADDRESS names, or else on this machine."""

    num_actors: int | None = None
    """Each holds the models; None for as many as the cluster has room for when the job starts."""

    gpus_per_actor: float | None = None
    """0.5 puts two on a GPU; None for 1 where the cluster has GPUs, and else 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gpus_per_actor is not None and not self.gpus_per_actor >= 0:
            raise ValueError(f"gpus_per_actor must be >= 0, got {self.gpus_per_actor}")


def generate_by_actors(
    build: Build,
    output: str | Path,
    options: RayOptions,
    *,
    cpus_per_actor: int = 1,
    batch_size: int = 16,
    title: str | None = None,
) -> tuple[int, int, int]:
    """Generate all rows into a file, as `generate` does, with the same part files and bytes.

    The driver writes the items of a batch when it arrives: no folder needs to be shared, but actors must find the
    models by the same names. A batch whose actor dies is made again by another one; items in part files are not.

    Args:
        build: Loads the models in an actor; is pickled.
        output: As in `generate`.
        options: The actors.
        cpus_per_actor: CPUs that each takes of the cluster.
        batch_size: Rows that an actor makes at a time, in whole items.
        title: Of the progress bar; none without.

    Returns:
        Numbers of rows, of those that were missing, and of actors.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ValueError: the cluster has no room for an actor; an actor's device or packages would make other rows; a
            launcher started several drivers; and what `generate` raises.
    """
    if (number := join(in_step=False).num_processes) > 1:
        raise ValueError(f"engine must be started once, as ray starts its own processes, got {number} processes")
    with _cluster() as ray:
        resources = {"num_cpus": cpus_per_actor, "num_gpus": _gpus(ray, options)}
        actors = options.num_actors or _room(ray.cluster_resources(), resources)
        outline = ray.get(ray.remote(_outline).options(**resources).remote(build))
        at_a_time = -(-batch_size // outline.rows_per_item)

        def finished(keys: Sequence[Key]) -> Iterator[Finished]:
            if not keys:
                return
            batches = ray.data.from_items([*keys], override_num_blocks=-(-len(keys) // at_a_time)).map_batches(
                _Maker,
                batch_size=None,  # a block: smaller ones would be put together
                compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2),
                fn_constructor_args=(build, plain(outline.identity)),
                **resources,
            )
            for batch in batches.iter_batches(batch_size=None):
                if error := batch["error"][0]:
                    kind, said = json.loads(error)
                    raise getattr(builtins, kind, RuntimeError)(said)
                yield [*zip(batch["key"].tolist(), map(json.loads, batch["value"]), strict=True)]

        new = write(outline, output, lambda job: job.collect(finished, title))
    return outline.num_rows, new, actors


class _Maker:
    """An actor. It loads the models with its first batch: where ``__init__`` fails, Ray starts actors for ever."""

    def __init__(self, build: Build, identity: dict[str, Any]):
        self._build, self._identity = build, identity

    @cached_property
    def _generation(self) -> Generation:
        generation = self._build()
        if differing := differences(self._identity, generation.outline.identity):
            raise ValueError(f"all actors must make the same rows, got differences ({', '.join(differing)})")
        return generation

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Items as JSON; or an error, which Ray would put into words of its own."""
        keys, error = batch["item"].tolist(), ""
        try:
            values = [json.dumps(self._generation.item(key)) for key in keys]
        except Exception as raised:
            values, error = [""] * len(keys), json.dumps([type(raised).__name__, str(raised)])
        return {"key": keys, "value": values, "error": [error] * len(keys)}


def _outline(build: Build) -> Outline:
    return build().outline


@contextmanager
def _cluster() -> Iterator[Any]:
    """Ray, connected; errors of its tasks become what they were."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ModuleNotFoundError(f"engine ray needs Ray: {install_line('ray')}", name=error.name) from error
    is_ours = not ray.is_initialized()
    if is_ours:
        ray.init(logging_level="warning")
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        yield ray
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    finally:
        if is_ours:
            ray.shutdown()


def _gpus(ray: Any, options: RayOptions) -> float:
    if options.gpus_per_actor is not None:
        return options.gpus_per_actor
    return float(ray.cluster_resources().get("GPU", 0) > 0)


def _room(cluster: dict[str, float], actor: dict[str, float]) -> int:
    """Actors that a cluster has room for, at least one."""
    needed = {"CPU": actor["num_cpus"], "GPU": actor["num_gpus"]}
    number = min(int(cluster.get(name, 0) // each) for name, each in needed.items() if each)
    if number < 1:
        got = ", ".join(f"{cluster.get(name, 0):g} {name}s for {each:g}" for name, each in needed.items())
        raise ValueError(f"ray must have room for an actor, got {got}")
    return number
