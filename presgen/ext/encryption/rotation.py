"""Re-encrypts what older keys have sealed, while the application works."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, Final

from ... import validation
from ...errors import DecryptionError
from ...features import forget_column
from ...manager import DatabaseManager
from ...sealing import Place, is_sealed
from .conversion import Progress
from .inspection import opened, sealed_fields
from .stored import Change, StoredColumn

# SQLite takes no more than 32,766 parameters, and a row needs three.
_BATCH_MAX: Final = 10_000


def rotate(
    manager: DatabaseManager, *, fields: Iterable[Any] | None = None, batch: int = 500, progress: Progress | None = None
) -> int:
    """Seal with the current key what is sealed with another one; gives the number of rows that it has written.

    `fields` are EncryptedText fields, or User.email, which it is by default. Values of an EncryptedText that are there
    in clear are sealed as well; then an audit log forgets them, at the end once more what was recorded meanwhile, for
    which the role has to own it. Batches are transactions of their own that write a value only if nobody else has in
    the meantime; so this can be broken off and run again, and be run by several at once. `updated_at` stays.
    `progress(done, total)` is called for each batch. Raises ConfigurationError for a field that is not encrypted, or a
    key that is missing; DecryptionError with the rows that cannot be opened, when all others are written.
    """
    batch = validation.argument(validation.at_least(1), batch, "batch")
    with manager.session():
        return sum(
            _rotate_field(manager, field, min(batch, _BATCH_MAX), progress) for field in sealed_fields(manager, fields)
        )


def _rotate_field(manager: DatabaseManager, field: Any, batch: int, progress: Progress | None) -> int:
    column, seal = StoredColumn(manager.database, field), field.seal(to_find=True)
    total, done, written = column.count(unlike=seal.pattern), 0, 0
    damage: list[DecryptionError] = []
    saw_clear_values = False
    for rows in column.batches(batch, unlike=seal.pattern):
        changes = []
        if not saw_clear_values and not all(is_sealed(was) for _, was in rows):
            saw_clear_values = True
            _forget_clear_values(manager, seal.place)  # which is refused before anything is written, or not at all
        for row_id, was in rows:
            try:
                changes.append(Change(row_id, was, seal.envelope(opened(seal, row_id, was))))
            except DecryptionError as error:
                damage.append(error)
        written += manager.run_in_transaction(partial(column.write, changes))
        done += len(rows)
        if progress is not None:
            progress(done, max(done, total))
    if saw_clear_values:
        _forget_clear_values(manager, seal.place)
    if damage:
        (key_id, *others) = {error.key_id for error in damage}
        row_ids = [row_id for error in damage for row_id in error.row_ids]
        raise DecryptionError(str(seal.place), key_id=None if others else key_id, row_ids=row_ids)
    return written


def _forget_clear_values(manager: DatabaseManager, place: Place) -> None:
    """Let neither the audit log nor the planner's statistics keep what was in clear before."""
    forget_column(manager.database, place.table, place.column)
    manager.database.execute_sql(f"ANALYZE {place.quoted_table}")
