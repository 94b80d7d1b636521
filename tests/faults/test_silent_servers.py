"""Servers that go silent, threads that die, forks: each delays only who asked, by its deadline, and no slot is lost."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from chaos.server import CrashServer

from presgen import CommitUnknown, DatabaseConfig, DatabaseManager, DatabaseUnavailable, PoolTimeout, User
from presgen.errors import ConfigurationError

# Of a deadline; the machine is shared, so a test allows more than the half second that is promised.
SLACK_SECONDS = 1.5

Open = Callable[..., DatabaseManager]


@pytest.fixture(scope="module")
def server() -> Iterator[CrashServer]:
    with TemporaryDirectory(prefix="presgen-silent-") as folder, CrashServer(Path(folder)) as server:
        with DatabaseManager(server.url) as manager:
            manager.migrate()
        yield server


@pytest.fixture
def opened(server: CrashServer) -> Iterator[Open]:
    """Opens managers with short deadlines, closes them, and sees that no slot is lost."""
    managers: list[DatabaseManager] = []

    def opened(**settings: object) -> DatabaseManager:
        given = {"statement_timeout": 0.5, "connect_timeout": 2, "pool_timeout": 2, **settings}
        managers.append(DatabaseManager(DatabaseConfig(server.url, **given)))
        managers[-1].open()
        return managers[-1]

    yield opened
    for manager in reversed(managers):
        manager.database.close()
        assert manager.pool_stats()["in_use"] == 0
        manager.close()


def backend_pid(manager: DatabaseManager) -> int:
    return int(manager.database.execute_sql("SELECT pg_backend_pid()").fetchone()[0])


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that still has its sockets, and answers nothing."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds + SLACK_SECONDS


def test_a_statement_ends_by_its_deadline_when_its_server_has_stopped(opened: Open) -> None:
    manager = opened()
    with manager.session():
        with stopped(backend_pid(manager)), within(0.5), pytest.raises(DatabaseUnavailable, match="was lost"):
            User.select().count()
        assert backend_pid(manager)  # on a fresh connection


def test_a_write_that_a_stopped_server_may_have_applied_is_unknown(opened: Open) -> None:
    manager = opened()
    with manager.session(), stopped(backend_pid(manager)), within(0.5), pytest.raises(CommitUnknown):
        User.create(name="Ada")


def test_a_commit_ends_by_its_deadline(opened: Open) -> None:
    manager = opened()
    began = threading.Event()
    with within(0.5), pytest.raises(CommitUnknown), manager.transaction():
        User.create(name="Ada")
        pid = backend_pid(manager)
        os.kill(pid, signal.SIGSTOP)
        threading.Timer(3.0, os.kill, (pid, signal.SIGCONT)).start()
        began.set()
    assert began.is_set()


def test_the_check_of_an_idle_connection_ends_by_its_deadline(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("presgen.pool.IDLE_SECONDS_BEFORE_PING", 0.0)
    manager = opened(connect_timeout=1)
    with manager.session():
        first = backend_pid(manager)
    with stopped(first), within(1.0), manager.session():
        assert backend_pid(manager) != first
    assert manager.pool_stats()["dead"] == 1


def test_a_return_to_the_pool_ends_by_its_deadline(opened: Open) -> None:
    manager = opened(connect_timeout=1)
    database = manager.database
    database.connect()
    pid = backend_pid(manager)
    database.connection().cursor().execute("BEGIN")
    with stopped(pid), within(1.0):
        database.close()
    assert manager.pool_stats()["in_use"] == 0


def test_a_server_that_has_stopped_is_not_healthy_and_delays_nobody_for_long(server: CrashServer, opened: Open) -> None:
    manager = opened(statement_timeout=None, connect_timeout=2)
    with manager.session():
        pid = backend_pid(manager)
    with stopped(pid), within(2.0):
        assert manager.health_check() is False
    assert manager.health_check() is True


def test_a_stopped_backend_delays_only_who_asked_it(opened: Open) -> None:
    manager = opened(statement_timeout=2)
    manager.database.connect()
    pid = backend_pid(manager)
    with stopped(pid), ThreadPoolExecutor(1) as threads:
        began = time.monotonic()

        def other() -> float:
            with manager.session():
                User.select().count()
            return time.monotonic() - began

        quick = threads.submit(other)
        with pytest.raises(DatabaseUnavailable):
            User.select().count()
        assert quick.result() < 1.5


def test_closing_the_manager_breaks_off_what_waits(opened: Open) -> None:
    manager = opened(statement_timeout=None)
    begun = threading.Event()

    def wait() -> str:
        with manager.session() as database:
            begun.set()
            try:
                database.execute_sql("SELECT pg_sleep(60)")
            except DatabaseUnavailable as error:
                return str(error)
        return "slept"

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(wait)
        begun.wait(10)
        time.sleep(0.2)
        with within(0.5):
            manager.close()
        assert "was lost" in waiting.result(10)


# Threads and processes


def test_a_thread_that_dies_with_a_connection_loses_no_slot(opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    manager = opened(pool_size=1, max_overflow=1, pool_timeout=5)
    for _ in range(3):
        threads = [threading.Thread(target=manager.database.connect) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with within(0.5), manager.session():
            assert backend_pid(manager)
    assert "ended with a connection in hand" in caplog.text
    assert manager.pool_stats()["in_use"] == 0


def test_a_slot_whose_thread_dies_while_others_wait_is_theirs(opened: Open) -> None:
    manager = opened(pool_size=1, max_overflow=0, pool_timeout=10)
    held, end = threading.Event(), threading.Event()

    def hold() -> None:
        manager.database.connect()
        held.set()
        end.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    threading.Timer(0.3, end.set).start()
    with within(1.5), manager.session():
        assert backend_pid(manager)
    assert manager.pool_stats()["waited_seconds"] > 0.2
    thread.join()


def in_child(manager: DatabaseManager, answer: multiprocessing.SimpleQueue[tuple[int, int]]) -> None:
    with manager.session():
        answer.put((backend_pid(manager), manager.pool_stats()["in_use"]))
    manager.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_connections_of_its_own_and_leaves_the_parents_alone(opened: Open) -> None:
    manager = opened()
    with manager.session():
        idle_too = ThreadPoolExecutor(1)
        idle_too.submit(backend_pid, manager).result()
        mine = backend_pid(manager)
        context = multiprocessing.get_context("fork")
        answer = context.SimpleQueue()
        child = context.Process(target=in_child, args=(manager, answer))
        child.start()
        child.join(30)
        assert child.exitcode == 0
        childs, in_use = answer.get()
        assert (childs != mine, in_use) == (True, 1)
        assert backend_pid(manager) == mine
        idle_too.shutdown()


# What the pool tells, and what it can be told


def test_the_statistics_count_what_happened(server: CrashServer, opened: Open) -> None:
    manager = opened(pool_size=1, max_overflow=1, pool_timeout=0.2)
    with manager.session():
        assert manager.pool_stats()["overflow"] == 0
        with ThreadPoolExecutor(1) as threads:
            threads.submit(manager.database.connect).result()
            assert manager.pool_stats()["overflow"] == 1
            with pytest.raises(PoolTimeout), ThreadPoolExecutor(1) as late:
                late.submit(manager.database.connect).result()
            threads.submit(manager.database.close).result()
    stats = manager.pool_stats()
    assert (stats["created"], stats["timeouts"], stats["in_use"], stats["waiting"]) == (2, 1, 0, 0)
    assert stats["waited_seconds"] >= 0.2
    with manager.session():
        pid = backend_pid(manager)
    server.query("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    with manager.session():
        User.select().count()
    assert manager.pool_stats()["dead"] == 1


def test_an_old_connection_counts_as_recycled(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = opened()
    with manager.session():
        User.select().count()
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 7200)
    with manager.session():
        User.select().count()
    assert manager.pool_stats()["recycled"] == 1


def test_a_leak_is_told_with_the_place_of_its_checkout(opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    manager = opened(pool_leak_seconds=0.1)
    manager.database.connect()  # the leak
    time.sleep(0.2)
    with ThreadPoolExecutor(1) as threads:
        for _ in range(2):
            threads.submit(lambda: manager.session().__enter__()).result()
            threads.submit(manager.database.close).result()
    told = [record for record in caplog.records if "has been in use for more than 0.1 s" in record.getMessage()]
    assert len(told) == 1
    assert "# the leak" in told[0].getMessage()


def test_session_state_leaks_only_without_a_reset(opened: Open) -> None:
    for reset, left in ((None, "on"), ("discard", "off")):
        manager = opened(pool_reset=reset)
        with manager.session() as database:
            database.execute_sql("SET enable_seqscan = off")
        with manager.session() as database:
            (setting,) = database.execute_sql("SHOW enable_seqscan").fetchone()
        assert (setting == "off") is (left == "on")
        manager.close()


@pytest.mark.parametrize("settings", [{"pool_reset": "all"}, {"pool_reset": "discard", "pgbouncer": True},
                                      {"pool_leak_seconds": 0}])  # fmt: skip
def test_settings_that_cannot_be_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="pool_"):
        DatabaseConfig("postgresql://x@localhost/x", **settings)


def test_an_error_in_a_callback_after_a_commit_leaves_the_connection_usable(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    manager = opened()
    with pytest.raises(ZeroDivisionError), manager.transaction():
        manager.database.after_commit(lambda: 1 // 0)
        User.create(name="stays")
    with manager.transaction():
        assert User.select().where(User.name == "stays").count() == 1
        User.delete().execute()
    assert manager.pool_stats()["in_use"] == 0
