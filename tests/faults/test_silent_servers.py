"""Servers and lines that go silent: each delays only who asked, by its deadline, and no slot is lost."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest
from chaos.proxy import CuttingProxy
from chaos.server import CrashServer
from fixtures.databases import Open
from fixtures.fault_table import NAME, Fault
from fixtures.server_processes import backend_pid, stopped
from fixtures.servers import BOTH_VERSIONS
from fixtures.waiting import wait_until, within

from presgen import CommitUnknown, DatabaseUnavailable, User

ASLEEP = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"


@BOTH_VERSIONS
@pytest.mark.fault("SIGSTOP before a statement")
def test_a_statement_ends_by_its_deadline_when_its_server_has_stopped(opened: Open, fault: Fault) -> None:
    manager = opened()
    with manager.session():
        pid = backend_pid(manager)
        with stopped(pid), fault.tells(DatabaseUnavailable, retryable=True, within=0.5, match="was lost"):
            User.select().where(User.name == NAME).count()
        fault.works_again(manager)
        assert backend_pid(manager) != pid
    fault.loses_no_slot(manager)


@BOTH_VERSIONS
@pytest.mark.fault("SIGSTOP during a statement")
def test_a_statement_ends_by_its_deadline_when_its_server_stops_meanwhile(
    server: CrashServer, opened: Open, fault: Fault
) -> None:
    manager = opened(statement_timeout=1)
    with manager.session() as database, ExitStack() as meanwhile, ThreadPoolExecutor(1) as threads:
        pid = backend_pid(manager)

        def stop() -> None:
            wait_until(lambda: server.query(ASLEEP, (pid,)))
            meanwhile.enter_context(stopped(pid))

        stopping = threads.submit(stop)
        with fault.tells(DatabaseUnavailable, retryable=True, within=1, match="was lost"):
            database.execute_sql("SELECT %s, pg_sleep(60)", (NAME,))
        stopping.result()
        fault.works_again(manager)
    fault.loses_no_slot(manager)


@BOTH_VERSIONS
@pytest.mark.fault("SIGSTOP of the whole server")
def test_nothing_waits_longer_than_its_deadline_for_a_server_that_has_stopped_as_a_whole(
    server: CrashServer, opened: Open, fault: Fault
) -> None:
    manager = opened()
    manager.database.connect()
    with stopped(*server.processes()):
        with fault.tells(DatabaseUnavailable, retryable=True, within=0.5, match="was lost"):
            User.select().where(User.name == NAME).count()
        with fault.tells(DatabaseUnavailable, retryable=True, within=2, match="cannot connect"):
            User.create(name=NAME)
    fault.works_again(manager)
    fault.loses_no_slot(manager)


@pytest.mark.fault("proxy stalls")
def test_nothing_waits_longer_than_its_deadline_for_a_proxy_that_stalls(
    server: CrashServer, proxy: CuttingProxy, opened: Open, fault: Fault
) -> None:
    manager = opened(proxy.url_of(server.database))
    manager.database.connect()
    with proxy.stalled(), fault.tells(DatabaseUnavailable, retryable=True, within=0.5, match="was lost"):
        User.select().where(User.name == NAME).count()
    fault.works_again(manager)
    with ExitStack() as stalled, fault.tells(CommitUnknown, retryable=False, within=0.5), manager.transaction():
        User.create(name=NAME)
        stalled.enter_context(proxy.stalled())
    fault.works_again(manager)
    fault.loses_no_slot(manager)


@pytest.mark.fault("black hole at connect")
def test_a_connection_that_is_taken_and_never_answered_ends_by_its_deadline(
    server: CrashServer, proxy: CuttingProxy, opened: Open, fault: Fault
) -> None:
    manager = opened(proxy.url_of(server.database))
    with proxy.stalled():
        with fault.tells(DatabaseUnavailable, retryable=True, within=2, match="cannot connect"):
            User.create(name=NAME)
        with within(2):
            assert manager.health_check() is False
    fault.works_again(manager)
    fault.loses_no_slot(manager)


@pytest.mark.fault("backlog full at connect")
def test_a_connection_that_nobody_takes_ends_by_its_deadline(server: CrashServer, opened: Open, fault: Fault) -> None:
    with ExitStack() as full:
        listener = full.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = listener.getsockname()[1]
        with suppress(TimeoutError):
            while True:  # until the kernel drops what comes
                full.enter_context(socket.create_connection(("127.0.0.1", port), timeout=0.2))
        proxy = CuttingProxy(server.socket, port=port)
        manager = opened(proxy.url_of(server.database))
        with fault.tells(DatabaseUnavailable, retryable=True, within=2, match="cannot connect"):
            User.create(name=NAME)
    with proxy:
        fault.works_again(manager)
        fault.loses_no_slot(manager)
        manager.close()


def test_a_write_that_a_stopped_server_may_have_applied_is_unknown(opened: Open) -> None:
    manager = opened()
    with manager.session(), stopped(backend_pid(manager)), within(0.5), pytest.raises(CommitUnknown):
        User.create(name="Ada")


def test_a_commit_ends_by_its_deadline(opened: Open) -> None:
    manager = opened()
    with ExitStack() as commit_lost, within(0.5), pytest.raises(CommitUnknown), manager.transaction():
        User.create(name="Ada")
        commit_lost.enter_context(stopped(backend_pid(manager)))


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

        def other() -> None:
            with manager.session():
                User.select().count()

        quick = threads.submit(other)
        with pytest.raises(DatabaseUnavailable):
            User.select().count()
        assert quick.done()
        quick.result()


def test_closing_the_manager_breaks_off_what_waits(server: CrashServer, opened: Open) -> None:
    manager = opened(statement_timeout=None)
    pids: list[int] = []

    def sleep() -> None:
        with manager.session() as database:
            pids.append(backend_pid(manager))
            database.execute_sql("SELECT pg_sleep(60)")

    with ThreadPoolExecutor(1) as threads:
        sleeping = threads.submit(sleep)
        wait_until(lambda: pids and server.query(ASLEEP, pids))
        with within(0.5):
            manager.close()
        with pytest.raises(DatabaseUnavailable, match="was lost"):
            sleeping.result(10)
