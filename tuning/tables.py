"""Tables that can be read on any terminal."""

from __future__ import annotations

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

# A word that is longer may be folded; one that is not would be torn to pieces.
_READABLE = 10
# Of a column: a border and a blank on either side.
_FRAME = 3


def fitted(table: Table, console: Console) -> RenderableType:
    """A table; where its columns would be too narrow to read, its rows one below the other.

    >>> table = Table("record", "tier", title="of a library")
    >>> table.add_row("0123456789ab", "exact")
    >>> Console(width=20).print(fitted(table, Console(width=20)))
    of a library
    record: 0123456789ab
    tier: exact
    """
    if 1 + sum(_FRAME + _needed(each) for each in table.columns) <= console.width:
        return table
    names = [str(each.header) for each in table.columns]
    rows = zip(*(each.cells for each in table.columns), strict=True)
    blocks = ["\n".join(map(_field, names, row)) for row in rows]
    lines = [table.title, "\n\n".join(blocks), table.caption]
    return Group(*(_folded(each) for each in lines if each))


def _needed(column: Column) -> int:
    words = [word for cell in (column.header, *column.cells) for word in str(cell).split()]
    longest = max(map(cell_len, words), default=0)
    return longest if column.no_wrap else min(longest, _READABLE)


def _field(name: str, cell: object) -> str:
    return f"{name}: {cell}" if name else str(cell)


def _folded(text: object) -> Text:
    return Text(str(text), overflow="fold")
