"""Tables that lose their less important columns where a terminal is narrow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.table import Table
from rich.text import Text

Row = TypeVar("Row")


@dataclass(frozen=True)
class Column(Generic[Row]):
    """``min_width``: of the terminal, below which the column is left out."""

    title: str
    cell: Callable[[Row], str]
    min_width: int = 0
    is_number: bool = True


def build_table(columns: Sequence[Column[Row]], rows: Iterable[Row], width: int) -> Table:
    """As wide as it must be; a cell that does not fit ends with an ellipsis."""
    shown = [column for column in columns if column.min_width <= width]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for column in shown:
        table.add_column(
            column.title,
            justify="right" if column.is_number else "left",
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in rows:
        table.add_row(*(Text(column.cell(row)) for column in shown))
    return table


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
