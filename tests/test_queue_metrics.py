"""What is measured of the queue: against situations made by hand, in a fixed number of statements, on indexes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg2
import pytest

from presgen import DatabaseManager, JobEvent, JobStatus, PresentationJob, User, VoiceClone, queue_metrics
from presgen.queue_metrics import get_finished_per_minute, get_jobs_in_hand, get_queue_metrics
from presgen.status import RUNNING

Enqueue = Callable[..., PresentationJob]

NO_STAYS = {"count": 0, "p50": None, "p95": None}


def now() -> datetime:
    return datetime.now(timezone.utc)


def record(job: PresentationJob, *changes: tuple[JobStatus, float]) -> None:
    """Put changes on the job's record that were so many seconds ago."""
    before = JobStatus.PENDING
    for status, seconds_ago in changes:
        JobEvent.insert(
            job=job, from_status=before, to_status=status, at=now() - timedelta(seconds=seconds_ago), attempt=1
        ).execute()
        before = status


def test_an_empty_database_has_zeros_and_nothing_to_wait_for(db: DatabaseManager) -> None:
    metrics = get_queue_metrics()
    is_sqlite = db.config.backend == "sqlite"
    dead_tuples, snapshot = metrics.pop("dead_tuples"), metrics.pop("oldest_snapshot_seconds")

    assert metrics == {
        "expired_leases": 0,
        "running_jobs": 0,
        "attempts": 0,
        "retrying_jobs": 0,
        "oldest_claimable_seconds": None,
        "stage_seconds": {stage.value: NO_STAYS for stage in RUNNING},
    }
    assert (dead_tuples is None, snapshot is None) == (is_sqlite, is_sqlite)
    assert get_jobs_in_hand(10) == []
    assert get_finished_per_minute() == queue_metrics.FinishedPerMinute(0, 0, 0)


def test_leases_attempts_and_waiting_times_are_those_of_unfinished_jobs(db: DatabaseManager, enqueue: Enqueue) -> None:
    for _ in range(7):
        enqueue()
    expired, alive, _also_alive, failed, retrying, deleted, fresh = PresentationJob.claim("w1", 7)
    PresentationJob.update(lease_expires_at=now() - timedelta(seconds=5)).where(
        PresentationJob.id == expired.id
    ).execute()
    PresentationJob.update(lease_expires_at=now() - timedelta(seconds=5), deleted_at=now()).where(
        PresentationJob.id == deleted.id
    ).execute()
    PresentationJob.update(attempt=3).where(PresentationJob.id == alive.id).execute()
    failed.fail("no", retry=False)
    retrying.fail("not yet")  # due after its backoff
    fresh.release()
    used_up = enqueue(run_at=now() - timedelta(hours=2))
    # What nobody can claim does not wait to be claimed.
    PresentationJob.update(attempt=3).where(PresentationJob.id == used_up.id).execute()
    PresentationJob.update(run_at=now() - timedelta(minutes=1)).where(PresentationJob.id == fresh.id).execute()
    metrics = get_queue_metrics()

    assert metrics["expired_leases"] == 1
    assert metrics["running_jobs"] == 3
    assert metrics["attempts"] == 1 + 3 + 1 + 1 + 1 + 3
    assert metrics["retrying_jobs"] == 3
    assert 60 <= metrics["oldest_claimable_seconds"] < 90


def test_a_job_that_is_not_due_yet_does_not_wait(db: DatabaseManager, enqueue: Enqueue) -> None:
    enqueue(run_at=now() + timedelta(hours=1))

    assert get_queue_metrics()["oldest_claimable_seconds"] is None


def test_a_job_that_runs_without_a_lease_has_none_to_lose(db: DatabaseManager, job: PresentationJob) -> None:
    job.status = JobStatus.PROCESSING_SLIDES
    job.save()
    metrics = get_queue_metrics()

    assert (metrics["running_jobs"], metrics["expired_leases"]) == (1, 0)
    assert [found.lease_seconds_left for found in get_jobs_in_hand(5)] == [None]


def test_a_stage_lasts_from_its_event_to_the_next_of_the_same_job(db: DatabaseManager, enqueue: Enqueue) -> None:
    one, other = enqueue(), enqueue()
    record(one, (JobStatus.PROCESSING_SLIDES, 100.0))
    record(other, (JobStatus.PROCESSING_SLIDES, 90.0))
    record(one, (JobStatus.SYNTHESIZING_AUDIO, 80.0))
    record(other, (JobStatus.PENDING, 60.0), (JobStatus.PROCESSING_SLIDES, 50.0))  # still there: no stay yet
    record(one, (JobStatus.COMPLETED, 40.0))
    stages = get_queue_metrics()["stage_seconds"]

    assert stages["assembling_video"] == NO_STAYS
    assert stages["processing_slides"]["count"] == 2
    assert stages["processing_slides"]["p50"] == pytest.approx(20, abs=1)
    assert stages["processing_slides"]["p95"] == pytest.approx(30, abs=1)
    assert stages["synthesizing_audio"] == {
        "count": 1,
        "p50": pytest.approx(40, abs=1),
        "p95": pytest.approx(40, abs=1),
    }


@pytest.mark.parametrize("size", [1, 2, 3, 10, 19, 20, 21, 100, 101])
def test_percentiles_are_the_nearest_rank_on_every_backend(
    db: DatabaseManager, job: PresentationJob, size: int
) -> None:
    lengths = random.Random(size).sample(range(1, 1000), size)
    moment, rows = now() - timedelta(days=1), []
    for length in lengths:
        for status, step in ((JobStatus.ASSEMBLING_VIDEO, 3), (JobStatus.PENDING, length)):
            rows.append({"job": job, "from_status": status, "to_status": status, "at": moment, "attempt": 1})
            if status is JobStatus.ASSEMBLING_VIDEO:
                moment += timedelta(seconds=length)
            else:
                moment += timedelta(seconds=step)
    JobEvent.insert_many(rows).execute()

    def nearest_rank(percent: int) -> int:
        return sorted(lengths)[math.ceil(size * percent / 100) - 1]

    found = get_queue_metrics()["stage_seconds"]["assembling_video"]
    assert found == {
        "count": size,
        "p50": pytest.approx(nearest_rank(50)),
        "p95": pytest.approx(nearest_rank(95)),
    }


def test_only_the_latest_events_are_measured(
    db: DatabaseManager, job: PresentationJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_metrics, "EVENTS_SAMPLED", 4)
    record(job, (JobStatus.PROCESSING_SLIDES, 1000.0), (JobStatus.PENDING, 100.0))
    for seconds_ago in (40.0, 20.0):
        record(job, (JobStatus.PROCESSING_SLIDES, seconds_ago), (JobStatus.COMPLETED, seconds_ago - 10))

    found = get_queue_metrics()["stage_seconds"]["processing_slides"]
    assert found == {"count": 2, "p50": pytest.approx(10, abs=1), "p95": pytest.approx(10, abs=1)}
    # Four events reach back 40 seconds, so two videos in them are three a minute.
    assert get_finished_per_minute().completed == pytest.approx(3, abs=0.3)


def test_rates_are_those_of_the_last_minutes(db: DatabaseManager, job: PresentationJob) -> None:
    slides, pending = JobStatus.PROCESSING_SLIDES, JobStatus.PENDING
    record(job, (slides, 401.0), (JobStatus.COMPLETED, 400.0))
    for _ in range(10):
        record(job, (slides, 201.0), (JobStatus.COMPLETED, 200.0))
    for _ in range(5):  # what is retried by hand comes back too, but no attempt has ended then
        record(job, (slides, 25.0), (JobStatus.FAILED, 20.0), (pending, 18.0), (slides, 15.0), (pending, 10.0))

    assert get_finished_per_minute() == queue_metrics.FinishedPerMinute(completed=2, failed=1, returned=1)


def test_jobs_in_hand_begin_with_the_lease_that_ends_first(db: DatabaseManager, enqueue: Enqueue) -> None:
    deleted, plain = enqueue(), enqueue()
    plain.status = JobStatus.SYNTHESIZING_AUDIO
    plain.save()
    PresentationJob.claim("gone")
    PresentationJob.update(deleted_at=now()).where(PresentationJob.id == deleted.id).execute()
    enqueue()
    enqueue()
    (long,) = PresentationJob.claim("w1", lease=500)
    (short,) = PresentationJob.claim("w2", lease=50)
    short.heartbeat(progress=0.5)
    first, second, third = get_jobs_in_hand(10)

    assert [first.id, second.id, third.id] == [short.id, long.id, plain.id]
    assert (first.worker, first.status, first.attempt, first.progress) == ("w2", JobStatus.PROCESSING_SLIDES, 1, 0.5)
    assert first.lease_seconds_left == pytest.approx(50, abs=5)
    assert 0 <= first.silent_seconds < 5
    assert (third.worker, third.lease_seconds_left) == (None, None)
    assert [found.id for found in get_jobs_in_hand(1)] == [short.id]


def test_the_silence_of_a_worker_is_counted_from_its_last_heartbeat(db: DatabaseManager, claimed: Any) -> None:
    PresentationJob.update(updated_at=now() - timedelta(seconds=30)).where(PresentationJob.id == claimed.id).execute()
    assert get_jobs_in_hand(1)[0].silent_seconds == pytest.approx(30, abs=5)

    claimed.heartbeat()
    assert get_jobs_in_hand(1)[0].silent_seconds < 5


def test_the_metrics_of_the_manager_are_both_sets_in_a_few_statements(
    db: DatabaseManager, job: PresentationJob, statements: list[str]
) -> None:
    statements.clear()
    metrics = db.metrics()

    assert len(statements) == (3 if db.config.backend == "sqlite" else 4)
    assert (metrics["pending_jobs"], metrics["running_jobs"]) == (1, 0)
    assert {"total_users", "jobs_by_status", "expired_leases", "stage_seconds", "pool"} < set(metrics)


def test_a_transaction_that_holds_vacuum_up_is_told_with_its_age(url: str, postgresql: str) -> None:
    idle, holder = psycopg2.connect(url), psycopg2.connect(url)
    try:
        with DatabaseManager(url):
            idle.cursor().execute("SELECT 1")  # in a transaction, and with nothing that vacuum would have to keep
            before = get_queue_metrics()["oldest_snapshot_seconds"]
            holder.set_session(isolation_level="REPEATABLE READ")
            holder.cursor().execute("SELECT pg_sleep(0.2)")
            held = get_queue_metrics()["oldest_snapshot_seconds"]
            holder.rollback()
            after = get_queue_metrics()["oldest_snapshot_seconds"]
    finally:
        idle.close()
        holder.close()
    assert before < 0.2
    assert held >= 0.2
    assert after < 0.2


def test_a_transaction_that_has_written_holds_vacuum_up_between_its_statements(url: str, postgresql: str) -> None:
    holder = psycopg2.connect(url)
    try:
        with DatabaseManager(url):
            holder.cursor().execute("INSERT INTO users (name) VALUES ('Ada')")
            holder.cursor().execute("SELECT pg_sleep(0.2)")
            assert get_queue_metrics()["oldest_snapshot_seconds"] >= 0.2
    finally:
        holder.close()


def test_dead_rows_of_the_jobs_are_counted(db: DatabaseManager, postgresql: str, job: PresentationJob) -> None:
    database = db.database
    with db.session():
        database.execute_sql("VACUUM presentation_jobs")
        before = get_queue_metrics()["dead_tuples"]
        for priority in range(20):
            PresentationJob.update(priority=priority).where(PresentationJob.id == job.id).execute()
        database.execute_sql("SELECT pg_stat_force_next_flush()")
        after = get_queue_metrics()["dead_tuples"]
        # Not many: pages are pruned on the way.
        assert after > before


@pytest.fixture
def long_at_work(db: DatabaseManager, user: User, voice: VoiceClone) -> DatabaseManager:
    """50,000 finished jobs with two events each, 50 waiting ones and 20 in hand."""
    with db.session() as database:
        PresentationJob.enqueue_many(
            {"owner": user, "voice_clone": voice, "s3_pptx_path": "/talk.pptx"} for _ in range(50_070)
        )
        database.execute_sql(
            "UPDATE presentation_jobs SET status = 'processing_slides', worker = 'w', lease_expires_at = created_at "
            "WHERE id > 50"
        )
        database.execute_sql("UPDATE presentation_jobs SET status = 'cancelled' WHERE id > 70")
        database.execute_sql("ANALYZE")
    return db


def test_no_table_is_read_as_a_whole(long_at_work: DatabaseManager) -> None:
    database = long_at_work.database
    is_sqlite = long_at_work.config.backend == "sqlite"
    seen: list[Any] = []
    database.query_hooks.append(lambda event: seen.append((event.sql, event.params)))
    with long_at_work.session():
        assert get_queue_metrics()["running_jobs"] == 20
        get_jobs_in_hand(10)
        get_finished_per_minute()
        asked = [(sql, parameters) for sql, parameters in seen if "presentation_jobs" in sql or "job_events" in sql]
        explain = "EXPLAIN QUERY PLAN " if is_sqlite else "EXPLAIN "
        plans = [
            "\n".join(str(row[-1]) for row in database.execute_sql(explain + sql, parameters))
            for sql, parameters in asked
            if "pg_stat" not in sql
        ]
    assert len(plans) == 4
    plan = "\n".join(plans)
    # SQLite walks its events by rowid, backwards and no further than the LIMIT.
    whole = "SCAN t1" if is_sqlite else "Seq Scan on"
    scans = [line for line in plan.splitlines() if whole in line and "USING INDEX" not in line]
    assert len(scans) == (2 if is_sqlite else 0), plan
    if not is_sqlite:
        assert plan.count("job_events_pkey") == 2
