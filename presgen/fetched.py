"""FetchedCursor: the rows of a statement whose connection or transaction is over already."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any


class FetchedCursor:
    """What a driver's cursor offers once its statement has run, without its connection."""

    def __init__(self, cursor: Any) -> None:
        self._rows = iter(cursor.fetchall() if cursor.description else ())
        self.description, self.rowcount = cursor.description, cursor.rowcount
        self.lastrowid, self.statusmessage = cursor.lastrowid, getattr(cursor, "statusmessage", None)
        self.is_in_utc = getattr(cursor, "is_in_utc", False)
        cursor.close()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._rows)

    def __enter__(self) -> FetchedCursor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fetchone(self) -> Any:
        """The next row, None after the last."""
        return next(self._rows, None)

    def fetchmany(self, size: int = 1) -> list[Any]:
        """The next rows, at most `size`."""
        return list(islice(self._rows, size))

    def fetchall(self) -> list[Any]:
        """The rows that are left."""
        return list(self._rows)

    def close(self) -> None:
        """Forget the rows."""
        self._rows = iter(())
