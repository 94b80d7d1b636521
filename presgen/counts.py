"""How many jobs there are, by status, and how many users and voice clones."""

from __future__ import annotations

from typing import Any, Final

import peewee as pw

from .clock import elapsed_seconds, server_time, start_of_day
from .compiled import Statement, compiled
from .models import PresentationJob, User, VoiceClone
from .status import UNFINISHED, JobStatus

__all__ = ["get_database_metrics", "get_live_counts"]

# Not of a column: the indexes that are read for it hold none that every row has.
_ROWS: Final = pw.fn.COUNT(pw.SQL("*"))


def get_database_metrics() -> dict[str, Any]:
    """Counts for monitoring, of jobs without the soft-deleted; one statement.

    The specification's five (`failed_jobs_today` by the day of creation, in UTC), `jobs_by_status` for every
    status, and `oldest_pending_seconds`, the age of the job that has waited longest (None without one). Finished
    jobs are counted in their index, so the time grows with their number; get_live_counts() does without them.
    """
    ((users, active, clones, failed_today, oldest, *by_status),) = _metrics(PresentationJob).run()
    jobs_by_status = _named(tuple(JobStatus), by_status)
    return {
        "total_users": users,
        "active_users": active,
        "total_voice_clones": clones,
        "failed_jobs_today": failed_today,
        "pending_jobs": jobs_by_status["pending"],
        "jobs_by_status": jobs_by_status,
        "oldest_pending_seconds": oldest,
    }


def get_live_counts() -> dict[str, int]:
    """Counts of unfinished jobs by status, without the soft-deleted; one statement.

    It reads unfinished jobs in their index, so finished jobs cost nothing, however many.
    """
    (counts,) = _live(PresentationJob).run()
    return _named(UNFINISHED, counts)


def _named(statuses: tuple[JobStatus, ...], counts: Any) -> dict[str, int]:
    return dict(zip((status.value for status in statuses), counts, strict=True))


@compiled
def _live(job: Any) -> Statement:
    return Statement(job, pw.Select((), [_alive_in(job, status) for status in UNFINISHED]))


@compiled
def _metrics(job: Any) -> Statement:
    database = job._meta.database
    failed_today = job.alive().where(job.status == JobStatus.FAILED, job.created_at >= start_of_day(database))
    # Alone, MIN could become a walk through all jobs, oldest first, to the first that is pending; COUNT forbids that.
    pending = job.alive().where(job.status == JobStatus.PENDING)
    age = elapsed_seconds(database, pw.fn.MIN(job.created_at), server_time(database))
    waiting = pending.select(age.alias("oldest"), _ROWS.alias("jobs")).alias("waiting")
    counts = (
        *(query.select(_ROWS) for query in (User.select(), User.alive(), VoiceClone.select(), failed_today)),
        pw.Case(None, [(waiting.c.jobs > 0, waiting.c.oldest)]),
        *(_alive_in(job, status) for status in JobStatus),
    )
    return Statement(job, pw.Select([waiting], counts))


def _alive_in(job: Any, status: JobStatus) -> Any:
    """How many jobs are in a status, less the soft-deleted: each from an index alone, which holds no deleted_at."""
    everything = job.select(_ROWS)
    deleted = everything.where(job.status == status, job.deleted_at.is_null(False))
    return _less(_completed(job) if status is JobStatus.COMPLETED else everything.where(job.status == status), deleted)


def _completed(job: Any) -> Any:
    """All less the others: to compare nearly every row takes twice as long."""
    others = [status for status in JobStatus if status is not JobStatus.COMPLETED]
    return _less(job.select(_ROWS), job.select(_ROWS).where(job.status.in_(others)))


def _less(some: Any, others: Any) -> Any:
    return pw.Expression(some, pw.OP.SUB, others)
