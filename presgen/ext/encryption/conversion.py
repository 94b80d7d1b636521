"""Changes the stored form of a whole column in the caller's transaction, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import peewee as pw

from .stored import StoredColumn, in_row

Progress = Callable[[int, int], None]
"""Is told how many rows are done, and how many there are."""

BATCH: Final = 500
_MAKE: Final = "CREATE TEMPORARY TABLE presgen_changed (id bigint PRIMARY KEY, becomes text NOT NULL)"
_DROP: Final = "DROP TABLE presgen_changed"


@contextmanager
def converted(
    database: Any, field: Any, change: Callable[[str], str], progress: Progress | None
) -> Iterator[Callable[[], None]]:
    """Make the new form of every value of a field, for the block to call when the table is to have them.

    What is made waits in a temporary table, so that until then the table needs no lock that keeps readers out; writers
    have to be kept out by the caller.
    """
    column = StoredColumn(database, field)
    made = pw.Table("presgen_changed", ("id", "becomes")).bind(database)
    database.execute_sql(_MAKE)
    done, total = 0, column.count()
    for rows in column.batches(BATCH):
        made.insert([_changed(key, was, change) for key, was in rows]).execute()
        done += len(rows)
        if progress is not None:
            progress(done, total)
    yield lambda: column.write_from("presgen_changed")
    database.execute_sql(_DROP)


def _changed(row_id: Any, was: str, change: Callable[[str], str]) -> dict[str, Any]:
    with in_row(row_id):
        return {"id": row_id, "becomes": change(was)}
