"""Training: objectives, the loop, checkpoints that a run resumes from; and from Python what `edlm train` does."""

from edlm.training.autoregressive import train_autoregressive
from edlm.training.denoiser import train_denoiser
from edlm.training.dependency import train_dependency
from edlm.training.energy import train_energy
from edlm.training.trainer_config import TrainerConfig

__all__ = ["TrainerConfig", "train_autoregressive", "train_denoiser", "train_dependency", "train_energy"]
