"""Packages that only some parts need: how they are installed with edlm, whose distribution is edlm-rerank."""

from importlib.metadata import PackageNotFoundError, metadata
from importlib.util import find_spec

DISTRIBUTION = "edlm-rerank"


def install_line(extra: str) -> str:
    """The command that installs edlm with an extra; its address is that of the project's urls."""
    try:
        urls = metadata(DISTRIBUTION).get_all("Project-URL") or []
    except PackageNotFoundError:  # a checkout that is not installed
        urls = []
    address = next((url.partition(", ")[2] for url in urls if url.startswith("Repository, ")), "URL")
    return f'pip install "{DISTRIBUTION}[{extra}] @ git+{address}"'


def check_wandb(mode: str) -> None:
    """Fail before the long run.

    Raises:
        ModuleNotFoundError: ``mode`` is not "off" and wandb is not installed.
    """
    if mode != "off" and find_spec("wandb") is None:
        raise ModuleNotFoundError(
            f"wandb must be installed, or 'off'; got {mode!r} without it: {install_line('wandb')}"
        )
