"""Servers that are crashed, a proxy before them, and managers with short deadlines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg2
import pytest
from chaos.proxy import CuttingProxy
from chaos.server import CrashServer
from fixtures.databases import Open
from fixtures.fault_table import PASSWORD

from presgen import DatabaseConfig, DatabaseManager


@pytest.fixture(scope="session")
def crash_servers() -> Iterator[dict[int, CrashServer]]:
    """Migrated servers by version, started when a test first asks for one."""
    running = ExitStack()

    class CrashServers(dict[int, CrashServer]):
        def __missing__(self, version: int) -> CrashServer:
            folder = Path(running.enter_context(TemporaryDirectory(prefix="presgen-crash-")))
            self[version] = running.enter_context(CrashServer(folder, version=version))
            with DatabaseManager(self[version].url) as manager:
                manager.migrate()
            return self[version]

    with running:
        yield CrashServers()


@pytest.fixture(params=[18], ids="postgresql-{}".format)
def server(request: pytest.FixtureRequest, crash_servers: dict[int, CrashServer]) -> Iterator[CrashServer]:
    """A server of the test's own for as long as it takes; its tables are empty."""
    server = crash_servers[request.param]
    if "fault" in request.fixturenames:
        request.getfixturevalue("fault").server = f"PostgreSQL {request.param}"
    yield server
    with closing(psycopg2.connect(server.url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("TRUNCATE users, voice_clones, presentation_jobs, job_events RESTART IDENTITY")


@pytest.fixture
def proxy(server: CrashServer) -> Iterator[CuttingProxy]:
    with CuttingProxy(server.socket) as proxy:
        yield proxy


@pytest.fixture
def proxied(server: CrashServer, proxy: CuttingProxy) -> Iterator[DatabaseManager]:
    """An open manager whose statements go through the proxy."""
    config = DatabaseConfig(proxy.url_of(server.database), pool_timeout=5, connect_timeout=2)
    with DatabaseManager(config) as manager:
        yield manager


@pytest.fixture
def opened(server: CrashServer) -> Iterator[Open]:
    """Opens managers with short deadlines, closes them, and sees that no slot is lost."""
    managers: list[DatabaseManager] = []

    def opened(url: str = server.url, **settings: object) -> DatabaseManager:
        given = {"statement_timeout": 0.5, "connect_timeout": 2, "pool_timeout": 2, **settings}
        managers.append(DatabaseManager(DatabaseConfig(url.replace("postgres@", f"postgres:{PASSWORD}@"), **given)))
        managers[-1].open()
        return managers[-1]

    yield opened
    for manager in reversed(managers):
        manager.database.close()
        assert manager.pool_stats()["in_use"] == 0
        manager.close()
