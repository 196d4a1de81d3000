"""How commands print their tables."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

_WIDEST = 10_000


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
    show(console(stderr), table)


def show(screen: Console, table: Table) -> None:
    """Print a table; where the screen is too narrow for its columns, a line for each cell instead."""
    if screen.measure(table, options=screen.options.update(width=_WIDEST)).minimum <= screen.width:
        screen.print(table)
        return
    if table.title:
        screen.print(table.title, style="italic")
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        screen.print()
        for column, cell in zip(table.columns, cells, strict=True):
            screen.print(f"{column.header}:", cell)
