"""How commands print their tables."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def console(stderr: bool = False) -> Console:
    """As wide as the terminal; wide enough for every table where there is none."""
    terminal = Console(stderr=stderr)
    return terminal if terminal.is_terminal else Console(width=130, stderr=stderr)


def print_table(
    title: str, rows: Iterable[Any], columns: Mapping[str, Callable[[Any], str]], *, stderr: bool = False
) -> None:
    """Print a table with a line for each row; a column is its heading and the function that formats a row's cell.

    On the standard error, if so requested, where the standard output holds lines for other programs.
    """
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(cell(row) for cell in columns.values()))
    console(stderr).print(table)
