"""Outages of PgBouncer, and behind it: what the caller is told, and that it works again as soon as they are over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg2
import pytest
from fixtures.fault_table import NAME, Fault
from fixtures.pgbouncer import PgBouncer
from fixtures.rows import completed
from fixtures.server_processes import backend_pid, stopped
from fixtures.servers import Server
from fixtures.waiting import wait_until

from presgen import CommitUnknown, DatabaseConfig, DatabaseManager, DatabaseUnavailable, PresentationJob, User, Worker
from presgen.embedded import EmbeddedServer


@pytest.mark.fault("PgBouncer killed and restarted")
def test_workers_outlive_a_restart_of_pgbouncer(
    own_pgbouncer: PgBouncer, manager: DatabaseManager, enqueue: Callable[[int], int], fault: Fault
) -> None:
    enqueue(100)
    worked, ready_again = threading.Semaphore(0), threading.Event()

    def handler(job: PresentationJob) -> None:
        worked.release()
        if not ready_again.is_set():
            ready_again.wait(0.05)
        job.complete(s3_video_path=f"/{job.id}.mp4")

    workers = [Worker(manager, handler, name=f"w{number}", poll=0.05, lease=2) for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        running = [threads.submit(worker.run) for worker in workers]
        try:
            for _ in range(20):
                assert worked.acquire(timeout=20)
            own_pgbouncer.kill()
            wait_until(lambda: not manager.health_check())
            own_pgbouncer.start()
            ready_again.set()
            fault.works_again(manager)
            wait_until(lambda: completed() == 100)
        finally:
            for worker in workers:
                worker.stop()
            for future in running:
                future.result(timeout=30)
    fault.add("workers go on")
    fault.loses_no_slot(manager)


@pytest.mark.fault("PgBouncer killed and restarted")
def test_a_transaction_cut_by_pgbouncers_end_is_not_applied(
    own_pgbouncer: PgBouncer, manager: DatabaseManager, fault: Fault
) -> None:
    with fault.tells(DatabaseUnavailable, retryable=True, match="was lost"), manager.transaction():
        User.create(name=NAME)
        own_pgbouncer.kill()
        User.create(name=NAME)
    with fault.tells(DatabaseUnavailable, retryable=True, match="cannot connect to postgresql://"):
        User.create(name=NAME)
    own_pgbouncer.start()
    fault.works_again(manager)
    assert User.select().count() == 0
    fault.loses_no_slot(manager)


@pytest.mark.fault("COMMIT cut by PgBouncer's end")
def test_a_commit_cut_by_pgbouncers_end_is_unknown(
    own_pgbouncer: PgBouncer, manager: DatabaseManager, fault: Fault
) -> None:
    with fault.tells(CommitUnknown, retryable=False), manager.transaction():
        User.create(name=NAME)
        own_pgbouncer.kill()
    own_pgbouncer.start()
    fault.works_again(manager)
    assert User.select().count() == 0
    fault.loses_no_slot(manager)


@pytest.mark.fault("server connection killed in a transaction")
def test_a_server_connection_lost_in_a_transaction_is_an_outage_of_the_client(
    manager: DatabaseManager, server: Server, fault: Fault
) -> None:
    with fault.tells(DatabaseUnavailable, retryable=True), manager.transaction():
        server.execute(f"SELECT pg_terminate_backend({backend_pid(manager)}, 5000)")
        User.create(name=NAME)
    fault.works_again(manager, lambda: User.create(name=NAME))
    assert User.select().count() == 1
    fault.loses_no_slot(manager)


@pytest.mark.fault("SIGSTOP of PgBouncer")
def test_nothing_waits_longer_than_its_deadline_for_a_pgbouncer_that_has_stopped(
    own_pgbouncer: PgBouncer, manager: DatabaseManager, fault: Fault
) -> None:
    manager.database.connect()
    with stopped(own_pgbouncer.pid):
        with fault.tells(DatabaseUnavailable, retryable=True, within=1, match="was lost"):
            User.select().where(User.name == NAME).count()
        with fault.tells(DatabaseUnavailable, retryable=True, within=2, match="cannot connect"):
            User.create(name=NAME)
    fault.works_again(manager)
    with ExitStack() as commit_lost, fault.tells(CommitUnknown, retryable=False, within=1), manager.transaction():
        User.create(name=NAME)
        commit_lost.enter_context(stopped(own_pgbouncer.pid))
    fault.works_again(manager)
    fault.loses_no_slot(manager)


@pytest.mark.fault("client limit of PgBouncer reached")
def test_a_pgbouncer_without_room_for_a_client_is_told_with_the_remedy(
    own_pgbouncer: PgBouncer, manager: DatabaseManager, fault: Fault
) -> None:
    with ExitStack() as others:
        with pytest.raises(psycopg2.OperationalError, match="no more connections allowed"):
            while True:
                others.callback(psycopg2.connect(manager.config.url).close)
        with fault.tells(DatabaseUnavailable, retryable=True, match="max_client_conn.*; lower DATABASE_POOL_SIZE"):
            User.create(name=NAME)
    fault.works_again(manager)
    fault.loses_no_slot(manager)


@pytest.mark.fault("pool of PgBouncer exhausted")
def test_a_pgbouncer_without_a_free_connection_is_an_outage_after_its_own_deadline(
    own_pgbouncer: PgBouncer, manager: DatabaseManager, fault: Fault
) -> None:
    with ExitStack() as others:
        for _ in range(10):
            other = psycopg2.connect(manager.config.url)
            others.callback(other.close)
            other.cursor().execute("SELECT 1")  # begins a transaction, and holds a connection of the server's
        with fault.tells(DatabaseUnavailable, retryable=True, within=1):
            User.select().where(User.name == NAME).count()
        with fault.tells(DatabaseUnavailable, retryable=True, within=1), manager.transaction():
            raise AssertionError("BEGIN should have failed")
    fault.works_again(manager)
    fault.loses_no_slot(manager)


@pytest.fixture
def restartable() -> Iterator[EmbeddedServer]:
    with TemporaryDirectory(prefix="presgen-behind-") as folder, EmbeddedServer(Path(folder)) as server:
        with DatabaseManager(server.url) as manager:
            manager.migrate()
        yield server


@pytest.mark.fault("server behind PgBouncer restarted", server="PgBouncer, postgresql-18")
def test_a_restart_behind_pgbouncer_is_an_outage_of_the_client(
    restartable: EmbeddedServer, start_pgbouncer: Callable[..., PgBouncer], fault: Fault
) -> None:
    url = start_pgbouncer(restartable.url, wait_seconds=1).url_of("presgen")
    config = DatabaseConfig(url, pgbouncer=True, statement_timeout=3, connect_timeout=2)
    with DatabaseManager(config) as manager:
        with fault.tells(DatabaseUnavailable, retryable=True), manager.transaction():
            User.create(name=NAME)
            restartable.stop()
            User.create(name=NAME)
        with fault.tells(DatabaseUnavailable, retryable=True, within=2):
            User.select().where(User.name == NAME).count()
        restartable.start()
        fault.works_again(manager)
        assert User.select().count() == 0
        fault.loses_no_slot(manager)
