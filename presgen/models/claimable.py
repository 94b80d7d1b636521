"""Claimable: how jobs get out of the queue, into a worker's hand."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from typing import Any, Final

import peewee as pw

from ..clock import is_sqlite
from ..compiled import Parameter, Values, compiled
from ..context import session
from ..errors import PresgenError
from ..rows import Reading
from ..status import RUNNING, JobStatus
from ..validation import argument, at_least, flag
from .chosen import update_chosen
from .fenced import DEFAULT_LEASE, in_seconds, log_after_commit, logger
from .outcomes import leased, requeued
from .written import Row

# Claims at the same time look at the same candidates; each passes over those that another one holds locked.
_SPARE_CANDIDATES: Final = 100
# Counting an owner's jobs and claiming are one step only while nobody else counts.
_ONE_AT_A_TIME: Final = "SELECT pg_advisory_xact_lock(hashtext('presgen.claim'), 0)"


@compiled
def _claim(model: Any, limit: int) -> Reading:
    """Each row ends with whether leases have expired. PostgreSQL plans for the limit, which is part of the text."""
    claim, has_expired = update_chosen(model, model._due(limit), model._taken()), pw.fn.EXISTS(model._expired_query())
    return Reading(model, claim.returning(*model._meta.sorted_fields, has_expired), has_one_plan=True)


@compiled
def _claim_by_owner(model: Any, fair: bool, is_capped: bool) -> Reading:
    chosen, ctes = model._due_by_owner(fair, is_capped)
    claim = update_chosen(model, chosen, model._taken(), ctes=ctes)
    return Reading(model, claim.returning(*model._meta.sorted_fields))


class Claimable:
    """The statement that takes jobs out of the queue; a class method of PresentationJob."""

    @classmethod
    def claim(
        cls: Any,
        worker: str,
        limit: int = 1,
        *,
        lease: timedelta | float = DEFAULT_LEASE,
        fair: bool = False,
        max_per_owner: int | None = None,
    ) -> list[Any]:
        """Take up to `limit` due jobs into this worker's hand, most urgent first, for `lease` (seconds or timedelta).

        Takes expired leases back as well: before a fair or capped claim, after any other. A job re-enters the stage
        that it had reached. With `fair`, owners with few jobs running come before those with many, whatever the
        priorities. With `max_per_owner`, no claim that has the option takes an owner above so many running jobs. On
        PostgreSQL a claim never waits for another worker's, but for those with `max_per_owner`, of which there is one
        at a time; SQLite has one write lock, for which it waits. Fair and capped claims read the whole queue.
        """
        worker = cls.worker.clean_value(worker)
        lease_seconds = in_seconds(lease, "lease")
        limit = argument(at_least(1), limit, "limit")
        if max_per_owner is not None:
            max_per_owner = argument(at_least(1), max_per_owner, "max_per_owner")
        fair = argument(flag, fair, "fair")
        values = {"worker": worker, "lease_seconds": lease_seconds, "limit": limit, "max_per_owner": max_per_owner}
        with session(cls._meta.database):
            jobs = cls._take(values) if not fair and max_per_owner is None else cls._take_by_owner(fair, values)
        for job in jobs:
            job.lease_seconds = lease_seconds
            job.claim_token = (worker, job.attempt)
            job.resumed_at = job.status if job.status is not RUNNING[0] else None
            log_after_commit(cls._meta.database, job.id, JobStatus.PENDING, job.status)
        return sorted(jobs, key=lambda job: (-job.priority, job.run_at, job.id))

    @classmethod
    def _take(cls: Any, values: Values) -> list[Any]:
        claim = _claim(cls, values["limit"])
        rows, is_in_utc = claim.fetch(values)
        if not rows or rows[0][-1]:
            cls._reap_after(rows)  # what is back is due later
        return claim.read(rows, is_in_utc=is_in_utc)

    @classmethod
    def _reap_after(cls: Any, claimed: Sequence[Any]) -> None:
        """Take expired leases back; jobs that are claimed already are the caller's, whatever comes of it."""
        try:
            cls.reap()
        except (PresgenError, pw.PeeweeException) as error:
            if not claimed or cls._meta.database.in_transaction():
                raise
            logger.warning("expired leases could not be taken back: %s", error)

    @classmethod
    def _take_by_owner(cls: Any, fair: bool, values: Values) -> list[Any]:
        database, is_capped = cls._meta.database, values["max_per_owner"] is not None
        cls.reap()  # before, since those that are back count no more
        with ExitStack() as stack:
            if is_capped:
                if not cls._due(1).exists():
                    return []  # idle workers do not queue up for the lock
                stack.enter_context(database.atomic())
                if not is_sqlite(database):
                    database.execute_sql(_ONE_AT_A_TIME)
            return _claim_by_owner(cls, fair, is_capped).instances(values)

    @classmethod
    def _taken(cls: Any) -> Row:
        event = cls.events.rel_model
        reached = event.select(event.from_status).where(event.job == cls.id, event.from_status.in_(RUNNING))
        return {
            # Another program may have put the job back to pending and left what would break a CHECK now.
            **requeued(cls),
            cls.status: pw.fn.COALESCE(reached.order_by(event.id.desc()).limit(1), RUNNING[0]),
            **leased(cls),
            cls.worker: cls.worker.parameter("worker"),
            cls.attempt: cls.attempt + 1,
            cls.started_at: cls.server_time(),
        }

    @classmethod
    def _due(cls: Any, limit: int) -> Any:
        return cls.select(cls.id).where(cls._is_due()).order_by(*_by_urgency(cls)).limit(limit)

    @classmethod
    def _due_by_owner(cls: Any, fair: bool, is_capped: bool) -> tuple[Any, tuple[Any, ...]]:
        """Due jobs by share: how many jobs their owner has running, counting those that would be claimed before."""
        running_first = cls.status == JobStatus.PENDING
        share = pw.fn.ROW_NUMBER().over(partition_by=[cls.owner], order_by=[running_first, *_by_urgency(cls)])
        ranked = (
            cls.select(cls.id, cls.status, cls.priority, cls.run_at, share.alias("share"))
            .where(cls.status.in_(RUNNING) | cls._is_due())
            .cte("ranked")
        )
        waiting = pw.Select([ranked], [ranked.c.id, ranked.c.share]).where(ranked.c.status == JobStatus.PENDING)
        if is_capped:
            waiting = waiting.where(ranked.c.share <= Parameter("max_per_owner"))
        waiting = waiting.order_by(*([ranked.c.share] if fair else []), *_by_urgency(ranked.c))
        candidates = waiting.limit(Parameter("limit") + _SPARE_CANDIDATES).cte("candidates")
        due = (
            cls.select(cls.id)
            .join(candidates, on=(candidates.c.id == cls.id))
            .where(cls._is_due())  # again, for a row that has changed since it was ranked
            .order_by(*([candidates.c.share] if fair else []), *_by_urgency(cls))
            .limit(Parameter("limit"))
        )
        return due, (ranked, candidates)

    @classmethod
    def _is_due(cls: Any) -> Any:
        return (
            (cls.status == JobStatus.PENDING)
            & (cls.run_at <= cls.server_time())
            & (cls.attempt < cls.max_attempts)
            & cls.deleted_at.is_null()
        )


def _by_urgency(job: Any) -> tuple[Any, ...]:
    return job.priority.desc(), job.run_at, job.id
