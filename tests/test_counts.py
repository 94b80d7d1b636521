"""Counts of jobs: the same as counting one by one, and each from the index that is there for it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from presgen import DatabaseManager, JobStatus, PresentationJob, User, VoiceClone
from presgen.queries import get_database_metrics, get_live_counts
from presgen.status import UNFINISHED

JOBS = 50_000


def now() -> datetime:
    return datetime.now(timezone.utc)


def add_jobs(voice: VoiceClone, jobs: list[dict[str, Any]]) -> None:
    """Jobs in any status, as another program might write them."""
    filled = {"owner": voice.owner_id, "voice_clone": voice, "s3_pptx_path": "/x.pptx", "s3_video_path": "/x.mp4"}
    with PresentationJob._meta.database.atomic():
        for first in range(0, len(jobs), 500):
            PresentationJob.insert_many([{**filled, **job} for job in jobs[first : first + 500]]).execute()


@pytest.mark.parametrize("seed", range(5))
def test_the_counts_are_those_of_counting_one_by_one(
    seed: int, db: DatabaseManager, voice: VoiceClone, statements: list[str]
) -> None:
    chance = random.Random(seed)
    User.create(name="gone", is_active=False)
    began = now()
    midnight = began.replace(hour=0, minute=0, second=0, microsecond=0)
    statuses = chance.sample(list(JobStatus), chance.randint(1, len(JobStatus)))
    moments = (midnight, midnight - timedelta(microseconds=1), midnight - timedelta(days=2), began)
    jobs = [
        {
            "status": chance.choice(statuses),
            "created_at": chance.choice(moments),
            "deleted_at": chance.choice([None, None, began]),
        }
        for _ in range(chance.randint(0, 300))
    ]
    add_jobs(voice, jobs)

    statements.clear()
    metrics, live = get_database_metrics(), get_live_counts()
    assert len(statements) == 2

    alive = [job for job in jobs if job["deleted_at"] is None]
    counts = Counter(job["status"] for job in alive)
    waiting_since = [job["created_at"] for job in alive if job["status"] is JobStatus.PENDING]
    seconds = metrics.pop("oldest_pending_seconds")
    if waiting_since:
        assert 0 <= seconds - (began - min(waiting_since)).total_seconds() < 60
    else:
        assert seconds is None
    assert live == {status.value: counts[status] for status in UNFINISHED}
    assert metrics == {
        "total_users": 2,
        "active_users": 1,
        "total_voice_clones": 1,
        "pending_jobs": counts[JobStatus.PENDING],
        "failed_jobs_today": sum(job["status"] is JobStatus.FAILED and job["created_at"] >= midnight for job in alive),
        "jobs_by_status": {status.value: counts[status] for status in JobStatus},
    }


@pytest.fixture
def long_at_work(db: DatabaseManager, user: User, voice: VoiceClone) -> DatabaseManager:
    """50,000 jobs, most of them cancelled, a few failed or soft-deleted, and some that wait or run."""
    is_sqlite = db.config.backend == "sqlite"
    with db.session() as database:
        PresentationJob.enqueue_many(
            {"owner": user, "voice_clone": voice, "s3_pptx_path": "/x.pptx"} for _ in range(JOBS)
        )
        with database.atomic():
            if not is_sqlite:  # VACUUM marks no page as visible to all while commits are on their way to the disk
                database.execute_sql("SET LOCAL synchronous_commit = on")
            database.execute_sql(
                "UPDATE presentation_jobs SET status = CASE WHEN id / 100 * 100 = id THEN 'failed' ELSE 'cancelled' END, "
                "deleted_at = CASE WHEN id / 50 * 50 = id THEN created_at END WHERE id > 500"
            )
            database.execute_sql("UPDATE presentation_jobs SET status = 'assembling_video' WHERE id <= 250")
        database.execute_sql("ANALYZE" if is_sqlite else "VACUUM ANALYZE presentation_jobs")
    return db


@pytest.mark.parametrize(
    ("call", "statuses"), [(get_live_counts, UNFINISHED), (get_database_metrics, tuple(JobStatus))]
)
def test_jobs_are_counted_in_their_indexes(
    long_at_work: DatabaseManager, call: Callable[[], Any], statuses: tuple[JobStatus, ...]
) -> None:
    """And the rows are read of those alone that failed today or wait, and on SQLite of the soft-deleted."""
    plan = plan_of(long_at_work, call)
    is_sqlite = long_at_work.config.backend == "sqlite"
    sign = "COVERING INDEX idx_presentation_jobs" if is_sqlite else "Index Only Scan using idx_presentation_jobs"
    of_completed = JobStatus.COMPLETED in statuses  # all, less those that are not
    assert sum(sign in line for line in plan) == len(statuses) * (1 if is_sqlite else 2) + of_completed, plan
    assert sum("idx_presentation_jobs_deleted" in line for line in plan) == len(statuses), plan
    whole = "SCAN t3" if is_sqlite else "Seq Scan on presentation_jobs"  # t1 are the users
    assert not [line for line in plan if line.strip("-> ").startswith(whole)], plan


def plan_of(db: DatabaseManager, call: Callable[[], Any]) -> list[str]:
    seen: list[Any] = []
    db.database.query_hooks.append(lambda event: seen.append((event.sql, event.params)))
    call()
    sql, parameters = seen[0]
    explain = "EXPLAIN QUERY PLAN " if db.config.backend == "sqlite" else "EXPLAIN "
    return [str(row[-1]) for row in db.database.execute_sql(explain + sql, parameters)]
