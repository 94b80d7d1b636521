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
from typing import Any, Final, TextIO

import peewee as pw

from ...acting import ACTOR_MAX_LENGTH
from ...clock import database_now
from ...context import session
from ...errors import ConfigurationError, StatementInvalid, ValidationError
from ...models import User
from ...queries import bounded, position
from ...validation import argument, document, json_text, moment, text, whole_number
from .entry import OPERATIONS, AuditEntry
from .watching import backend_of

PRUNE_BATCH: Final = 5_000
"""Entries that one transaction of prune() deletes."""
_EXPORT_PAGE: Final = 1_000
_NAME_MAX_LENGTH: Final = 255
# PostgreSQL's codes for an unknown table and an unknown procedure.
_NOT_THERE: Final = ("42P01", "42883")
_id_number = partial(whole_number, bits=64)


def action(name: str, /, *, user: User | int | None = None, **details: Any) -> None:
    """Record what somebody did that is no change of a row, as `action("login", user=ada, address=…)`.

    In the caller's transaction if there is one. `user` is by default whom the block of acting_as() acts for. `details`
    are JSON values, recorded as they are: put no secrets there. On PostgreSQL the role needs EXECUTE on
    `presgen_audit_action`. Raises ValidationError.
    """
    name = argument(partial(text, max_length=_NAME_MAX_LENGTH), name, "name")
    user_id = None if user is None else _user_id(user)
    written = json_text(argument(document, details, "details"))
    with _log() as database:
        backend_of(database).record_action(database, name, written, user_id)


def history(row: Any, row_id: int | None = None) -> list[AuditEntry]:
    """What happened to a row, oldest first: a saved instance, or a model or a table's name with an id.

    Where the table was truncated since the row's first entry, that is part of it.
    """
    table = _table_name(row, "row")
    is_instance = isinstance(row, pw.Model)
    row_id = argument(_id_number, row._pk if is_instance else row_id, "row_id")
    entry = AuditEntry
    is_about = (entry.row_id == row_id) | entry.row_id.is_null()  # which is TRUNCATE, as the index can tell
    # Not by the id itself, in whose order the planner would rather read the whole log.
    query = entry.select().where(entry.table_name == table, is_about).order_by(entry.id + 0)
    with _log() as database:
        return list(dropwhile(lambda found: found.row_id is None, query.bind(database)))


def search(
    *,
    actor: str | None = None,
    user: User | int | None = None,
    table: Any = None,
    operation: str | None = None,
    action: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    after: AuditEntry | str | None = None,
    limit: int = 100,
) -> list[AuditEntry]:
    """A page of entries that meet all conditions, newest first.

    `table` is a model or a name, `since` is inclusive and `until` is not, `after` is the last entry of the page before,
    or its `cursor`. Such a page costs the same wherever it is. Raises ValidationError.
    """
    entry = AuditEntry
    query = entry.select().order_by(entry.at.desc(), entry.id.desc()).limit(bounded("limit", limit))
    if actor is not None:
        query = query.where(entry.actor == argument(partial(text, max_length=ACTOR_MAX_LENGTH), actor, "actor"))
    if user is not None:
        query = query.where(entry.user_id == _user_id(user))
    if table is not None:
        query = query.where(entry.table_name == _table_name(table, "table"))
    if operation is not None:
        query = query.where(entry.operation == argument(_operation, operation, "operation"))
    if action is not None:
        query = query.where(entry.action == argument(partial(text, max_length=_NAME_MAX_LENGTH), action, "action"))
    if since is not None:
        query = query.where(entry.at >= argument(moment, since, "since"))
    if until is not None:
        query = query.where(entry.at < argument(moment, until, "until"))
    if after is not None:
        query = query.where(pw.Tuple(entry.at, entry.id) < pw.Tuple(*position(after, entry.at)))
    with _log() as database:
        return list(query.bind(database))


def export(target: Path | str | TextIO, **conditions: Any) -> int:
    """Write the entries that meet search()'s conditions as lines of JSON, newest first; gives their number.

    To a file, which is only there when it is complete, or to an open one; in constant memory.
    """
    unknown = sorted(conditions.keys() & {"after", "limit"})
    if unknown:
        raise ValidationError(f"export() has no {unknown[0]}: it writes all entries", field=unknown[0], rule="unknown")
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
    partial_file = path.with_name(path.name + ".partial")
    try:
        with open(partial_file, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial_file.replace(path)
    finally:
        partial_file.unlink(missing_ok=True)


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


def _user_id(user: User | int) -> int:
    number: int = argument(_id_number, user._pk if isinstance(user, User) else user, "user")
    return number


def _table_name(table: Any, name: str) -> str:
    model = type(table) if isinstance(table, pw.Model) else table
    is_model = isinstance(model, type) and issubclass(model, pw.Model)
    named: str = argument(partial(text, max_length=63), model._meta.table_name if is_model else table, name)
    return named


def _operation(value: Any) -> str:
    if value in OPERATIONS and isinstance(value, str):
        return value
    raise ValidationError(f"must be one of {', '.join(OPERATIONS)}", rule="operation")
