"""How commands print their tables."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def console() -> Console:
    """As wide as the terminal; wide enough for every table where there is none."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=130)


def print_table(title: str, rows: Iterable[Any], columns: Mapping[str, Callable[[Any], str]]) -> None:
    """Print a table with a line for each row; a column is its heading and the function that formats a row's cell."""
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(cell(row) for cell in columns.values()))
    console().print(table)
