"""Where commands print their tables."""

from rich.console import Console


def console() -> Console:
    """As wide as the terminal; wide enough for every table where there is none."""
    found = Console()
    return found if found.is_terminal else Console(width=130)
