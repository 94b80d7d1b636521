"""No fault of a server, a connection, a pool or a worker shows a password or the value of a row."""

from __future__ import annotations

import logging
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from fixtures.canary import CANARY, MAIL, locals_of_ours, told
from fixtures.server_processes import backend_pid, terminate
from fixtures.servers import Server

from presgen import CommitUnknown, DatabaseConfig, DatabaseManager, PresentationJob, PresgenError, User, Worker
from presgen.errors import DatabaseBusy, MigrationError, ValueRefused
from presgen.migrator import Migrator


@pytest.mark.parametrize("verb", ["execute", "in a transaction"])
def test_a_lost_connection_shows_no_value(
    postgresql: str, servers: dict[str, Server], manager: DatabaseManager, verb: str
) -> None:
    past_any_pooler = servers[postgresql].admin_url_of("postgres")
    with pytest.raises(PresgenError) as caught, manager.session():

        def write() -> None:
            User.create(name=CANARY)
            terminate(past_any_pooler, backend_pid(manager))
            User.create(name=CANARY, email=f"2{MAIL}")

        if verb == "execute":
            write()
        else:
            with manager.transaction():
                write()
    assert CANARY not in told(caught.value)


def test_a_statement_that_takes_too_long_shows_no_value(
    postgresql: str, url: str, log: pytest.LogCaptureFixture
) -> None:
    config = DatabaseConfig(url, statement_timeout=0.1, debug=True)
    with DatabaseManager(config) as manager, pytest.raises(PresgenError) as caught:
        manager.database.execute_sql("SELECT pg_sleep(5), %s", (CANARY,))
    assert CANARY not in told(caught.value)


def test_a_full_pool_shows_no_value(postgresql: str, url: str, log: pytest.LogCaptureFixture) -> None:
    config = DatabaseConfig(url, pool_size=1, max_overflow=0, pool_timeout=0.1, debug=True)
    with DatabaseManager(config) as manager, manager.session(), ThreadPoolExecutor(1) as threads:
        User.create(name=CANARY)
        with pytest.raises(PresgenError) as caught:
            threads.submit(User.create, name=CANARY).result()
    assert CANARY not in told(caught.value)


def test_a_locked_file_shows_no_value(tmp_path: Any, sqlite_template: Any, log: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "presgen.db"
    path.write_bytes(sqlite_template.read_bytes())
    with DatabaseManager(DatabaseConfig(f"sqlite:///{path}", pool_timeout=0.1, debug=True)):
        assert User.select().where(User.name == CANARY).count() == 0
        other = sqlite3.connect(path)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(PresgenError) as caught:
            User.create(name=CANARY)
        other.close()
    assert CANARY not in told(caught.value)


@pytest.mark.parametrize("place", ["nobody listens", "no such host", "no such socket", "refused"])
def test_no_failed_connection_shows_the_password(
    postgresql: str, url: str, log: pytest.LogCaptureFixture, place: str
) -> None:
    targets = {
        "nobody listens": f"postgresql://ada:{CANARY}@127.0.0.1:1/x",
        "no such host": f"postgresql://ada:{CANARY}@host.invalid/x",
        "no such socket": f"postgresql://ada:{CANARY}@%2Fno%2Fsuch/x",
        "refused": url.replace("postgres@", f"nobody-{postgresql}:{CANARY}@", 1),
    }
    config = replace(DatabaseConfig(targets[place]), connect_timeout=2, debug=True)
    manager = DatabaseManager(config)
    logging.getLogger("database").debug("%r %r", manager, config)
    with manager, pytest.raises(PresgenError) as caught:
        manager.database.execute_sql("SELECT 1")
    assert "cannot connect" in str(caught.value)
    shown = [manager, config, manager.health(), f"{config}", config.safe_url]
    with manager:
        shown += [manager.database, manager.migrations, vars(manager), str(manager.database.connect_params)]
    assert CANARY not in told(caught.value) + locals_of_ours(caught.value) + repr(shown)


MIGRATION = """
from pathlib import Path
def migrate(migrator, database, fake=False, **kwargs):
    value = Path("FOLDER/value").read_text()
    migrator.run(database.execute_sql, f"INSERT INTO users (id, name) VALUES ({database.param}, {database.param})", (value, value))
"""


def test_a_failed_migration_shows_no_value(manager: DatabaseManager, tmp_path: Path) -> None:
    (tmp_path / "value").write_text(CANARY)
    for name in manager.migrations.known():
        (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "999_add_a_user.py").write_text(MIGRATION.replace("FOLDER", str(tmp_path)))
    with pytest.raises(MigrationError, match="999_add_a_user failed and was undone: the database refused") as caught:
        Migrator(manager.database, tmp_path).migrate()
    assert CANARY not in told(caught.value)


def test_a_deadlock_shows_no_value(postgresql: str, manager: DatabaseManager) -> None:
    User.create(id=2, name=CANARY)
    both = Barrier(2, timeout=10)

    def rename(*numbers: int) -> None:
        with manager.transaction():
            for number in numbers:
                User.update(name=f"{CANARY} {number}").where(User.id == number).execute()
                if number == numbers[0]:
                    both.wait()

    with ThreadPoolExecutor(2) as threads:
        tries = [threads.submit(rename, 1, 2), threads.submit(rename, 2, 1)]
    (error,) = [tried.exception() for tried in tries if tried.exception() is not None]
    assert isinstance(error, DatabaseBusy)
    assert CANARY not in told(error)


def test_a_commit_of_which_nobody_knows_shows_no_value(postgresql: str, manager: DatabaseManager) -> None:
    write = "INSERT INTO users (name) SELECT %s WHERE pg_terminate_backend(pg_backend_pid())"
    with pytest.raises(CommitUnknown) as caught:
        manager.database.execute_sql(write, (CANARY,))
    assert CANARY not in told(caught.value)


def test_a_worker_whose_handler_fails_shows_no_value(manager: DatabaseManager, log: pytest.LogCaptureFixture) -> None:
    def handler(job: PresentationJob) -> None:
        marks = manager.database.param
        manager.database.execute_sql(f"INSERT INTO users (id, name) VALUES ({marks}, {marks})", (CANARY, CANARY))

    PresentationJob.update(status="failed").execute()
    PresentationJob.retry_many(everything=True)
    assert Worker(manager, handler).drain() == 1
    said = PresentationJob.get().error_message
    assert said.startswith(f"{ValueRefused.__name__}: the database refused a value: ")
    assert CANARY not in said
    assert "job 1" in log.text
