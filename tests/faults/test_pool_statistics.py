"""What the pool tells of itself, and what it can be told."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from chaos.server import CrashServer
from fixtures.databases import Open
from fixtures.server_processes import backend_pid, terminate

from presgen import DatabaseConfig, PoolTimeout, User
from presgen.errors import ConfigurationError


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
    terminate(server.url, pid)
    with manager.session():
        User.select().count()
    assert manager.pool_stats()["dead"] == 1


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
    for reset, shown in ((None, "off"), ("discard", "on")):
        manager = opened(pool_reset=reset)
        with manager.session() as database:
            database.execute_sql("SET enable_seqscan = off")
        with manager.session() as database:
            (setting,) = database.execute_sql("SHOW enable_seqscan").fetchone()
        assert setting == shown
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
