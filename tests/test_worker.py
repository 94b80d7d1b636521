"""Worker: every way in which a handler can end, heartbeats, signals, outages, and many workers at once."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fixtures.programs import run_in_step
from fixtures.rows import Enqueue, stored
from fixtures.waiting import wait_until

import presgen.worker
from presgen import (
    DatabaseConfig,
    DatabaseManager,
    DatabaseUnavailable,
    JobCancelled,
    JobEvent,
    JobStatus,
    LeaseLost,
    PresentationJob,
    User,
    ValidationError,
    VoiceClone,
    Worker,
)
from presgen.errors import ConfigurationError


def complete(job: PresentationJob) -> None:
    job.complete(s3_video_path=f"/{job.id}.mp4")


def test_drain_handles_what_is_due(db: DatabaseManager, enqueue: Enqueue) -> None:
    jobs = [enqueue() for _ in range(3)]
    worker = Worker(db, complete, name="w1")
    assert worker.drain() == 3
    assert worker.run_once() is False
    assert {stored(job).status for job in jobs} == {JobStatus.COMPLETED}
    assert {stored(job).worker for job in jobs} == {"w1"}


def test_a_worker_names_itself_after_host_and_process(db: DatabaseManager) -> None:
    assert Worker(db, complete).name.endswith(f"-{os.getpid()}")


def test_no_connection_is_held_while_the_handler_works(
    postgresql: str, db: DatabaseManager, job: PresentationJob
) -> None:
    db.database.close()
    in_use: list[int] = []

    def handler(job: PresentationJob) -> None:
        in_use.append(db.pool_stats()["in_use"])
        job.advance(JobStatus.SYNTHESIZING_AUDIO)
        in_use.append(db.pool_stats()["in_use"])
        assert job.voice_clone.s3_path
        in_use.append(db.pool_stats()["in_use"])
        complete(job)

    Worker(db, handler).drain()
    assert in_use == [0, 0, 0]


def test_an_exception_fails_the_attempt_and_keeps_its_message(
    db: DatabaseManager, job: PresentationJob, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(job: PresentationJob) -> None:
        raise ValueError("no such slide")

    assert Worker(db, handler).run_once()
    failed = stored(job)
    assert (failed.status, failed.attempt) == (JobStatus.PENDING, 1)
    assert failed.error_message == "ValueError: no such slide"
    assert f"job {job.id} failed" in caplog.text


def test_returning_without_an_end_fails_the_attempt(db: DatabaseManager, job: PresentationJob) -> None:
    Worker(db, lambda job: None).run_once()
    assert stored(job).error_message == "the handler returned without completing the job"


def test_a_handler_may_end_its_job_in_any_way(db: DatabaseManager, enqueue: Enqueue) -> None:
    released, failed = enqueue(), enqueue()

    def handler(job: PresentationJob) -> None:
        if job == released and job.attempt == 1:
            job.release()
        elif job == failed:
            job.fail("bad deck", retry=False)
            raise RuntimeError("after the end")
        else:
            complete(job)

    assert Worker(db, handler).drain() == 3
    assert stored(released).status is JobStatus.COMPLETED
    assert stored(failed).error_message == "bad deck"


def test_a_cancelled_job_ends_as_cancelled(db: DatabaseManager, job: PresentationJob) -> None:
    def handler(job: PresentationJob) -> None:
        stored(job).cancel()
        job.heartbeat(progress=0.3)
        raise AssertionError("the heartbeat should have raised")

    Worker(db, handler).run_once()
    cancelled = stored(job)
    assert (cancelled.status, cancelled.progress) == (JobStatus.CANCELLED, 0.3)


def test_a_cancellation_wins_over_a_failure(db: DatabaseManager, job: PresentationJob) -> None:
    def handler(job: PresentationJob) -> None:
        stored(job).cancel()
        raise ValueError("while cancelled")

    Worker(db, handler).run_once()
    assert stored(job).status is JobStatus.CANCELLED


def test_a_lost_job_is_dropped(db: DatabaseManager, enqueue: Enqueue, caplog: pytest.LogCaptureFixture) -> None:
    enqueue(), enqueue()

    def handler(job: PresentationJob) -> None:
        PresentationJob.delete().where(PresentationJob.id == job.id).execute()
        if job.id % 2:
            complete(job)
        raise ValueError("too late")

    assert Worker(db, handler).drain() == 2
    assert caplog.text.count("is over or in other hands") == 2


def test_a_handler_that_undoes_its_own_writes_still_fails_its_job(db: DatabaseManager, enqueue: Enqueue) -> None:
    advanced, completed = enqueue(), enqueue()

    def handler(job: PresentationJob) -> None:
        with db.transaction():
            if job == advanced:
                job.advance(JobStatus.SYNTHESIZING_AUDIO)
            else:
                complete(job)
            raise ValueError("boom")

    assert Worker(db, handler).drain() == 2
    for job in (advanced, completed):
        assert (stored(job).status, stored(job).error_message) == (JobStatus.PENDING, "ValueError: boom")


def test_a_cancellation_that_was_reaped_meanwhile_is_over(
    db: DatabaseManager, job: PresentationJob, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(job: PresentationJob) -> None:
        stored(job).cancel()
        PresentationJob.update(lease_expires_at=job.created_at).execute()
        assert PresentationJob.reap() == 1
        job.heartbeat()

    assert Worker(db, handler).run_once()
    assert stored(job).status is JobStatus.CANCELLED
    assert "is over or in other hands" in caplog.text


def test_the_error_of_another_job_fails_this_one(db: DatabaseManager, enqueue: Enqueue) -> None:
    mine, other = enqueue(priority=1), enqueue()

    def handler(job: PresentationJob) -> None:
        raise JobCancelled(f"job {other.id} was cancelled")

    Worker(db, handler).run_once()
    assert stored(mine).status is JobStatus.PENDING
    assert stored(mine).error_message == f"JobCancelled: job {other.id} was cancelled"


def test_a_handler_that_exits_uses_up_its_attempt(db: DatabaseManager, job: PresentationJob) -> None:
    with pytest.raises(SystemExit):
        Worker(db, lambda job: sys.exit("no more")).run_once()
    back = stored(job)
    assert (back.status, back.max_attempts, back.error_message) == (JobStatus.PENDING, 3, "SystemExit: no more")


@pytest.mark.parametrize(
    "arguments", [{"lease": 0}, {"lease": float("nan")}, {"poll": -1}, {"poll": "1"}, {"name": 5}, {"lease": 1e12}]
)
def test_a_worker_refuses_nonsense(db: DatabaseManager, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        Worker(db, complete, **arguments)
    assert caught.value.field in (*arguments, "worker")


def test_a_worker_of_another_manager_says_so(db: DatabaseManager, job: PresentationJob) -> None:
    with DatabaseManager("sqlite:///:memory:"):
        with pytest.raises(ConfigurationError, match="bound to another manager's database"):
            Worker(db, complete).run_once()
        with pytest.raises(ConfigurationError):
            db.metrics()


def test_a_busy_database_stops_no_worker(
    sqlite_template: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "presgen.db"
    path.write_bytes(sqlite_template.read_bytes())
    monkeypatch.setattr(presgen.worker, "_OUTAGE_PAUSE_MAX_SECONDS", 0.05)
    with DatabaseManager(DatabaseConfig(f"sqlite:///{path}", pool_timeout=0.05)) as manager:
        user = User.create(name="Ada")
        voice = VoiceClone.create(name="v", s3_path="/v.wav", owner=user)
        job = PresentationJob.enqueue(owner=user, voice_clone=voice, s3_pptx_path="/x.pptx")
        holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        holder.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.5, holder.execute, ("ROLLBACK",))
        timer.start()

        def handler(job: PresentationJob) -> None:
            complete(job)
            worker.stop()

        worker = Worker(manager, handler, poll=0.01)
        worker.run()
        assert stored(job).status is JobStatus.COMPLETED
        timer.join()
        holder.close()


def test_an_interrupted_handler_gives_its_job_back(db: DatabaseManager, job: PresentationJob) -> None:
    def handler(job: PresentationJob) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Worker(db, handler).run_once()
    back = stored(job)
    assert (back.status, back.attempt, back.max_attempts) == (JobStatus.PENDING, 1, 4)


def test_heartbeats_keep_a_long_job_alive(db: DatabaseManager, job: PresentationJob) -> None:
    def handler(job: PresentationJob) -> None:
        first = stored(job).lease_expires_at
        wait_until(lambda: stored(job).lease_expires_at > first + timedelta(seconds=0.3))
        assert PresentationJob.claim("thief") == []
        complete(job)

    Worker(db, handler, lease=0.6).run_once()
    assert (stored(job).status, stored(job).attempt) == (JobStatus.COMPLETED, 1)


def test_a_heartbeat_survives_an_outage_and_ends_with_the_lease(
    db: DatabaseManager, job: PresentationJob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    answers = [DatabaseUnavailable("gone"), None, LeaseLost("taken")]
    beats: list[object] = []
    done = threading.Event()

    def keep_alive(_job: PresentationJob) -> None:
        beats.append(answers[0])
        answer = answers.pop(0)
        if not answers:
            done.set()
        if answer is not None:
            raise answer

    monkeypatch.setattr(PresentationJob, "keep_alive", keep_alive)
    Worker(db, lambda job: done.wait(20) and complete(job), lease=0.03).run_once()
    assert len(beats) == 3
    assert "heartbeat of job" in caplog.text


def test_run_works_until_it_is_stopped(db: DatabaseManager, enqueue: Enqueue) -> None:
    worker = Worker(db, complete, poll=0.01)
    thread = threading.Thread(target=worker.run)
    thread.start()
    jobs = [enqueue() for _ in range(3)]
    wait_until(lambda: all(stored(job).status is JobStatus.COMPLETED for job in jobs))
    worker.stop()
    thread.join(20)
    assert not thread.is_alive()


def test_run_waits_out_an_outage(
    db: DatabaseManager, job: PresentationJob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(presgen.worker, "_OUTAGE_PAUSE_MAX_SECONDS", 0.01)
    claim, outages = PresentationJob.claim, [1, 2]

    def flaky(*arguments: Any, **options: Any) -> Any:
        if outages:
            outages.pop()
            raise DatabaseUnavailable("the server is restarting")
        return claim(*arguments, **options)

    monkeypatch.setattr(PresentationJob, "claim", flaky)

    def handler(job: PresentationJob) -> None:
        complete(job)
        worker.stop()

    worker = Worker(db, handler, poll=0.01)
    worker.run()
    assert stored(job).status is JobStatus.COMPLETED
    assert caplog.text.count("the server is restarting") == 2


def test_an_outage_in_a_handler_fails_its_attempt_once_the_database_is_back(
    db: DatabaseManager, job: PresentationJob
) -> None:
    def handler(job: PresentationJob) -> None:
        raise DatabaseUnavailable("gone")

    assert Worker(db, handler).run_once()
    assert (stored(job).status, stored(job).error_message) == (JobStatus.PENDING, "DatabaseUnavailable: gone")


SCRIPT = """
import sys, time
from pathlib import Path
from presgen import DatabaseManager, JobStatus, Worker

def handler(job):
    Path(sys.argv[1], f"started-{job.id}-{job.attempt}").touch()
    while not Path(sys.argv[1], "go").exists():
        time.sleep(0.01)
    job.complete(s3_video_path="/v.mp4")

with DatabaseManager.from_env() as db:
    Worker(db, handler, name="w", poll=0.02).run()
"""


@pytest.fixture
def start_worker(url: str, tmp_path: Path) -> Callable[[], subprocess.Popen[str]]:
    processes: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        environment = {**os.environ, "DATABASE_URL": url}
        command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
        processes.append(subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE))
        return processes[-1]

    yield start  # type: ignore[misc]
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def queued(url: str) -> list[PresentationJob]:
    """Two jobs in a database that other processes see; the models stay bound to it."""
    manager = DatabaseManager(url)
    manager.open()
    user = User.create(name="Ada")
    voice = VoiceClone.create(name="v", s3_path="/v.wav", owner=user)
    yield [PresentationJob.enqueue(owner=user, voice_clone=voice, s3_pptx_path="/x.pptx") for _ in range(2)]  # type: ignore[misc]
    manager.close()


def test_sigterm_finishes_the_job_in_hand_and_exits_0(
    queued: list[PresentationJob], start_worker: Callable[[], subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start_worker()
    wait_until(lambda: list(tmp_path.glob("started-*")))
    process.send_signal(signal.SIGTERM)
    (tmp_path / "go").touch()
    _, stderr = process.communicate(timeout=20)
    assert (process.returncode, stderr) == (0, "")
    assert [stored(job).status for job in queued] == [JobStatus.COMPLETED, JobStatus.PENDING]


def test_an_idle_worker_stops_at_once(
    url: str, start_worker: Callable[[], subprocess.Popen[str]], queued: list[PresentationJob], tmp_path: Path
) -> None:
    (tmp_path / "go").touch()
    process = start_worker()
    wait_until(lambda: all(stored(job).status is JobStatus.COMPLETED for job in queued))
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert (process.returncode, stderr) == (0, "")


def test_a_second_signal_gives_the_job_back(
    queued: list[PresentationJob], start_worker: Callable[[], subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start_worker()
    wait_until(lambda: list(tmp_path.glob("started-*")))
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)  # two pending signals of one kind are one signal
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    back = stored(queued[0])
    assert (back.status, back.worker, back.max_attempts) == (JobStatus.PENDING, None, 4)


BUSY = """
import sys
from presgen import DatabaseManager, PresentationJob
with DatabaseManager.from_env() as db:
    print("ready", flush=True)
    sys.stdin.readline()
    while jobs := PresentationJob.claim(sys.argv[1], limit=3):
        for job in jobs:
            job.complete(s3_video_path=f"/{job.worker}.mp4")
            print(job.id, flush=True)
"""


def test_workers_in_many_processes_do_every_job_once(url: str, queued: list[PresentationJob]) -> None:
    row = {"owner": queued[0].owner_id, "voice_clone": queued[0].voice_clone_id, "s3_pptx_path": "/x.pptx"}
    PresentationJob.enqueue_many([row] * 198)
    outputs = run_in_step(BUSY, url=url, count=4)
    done = Counter(int(line) for output in outputs for line in output.split())
    assert len(done) == 200
    assert set(done.values()) == {1}
    assert PresentationJob.select().where(PresentationJob.status == JobStatus.COMPLETED).count() == 200
    assert JobEvent.select().count() == 400
    assert PresentationJob.select().where(PresentationJob.attempt != 1).count() == 0
