"""Dead letters: which jobs they are, how they are listed and counted, and how many come back at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from fixtures.rows import Enqueue, stored

from presgen import DatabaseManager, JobStatus, PresentationJob, User, ValidationError, VoiceClone, queries
from presgen.errors import ConstraintViolation
from presgen.models import revivable

Bury = Callable[..., PresentationJob]


@pytest.fixture
def bury(enqueue: Enqueue) -> Bury:
    """Enqueues a job that a worker fails for good."""

    def bury(error: str = "no deck", **columns: Any) -> PresentationJob:
        job = enqueue(**columns)
        job.status, job.error_message = JobStatus.FAILED, error
        job.save()
        return stored(job)

    return bury


@pytest.fixture
def stranger(db: DatabaseManager) -> dict[str, Any]:
    """What a job of somebody else's needs."""
    eve = User.create(name="Eve")
    return {"owner": eve, "voice_clone": VoiceClone.create(name="Eve's", s3_path="/voices/eve.wav", owner=eve)}


def bury_many(job: PresentationJob, count: int) -> None:
    """Add so many dead letters, each with an error of its own."""
    row = {"owner": job.owner_id, "voice_clone": job.voice_clone_id, "s3_pptx_path": "/x.pptx"}
    PresentationJob.enqueue_many([row] * count)
    PresentationJob.update(status=JobStatus.FAILED, error_message="outage").where(
        PresentationJob.status == JobStatus.PENDING
    ).execute()


# Which they are


def test_dead_letters_are_failed_jobs_that_are_not_deleted(bury: Bury, enqueue: Enqueue) -> None:
    pending, cancelled, dead, deleted = enqueue(), enqueue(), bury(), bury()
    cancelled.cancel()
    deleted.deleted_at = datetime.now(timezone.utc)
    deleted.save()
    assert queries.get_dead_letters() == [dead]
    assert [job.is_dead_letter for job in (pending, cancelled, dead, deleted)] == [False, False, True, False]


def test_dead_letters_are_narrowed_by_owner_error_and_moment_of_failure(bury: Bury, stranger: dict[str, Any]) -> None:
    hers = bury("Timeout: 50% of slide_1\nafter 3 s", **stranger)
    late = bury("no voice")
    moment = datetime(2026, 1, 1, tzinfo=timezone.utc)
    for job, failed_at in ((hers, moment), (late, moment + timedelta(hours=1))):
        PresentationJob.update(started_at=None, completed_at=failed_at).where(PresentationJob.id == job.id).execute()

    def found(**conditions: Any) -> list[PresentationJob]:
        return queries.get_dead_letters(**conditions)

    assert found() == [late, hers]
    assert found(owner=stranger["owner"]) == found(owner=hers.owner_id) == [hers]
    for part in ("timeout", "50%", "slide_1", "AFTER 3"):
        assert found(error=part) == [hers]
    assert found(error="50_") == found(error="slide%1") == []
    assert found(since=late.completed_at - timedelta(days=999)) == [late, hers]
    assert found(since=moment + timedelta(hours=1)) == [late]
    assert found(until=moment + timedelta(hours=1)) == [hers]


@pytest.mark.parametrize(
    "conditions",
    [{"owner": "1"}, {"error": ""}, {"error": "a\0b"}, {"error": 5}, {"since": "today"}, {"until": datetime(2026, 1, 1)}],
)  # fmt: skip
def test_bad_conditions_are_refused(db: DatabaseManager, conditions: dict[str, Any]) -> None:
    for call in (queries.get_dead_letters, queries.get_dead_letter_errors, PresentationJob.retry_many):
        with pytest.raises(ValidationError):
            call(**conditions)  # type: ignore[operator]


def test_pages_by_cursor_are_one_statement_each_and_leave_none_out(
    bury: Bury, statements: list[str], db: DatabaseManager
) -> None:
    everything = [bury() for _ in range(7)][::-1]
    pages: list[list[PresentationJob]] = [queries.get_dead_letters(3)]
    statements.clear()
    while page := queries.get_dead_letters(3, after=pages[-1][-1].cursor):
        assert [job.owner.name for job in page] == ["Ada"] * len(page)
        pages.append(page)
    assert pages == [everything[:3], everything[3:6], everything[6:]]
    assert len(statements) == 3


def test_lists_and_retries_do_not_read_a_table_of_finished_jobs(db: DatabaseManager, bury: Bury) -> None:
    with db.session() as database:
        bury_many(bury(), 2_000)
        database.execute_sql("UPDATE presentation_jobs SET status = 'pending' WHERE id / 1000 * 1000 <> id")
        database.execute_sql(
            "UPDATE presentation_jobs SET status = 'completed', s3_video_path = '/v.mp4' WHERE status = 'pending'"
        )
        database.execute_sql("ANALYZE")
        seen: list[Any] = []
        database.query_hooks.append(lambda event: seen.append((event.sql, event.params)))
        queries.get_dead_letters()
        PresentationJob.retry_many([1])
        explain = "EXPLAIN QUERY PLAN " if db.config.backend == "sqlite" else "EXPLAIN "
        plans = [str(database.execute_sql(explain + sql, parameters).fetchall()) for sql, parameters in list(seen)]
    assert len(plans) == 2
    for plan in plans:
        assert "Seq Scan on presentation_jobs" not in plan
        assert "SCAN t1" not in plan
        assert "SCAN presentation_jobs" not in plan


# Errors, counted


def test_errors_are_counted_by_their_first_line_the_commonest_first(bury: Bury) -> None:
    bury("TimeoutError: the voice\nslide 1")
    alone, other = bury("BadDeck"), bury("TimeoutError: the voice\nslide 2")
    timeouts, badly = queries.get_dead_letter_errors()
    assert timeouts == ("TimeoutError: the voice", 2, other.completed_at, other.id)
    assert (badly.error, badly.jobs, badly.latest, badly.job_id) == ("BadDeck", 1, alone.completed_at, alone.id)
    assert queries.get_dead_letter_errors(1) == [timeouts]
    assert queries.get_dead_letter_errors(error=timeouts.error) == [timeouts]
    assert queries.get_dead_letter_errors(error="bad") == [badly]


def test_errors_that_differ_far_behind_count_as_one(bury: Bury) -> None:
    length = queries.ERROR_LINE_MAX
    long = bury("x" * length + "1")
    bury("x" * length + "2")
    (error,) = queries.get_dead_letter_errors()
    assert (error.error, error.jobs, error.job_id) == ("x" * length, 2, long.id + 1)


def test_jobs_without_a_message_are_counted_as_well(enqueue: Enqueue) -> None:
    job = enqueue()
    job.status = JobStatus.FAILED
    job.save()
    assert queries.get_dead_letter_errors() == [(None, 1, stored(job).completed_at, job.id)]


# Retried


def test_all_dead_letters_go_back_at_once_with_an_attempt_left(enqueue: Enqueue, statements: list[str]) -> None:
    jobs = [enqueue(max_attempts=1) for _ in range(3)]
    for claimed in PresentationJob.claim("w1", 3):
        claimed.fail("outage")
    statements.clear()
    assert PresentationJob.retry_many([job.id for job in jobs]) == 3
    assert len(statements) == 1
    for job in map(stored, jobs):
        assert (job.status, job.attempt, job.max_attempts) == (JobStatus.PENDING, 1, 2)
        assert (job.worker, job.completed_at, job.error_message) == (None, None, "outage")
        assert [event.to_status for event in job.history()] == ["processing_slides", "failed", "pending"]
    assert len(PresentationJob.claim("w2", 5)) == 3
    assert PresentationJob.retry_many(everything=True) == 0


def test_only_the_named_dead_letters_are_retried(bury: Bury, enqueue: Enqueue) -> None:
    first, second, third, pending = bury(), bury(), bury(), enqueue()
    cancelled = enqueue()
    cancelled.cancel()
    ids = (id for id in [first.id, third.id, third.id, pending.id, cancelled.id, 999])
    assert PresentationJob.retry_many(ids) == 2
    assert [stored(job).status for job in (first, second, third)] == ["pending", "failed", "pending"]
    assert stored(cancelled).status is JobStatus.CANCELLED


def test_no_ids_are_no_jobs(bury: Bury) -> None:
    job = bury()
    assert PresentationJob.retry_many([]) == 0
    assert stored(job).status is JobStatus.FAILED


@pytest.mark.parametrize("ids", ["12", ["1"], [True], [2**70], [None]])
def test_ids_that_are_none_are_refused(bury: Bury, ids: Any) -> None:
    job = bury()
    with pytest.raises(ValidationError, match="id"):
        PresentationJob.retry_many(ids)
    assert stored(job).status is JobStatus.FAILED


def test_conditions_narrow_what_is_retried(bury: Bury, stranger: dict[str, Any]) -> None:
    mine, hers, other = bury("outage"), bury("outage", **stranger), bury("bad deck")
    assert PresentationJob.retry_many(owner=mine.owner_id, error="OUTAGE") == 1
    assert PresentationJob.retry_many([hers.id, other.id], error="outage") == 1
    assert [stored(job).status for job in (mine, hers, other)] == ["pending", "pending", "failed"]


def test_many_dead_letters_go_back_in_bounded_statements(
    bury: Bury, statements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revivable, "RETRY_BATCH", 10)
    bury_many(bury(), 24)
    statements.clear()
    assert PresentationJob.retry_many(everything=True) == 25
    assert len(statements) == 4  # 10, 10, 5, and none
    assert PresentationJob.select().where(PresentationJob.status == JobStatus.PENDING).count() == 25


def test_a_job_that_fails_again_meanwhile_is_not_retried_twice(
    bury: Bury, db: DatabaseManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revivable, "RETRY_BATCH", 2)
    jobs = [bury() for _ in range(5)]

    batches: list[str] = []

    def fail_again(event: Any) -> None:
        if "MATERIALIZED" in event.sql and len(batches) < 10:
            batches.append(event.sql)
            db.database.execute_sql("UPDATE presentation_jobs SET status = 'failed' WHERE status = 'pending'")

    db.database.query_hooks.append(fail_again)
    assert PresentationJob.retry_many(everything=True) == 5
    assert [len(job.history()) for job in jobs] == [3] * 5


def test_of_an_owners_jobs_with_one_key_the_newest_goes_back(
    bury: Bury, stranger: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for batch in (10, 1):
        monkeypatch.setattr(revivable, "RETRY_BATCH", batch)
        key = f"deck-{batch}"
        older, newer, plain = bury(idempotency_key=key), bury(idempotency_key=key), bury()
        hers = bury(idempotency_key=key, **stranger)
        assert PresentationJob.retry_many([older.id, newer.id, plain.id, hers.id]) == 3
        assert PresentationJob.retry_many(everything=True) == 0
        assert [stored(job).status for job in (older, newer, plain, hers)] == ["failed", *["pending"] * 3]
        assert PresentationJob.retry_many([older.id]) == 0
        older.delete_instance()


def test_a_key_that_an_unfinished_job_has_keeps_only_its_own_dead_letter(
    bury: Bury, enqueue: Enqueue, stranger: dict[str, Any]
) -> None:
    dead, other = bury(idempotency_key="deck-1"), bury(idempotency_key="deck-2")
    hers = bury(idempotency_key="deck-1", **stranger)
    enqueue(idempotency_key="deck-1")
    assert PresentationJob.retry_many(everything=True) == 2
    assert [stored(job).status for job in (dead, other, hers)] == ["failed", "pending", "pending"]
    with pytest.raises(ConstraintViolation):
        dead.retry()


def test_a_transaction_that_is_undone_takes_the_retries_back(bury: Bury, db: DatabaseManager, caplog: Any) -> None:
    job = bury()
    caplog.set_level(logging.INFO, logger="database")
    caplog.clear()
    with pytest.raises(ZeroDivisionError), db.transaction():
        assert PresentationJob.retry_many(everything=True) == 1
        raise ZeroDivisionError
    assert stored(job).status is JobStatus.FAILED
    assert caplog.messages == []
    PresentationJob.retry_many(everything=True)
    assert caplog.messages == [f"Job {job.id} status changed: failed -> pending"]


def test_operators_who_retry_at_once_share_the_jobs(
    bury: Bury, postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revivable, "RETRY_BATCH", 7)
    bury_many(bury(), 199)
    start, numbers = threading.Barrier(4), []

    def retry() -> None:
        start.wait()
        numbers.append(PresentationJob.retry_many(everything=True))

    threads = [threading.Thread(target=retry) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(numbers) == 4
    assert sum(numbers) == 200
    assert all(len(job.history()) == 2 for job in PresentationJob.select())
