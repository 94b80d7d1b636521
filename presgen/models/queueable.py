"""Queueable: how jobs get into the queue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from datetime import datetime, timezone
from functools import partial
from typing import Any, Final

import peewee as pw

from ..bulk_copy import copy_rows
from ..clock import is_sqlite
from ..compiled import compiled
from ..context import session
from ..copy_text import text_of
from ..errors import ConstraintViolation, DatabaseBusy, ValidationError
from ..rows import Reading
from ..status import UNFINISHED
from ..validation import argument, function, mapping, several
from .written import Shape, shape_of, statement_for, template

_INSERTED_AT_ONCE: Final = 500
_ROWS_PER_REPORT: Final = 10_000
# PostgreSQL copies into no table whose rows it filters.
_NOW_AND_WHETHER_FILTERED: Final = "SELECT statement_timestamp(), row_security_active(%s)"
_LOOKS: Final = 20
_ONE_UNFINISHED: Final = "idx_presentation_jobs_idempotency_key"
_ENQUEUED: Final = ("owner", "voice_clone", "s3_pptx_path", "priority", "run_at", "max_attempts", "idempotency_key")
"""What a caller may set of a job; the rest is the life cycle's."""

_Way = Callable[[Any], Any]
"""What a field's values go through on their way into the table; it raises the ValidationErrors of the field."""


@compiled
def _insert(model: Any, given: Shape, or_nothing: bool) -> Reading:
    insert = pw.ModelInsert(model, model.timed(template(model, given))).returning(*model._meta.sorted_fields)
    return Reading(model, insert.on_conflict(action="nothing") if or_nothing else insert, has_one_plan=True)


class Queueable:
    """Statements that add jobs; class methods of PresentationJob."""

    @classmethod
    def enqueue(
        cls: Any,
        *,
        owner: Any,
        voice_clone: Any,
        s3_pptx_path: str,
        priority: int = 0,
        run_at: datetime | None = None,
        max_attempts: int = 3,
        idempotency_key: str | None = None,
    ) -> Any:
        """Add a job, in the caller's transaction if there is one. Higher priorities are claimed first.

        While an unfinished job of the owner has the same `idempotency_key`, that job is given back instead.
        """
        given = (owner, voice_clone, s3_pptx_path, priority, run_at, max_attempts, idempotency_key)
        row = cls.filled(cls.cleaned(dict(zip(_ENQUEUED, given, strict=True))))
        insert = statement_for(_insert, cls, shape_of(row), idempotency_key is not None)
        add = partial(insert.instances, {field.name: value for field, value in row.items()})
        with session(cls._meta.database):
            if idempotency_key is None:
                return add()[0]
            twin = (
                (cls.owner == row[cls.owner])
                & (cls.idempotency_key == row[cls.idempotency_key])
                & cls.status.in_(UNFINISHED)
            )
            for _ in range(_LOOKS):  # until there is a twin, or none: it may be finished between the two statements
                job = cls._added(add) or cls.get_or_none(twin)
                if job is not None and job.deleted_at is not None:
                    raise ConstraintViolation(
                        f"job {job.id} has the idempotency key, is not finished and was deleted; cancel it first",
                        constraint=_ONE_UNFINISHED,
                    )
                if job is not None:
                    return job
            raise DatabaseBusy("a job that cannot be seen from here has the idempotency key; try it again")

    @classmethod
    def _added(cls: Any, add: Callable[[], list[Any]]) -> Any:
        """The job that was inserted, None where its key has a twin; the caller's transaction goes on in any case."""
        database = cls._meta.database
        try:
            # Of twins in two partitions a trigger tells, and what a trigger raises undoes what is not in a savepoint.
            with database.atomic() if database.in_transaction() else nullcontext():
                return next(iter(add()), None)
        except ConstraintViolation as error:
            if error.constraint != _ONE_UNFINISHED:
                raise
            return None

    @classmethod
    def enqueue_many(
        cls: Any, rows: Iterable[Mapping[str, Any]], *, progress: Callable[[int], object] | None = None
    ) -> int:
        """Add a job for each mapping of enqueue()'s arguments; gives their number. All are added, or none.

        The rows are validated and streamed (by COPY on PostgreSQL, but under row-level security), in constant memory.
        `progress(count)` is called with the number of rows so far after every 10,000, and with all of them at the end,
        before they are committed; an error that it raises is raised here. Neither it nor the iterable may use the
        database meanwhile.
        A ValidationError names the row, counted from 1. Equal idempotency keys raise ConstraintViolation.
        """
        database, rows = cls._meta.database, argument(several, rows, "rows")
        if progress is not None:
            rows = _reported(rows, argument(function, progress, "progress"))
        fields = [cls._meta.fields[name] for name in _ENQUEUED]
        with session(database):
            now, may_copy = _now_and_whether_it_copies(database, cls._meta.table_name)
            ways = {field: text_of(field) if may_copy else _value_of(field) for field in fields}
            ways[cls.run_at] = _unless_none(ways[cls.run_at], now)
            load = partial(copy_rows, database, cls._meta.table_name) if may_copy else partial(_insert_rows, cls)
            with database.atomic():
                added: int = load(fields, _validated(cls, ways, rows))
                if progress is not None:
                    progress(added)
            return added


def _now_and_whether_it_copies(database: Any, table: str) -> tuple[datetime, bool]:
    """The database's time, and whether COPY can load the table; one statement on PostgreSQL, none on SQLite."""
    if is_sqlite(database):
        return datetime.now(timezone.utc), False
    now, is_filtered = database.execute_sql(_NOW_AND_WHETHER_FILTERED, (table,)).fetchone()
    return now, not is_filtered


def _reported(rows: Iterable[Any], progress: Callable[[int], object]) -> Iterator[Any]:
    for passed, row in enumerate(rows):
        if passed and passed % _ROWS_PER_REPORT == 0:
            progress(passed)
        yield row


def _insert_rows(model: Any, fields: list[Any], rows: Iterable[list[Any]]) -> int:
    added = 0
    for batch in pw.chunked(rows, _INSERTED_AT_ONCE):
        pw.ModelInsert(model, batch, fields).execute()
        added += len(batch)
    return added


def _value_of(field: Any) -> _Way:
    # Not clean(), here as with COPY: SQL expressions are no values.
    return partial(field.clean_value, or_null=field.null)


def _unless_none(way: _Way, value: Any) -> _Way:
    """The way of a field's values where None stands for `value`."""
    of_none = way(value)
    return lambda given: of_none if given is None else way(given)


def _validated(model: Any, ways: Mapping[Any, _Way], rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Any]]:
    """What becomes of the values of each row, in the order of the fields that have `ways`."""
    layouts: dict[tuple[Any, ...], list[tuple[Any, Any, _Way]]] = {}  # most rows have the keys of the one before
    for number, row in enumerate(rows, start=1):
        try:
            given = row if type(row) is dict else dict(mapping(row))
            keys = tuple(given)
            layout = layouts.get(keys) or layouts.setdefault(keys, _layout(model, ways, keys))
            values = [way(given.get(key, default)) for key, default, way in layout]
        except ValidationError as error:
            raise ValidationError(f"row {number}: {error}", field=error.field, rule=error.rule, row=number) from None
        yield values


def _layout(model: Any, ways: Mapping[Any, _Way], keys: Iterable[Any]) -> list[tuple[Any, Any, _Way]]:
    """For each field the key of its value, what it is without that key, and its way."""
    key_of = {model.field_of(key): key for key in keys}
    extra = key_of.keys() - ways.keys()
    if extra:
        name = min(field.name for field in extra)
        raise ValidationError(f"{name} cannot be set by enqueue_many()", field=name, rule="unknown")
    return [(key_of.get(field, field.name), field.default, way) for field, way in ways.items()]
