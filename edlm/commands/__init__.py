"""What each ``edlm`` command does: a config dataclass and ``run(config)``."""

from transformers.utils import logging

logging.disable_progress_bar()  # of loading weights: it would stand between a command's own lines
