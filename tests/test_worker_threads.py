"""Worker.run(): several jobs at once, deadlines of handlers and of stopping, pausing, signals to real processes."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.rows import Enqueue, stored
from fixtures.waiting import wait_until

from presgen import (
    DatabaseConfig,
    DatabaseManager,
    JobStatus,
    PoolTimeout,
    PresentationJob,
    User,
    ValidationError,
    VoiceClone,
    Worker,
)
from presgen.errors import HandlerStuck, StatementTimeout

Start = Callable[..., subprocess.Popen[str]]


def complete(job: PresentationJob) -> None:
    job.complete(s3_video_path=f"/{job.id}.mp4")


async def sleeps(job: PresentationJob) -> None:
    """No handler: nobody would await it."""


@pytest.fixture
def running() -> Iterator[Callable[[Worker], threading.Thread]]:
    """Runs workers in threads, and stops them at the end."""
    started: list[tuple[Worker, threading.Thread]] = []

    def run(worker: Worker) -> threading.Thread:
        thread = threading.Thread(target=worker.run)
        thread.start()
        started.append((worker, thread))
        return thread

    yield run
    for worker, thread in started:
        worker.stop()
        thread.join(30)


def test_several_jobs_are_in_hand_at_once(
    db: DatabaseManager, enqueue: Enqueue, running: Callable[[Worker], threading.Thread]
) -> None:
    jobs = [enqueue() for _ in range(5)]
    together = threading.Barrier(3)

    def handler(job: PresentationJob) -> None:
        if job.id <= jobs[2].id:
            together.wait(30)  # broken unless three handlers run at the same time
        complete(job)

    running(Worker(db, handler, concurrency=3, poll=0.01))
    wait_until(lambda: all(stored(job).status is JobStatus.COMPLETED for job in jobs))


def test_no_more_than_concurrency_are_in_hand(
    db: DatabaseManager, enqueue: Enqueue, running: Callable[[Worker], threading.Thread]
) -> None:
    jobs, most, now, lock = [enqueue() for _ in range(6)], 0, 0, threading.Lock()

    def handler(job: PresentationJob) -> None:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        complete(job)
        with lock:
            now -= 1

    running(Worker(db, handler, concurrency=2, poll=0.01))
    wait_until(lambda: all(stored(job).status is JobStatus.COMPLETED for job in jobs))
    assert most <= 2


def test_a_handler_that_exits_does_not_end_the_worker(
    db: DatabaseManager, enqueue: Enqueue, running: Callable[[Worker], threading.Thread]
) -> None:
    bad, good = enqueue(priority=1), enqueue()
    running(Worker(db, lambda job: sys.exit("no more") if job == bad else complete(job), poll=0.01))
    wait_until(lambda: stored(good).status is JobStatus.COMPLETED)
    assert (stored(bad).status, stored(bad).error_message) == (JobStatus.PENDING, "SystemExit: no more")


def test_what_a_handler_leaves_open_is_given_back(
    db: DatabaseManager, enqueue: Enqueue, running: Callable[[Worker], threading.Thread]
) -> None:
    jobs = [enqueue() for _ in range(3)]
    db.database.close()

    def handler(job: PresentationJob) -> None:
        complete(job)
        if job != jobs[2]:
            db.database.connect(reuse_if_open=True)
            db.database.begin()
            User.create(name="never committed")

    thread = running(worker := Worker(db, handler, poll=0.01))
    wait_until(lambda: stored(jobs[2]).status is JobStatus.COMPLETED)
    worker.stop()
    thread.join(30)
    db.database.close()
    assert db.pool_stats()["in_use"] == 0
    assert User.select().where(User.name == "never committed").count() == 0


def test_a_handler_that_hangs_fails_its_job_and_stops_the_worker(db: DatabaseManager, enqueue: Enqueue) -> None:
    hanging, other = enqueue(priority=1), enqueue()
    release = threading.Event()

    def handler(job: PresentationJob) -> None:
        if job == hanging:
            release.wait(60)
            with pytest.raises(Exception, match="drop its work"):
                complete(job)
        else:
            complete(job)

    with pytest.raises(HandlerStuck, match=f"job {hanging.id}: the handler had not ended after 1.5 s"):
        Worker(db, handler, concurrency=2, timeout=1.5, poll=0.02).run()
    failed = stored(hanging)
    assert (failed.status, failed.attempt) == (JobStatus.PENDING, 1)
    assert failed.error_message == "the handler had not ended after 1.5 s"
    release.set()
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("job-")])
    assert stored(hanging).__data__ == failed.__data__
    assert stored(other).status is JobStatus.COMPLETED


def test_stopping_gives_jobs_in_hand_a_grace_and_then_releases_them(db: DatabaseManager, enqueue: Enqueue) -> None:
    quick, endless = enqueue(priority=1), enqueue()
    release, begun = threading.Event(), threading.Barrier(3)

    def handler(job: PresentationJob) -> None:
        begun.wait(30)
        if job == quick:
            time.sleep(0.1)
            complete(job)
        else:
            release.wait(60)

    worker = Worker(db, handler, concurrency=2, grace=0.6, poll=0.01)
    thread = threading.Thread(target=worker.run)
    thread.start()
    begun.wait(30)
    worker.stop()
    thread.join(30)
    assert not thread.is_alive()
    assert stored(quick).status is JobStatus.COMPLETED
    back = stored(endless)
    assert (back.status, back.worker, back.max_attempts) == (JobStatus.PENDING, None, 4)
    assert "stopped before the handler had ended" in back.error_message
    release.set()
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("job-")])
    assert stored(endless).status is JobStatus.PENDING


def test_a_paused_worker_claims_nothing_until_it_is_resumed(
    db: DatabaseManager, enqueue: Enqueue, running: Callable[[Worker], threading.Thread], statements: list[str]
) -> None:
    worker = Worker(db, complete, poll=0.01)
    worker.pause()
    running(worker)
    job = enqueue()
    statements.clear()
    time.sleep(0.3)
    assert stored(job).status is JobStatus.PENDING
    assert not [statement for statement in statements if "UPDATE" in statement]
    worker.resume()
    wait_until(lambda: stored(job).status is JobStatus.COMPLETED)


def test_an_attempt_whose_job_changes_as_it_is_settled_is_settled_all_the_same(
    db: DatabaseManager, job: PresentationJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_hand, changes = PresentationJob.in_hand, [stored(job).cancel, lambda: None]

    def changed_after_the_look(*arguments: Any, **options: Any) -> Any:
        held = in_hand(*arguments, **options)
        if changes:
            changes.pop(0)()
        return held

    monkeypatch.setattr(PresentationJob, "in_hand", changed_after_the_look)

    def handler(_job: PresentationJob) -> None:
        raise ValueError("late")

    assert Worker(db, handler).run_once()
    assert stored(job).status is JobStatus.CANCELLED


def test_a_busy_database_does_not_cost_a_finished_job(sqlite_template: Path, tmp_path: Path) -> None:
    path = tmp_path / "presgen.db"
    path.write_bytes(sqlite_template.read_bytes())
    with DatabaseManager(DatabaseConfig(f"sqlite:///{path}", pool_timeout=0.1)) as manager:
        user = User.create(name="Ada")
        voice = VoiceClone.create(name="v", s3_path="/v.wav", owner=user)
        job = PresentationJob.enqueue(owner=user, voice_clone=voice, s3_pptx_path="/x.pptx")
        holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        timer = threading.Timer(0.6, holder.execute, ("ROLLBACK",))

        def handler(job: PresentationJob) -> None:
            holder.execute("BEGIN IMMEDIATE")
            timer.start()
            complete(job)

        Worker(manager, handler).run_once()
        assert (stored(job).status, stored(job).attempt) == (JobStatus.COMPLETED, 1)
        timer.join()
        holder.close()


def test_a_claim_that_takes_too_long_does_not_end_the_worker(
    db: DatabaseManager, enqueue: Enqueue, running: Callable[[Worker], threading.Thread],
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    job, claim, refused = (
        enqueue(),
        PresentationJob.claim,
        [StatementTimeout("canceling statement"), PoolTimeout("full")],
    )

    def slow_at_first(*arguments: Any, **options: Any) -> Any:
        if refused:
            raise refused.pop()
        return claim(*arguments, **options)

    monkeypatch.setattr(PresentationJob, "claim", slow_at_first)
    running(Worker(db, complete, poll=0.01))
    wait_until(lambda: stored(job).status is JobStatus.COMPLETED)
    assert "canceling statement" in caplog.text


def test_a_worker_may_run_again(db: DatabaseManager, enqueue: Enqueue) -> None:
    def handler(job: PresentationJob) -> None:
        complete(job)
        worker.stop()

    worker = Worker(db, handler, poll=0.01)
    for _ in range(2):
        job = enqueue()
        worker.run()
        assert stored(job).status is JobStatus.COMPLETED
    job = enqueue()
    assert worker.drain() == 1
    assert stored(job).status is JobStatus.COMPLETED


@pytest.mark.parametrize(
    "arguments",
    [
        {"handler": None},
        {"handler": sleeps},
        {"concurrency": 0},
        {"concurrency": 1.5},
        {"timeout": 0},
        {"grace": -1},
        {"max_per_owner": 0},
    ],
)
def test_a_worker_refuses_nonsense(db: DatabaseManager, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        Worker(db, **{"handler": complete, **arguments})
    assert caught.value.field in arguments


# Real processes

SCRIPT = """
import sys, threading
from pathlib import Path
from presgen import DatabaseManager, Worker

folder = Path(sys.argv[1])

def handler(job):
    (folder / f"started-{job.id}").touch()
    while not (folder / "go").exists():
        threading.Event().wait(0.01)
    job.complete(s3_video_path="/v.mp4")

with DatabaseManager.from_env() as db:
    worker = Worker(db, handler, name="w", poll=0.02, concurrency=2, grace=float(sys.argv[2]))
    pause = worker.pause
    worker.pause = lambda: (pause(), (folder / "paused").touch())
    worker.run()
"""


@pytest.fixture
def start(url: str, tmp_path: Path) -> Iterator[Start]:
    """Starts a worker process that holds its jobs until the file `go` is there."""
    processes: list[subprocess.Popen[str]] = []

    def start(*, grace: float = 20) -> subprocess.Popen[str]:
        environment = {**os.environ, "DATABASE_URL": url}
        command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(grace)]
        processes.append(subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def queued(url: str) -> Iterator[list[PresentationJob]]:
    """Three jobs in a database that other processes see."""
    with DatabaseManager(url):
        user = User.create(name="Ada")
        voice = VoiceClone.create(name="v", s3_path="/v.wav", owner=user)
        yield [PresentationJob.enqueue(owner=user, voice_clone=voice, s3_pptx_path="/x.pptx") for _ in range(3)]


def two_started(folder: Path) -> bool:
    return len(list(folder.glob("started-*"))) == 2


def test_sigterm_lets_all_jobs_in_hand_end(start: Start, queued: list[PresentationJob], tmp_path: Path) -> None:
    process = start()
    wait_until(lambda: two_started(tmp_path))
    process.send_signal(signal.SIGTERM)
    (tmp_path / "go").touch()
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (0, "")
    assert [stored(job).status.value for job in queued] == ["completed", "completed", "pending"]


def test_after_the_grace_the_worker_releases_its_jobs_and_exits_0(
    start: Start, queued: list[PresentationJob], tmp_path: Path
) -> None:
    process = start(grace=0.3)
    wait_until(lambda: two_started(tmp_path))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert [(stored(job).status.value, stored(job).max_attempts) for job in queued] == [
        ("pending", 4), ("pending", 4), ("pending", 3),
    ]  # fmt: skip


def test_a_second_signal_releases_all_jobs_at_once(start: Start, queued: list[PresentationJob], tmp_path: Path) -> None:
    process = start(grace=3600)
    wait_until(lambda: two_started(tmp_path))
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)  # two pending signals of one kind are one signal
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT
    assert {stored(job).status for job in queued} == {JobStatus.PENDING}


def test_signals_pause_and_resume_a_worker(start: Start, queued: list[PresentationJob], tmp_path: Path) -> None:
    process = start()
    wait_until(lambda: two_started(tmp_path))
    process.send_signal(signal.SIGUSR1)
    wait_until((tmp_path / "paused").exists)
    (tmp_path / "go").touch()
    wait_until(lambda: [stored(job).status for job in queued[:2]] == [JobStatus.COMPLETED] * 2)
    time.sleep(0.3)
    assert stored(queued[2]).status is JobStatus.PENDING
    process.send_signal(signal.SIGUSR2)
    wait_until(lambda: stored(queued[2]).status is JobStatus.COMPLETED)


def test_a_stopped_process_that_wakes_up_changes_nothing(
    start: Start, queued: list[PresentationJob], tmp_path: Path
) -> None:
    process = start()
    wait_until(lambda: two_started(tmp_path))
    process.send_signal(signal.SIGSTOP)
    PresentationJob.update(lease_expires_at=queued[0].created_at).where(
        PresentationJob.status == JobStatus.PROCESSING_SLIDES
    ).execute()
    assert PresentationJob.reap() == 2
    PresentationJob.update(run_at=queued[0].created_at).execute()
    again = PresentationJob.claim("w", limit=3)  # even under the same name
    assert [(job.id, job.attempt) for job in again] == [(queued[0].id, 2), (queued[1].id, 2), (queued[2].id, 1)]
    before = [stored(job).__data__ for job in again]
    (tmp_path / "go").touch()
    process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 0
    assert stderr.count("is over or in other hands") == 2
    assert [stored(job).__data__ for job in again] == before


def test_a_worker_that_waits_for_its_server_stops_at_its_grace(
    start: Start, queued: list[PresentationJob], tmp_path: Path, postgresql: str
) -> None:
    process = start(grace=0.5)
    wait_until(lambda: two_started(tmp_path))
    with PresentationJob._meta.database.atomic():
        PresentationJob._meta.database.execute_sql("LOCK TABLE presentation_jobs IN ACCESS EXCLUSIVE MODE")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)  # neither the claim nor the release gets its lock
        assert process.returncode == 0
    assert {stored(job).status for job in queued} <= {JobStatus.PROCESSING_SLIDES, JobStatus.PENDING}


FORKER = """
import multiprocessing, sys, time
from presgen import DatabaseManager, Worker

def sleep(ready):
    ready.set()
    time.sleep(60)

def handler(job):
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    child = fork.Process(target=sleep, args=(ready,), daemon=True)
    child.start()
    ready.wait(20)
    child.terminate()
    child.join(20)
    job.complete(s3_video_path=f"/{child.exitcode}.mp4")
    worker.stop()

with DatabaseManager.from_env() as db:
    worker = Worker(db, handler, poll=0.02)
    worker.run()
"""


def test_a_process_that_a_handler_forks_has_no_part_in_the_workers_signals(
    url: str, queued: list[PresentationJob]
) -> None:
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKER], env={**os.environ, "DATABASE_URL": url}, check=True, timeout=60
    )
    assert stored(queued[0]).s3_video_path == f"/-{int(signal.SIGTERM)}.mp4"
