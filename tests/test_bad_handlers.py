"""Handlers that do what they must not: each time the job ends in a recorded state, with a message that says why."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import Any

import peewee as pw
import pytest
from fixtures.rows import Enqueue, stored

from presgen import (
    DatabaseManager,
    InvalidTransition,
    JobStatus,
    LeaseLost,
    PresentationJob,
    User,
    ValidationError,
    VoiceClone,
    Worker,
)
from presgen.errors import ConfigurationError
from presgen.models.reapable import LEASE_EXPIRED
from presgen.validation import LONG_TEXT_MAX

Handler = Callable[[PresentationJob], Any]


def work(db: DatabaseManager, handler: Handler, raises: type[BaseException] | None = None) -> None:
    """Let a worker claim one job."""
    worker = Worker(db, handler, name="w1")
    if raises is None:
        assert worker.run_once()
    else:
        with pytest.raises(raises):
            worker.run_once()


def assert_failed_attempt(job: PresentationJob, message: str) -> None:
    """One attempt is used up, its end is on record, and the job waits for the next."""
    back = stored(job)
    assert (back.status, back.attempt, back.max_attempts) == (JobStatus.PENDING, 1, 3)
    assert (back.worker, back.lease_expires_at) == (None, None)
    assert back.error_message == message
    last = back.history()[-1]
    assert (last.to_status, last.worker, last.attempt) == (JobStatus.PENDING, "w1", 1)


def raising(error: BaseException) -> Handler:
    def handler(job: PresentationJob) -> None:
        raise error

    return handler


# What a handler raises


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Wordless(Exception):
    def __str__(self) -> Any:
        return None


class Hostile(BaseException):
    pass


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("a\0b"), "ValueError: a\N{REPLACEMENT CHARACTER}b"),
        (ValueError("a\ud800b"), "ValueError: a?b"),
        (ValueError("x" * 10_000_000), f"ValueError: {'x' * (LONG_TEXT_MAX - 13)}…"),
        (Mute(), "Mute: its text cannot be had: RuntimeError"),
        (Wordless(), "Wordless: its text cannot be had: TypeError"),
        (
            ExceptionGroup("two slides", [ValueError("1"), KeyError("2")]),
            "ExceptionGroup: two slides (2 sub-exceptions)",
        ),
        (StopIteration(), "StopIteration"),
        (RecursionError(), "RecursionError"),
        (MemoryError(), "MemoryError"),
        (pw.OperationalError("no such table: decks"), "OperationalError: no such table: decks"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_whatever_a_handler_raises_becomes_the_jobs_message(
    db: DatabaseManager, job: PresentationJob, error: Exception, message: str
) -> None:
    work(db, raising(error))
    assert_failed_attempt(job, message)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (GeneratorExit("closed"), "GeneratorExit: closed"),
        (SystemExit(3), "SystemExit: 3"),
        (Hostile("catch me"), "Hostile: catch me"),
        (BaseExceptionGroup("all of them", [Hostile()]), "BaseExceptionGroup: all of them (1 sub-exception)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_is_no_exception_is_recorded_and_goes_on_to_the_caller(
    db: DatabaseManager, job: PresentationJob, error: BaseException, message: str
) -> None:
    work(db, raising(error), raises=type(error))
    assert_failed_attempt(job, message)


# What a handler leaves behind


@pytest.mark.parametrize("result", [None, False, 0, "done", JobStatus.COMPLETED], ids=repr)
def test_nothing_that_a_handler_returns_completes_its_job(
    db: DatabaseManager, job: PresentationJob, result: Any
) -> None:
    work(db, lambda job: result)
    assert_failed_attempt(job, "the handler returned without completing the job")


def test_a_generator_is_no_handler(db: DatabaseManager) -> None:
    def handler(job: PresentationJob) -> Any:
        yield job.complete("/v.mp4")

    with pytest.raises(ValidationError, match="must be a plain function of a job"):
        Worker(db, handler)


def test_a_completion_on_the_instance_alone_is_none(db: DatabaseManager, job: PresentationJob) -> None:
    def handler(job: PresentationJob) -> None:
        job.status, job.s3_video_path = JobStatus.COMPLETED, "/v.mp4"

    work(db, handler)
    assert_failed_attempt(job, "the handler returned without completing the job")


@pytest.mark.parametrize(
    "deceive",
    [
        lambda job: setattr(job, "attempt", 99),
        lambda job: setattr(job, "worker", "w2"),
        lambda job: setattr(job, "id", 10**9),
        lambda job: setattr(job, "max_attempts", 1),
        lambda job: job.__data__.clear(),
    ],
    ids=["attempt", "worker", "id", "max_attempts", "everything"],
)
def test_a_handler_that_changes_its_instance_fails_the_stored_job(
    db: DatabaseManager, job: PresentationJob, deceive: Callable[[PresentationJob], Any]
) -> None:
    work(db, deceive)
    assert_failed_attempt(job, "the handler returned without completing the job")


@pytest.mark.parametrize("name", ["attempt", "worker", "id"])
def test_a_handler_with_a_forged_instance_is_refused(db: DatabaseManager, job: PresentationJob, name: str) -> None:
    forged = {"attempt": 99, "worker": "w2", "id": 10**9}[name]

    def handler(job: PresentationJob) -> None:
        setattr(job, name, forged)
        job.complete("/v.mp4")

    work(db, handler)
    back = stored(job)
    assert (back.status, back.s3_video_path) == (JobStatus.PENDING, None)
    assert back.error_message.startswith("LeaseLost: job ")


def test_a_handler_that_deletes_its_row_ends_with_it(
    db: DatabaseManager, enqueue: Enqueue, caplog: pytest.LogCaptureFixture
) -> None:
    _, loud = enqueue(priority=1), enqueue()
    heard: list[Exception] = []

    def handler(job: PresentationJob) -> None:
        job.delete_instance()
        if job.id == loud.id:
            try:
                job.complete("/v.mp4")
            except LeaseLost as error:
                heard.append(error)
                raise

    assert Worker(db, handler, name="w1").drain() == 2
    assert PresentationJob.select().count() == 0
    assert [str(error) for error in heard] == [f"job {loud.id} was deleted; drop its work"]
    assert f"job {loud.id} is over or in other hands" in caplog.text


def test_a_handler_that_works_on_another_job_fails_its_own(db: DatabaseManager, enqueue: Enqueue) -> None:
    """Who ends a waiting job by hand may do so; it is not what the worker was given."""
    mine, other = enqueue(priority=1), enqueue()

    def handler(job: PresentationJob) -> None:
        stored(other).complete("/v.mp4")

    work(db, handler)
    assert_failed_attempt(mine, "the handler returned without completing the job")
    assert [event.to_status for event in stored(other).history()] == [JobStatus.COMPLETED]
    assert stored(other).worker is None


def test_a_handler_that_breaks_the_order_of_stages_is_told(db: DatabaseManager, job: PresentationJob) -> None:
    def handler(job: PresentationJob) -> None:
        PresentationJob.update(status=JobStatus.ASSEMBLING_VIDEO).where(PresentationJob.id == job.id).execute()

    work(db, handler)
    assert "InvalidTransition: " in stored(job).error_message
    assert stored(job).status is JobStatus.PENDING
    with pytest.raises(InvalidTransition):
        stored(job).release()


def test_a_handler_that_cancels_its_own_job_ends_it_as_cancelled(db: DatabaseManager, job: PresentationJob) -> None:
    work(db, lambda job: job.cancel())
    assert stored(job).status is JobStatus.CANCELLED
    assert [event.to_status for event in job.history()] == [JobStatus.PROCESSING_SLIDES, JobStatus.CANCELLED]


# What a handler does to the connection


def test_a_handler_that_closes_its_connection_loses_nothing(db: DatabaseManager, enqueue: Enqueue) -> None:
    failing, good = enqueue(priority=1), enqueue()

    def handler(job: PresentationJob) -> None:
        db.database.close()
        if job.id == good.id:
            job.complete("/v.mp4")
            db.database.close()

    assert Worker(db, handler, name="w1").drain() == 2
    assert_failed_attempt(failing, "the handler returned without completing the job")
    assert stored(good).status is JobStatus.COMPLETED


def test_a_handler_whose_statement_breaks_its_transaction_fails(
    postgresql: str, db: DatabaseManager, job: PresentationJob
) -> None:
    def handler(job: PresentationJob) -> None:
        with db.transaction():
            with suppress(pw.DatabaseError):
                db.database.execute_sql("SELECT 1 / 0")
            job.complete("/v.mp4")

    work(db, handler)
    assert stored(job).status is JobStatus.PENDING
    assert "a statement of this transaction failed" in stored(job).error_message


def test_a_handler_that_spawns_threads_may_let_them_work(db: DatabaseManager, job: PresentationJob) -> None:
    def handler(job: PresentationJob) -> None:
        thread = threading.Thread(target=job.complete, args=("/v.mp4",))
        thread.start()
        thread.join(20)

    work(db, handler)
    assert stored(job).status is JobStatus.COMPLETED


def test_a_thread_that_outlives_its_handler_writes_nothing(db: DatabaseManager, job: PresentationJob) -> None:
    handler_is_over, refusals = threading.Event(), []

    def late(job: PresentationJob) -> None:
        handler_is_over.wait(20)
        try:
            job.complete("/late.mp4")
        except LeaseLost as error:
            refusals.append(error)

    threads: list[threading.Thread] = []

    def handler(job: PresentationJob) -> None:
        threads.append(threading.Thread(target=late, args=(job,)))
        threads[0].start()

    work(db, handler)
    handler_is_over.set()
    threads[0].join(20)
    assert len(refusals) == 1
    assert_failed_attempt(job, "the handler returned without completing the job")


@pytest.mark.parametrize(
    "write",
    [lambda job: job.advance(JobStatus.SYNTHESIZING_AUDIO), lambda job: job.complete("/v.mp4")],
    ids=["advanced", "completed"],
)
def test_a_transaction_that_a_handler_left_open_swallows_no_end(
    db: DatabaseManager, enqueue: Enqueue, write: Handler
) -> None:
    """What the handler did not commit is undone before its failure is written, so that the failure is committed."""
    left_open, after = enqueue(priority=1), enqueue()

    def handler(job: PresentationJob) -> None:
        if job.id == left_open.id:
            db.database.atomic().__enter__()
            write(job)
        else:
            job.complete("/v.mp4")

    db.database.close()
    assert Worker(db, handler, name="w1").drain() == 2
    assert not db.database.in_transaction()
    assert_failed_attempt(left_open, "the handler returned without completing the job")
    assert stored(after).status is JobStatus.COMPLETED


@pytest.mark.parametrize("begin", ["database", "statement"])
def test_a_completion_that_a_handler_undoes_by_hand_is_none(
    db: DatabaseManager, job: PresentationJob, begin: str
) -> None:
    def handler(job: PresentationJob) -> None:
        with db.session() as database:
            database.begin() if begin == "database" else database.execute_sql("BEGIN")
            try:
                job.complete(s3_video_path="/v.mp4")
                raise ValueError("upload failed")
            except ValueError:
                database.rollback()
                raise

    Worker(db, handler).run_once()
    now = stored(job)
    assert (now.status, now.error_message) == (JobStatus.PENDING, "ValueError: upload failed")


def test_a_handler_that_binds_the_models_elsewhere_leaves_its_job_to_the_lease(
    db: DatabaseManager, job: PresentationJob
) -> None:
    others: list[DatabaseManager] = []

    def handler(job: PresentationJob) -> None:
        others.append(DatabaseManager("sqlite:///:memory:"))
        others[0].migrate()

    worker = Worker(db, handler, name="w1")
    try:
        worker.run_once()
        with pytest.raises(ConfigurationError, match="bound to another manager's database"):
            worker.run_once()
    finally:
        others[0].close()
    assert stored(job).status in (JobStatus.PROCESSING_SLIDES, JobStatus.PENDING)
    PresentationJob.update(lease_expires_at=job.created_at).where(PresentationJob.worker == "w1").execute()
    PresentationJob.reap()
    assert stored(job).status is JobStatus.PENDING
    assert stored(job).error_message


# Processes that end, and clocks that jump

SCRIPT = """
import os, sys, time
from presgen import DatabaseManager, Worker

def exits(job):
    os._exit(7)

def clock_jumps(job):
    real, offset = time.time, float(sys.argv[2])
    time.time = lambda: real() + offset
    job.heartbeat(progress=0.5, checkpoint={"slide": 1})
    if sys.argv[3] == "fail":
        raise ValueError("after the jump")
    job.complete("/v.mp4")

with DatabaseManager.from_env() as db:
    Worker(db, globals()[sys.argv[1]], name="w1", lease=0.4 if sys.argv[1] == "exits" else 60).run_once()
"""


@pytest.fixture
def queued(url: str) -> Iterator[PresentationJob]:
    """A job in a database that another process sees."""
    with DatabaseManager(url):
        user = User.create(name="Ada")
        voice = VoiceClone.create(name="v", s3_path="/v.wav", owner=user)
        yield PresentationJob.enqueue(owner=user, voice_clone=voice, s3_pptx_path="/x.pptx")


def run_script(url: str, *arguments: str) -> int:
    environment = {**os.environ, "DATABASE_URL": url}
    return subprocess.run([sys.executable, "-c", SCRIPT, *arguments], env=environment, timeout=60).returncode


def test_a_handler_that_ends_its_process_uses_up_its_attempt(url: str, queued: PresentationJob) -> None:
    assert run_script(url, "exits") == 7
    left = stored(queued)
    assert (left.status, left.worker) == (JobStatus.PROCESSING_SLIDES, "w1")
    deadline = time.monotonic() + 20
    while not PresentationJob.reap():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert_failed_attempt(queued, LEASE_EXPIRED)


@pytest.mark.parametrize("offset", [-86_400, 86_400], ids=["a-day-back", "a-day-ahead"])
@pytest.mark.parametrize("end", ["complete", "fail"])
def test_a_workers_clock_that_jumps_moves_no_lease(url: str, queued: PresentationJob, offset: int, end: str) -> None:
    run_script(url, "clock_jumps", str(offset), end)
    done = stored(queued)
    assert done.checkpoint == {"slide": 1}
    if end == "complete":
        assert done.status is JobStatus.COMPLETED
        assert 0 <= done.processing_time_seconds < 3600
        assert done.started_at <= done.completed_at
    else:
        assert_failed_attempt(queued, "ValueError: after the jump")
        assert abs(done.run_at - done.updated_at) < timedelta(seconds=10)


AHEAD = timedelta(hours=3)


def set_clock_back(job: PresentationJob) -> None:
    """What the row looks like after the database's clock was set back: its moments lie ahead."""
    moments = (PresentationJob.created_at, PresentationJob.started_at, PresentationJob.lease_expires_at)
    row = stored(job).__data__
    later = {field: row[field.name] + AHEAD for field in moments if row[field.name] is not None}
    PresentationJob.update(later).where(PresentationJob.id == job.id).execute()


def test_a_database_clock_that_was_set_back_ends_jobs_no_earlier_than_they_began(
    db: DatabaseManager, enqueue: Enqueue
) -> None:
    jobs = [enqueue() for _ in range(4)]
    completed, failed, cancelled, released = PresentationJob.claim("w1", 4)
    for job in jobs:
        set_clock_back(job)
    completed.heartbeat(progress=0.5)
    completed.advance(JobStatus.SYNTHESIZING_AUDIO)
    completed.complete("/v.mp4")
    failed.fail("no", retry=False)
    stored(cancelled).cancel()
    cancelled.acknowledge_cancellation()
    released.release()
    for job in (completed, failed, cancelled):
        ended = stored(job)
        assert ended.completed_at == ended.started_at
        assert ended.processing_time_seconds == 0
    assert stored(released).status is JobStatus.PENDING
    assert all(seconds >= 0 for seconds in completed.stage_seconds().values())
    assert PresentationJob.claim("w2") == [released]


def test_a_lease_from_before_the_clock_was_set_back_ends_with_a_sign_of_life_or_late(
    db: DatabaseManager, claimed: PresentationJob
) -> None:
    set_clock_back(claimed)
    assert PresentationJob.claim("w2") == []
    assert stored(claimed).lease_expires_at > datetime.now(timezone.utc) + timedelta(hours=2)
    claimed.heartbeat()  # from here on the lease is as long as it was asked for, by the new clock
    assert stored(claimed).lease_expires_at < datetime.now(timezone.utc) + timedelta(hours=1)


def test_a_plain_save_after_the_clock_was_set_back_keeps_the_order_of_times(
    db: DatabaseManager, claimed: PresentationJob
) -> None:
    set_clock_back(claimed)
    plain = stored(claimed)
    plain.status, plain.s3_video_path = JobStatus.COMPLETED, "/v.mp4"
    plain.save()
    assert stored(claimed).completed_at == stored(claimed).started_at
