"""Claimable: how jobs get into the queue, and out of it into a worker's hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import peewee as pw

from ..bulk_copy import copy_rows
from ..clock import backoff_time, database_now, is_sqlite
from ..context import session
from ..errors import ValidationError
from ..status import RUNNING, UNFINISHED, JobStatus
from ..validation import whole_number
from .fenced import DEFAULT_LEASE, in_seconds, log_after_commit, logger
from .outcomes import entered, requeued

# A bound on how many expired leases one claim takes back, so that a claim stays short after an outage.
REAP_LIMIT: Final = 100
LEASE_EXPIRED: Final = "the worker's lease expired: it crashed, hung or lost its connection"
_SQLITE_BATCH: Final = 500
# As literals: with parameters SQLite cannot tell that the partial index of running jobs fits.
_RUNNING: Final = tuple(pw.SQL(f"'{status.value}'") for status in RUNNING)
_ENQUEUED: Final = ("owner", "voice_clone", "s3_pptx_path", "priority", "run_at", "max_attempts", "idempotency_key")
"""What a caller may set of a job; the rest is the life cycle's."""


class Claimable:
    """Statements on the queue; all are class methods of PresentationJob."""

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
        row = cls.timed(cls.cleaned(dict(zip(_ENQUEUED, given, strict=True))))
        insert = pw.ModelInsert(cls, row).returning(cls)
        with session(cls._meta.database):
            if idempotency_key is None:
                return next(iter(insert.execute()))
            twin = (
                (cls.owner == row[cls.owner])
                & (cls.idempotency_key == row[cls.idempotency_key])
                & cls.status.in_(UNFINISHED)
            )
            while True:  # until there is a twin, or none: it may be finished between the two statements
                inserted = insert.on_conflict(action="nothing").execute()
                job = next(iter(inserted), None) or cls.get_or_none(twin)
                if job is not None:
                    return job

    @classmethod
    def enqueue_many(cls: Any, rows: Iterable[Mapping[str, Any]]) -> int:
        """Add a job for each mapping of enqueue()'s arguments; gives their number. All are added, or none.

        The rows are validated and streamed (COPY on PostgreSQL), in constant memory; the iterable must not use the
        database while it is read.
        A ValidationError names the row, counted from 1. Equal idempotency keys raise ConstraintViolation.
        """
        fields = [cls._meta.fields[name] for name in _ENQUEUED]
        database = cls._meta.database
        with session(database):
            validated = _validated(cls, fields, rows, now=database_now(database))
            if not is_sqlite(database):
                return copy_rows(database, cls._meta.table_name, fields, validated)
            added = 0
            with database.atomic():
                for batch in pw.chunked(validated, _SQLITE_BATCH):
                    pw.ModelInsert(cls, batch, fields).execute()
                    added += len(batch)
            return added

    @classmethod
    def claim(cls: Any, worker: str, limit: int = 1, *, lease: timedelta | float = DEFAULT_LEASE) -> list[Any]:
        """Take up to `limit` due jobs into this worker's hand, most urgent first, for `lease` (seconds or timedelta).

        Takes expired leases back first. On PostgreSQL it never waits for another worker's claim; SQLite has one
        write lock, for which it waits.
        """
        worker = cls.worker.clean(worker)
        lease_seconds = in_seconds(lease, "lease")
        if whole_number(limit, bits=32) < 1:
            raise ValidationError("limit must be at least 1", field="limit", rule="range")
        with session(cls._meta.database):
            cls.reap()
            jobs = list(cls._claim_query(worker, limit, lease_seconds).execute())
        for job in jobs:
            job.lease_seconds = lease_seconds
            log_after_commit(cls._meta.database, job.id, JobStatus.PENDING, job.status)
        return sorted(jobs, key=lambda job: (-job.priority, job.run_at, job.id))

    @classmethod
    def _claim_query(cls: Any, worker: str, limit: int, lease_seconds: float) -> Any:
        due = (
            cls.select(cls.id)
            .where(
                cls.status == JobStatus.PENDING,
                cls.run_at <= cls.server_time(),
                cls.attempt < cls.max_attempts,
                cls.deleted_at.is_null(),
            )
            .order_by(cls.priority.desc(), cls.run_at, cls.id)
            .limit(limit)
        )
        taken = {
            # Another program may have put the job back to pending and left what would break a CHECK now.
            **requeued(cls),
            cls.status: JobStatus.PROCESSING_SLIDES,
            cls.worker: worker,
            cls.attempt: cls.attempt + 1,
            cls.lease_expires_at: cls.server_time(plus_seconds=lease_seconds),
            cls.started_at: cls.server_time(),
        }
        return cls._update_chosen(due, taken).returning(cls)

    @classmethod
    def reap(cls: Any) -> int:
        """Take back jobs whose lease has expired; gives their number.

        The lost attempt counts: they go to PENDING with a backoff, to FAILED when no attempt is left, or to
        CANCELLED when that was asked for.
        """
        lost = (
            cls.select(cls.id)
            .where(cls.status.in_(_RUNNING), cls.lease_expires_at < cls.server_time())
            .order_by(cls.id)
            .limit(REAP_LIMIT)
        )
        is_cancelled, is_over = cls.cancel_requested_at.is_null(False), cls.attempt >= cls.max_attempts
        outcomes = (
            (is_cancelled, entered(cls, JobStatus.CANCELLED)),
            (is_over, {**entered(cls, JobStatus.FAILED), cls.error_message: LEASE_EXPIRED}),
        )
        back = {**requeued(cls), cls.error_message: LEASE_EXPIRED, cls.run_at: backoff_time(cls._meta.database)}
        reaped = {field: _by_case(field, outcomes, back) for field in {*back, *outcomes[0][1], *outcomes[1][1]}}
        jobs = list(cls._update_chosen(lost, reaped).returning(cls.id, cls.status).tuples())
        for job_id, status in jobs:
            logger.info("Job %s status changed: its lease expired -> %s", job_id, status)
        return len(jobs)

    @classmethod
    def _update_chosen(cls: Any, chosen: Any, row: dict[Any, Any]) -> Any:
        """Update the rows that a query of ids chooses, leaving out those that somebody else holds locked.

        The CTE is materialised: as a plain IN (…) a nested loop may run it again for each row, and then takes
        more rows than its LIMIT.
        """
        if not is_sqlite(cls._meta.database):
            chosen = chosen.for_update("FOR UPDATE SKIP LOCKED")
        cte = chosen.cte("chosen", materialized=True)
        return pw.ModelUpdate(cls, cls.touched(row)).from_(cte).where(cls.id == cte.c.id).with_cte(cte)


def _by_case(field: Any, outcomes: Sequence[tuple[Any, dict[Any, Any]]], otherwise: dict[Any, Any]) -> Any:
    """A column's value under the first condition that holds; a row that leaves it out keeps the column as it is."""
    values = [row.get(field, field) for _, row in outcomes] + [otherwise.get(field, field)]
    if all(value is None for value in values):
        return None  # PostgreSQL would take a CASE of NULLs for text
    *chosen, last = [value if isinstance(value, pw.Node) else field.to_value(value) for value in values]
    return pw.Case(None, list(zip([condition for condition, _ in outcomes], chosen, strict=True)), last)


def _validated(
    model: Any, fields: list[Any], rows: Iterable[Mapping[str, Any]], *, now: datetime
) -> Iterator[list[Any]]:
    """The values of each row in the order of `fields`, in normal form; jobs without `run_at` are due now."""
    optional = {field: field.default for field in fields if not field.is_required}
    for number, row in enumerate(rows, start=1):
        try:
            if not isinstance(row, Mapping):
                raise ValidationError(f"must be a mapping, not {type(row).__name__}", rule="type")
            cleaned = model.cleaned({**optional, **row})
            extra = {model.field_of(key) for key in row} - set(fields)
            if extra:
                name = min(field.name for field in extra)
                raise ValidationError(f"{name} cannot be set by enqueue_many()", field=name, rule="unknown")
        except ValidationError as error:
            raise ValidationError(f"row {number}: {error}", field=error.field, rule=error.rule) from None
        cleaned.setdefault(model.run_at, now)
        yield [cleaned[field] for field in fields]
