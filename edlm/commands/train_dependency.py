"""``edlm train dependency``: which positions depend on each other, for the order ``dependency_bounded``."""

from edlm.training.dependency import TrainDependencyConfig, run_config

__all__ = ["run"]


def run(config: TrainDependencyConfig) -> None:
    """Train it, and save it in ``output_dir/final``."""
    run_config(config)
