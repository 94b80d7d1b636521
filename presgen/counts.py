"""How many jobs there are, by status, and how many users and voice clones."""

from __future__ import annotations

from typing import Any, Final

import peewee as pw

from .clock import elapsed_seconds, server_time, start_of_day
from .context import session
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
    job, database = PresentationJob, PresentationJob._meta.database
    failed_today = (job.status == JobStatus.FAILED) & (job.created_at >= start_of_day(database))
    metrics = _counted(
        tuple(JobStatus),
        total_users=User.select(),
        active_users=User.select().where(User.is_active),
        total_voice_clones=VoiceClone.select(),
        failed_jobs_today=job.alive().where(failed_today),
    )
    return {**metrics, "pending_jobs": metrics["jobs_by_status"]["pending"]}


def get_live_counts() -> dict[str, Any]:
    """Counts of unfinished jobs, without the soft-deleted; one statement.

    `jobs_by_status` for the unfinished statuses alone, and `oldest_pending_seconds`, as in get_database_metrics().
    The statement reads unfinished jobs in their indexes, so finished jobs cost nothing, however many.
    """
    return _counted(UNFINISHED)


def _counted(statuses: tuple[JobStatus, ...], **others: Any) -> dict[str, Any]:
    """The counts of other rows, and what is known of jobs in these statuses, of which pending is one."""
    job, database = PresentationJob, PresentationJob._meta.database
    age = elapsed_seconds(database, pw.fn.MIN(job.created_at), server_time(database))
    # MIN alone could become a walk through all jobs, oldest first, to the first that is pending; COUNT forbids that.
    pending = job.alive().where(job.status == JobStatus.PENDING)
    waiting = pending.select(_ROWS.alias("pending"), age.alias("oldest")).alias("waiting")
    # A range of the index for each status: one pass over all of it, with FILTERs, takes twice as long.
    rest = {status.value: job.alive().where(job.status == status) for status in statuses if status != "pending"}
    counts = [query.select(_ROWS).alias(name) for name, query in {**others, **rest}.items()]
    with session(database):
        row = pw.Select([waiting], [waiting.c.pending, waiting.c.oldest, *counts]).dicts().get(database)
    return {
        **{name: row[name] for name in others},
        "jobs_by_status": {status.value: row[status.value] for status in statuses},
        "oldest_pending_seconds": row["oldest"],
    }
