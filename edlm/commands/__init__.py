"""What each ``edlm`` command does: a config dataclass and ``run(config)``."""
