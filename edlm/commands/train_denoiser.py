"""``edlm train denoiser``: a masked diffusion model on a prepared corpus, from scratch or from a checkpoint."""

from edlm.training.denoiser import TrainDenoiserConfig, run_config

__all__ = ["run"]


def run(config: TrainDenoiserConfig) -> None:
    """Train it, and save it in ``output_dir/final``."""
    run_config(config)
