"""Re-encrypts what older keys have sealed, while the application works, and tells how much is left of each key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any, Final

from ... import validation
from ...clock import is_sqlite
from ...encrypted import Sealable
from ...errors import ConfigurationError
from ...manager import DatabaseManager
from ...models import User
from ...sealing import Seal, envelope_pattern, is_sealed
from .conversion import Progress
from .stored import Change, StoredColumn

_KEY_ID: Final = {
    False: "split_part({column}, ':', 3)",
    # What is between the second colon behind the prefix, where the digest ends, and the next one.
    True: "substr({column}, {start}, instr(substr({column}, {start}), ':') - 1)",
}
# SQLite takes no more than 32,766 parameters, and a row needs three.
_BATCH_MAX: Final = 10_000
_COUNT: Final = "SELECT {key_id}, count(*) FROM {table} WHERE {column} LIKE {param} GROUP BY 1"


def rotate(
    manager: DatabaseManager, *, fields: Iterable[Any] | None = None, batch: int = 500, progress: Progress | None = None
) -> int:
    """Seal with the current key what is sealed with another one; gives the number of rows that it has written.

    `fields` are EncryptedText fields, or User.email, which it is by default. Values of an EncryptedText that are there
    in clear are sealed as well. Batches are transactions of their own that write a value only if nobody else has in the
    meantime; so this can be broken off and run again, and be run by several at once. `updated_at` stays.
    `progress(done, total)` is called for each batch. Raises ConfigurationError for a field that is not encrypted, or a
    key that is missing; DecryptionError, having written the batches before.
    """
    batch = validation.argument(validation.at_least(1), batch, "batch")
    with manager.session():
        return sum(
            _rotate_field(manager, field, min(batch, _BATCH_MAX), progress) for field in _fields(manager, fields)
        )


def key_ids(manager: DatabaseManager, *, fields: Iterable[Any] | None = None) -> dict[str, int]:
    """How many values each key has sealed, by its id; a key that is not there may be deleted everywhere."""
    with manager.session():
        counts = sum((_count_by_key(manager, field) for field in _fields(manager, fields)), Counter[str]())
    return dict(sorted(counts.items()))


def _count_by_key(manager: DatabaseManager, field: Any) -> Counter[str]:
    column, pattern = f'"{field.column_name}"', envelope_pattern(is_indexed=field.has_blind_index)
    start = pattern.index("%") + 1
    sqlite = is_sqlite(manager.database)
    sql = _COUNT.format(
        key_id=_KEY_ID[sqlite].format(column=column, start=start),
        table=f'"{field.place.table}"',
        column=column,
        param=manager.database.param,
    )
    return Counter(dict(manager.database.execute_sql(sql, (pattern,)).fetchall()))


def _rotate_field(manager: DatabaseManager, field: Any, batch: int, progress: Progress | None) -> int:
    column, seal = StoredColumn(manager.database, field), field.seal()
    total, done, written = column.count(unlike=seal.pattern), 0, 0
    for rows in column.batches(batch, unlike=seal.pattern):
        changes = [Change(key, was, seal.envelope(_text(seal, was))) for key, was in rows]
        written += manager.run_in_transaction(partial(column.write, changes))
        done += len(rows)
        if progress is not None:
            progress(done, max(done, total))
    return written


def _text(seal: Seal, stored: str) -> str:
    return seal.sealing.open(stored, seal.place) if is_sealed(stored) else stored


def _fields(manager: DatabaseManager, fields: Iterable[Any] | None) -> list[Any]:
    chosen = [User.email] if fields is None else list(validation.argument(validation.several, fields, "fields"))
    for field in chosen:
        if not isinstance(field, Sealable) or field.seal(to_find=True) is None:
            raise ConfigurationError(
                f"{validation.shown(getattr(field, 'name', field))} is not encrypted in this database; "
                "for users' e-mail addresses: presgen install encryption"
            )
        if field.model._meta.database is not manager.database:
            raise ConfigurationError(f"{field.place} is bound to another database than this manager's")
    return chosen
