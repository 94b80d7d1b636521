"""copy_rows(): an iterable of rows into a table through PostgreSQL's COPY, in constant memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

import peewee as pw

from .driver_errors import translated

_ROWS_PER_READ: Final = 400
_SPECIAL: Final = re.compile(r"[\\\t\n\r]")
_ESCAPES: Final = {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"}


def copy_rows(database: Any, table: str, fields: Sequence[Any], rows: Iterable[Sequence[Any]]) -> int:
    """Load rows of clean values, in the order of `fields`; gives their number.

    One statement: all rows are loaded, or none. An error of the iterable itself is raised as it is.
    """
    source = _Source(fields, rows)
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

    def __init__(self, fields: Sequence[Any], rows: Iterable[Sequence[Any]]) -> None:
        self.error: BaseException | None = None
        self._lines = _lines(fields, rows)

    def read(self, _size: int = -1) -> str:
        try:
            return "".join(islice(self._lines, _ROWS_PER_READ))
        except BaseException as error:
            # The driver turns it into text of its own; copy_rows() raises the original.
            self.error = error
            raise


def _lines(fields: Sequence[Any], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    for row in rows:
        yield "\t".join(_encoded(field, value) for field, value in zip(fields, row, strict=True)) + "\n"


def _encoded(field: Any, value: Any) -> str:
    stored = field.db_value(value)
    if stored is None:
        return r"\N"
    text = str(stored)
    return _SPECIAL.sub(lambda match: _ESCAPES[match[0]], text) if _SPECIAL.search(text) else text
