"""``edlm train energy``: an energy for a frozen denoiser."""

from edlm.training.energy import TrainEnergyConfig, run_config

__all__ = ["run"]


def run(config: TrainEnergyConfig) -> None:
    """Train it, and save it in ``output_dir/final``."""
    run_config(config)
