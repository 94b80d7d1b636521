"""The log itself: adding actions, reading, exporting and pruning."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from itertools import dropwhile
from pathlib import Path
from tempfile import mkstemp
from typing import Any, Final, TextIO

import peewee as pw

from ...clock import database_now
from ...context import session
from ...errors import ConfigurationError, StatementInvalid, ValidationError
from ...models import User
from ...queries import bounded, position
from ...validation import argument, document, json_text, moment, text
from .conditions import NAME_MAX_LENGTH, id_number, narrowed, table_text, user_number
from .entry import AuditEntry
from .watching import backend_of

PRUNE_BATCH: Final = 5_000
"""Entries that one transaction of prune() deletes."""
_EXPORT_PAGE: Final = 1_000
# PostgreSQL's codes for an unknown table and an unknown procedure.
_NOT_THERE: Final = ("42P01", "42883")


def action(name: str, /, *, user: User | int | None = None, **details: Any) -> None:
    """Record what somebody did that is no change of a row, as `action("login", user=ada, address=…)`.

    In the caller's transaction if there is one. `user` is by default whom the block of acting_as() acts for. `details`
    are JSON values, recorded as they are: put no secrets there. On PostgreSQL the role needs EXECUTE on
    `presgen_audit_action`. Raises ValidationError.
    """
    name = argument(partial(text, max_length=NAME_MAX_LENGTH), name, "name")
    user_id = None if user is None else argument(user_number, user, "user")
    written = json_text(argument(document, details, "details"))
    with _log() as database:
        backend_of(database).record_action(database, name, written, user_id)


def history(row: Any, row_id: int | None = None) -> list[AuditEntry]:
    """What happened to a row, oldest first: a saved instance, or a model or a table's name with an id.

    Where the table was truncated since the row's first entry, that is part of it.
    """
    table = argument(table_text, row, "row")
    if isinstance(row, pw.Model):
        if row_id is not None:
            raise ValidationError("an instance has an id of its own", field="row_id", rule="unknown")
        row_id = row.get_id()  # type: ignore[no-untyped-call]
    row_id = argument(id_number, row_id, "row_id")
    entry = AuditEntry
    is_about = (entry.row_id == row_id) | entry.row_id.is_null()  # which is TRUNCATE, as the index can tell
    # Not by the id itself, in whose order the planner would rather read the whole log.
    query = entry.select().where(entry.table_name == table, is_about).order_by(entry.id + 0)
    with _log() as database:
        return list(dropwhile(lambda found: found.row_id is None, query.bind(database)))


def search(*, after: AuditEntry | str | None = None, limit: int = 100, **conditions: Any) -> list[AuditEntry]:
    """A page of entries that meet all conditions, newest first.

    Conditions are `actor`, `user`, `table` (a model or a name), `row_id`, `operation`, `action`, `since` (inclusive)
    and `until` (not so), and, for which there is no index, `database_user` and `transaction_id`. `after` is the last
    entry of the page before, or its `cursor`. Such a page costs the same wherever it is. Raises ValidationError.
    """
    entry = AuditEntry
    query = entry.select().order_by(entry.at.desc(), entry.id.desc()).limit(bounded("limit", limit))
    query = narrowed(query, conditions)
    if after is not None:
        query = query.where(pw.Tuple(entry.at, entry.id) < pw.Tuple(*position(after, entry.at)))
    with _log() as database:
        return list(query.bind(database))


def export(target: Path | str | TextIO, **conditions: Any) -> int:
    """Write the entries that meet search()'s conditions as lines of JSON, newest first; gives their number.

    To an open file, or to one of that path, which only its owner can read and which is only there when it is complete.
    In constant memory. Raises ValidationError, and OSError for a path that cannot be written.
    """
    narrowed(AuditEntry.select(), conditions)  # which refuses after and limit: it is about all entries
    if isinstance(target, (str, Path)):
        with _completed(Path(target)) as file:
            return _write(file, conditions)
    return _write(target, conditions)


def prune(*, before: datetime) -> int:
    """Delete the entries of before that moment, and record that; gives their number.

    Each batch of PRUNE_BATCH is a transaction, unless the caller has one. Raises ValidationError for a moment to come,
    and ConfigurationError on PostgreSQL for a role that does not own the log.
    """
    before = argument(moment, before, "before")
    with _log() as database:
        if before > database_now(database):
            raise ValidationError("before must not lie in the future", field="before", rule="range")
        backend_of(database).require_owner(database, "audit_log", "to prune the log")
        return sum(_prune(database, before))


def _prune(database: Any, before: datetime) -> Iterator[int]:
    """Delete batch by batch, the oldest first; yields how many each had."""
    entry = AuditEntry
    oldest = entry.select(entry.id).where(entry.at < before).order_by(entry.at, entry.id).limit(PRUNE_BATCH)
    while True:
        with backend_of(database).upkeep(database):
            pruned: int = entry.delete().where(entry.id.in_(oldest)).bind(database).execute()
            if pruned:
                action("audit.prune", before=before.isoformat(), entries=pruned)
        if not pruned:
            return
        yield pruned


def _write(file: TextIO, conditions: dict[str, Any]) -> int:
    written = 0
    page = search(**conditions, limit=_EXPORT_PAGE)
    while page:
        for found in page:
            json.dump(found.as_dict(), file, default=datetime.isoformat)
            file.write("\n")
        written += len(page)
        page = search(**conditions, limit=_EXPORT_PAGE, after=page[-1])
    return written


@contextmanager
def _completed(path: Path) -> Iterator[TextIO]:
    """A file to write, which takes the path's place at the end of the block."""
    try:
        handle, unfinished = mkstemp(dir=path.parent, prefix=f"{path.name}.")
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None
    try:
        with open(handle, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise


@contextmanager
def _log() -> Iterator[Any]:
    """A session of the database that the models are bound to; raises ConfigurationError where it has no log."""
    with session(User._meta.database) as database:
        try:
            yield database
        except StatementInvalid as error:
            if error.sqlstate not in _NOT_THERE and "no such table: audit_log" not in str(error):
                raise
            missing = ConfigurationError("the database has no audit log; run: presgen install audit")
        else:
            return
    raise missing
