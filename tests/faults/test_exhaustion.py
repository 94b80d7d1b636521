"""What is full: the pool, the disk, the server. Who asks is told so, and works again when there is room."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg2
import pytest
from chaos.server import CrashServer
from fixtures.databases import Open
from fixtures.fault_table import NAME, Fault
from fixtures.servers import BOTH_VERSIONS

from presgen import DatabaseManager, DatabaseUnavailable, PoolTimeout, User
from presgen.errors import DiskFull


@BOTH_VERSIONS
@pytest.mark.fault("pool full")
def test_a_full_pool_waits_until_its_deadline(opened: Open, fault: Fault) -> None:
    manager = opened(pool_size=1, max_overflow=1, pool_timeout=0.3)
    holding, release = threading.Barrier(3), threading.Event()

    def hold() -> None:
        with manager.session():
            holding.wait()
            release.wait()

    with ThreadPoolExecutor(2) as threads:
        futures = [threads.submit(hold) for _ in range(2)]
        holding.wait()
        said = r"all 2 connections stayed in use for 0.3 s; .*DATABASE_POOL_SIZE"
        with fault.tells(PoolTimeout, retryable=True, within=0.3, match=said):
            User.create(name=NAME)
        release.set()
        fault.works_again(manager)
        for future in futures:
            future.result()
    fault.loses_no_slot(manager)
    assert manager.pool_stats().items() >= {"idle": 1, "max_connections": 2}.items()


@BOTH_VERSIONS
@pytest.mark.fault("too many clients")
def test_a_server_without_a_free_connection_is_told_with_the_remedy(
    server: CrashServer, opened: Open, fault: Fault
) -> None:
    manager = opened()
    with ExitStack() as others:
        with pytest.raises(psycopg2.OperationalError, match="too many clients"):
            while True:
                others.enter_context(closing(psycopg2.connect(server.url)))
        with fault.tells(
            DatabaseUnavailable, retryable=True, match="too many clients already; lower DATABASE_POOL_SIZE"
        ):
            User.create(name=NAME)
    fault.works_again(manager)
    fault.loses_no_slot(manager)


@BOTH_VERSIONS
@pytest.mark.fault("disk full")
def test_a_full_disk_is_told_and_nothing_is_kept(server: CrashServer, opened: Open, fault: Fault) -> None:
    """The table's file is /dev/full, which has no room for its first page: the server's own ENOSPC, without root."""
    manager = opened()
    ((file,),) = server.query("SELECT pg_relation_filepath('users')")
    server.query("CHECKPOINT")
    (server.data / file).unlink()
    (server.data / file).symlink_to("/dev/full")
    try:
        with fault.tells(DiskFull, retryable=False, match="No space left on device: free space"), manager.transaction():
            User.create(name=NAME)
    finally:
        server.query("TRUNCATE users CASCADE")  # makes room: the table gets a new file
    fault.works_again(manager, lambda: User.create(name=NAME))
    fault.loses_no_slot(manager)
    assert User.select().count() == 1


@pytest.mark.fault("disk full", server="SQLite")
def test_a_full_sqlite_file_is_told_and_nothing_is_kept(tmp_path: Path, sqlite_template: Path, fault: Fault) -> None:
    (tmp_path / "presgen.db").write_bytes(sqlite_template.read_bytes())
    with DatabaseManager(f"sqlite:///{tmp_path / 'presgen.db'}") as manager, manager.session() as database:
        (pages,) = database.execute_sql("PRAGMA page_count").fetchone()
        database.execute_sql(f"PRAGMA max_page_count = {pages}")
        with fault.tells(DiskFull, retryable=False, match="disk is full: free space"), manager.transaction():
            for _ in range(1000):
                User.create(name=NAME)
        database.execute_sql(f"PRAGMA max_page_count = {2 * pages}")
        fault.works_again(manager, lambda: User.create(name=NAME))
        assert User.select().count() == 1
        database.close()
        fault.loses_no_slot(manager)
