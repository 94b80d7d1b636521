"""Claimable: how jobs get out of the queue, into a worker's hand."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import timedelta
from typing import Any, Final

import peewee as pw

from ..clock import is_sqlite
from ..compiled import Parameter, compiled
from ..context import session
from ..rows import Reading
from ..status import RUNNING, JobStatus
from ..validation import argument, at_least, flag
from .chosen import update_chosen
from .fenced import DEFAULT_LEASE, in_seconds, log_after_commit
from .outcomes import leased, requeued
from .written import Row

# Claims at the same time look at the same candidates; each passes over those that another one holds locked.
_SPARE_CANDIDATES: Final = 100
# Counting an owner's jobs and claiming are one step only while nobody else counts.
_ONE_AT_A_TIME: Final = "SELECT pg_advisory_xact_lock(hashtext('presgen.claim'), 0)"


@compiled
def _claim(model: Any, limit: int) -> Reading:
    """Each row ends with whether leases have expired. PostgreSQL plans for the limit, which is part of the text."""
    claim, has_expired = model._claim_query(model._due(limit)), pw.fn.EXISTS(model._expired_query())
    return Reading(model, claim.returning(*model._meta.sorted_fields, has_expired), is_by_key=True)


@compiled
def _claim_by_owner(model: Any, fair: bool, is_capped: bool) -> Reading:
    chosen, ctes = model._due_by_owner(fair, is_capped)
    return Reading(model, model._claim_query(chosen, ctes).returning(*model._meta.sorted_fields))


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

        Takes expired leases back as well. A job re-enters the stage that it had reached. With `fair`, owners with few
        jobs running come before those with many, whatever the priorities. With `max_per_owner`, no claim that has the
        option takes an owner above so many running jobs. On PostgreSQL a claim never waits for another worker's,
        but for those with `max_per_owner`, of which there is one at a time; SQLite has one write lock, for which it
        waits. Fair and capped claims read the whole queue.
        """
        worker = cls.worker.clean_value(worker)
        lease_seconds = in_seconds(lease, "lease")
        limit = argument(at_least(1), limit, "limit")
        if max_per_owner is not None:
            max_per_owner = argument(at_least(1), max_per_owner, "max_per_owner")
        fair = argument(flag, fair, "fair")
        by_owner = fair or max_per_owner is not None
        claim = _claim_by_owner(cls, fair, max_per_owner is not None) if by_owner else _claim(cls, limit)
        values = {"worker": worker, "lease_seconds": lease_seconds, "limit": limit, "max_per_owner": max_per_owner}
        with session(cls._meta.database) as database, ExitStack() as stack:
            if by_owner:
                cls.reap()  # those that are back count no more
            if max_per_owner is not None:
                if not cls._due(1).exists():
                    return []  # idle workers do not queue up for the lock
                stack.enter_context(database.atomic())
                if not is_sqlite(database):
                    database.execute_sql(_ONE_AT_A_TIME)
            rows, is_in_utc = claim.fetch(values)
            if not by_owner and not (rows and not rows[0][-1]):
                cls.reap()  # after the claim, since what is back is due later
        jobs = claim.read(rows, is_in_utc=is_in_utc)
        for job in jobs:
            job.lease_seconds = lease_seconds
            job.claim_token = (worker, job.attempt)
            job.resumed_at = job.status if job.status is not RUNNING[0] else None
            log_after_commit(cls._meta.database, job.id, JobStatus.PENDING, job.status)
        return sorted(jobs, key=lambda job: (-job.priority, job.run_at, job.id))

    @classmethod
    def _claim_query(cls: Any, chosen: Any, ctes: tuple[Any, ...] = ()) -> Any:
        return update_chosen(cls, chosen, cls._taken(), ctes=ctes)

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
