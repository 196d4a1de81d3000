"""``edlm train autoregressive``: a causal LM on a prepared corpus, as energy and as judge."""

from edlm.training.autoregressive import TrainAutoregressiveConfig, run_config

__all__ = ["run"]


def run(config: TrainAutoregressiveConfig) -> None:
    """Train it, and save it in ``output_dir/final``."""
    run_config(config)
