"""Databases behind PgBouncer, with fewer connections to the server than clients."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from fixtures.fault_table import PASSWORD
from fixtures.pgbouncer import PgBouncer
from fixtures.servers import VERSIONS, Server

from presgen import (
    DatabaseConfig,
    DatabaseManager,
    PresentationJob,
    User,
    VoiceClone,
)

_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=VERSIONS)
def server(request: pytest.FixtureRequest, servers: dict[str, Server]) -> Server:
    return servers[request.param]


@pytest.fixture(scope="module")
def shared_pgbouncer(server: Server) -> Iterator[PgBouncer]:
    """One with so few connections to the server that clients share them all the time."""
    with (
        TemporaryDirectory(prefix="presgen-pgbouncer-") as folder,
        PgBouncer(Path(folder), server.url_of("postgres"), pool_size=3) as pgbouncer,
    ):
        yield pgbouncer


@pytest.fixture
def database(server: Server) -> str:
    """The name of a new database, whose clock is not UTC's, and which finds deadlocks soon."""
    name = f"presgen_pooled_{next(_numbers)}"
    settings = {"timezone": "'Asia/Kathmandu'", "deadlock_timeout": "'20ms'"}
    changes = (f"ALTER DATABASE {name} SET {setting} = {value}" for setting, value in settings.items())
    server.execute(f"CREATE DATABASE {name}", *changes)
    server.created.append(name)
    return name


@pytest.fixture
def url(shared_pgbouncer: PgBouncer, database: str) -> str:
    return shared_pgbouncer.url_of(database)


@pytest.fixture
def db(url: str) -> Iterator[DatabaseManager]:
    """A manager through PgBouncer, its database migrated on the same way."""
    with DatabaseManager(DatabaseConfig(url, pgbouncer=True)) as manager:
        manager.migrate()
        yield manager


@pytest.fixture
def owner(db: DatabaseManager) -> User:
    return User.create(name="Ada", email="ada@example.com")


@pytest.fixture
def enqueue(owner: User) -> Callable[[int], int]:
    """Enqueues so many jobs of Ada's at once."""
    voice = VoiceClone.create(name="v", s3_path="/v.wav", owner=owner)
    return lambda count: PresentationJob.enqueue_many(
        {"owner": owner, "voice_clone": voice, "s3_pptx_path": f"/{number}.pptx"} for number in range(count)
    )


@pytest.fixture
def own_pgbouncer(start_pgbouncer: Callable[..., PgBouncer], server: Server) -> PgBouncer:
    """One that may be ended, with limits that are soon reached."""
    return start_pgbouncer(server.url_of("postgres"), pool_size=10, max_clients=30, wait_seconds=1)


@pytest.fixture
def manager(
    request: pytest.FixtureRequest, server: Server, own_pgbouncer: PgBouncer, db: DatabaseManager, database: str
) -> Iterator[DatabaseManager]:
    """A manager with short deadlines through the PgBouncer that may be ended; its database is migrated."""
    if "fault" in request.fixturenames:
        version = next(name for name, known in request.getfixturevalue("servers").items() if known is server)
        request.getfixturevalue("fault").server = f"PgBouncer, {version}"
    config = DatabaseConfig(
        own_pgbouncer.url_of(database).replace("postgres@", f"postgres:{PASSWORD}@"),
        pgbouncer=True, pool_size=8, statement_timeout=1, connect_timeout=2,
    )  # fmt: skip
    with DatabaseManager(config) as manager:
        yield manager
