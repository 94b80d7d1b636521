"""notify: who sends a notification, and a listener that no outage stops."""

from __future__ import annotations

import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any

import psycopg2
import pytest
from fixtures.rows import Enqueue
from fixtures.servers import VERSIONS
from fixtures.waiting import wait_until

from presgen import DatabaseConfig, DatabaseManager, PresentationJob, User, VoiceClone, Worker
from presgen.embedded import EmbeddedServer
from presgen.ext import notify

THREAD = "presgen-wake-ups"
SECRET = "hunter2"


@pytest.fixture
def db(postgresql: str, url: str) -> Iterator[DatabaseManager]:
    """A database of the test's own, with the feature."""
    with DatabaseManager(DatabaseConfig(url, pool_timeout=5, application_name="the-app")) as manager:
        manager.install("notify")
        yield manager


class Wakes:
    """Counts wake-ups, and waits for them."""

    def __init__(self) -> None:
        self._semaphore = threading.Semaphore(0)

    def __call__(self) -> None:
        self._semaphore.release()

    def wait(self, seconds: float = 20) -> None:
        assert self._semaphore.acquire(timeout=seconds), "nobody woke us"

    def is_silent(self, seconds: float) -> bool:
        return not self._semaphore.acquire(timeout=seconds)


def listeners(manager: DatabaseManager) -> list[int]:
    """The server's processes that listen to the database."""
    sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE %s AND state = 'idle'"
    return [pid for (pid,) in manager.database.execute_sql(sql, ("%LISTEN presgen_jobs_due",)).fetchall()]


def has_thread() -> bool:
    return any(thread.name == THREAD for thread in threading.enumerate())


@pytest.fixture
def sent(db: DatabaseManager) -> Iterator[Callable[[], list[str]]]:
    """The payloads of all notifications since it was last called."""
    with closing(psycopg2.connect(**db.config.connect_parameters())) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(f"LISTEN {notify.CHANNEL}")

        def sent() -> list[str]:
            # Notifications come in the order of their commits, so what was sent before comes before the mark.
            cursor.execute("SELECT pg_notify(%s, 'mark')", (notify.CHANNEL,))
            while not any(notice.payload == "mark" for notice in connection.notifies):
                assert select.select([connection], [], [], 10)[0]
                connection.poll()
            payloads = [notice.payload for notice in connection.notifies if notice.payload != "mark"]
            connection.notifies.clear()
            return payloads

        yield sent


# Who sends

ONE = [""]  # a notification, which carries nothing
Sent = Callable[[], list[str]]


def test_each_enqueue_is_one_notification(enqueue: Enqueue, sent: Sent) -> None:
    enqueue()
    assert sent() == ONE
    enqueue()
    enqueue()
    assert sent() == ONE * 2


def test_ten_thousand_jobs_in_one_copy_are_one_notification(user: User, voice: VoiceClone, sent: Sent) -> None:
    row = {"owner": user, "voice_clone": voice, "s3_pptx_path": "/decks/talk.pptx"}
    PresentationJob.enqueue_many([row] * 10_000)
    assert sent() == ONE


def test_a_transaction_notifies_once_and_only_when_it_commits(
    db: DatabaseManager, enqueue: Enqueue, sent: Sent
) -> None:
    with db.transaction():
        enqueue()
        enqueue()
        assert sent() == []
    assert sent() == ONE
    with pytest.raises(ZeroDivisionError), db.transaction():
        enqueue()
        raise ZeroDivisionError
    assert sent() == []


def test_the_work_on_a_job_notifies_nobody(enqueue: Enqueue, sent: Sent) -> None:
    enqueue()
    assert sent() == ONE
    (job,) = PresentationJob.claim("w1")
    job.heartbeat(progress=0.5, checkpoint={"slide": 1})
    job.advance("synthesizing_audio")
    job.complete(s3_video_path="/1.mp4")
    assert sent() == []


def test_a_job_that_waits_for_its_backoff_notifies_nobody(claimed: PresentationJob, sent: Sent) -> None:
    sent()
    claimed.fail("no such slide")
    assert PresentationJob.get_by_id(claimed.id).status == "pending"
    assert sent() == []


def test_a_released_job_notifies(claimed: PresentationJob, sent: Sent) -> None:
    sent()
    claimed.release()
    assert sent() == ONE


def test_a_job_that_is_retried_by_hand_notifies(claimed: PresentationJob, sent: Sent) -> None:
    claimed.fail("no such slide", retry=False)
    sent()
    claimed.retry()
    assert sent() == ONE


def test_a_job_that_is_brought_forward_or_back_notifies(enqueue: Enqueue, sent: Sent) -> None:
    now = datetime.now(timezone.utc)
    job = enqueue(run_at=now + timedelta(hours=1))
    sent()
    for column, value, notifies in (
        ("priority", 9, False),
        ("run_at", now + timedelta(minutes=30), False),
        ("run_at", now - timedelta(minutes=1), True),
        ("run_at", now - timedelta(minutes=2), False),
        ("deleted_at", now, False),
        ("deleted_at", None, True),
    ):
        PresentationJob.update({column: value}).where(PresentationJob.id == job.id).execute()
        assert (sent() == ONE) is notifies, (column, value)


def test_many_jobs_that_are_retried_at_once_are_one_notification(db: DatabaseManager, user: User, voice: VoiceClone,
                                                                 sent: Sent) -> None:  # fmt: skip
    row = {"owner": user, "voice_clone": voice, "s3_pptx_path": "/decks/talk.pptx"}
    PresentationJob.enqueue_many([row] * 1000)
    PresentationJob.update(status="cancelled").execute()
    sent()
    PresentationJob.update(status="pending").execute()
    assert sent() == ONE


def test_an_uninstalled_feature_sends_nothing(db: DatabaseManager, enqueue: Enqueue, sent: Sent) -> None:
    db.uninstall("notify")
    enqueue().cancel()
    assert sent() == []
    db.install("notify")
    enqueue()
    assert sent() == ONE


# Who listens


@contextmanager
def woken(manager: DatabaseManager) -> Iterator[Wakes]:
    """A listener that listens already."""
    wakes = Wakes()
    with manager.wake_ups(wakes):
        wakes.wait()
        yield wakes


def test_a_listener_hears_of_every_way_in(db: DatabaseManager, enqueue: Enqueue, user: User, voice: VoiceClone) -> None:
    with woken(db) as wakes:
        job = enqueue()
        wakes.wait()
        (job,) = PresentationJob.claim("w1")
        job.release()
        wakes.wait()
        (job,) = PresentationJob.claim("w1")
        job.fail("no such slide", retry=False)
        job.retry()
        wakes.wait()
        PresentationJob.enqueue_many([{"owner": user, "voice_clone": voice, "s3_pptx_path": "/a.pptx"}] * 100)
        wakes.wait()
        with pytest.raises(ZeroDivisionError), db.transaction():
            enqueue()
            raise ZeroDivisionError
        assert wakes.is_silent(0.2)


def test_a_listener_has_a_connection_of_its_own_and_gives_it_back(db: DatabaseManager) -> None:
    with woken(db):
        (pid,) = listeners(db)
        sql = "SELECT application_name FROM pg_stat_activity WHERE pid = %s"
        assert db.database.execute_sql(sql, (pid,)).fetchone() == ("the-app",)
        db.database.close()
        assert db.pool_stats()["in_use"] == 0
        assert has_thread()
    assert not has_thread()
    wait_until(lambda: not listeners(db))


def test_the_end_of_the_block_is_the_end_of_the_listener(db: DatabaseManager) -> None:
    with pytest.raises(ZeroDivisionError), woken(db):
        began = time.monotonic()
        raise ZeroDivisionError
    assert time.monotonic() - began < 0.5
    assert not has_thread()


def test_a_terminated_listener_comes_back_and_wakes_for_what_it_missed(
    db: DatabaseManager, enqueue: Enqueue, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="presgen.worker")
    with woken(db) as wakes:
        for _ in range(2):
            caplog.clear()
            (pid,) = listeners(db)
            db.database.execute_sql("SELECT pg_terminate_backend(%s, 5000)", (pid,))
            wakes.wait()
            assert listeners(db) != [pid]
            enqueue()
            wakes.wait()
            assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
            assert "was lost" in caplog.messages[0]
            assert caplog.messages[1] == "wake-ups are back"


@pytest.mark.parametrize("version", VERSIONS.values())
def test_a_listener_survives_a_restart_of_the_server(version: int) -> None:
    with TemporaryDirectory(prefix="presgen-notify-") as folder:
        server = EmbeddedServer(Path(folder), version=version)
        with server, DatabaseManager(server.url) as manager:
            manager.migrate()
            manager.install("notify")
            with woken(manager) as wakes:
                server.stop()
                server.start()
                wakes.wait()
                manager.database.execute_sql(f"NOTIFY {notify.CHANNEL}")
                wakes.wait()


def test_through_pgbouncer_nobody_listens(db: DatabaseManager, url: str) -> None:
    with DatabaseManager(DatabaseConfig(url, pgbouncer=True)) as manager, manager.wake_ups(Wakes()):
        assert manager.features() == ["notify"]
        assert not has_thread()


def test_without_the_feature_nobody_listens(db: DatabaseManager) -> None:
    db.uninstall("notify")
    with db.wake_ups(Wakes()):
        assert not has_thread()


def test_on_sqlite_nobody_listens() -> None:
    with DatabaseManager("sqlite:///:memory:") as manager, manager.wake_ups(Wakes()):
        assert not has_thread()


def test_a_worker_that_hardly_polls_takes_a_new_job_at_once(db: DatabaseManager, enqueue: Enqueue) -> None:
    done: SimpleQueue[int] = SimpleQueue()

    def handler(job: PresentationJob) -> None:
        job.complete(s3_video_path=f"/{job.id}.mp4")
        done.put(job.id)

    worker = Worker(db, handler, poll=3600)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        wait_until(lambda: listeners(db))
        for _ in range(2):
            job = enqueue()
            assert done.get(timeout=20) == job.id
    finally:
        worker.stop()
        thread.join(20)
    assert not has_thread()


# Servers that are none


@pytest.fixture
def port() -> Iterator[socket.socket]:
    """A port at which nobody answers, though connections are made."""
    with socket.create_server(("127.0.0.1", 0)) as port:
        port.settimeout(20)
        yield port


def config_for(port: socket.socket, **settings: Any) -> DatabaseConfig:
    return DatabaseConfig(f"postgresql://ada:{SECRET}@127.0.0.1:{port.getsockname()[1]}/presgen", **settings)


def test_an_outage_at_the_start_leaves_the_block_alone(port: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="database")
    config = config_for(port)
    port.close()
    with DatabaseManager(config) as manager, manager.wake_ups(Wakes()):
        assert not has_thread()
    assert "No wake-ups, workers poll: cannot connect" in caplog.text
    assert SECRET not in caplog.text


def test_an_outage_is_told_once_and_tried_again(
    port: socket.socket, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "_FIRST_PAUSE_SECONDS", 0.001)
    wakes = Wakes()
    with notify.listen(config_for(port), wakes):
        for _ in range(5):
            port.accept()[0].close()
        wait_until(lambda: caplog.records)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.messages[0].startswith("no wake-ups, polling instead: cannot connect to postgresql://ada@127.0.0.1:")
    assert SECRET not in caplog.text
    assert wakes.is_silent(0)


def test_a_server_that_does_not_answer_is_given_up_in_time(
    port: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    with notify.listen(config_for(port, connect_timeout=1), Wakes()):
        first, _ = port.accept()
        second, _ = port.accept()
    first.close()
    second.close()
    assert "timeout expired" in caplog.text


def test_the_block_does_not_wait_for_a_server_that_does_not_answer(port: socket.socket) -> None:
    with notify.listen(config_for(port), Wakes()):
        connection, _ = port.accept()
        began = time.monotonic()
    assert time.monotonic() - began < 0.5
    assert not has_thread()
    connection.close()


def test_the_pauses_between_two_attempts_grow_to_half_a_minute(port: socket.socket) -> None:
    listener = notify._Listener(config_for(port), Wakes(), port)
    pauses = [listener._pause() for _ in range(40)]
    assert 0.05 <= pauses[0] <= 0.15
    assert all(15 <= pause <= 45 for pause in pauses[10:])
    assert len(set(pauses)) == len(pauses)
