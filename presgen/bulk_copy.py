"""copy_rows(): an iterable of encoded rows into a table through PostgreSQL's COPY, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Final

import peewee as pw

from .driver_errors import translated

_ROWS_PER_READ: Final = 400


def copy_rows(database: Any, table: str, fields: Sequence[Any], rows: Iterable[Sequence[str]]) -> int:
    """Load rows of COPY's texts (see copy_text.py), in the order of `fields`; gives their number.

    One statement: all rows are loaded, or none. An error of the iterable itself is raised as it is.
    """
    source = _Source(rows)
    columns = ", ".join(f'"{field.column_name}"' for field in fields)
    statement = f'COPY "{table}" ({columns}) FROM STDIN'
    try:
        return translated(_copy, database, statement, source)
    except Exception:
        if source.error is None:
            raise
    # Out here, where the driver's account of it is not its context.
    raise source.error


def _copy(database: Any, statement: str, source: _Source) -> int:
    database.refuse_to_write()
    with pw.__exception_wrapper__:  # type: ignore[attr-defined]
        cursor = database.cursor()
        cursor.copy_expert(statement, source)
    return int(cursor.rowcount)


class _Source:
    """What COPY reads from: encodes a few hundred rows a call, whatever size is asked for."""

    def __init__(self, rows: Iterable[Sequence[str]]) -> None:
        self.error: BaseException | None = None
        self._lines = map("\t".join, rows)

    def read(self, _size: int = -1) -> str:
        try:
            lines = "\n".join(islice(self._lines, _ROWS_PER_READ))
            return f"{lines}\n" if lines else ""
        except BaseException as error:
            # The driver turns it into text of its own; copy_rows() raises the original.
            self.error = error
            raise
