"""How much each key has sealed, and which values cannot be opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

from ... import validation
from ...clock import is_sqlite
from ...encrypted import Sealable
from ...errors import ConfigurationError, DecryptionError
from ...manager import DatabaseManager
from ...models import User
from ...roles import require_all_rows
from ...sealing import Seal, envelope_pattern, is_sealed
from .conversion import BATCH, Progress
from .stored import StoredColumn, in_row

_KEY_ID: Final = {
    False: "split_part({column}, ':', 3)",
    # What is between the second colon behind the prefix, where the digest ends, and the next one.
    True: "substr({column}, {start}, instr(substr({column}, {start}), ':') - 1)",
}
_COUNT: Final = "SELECT {key_id}, count(*) FROM {table} WHERE {column} LIKE {param} GROUP BY 1"


def key_ids(manager: DatabaseManager, *, fields: Iterable[Any] | None = None) -> dict[str, int]:
    """How many values each key has sealed, by its id; a key that is not there may be deleted everywhere."""
    with manager.session():
        counts = sum((_count_by_key(manager, field) for field in sealed_fields(manager, fields)), Counter[str]())
    return dict(sorted(counts.items()))


def verify(
    manager: DatabaseManager, *, fields: Iterable[Any] | None = None, progress: Progress | None = None
) -> list[DecryptionError]:
    """Open every value; gives the error of each that cannot be opened, with its row, in the order of the ids.

    `fields` and `progress` are as in rotate(). Raises ConfigurationError for a key that is missing.
    """
    with manager.session():
        return [error for field in sealed_fields(manager, fields) for error in _damage(manager, field, progress)]


def opened(seal: Seal, row_id: Any, stored: str) -> str:
    """The text of a row's stored value, which may be in clear; raises DecryptionError with the row's id."""
    with in_row(row_id):
        return seal.sealing.open(stored, seal.place) if is_sealed(stored) else stored


def _damage(manager: DatabaseManager, field: Any, progress: Progress | None) -> Iterator[DecryptionError]:
    column, seal, done = StoredColumn(manager.database, field), field.seal(to_find=True), 0
    total = column.count()
    for rows in column.batches(BATCH):
        for row_id, stored in rows:
            try:
                opened(seal, row_id, stored)
            except DecryptionError as error:
                yield error
        done += len(rows)
        if progress is not None:
            progress(done, max(done, total))


def _count_by_key(manager: DatabaseManager, field: Any) -> Counter[str]:
    column, pattern = f'"{field.column_name}"', envelope_pattern(is_indexed=field.has_blind_index)
    start = pattern.index("%") + 1
    sqlite = is_sqlite(manager.database)
    sql = _COUNT.format(
        key_id=_KEY_ID[sqlite].format(column=column, start=start),
        table=field.place.quoted_table,
        column=column,
        param=manager.database.param,
    )
    return Counter(dict(manager.database.execute_sql(sql, (pattern,)).fetchall()))


def sealed_fields(manager: DatabaseManager, fields: Iterable[Any] | None) -> list[Any]:
    """The fields that were named, or User.email; raises ConfigurationError for one that is not encrypted."""
    chosen = [User.email] if fields is None else list(validation.argument(validation.several, fields, "fields"))
    for field in chosen:
        if not isinstance(field, Sealable) or field.seal(to_find=True) is None:
            raise ConfigurationError(
                f"{validation.shown(getattr(field, 'name', field))} is not encrypted in this database; "
                "for users' e-mail addresses: presgen install encryption"
            )
        if field.model._meta.database is not manager.database:
            raise ConfigurationError(f"{field.place} is bound to another database than this manager's")
        require_all_rows(manager.database, field.place.quoted_table)  # or a key would seem to be unused
    return chosen
