"""Packages: versions of those that numbers depend on, and how those are installed that only some parts need."""

from importlib.metadata import PackageNotFoundError, metadata, version
from importlib.util import find_spec

from edlm import __version__

DISTRIBUTION = "edlm-rerank"


def versions() -> dict[str, str]:
    """Versions of edlm and of the packages that compute."""
    return {"edlm": __version__, **{name: version(name) for name in ("torch", "transformers")}}


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
