"""How the queue is doing: leases, attempts, waiting times, stages, rates and what vacuum has left to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import peewee as pw

from .clock import elapsed_seconds, is_sqlite, server_time
from .context import session
from .models import JobEvent, PresentationJob
from .status import RUNNING, JobStatus
from .validation import argument, at_least

__all__ = ["FinishedPerMinute", "JobInHand", "get_finished_per_minute", "get_jobs_in_hand", "get_queue_metrics"]

EVENTS_SAMPLED: Final = 10_000
"""How many of the latest events the stages and the rates are measured from."""
RATE_WINDOW_SECONDS: Final = 300
_PERCENTILES: Final = {"p50": 50, "p95": 95}

# The dead rows of the jobs, and the age of the oldest transaction, prepared ones included, that keeps vacuum from
# removing what died after it began. A running VACUUM holds up no other one, so it does not count.
_VACUUM: Final = """
SELECT
    (SELECT n_dead_tup FROM pg_stat_user_tables WHERE relid = 'presentation_jobs'::regclass),
    (
        SELECT date_part('epoch', statement_timestamp() - MIN(began))
        FROM (
            SELECT xact_start AS began
            FROM pg_stat_activity
            WHERE datname = current_database()
              AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
              AND pid NOT IN (SELECT pid FROM pg_stat_progress_vacuum)
            UNION ALL
            SELECT prepared FROM pg_prepared_xacts WHERE database = current_database()
        ) AS holders
    )
"""


@dataclass(frozen=True)
class JobInHand:
    """A running job, as its worker's last sign of life left it."""

    id: int
    worker: str | None
    status: JobStatus
    attempt: int
    progress: float
    lease_seconds_left: float | None
    """Negative once the lease has expired; None for a job that runs without one."""
    silent_seconds: float
    """Since the job was last written to, as every heartbeat does."""


@dataclass(frozen=True)
class FinishedPerMinute:
    """Events a minute: attempts that ended in a video, in a dead letter, or back in the queue."""

    completed: float
    failed: float
    returned: float


def get_queue_metrics() -> dict[str, Any]:
    """What get_database_metrics() does not tell; three statements on PostgreSQL, two on SQLite.

    They read unfinished jobs and the latest EVENTS_SAMPLED events, so finished jobs cost nothing, however many.
    The soft-deleted are left out but for their events. `expired_leases`, `running_jobs` and `retrying_jobs`
    (pending after an attempt) are counts, `attempts` the sum over unfinished jobs, `oldest_claimable_seconds` how
    long the job that has been due for longest has waited (None without one). `stage_seconds` has `count`, `p50` and
    `p95` (nearest rank, None without a sample) of each running stage, from the event that entered it to the job's
    next. `dead_tuples` and `oldest_snapshot_seconds` (by the start of its transaction) are None on SQLite.
    """
    database = PresentationJob._meta.database
    with session(database):
        dead_tuples, oldest_snapshot = _vacuum(database)
        return {
            **_unfinished_query(database).dicts().get(database),
            "stage_seconds": _stage_seconds(database),
            "dead_tuples": dead_tuples,
            "oldest_snapshot_seconds": oldest_snapshot,
        }


def get_jobs_in_hand(limit: int) -> list[JobInHand]:
    """Up to `limit` running jobs, those whose lease ends first at the top; one statement."""
    job, database = PresentationJob, PresentationJob._meta.database
    now = server_time(database)
    query = (
        job.alive()
        .select(
            job.id,
            job.worker,
            job.status,
            job.attempt,
            job.progress,
            elapsed_seconds(database, now, job.lease_expires_at),
            elapsed_seconds(database, job.updated_at, now),
        )
        .where(job.status.among(RUNNING))
        .order_by(job.lease_expires_at.asc(nulls="last"), job.id)
        .limit(argument(at_least(1), limit, "limit"))
    )
    with session(database):
        return [JobInHand(*row) for row in query.tuples()]


def get_finished_per_minute() -> FinishedPerMinute:
    """The rates over the last RATE_WINDOW_SECONDS, or as far back as EVENTS_SAMPLED events go; one statement."""
    event, database = JobEvent, JobEvent._meta.database
    now = server_time(database)
    columns = (event.from_status, event.to_status, event.at)
    recent = event.select(*columns).order_by(event.id.desc()).limit(EVENTS_SAMPLED).alias("recent")
    to_status, at = recent.c.to_status, recent.c.at
    was_running = recent.c.from_status.in_([stage.value for stage in RUNNING])
    ends = (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.PENDING)
    count = pw.fn.COUNT(to_status)
    query = pw.Select(
        [recent],
        [
            *(count.filter(was_running & (to_status == end.value)) for end in ends),
            count,
            elapsed_seconds(database, pw.fn.MIN(at), now),
        ],
    ).where(at > server_time(database, plus_seconds=-RATE_WINDOW_SECONDS))
    with session(database):
        *counts, total, reach = query.tuples().get(database)
    # A full sample ends before the window does. At least a second: all of it may be of one moment.
    seconds = max(reach, 1.0) if total == EVENTS_SAMPLED else RATE_WINDOW_SECONDS
    return FinishedPerMinute(*(60 * count / seconds for count in counts))


def _unfinished_query(database: Any) -> Any:
    job, now = PresentationJob, server_time(database)
    attempts = pw.fn.COALESCE(pw.fn.SUM(job.attempt), 0)
    running = (
        job.alive()
        .select(
            pw.fn.COUNT(job.id).alias("jobs"),
            pw.fn.COUNT(job.id).filter(job.lease_expires_at < now).alias("expired"),
            attempts.alias("attempts"),
        )
        .where(job.status.among(RUNNING))
        .alias("running")
    )
    is_due = (job.run_at <= now) & (job.attempt < job.max_attempts)
    pending = (
        job.alive()
        .select(
            pw.fn.COUNT(job.id).filter(job.attempt > 0).alias("retrying"),
            attempts.alias("attempts"),
            elapsed_seconds(database, pw.fn.MIN(job.run_at).filter(is_due), now).alias("oldest"),
        )
        .where(job.status == JobStatus.PENDING)
        .alias("pending")
    )
    return pw.Select(
        [running, pending],
        [
            running.c.expired.alias("expired_leases"),
            running.c.jobs.alias("running_jobs"),
            (running.c.attempts + pending.c.attempts).alias("attempts"),
            pending.c.retrying.alias("retrying_jobs"),
            pending.c.oldest.alias("oldest_claimable_seconds"),
        ],
    )


def _stage_seconds(database: Any) -> dict[str, dict[str, Any]]:
    nothing = dict.fromkeys(("count", *_PERCENTILES))
    found = {stage.value: {**nothing, "count": 0} for stage in RUNNING}
    for row in _stages_query(database).dicts().execute(database):
        found[row.pop("stage")] = row
    return found


def _stages_query(database: Any) -> Any:
    event = JobEvent
    recent = (
        event.select(event.id, event.job, event.to_status, event.at)
        .order_by(event.id.desc())
        .limit(EVENTS_SAMPLED)
        .alias("recent")
    )
    # The newest events are all in the sample, so an event without a next one there has none.
    next_at = pw.fn.LEAD(recent.c.at).over(partition_by=[recent.c.job_id], order_by=[recent.c.id])
    stays = pw.Select(
        [recent], [recent.c.to_status.alias("stage"), recent.c.at.alias("began"), next_at.alias("ended")]
    ).alias("stays")
    measured = (
        pw.Select([stays], [stays.c.stage, elapsed_seconds(database, stays.c.began, stays.c.ended).alias("seconds")])
        .where(stays.c.ended.is_null(False), stays.c.stage.in_([stage.value for stage in RUNNING]))
        .alias("measured")
    )
    by_stage = [measured.c.stage]
    ranked = pw.Select(
        [measured],
        [
            measured.c.stage,
            measured.c.seconds,
            pw.fn.ROW_NUMBER().over(partition_by=by_stage, order_by=[measured.c.seconds]).alias("place"),
            pw.fn.COUNT(measured.c.seconds).over(partition_by=by_stage).alias("total"),
        ],
    ).alias("ranked")
    # Nearest rank: the first value with at least so many of a hundred at or below it, the ⌈total * percent / 100⌉th.
    percentiles = [
        pw.fn.MIN(ranked.c.seconds).filter(ranked.c.place * 100 >= ranked.c.total * percent).alias(name)
        for name, percent in _PERCENTILES.items()
    ]
    columns = [ranked.c.stage, pw.fn.COUNT(ranked.c.seconds).alias("count"), *percentiles]
    return pw.Select([ranked], columns).group_by(ranked.c.stage)


def _vacuum(database: Any) -> tuple[int | None, float | None]:
    if is_sqlite(database):
        return None, None
    dead_tuples, oldest_snapshot = database.execute_sql(_VACUUM).fetchone()
    return dead_tuples, oldest_snapshot
