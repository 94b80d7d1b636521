"""Passwords, keys and the values of rows appear in no message, repr, log or traceback."""

from __future__ import annotations

import logging
import sqlite3
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

import peewee as pw
import psycopg2
import pytest

from presgen import DatabaseConfig, DatabaseManager, PresentationJob, PresgenError, User, VoiceClone
from presgen.errors import ConfigurationError

CANARY = "canary-7f3a"
MAIL = f"{CANARY}@example.com"
DECK = f"/{CANARY}.pptx"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What is logged from DEBUG on; nothing of it may sing."""
    caplog.set_level(logging.DEBUG)
    yield caplog
    records = caplog.get_records("setup") + caplog.get_records("call")
    assert records
    for record in records:
        assert CANARY not in record.getMessage()
        assert CANARY not in repr(vars(record))


@pytest.fixture
def manager(url: str, log: pytest.LogCaptureFixture) -> Iterator[DatabaseManager]:
    """A manager that logs every statement, on a database whose rows are canaries."""
    with DatabaseManager(DatabaseConfig(url, debug=True, slow_query_seconds=0, pool_timeout=0.2)) as manager:
        user = User.create(id=1, name=CANARY, email=MAIL, password_hash=CANARY)
        voice = VoiceClone.create(id=1, name=CANARY, s3_path=f"/{CANARY}.wav", owner=user)
        job = PresentationJob.enqueue(owner=user, voice_clone=voice, s3_pptx_path=DECK, idempotency_key=CANARY)
        PresentationJob.claim("w1")
        job = PresentationJob.get_by_id(job.id)
        job.heartbeat(checkpoint={CANARY: CANARY})
        yield manager
        for shown in (
            manager,
            manager.config,
            manager.database,
            manager.database.config,
            manager.migrations,
            manager.health(),
        ):
            assert CANARY not in repr(shown)


def told(error: BaseException) -> str:
    """All that a person or a program that shows errors would see of one."""
    return (
        "".join(traceback.format_exception(error)) + str(error) + repr(error) + repr(error.args) + repr(error.__dict__)
    )


def job() -> Any:
    return PresentationJob.select().order_by(PresentationJob.id).get()


def again(**columns: Any) -> dict[str, Any]:
    return {"owner": 1, "voice_clone": 1, "s3_pptx_path": DECK, **columns}


def unreachable_end() -> None:
    mine = job()
    mine.s3_video_path, mine.completed_at = CANARY, datetime.max
    mine.save()


FAILURES: dict[str, Callable[[], Any]] = {
    "unique index": lambda: User.create(name=CANARY, email=MAIL),
    "unique index in bulk": lambda: User.insert_many([{"name": CANARY, "email": MAIL}] * 2).execute(),
    "primary key": lambda: User.create(id=1, name=CANARY),
    "unique key": lambda: PresentationJob.create(**again(idempotency_key=CANARY)),
    "unique key in COPY": lambda: PresentationJob.enqueue_many([again(idempotency_key=CANARY)]),
    "foreign key": lambda: VoiceClone.create(name=CANARY, s3_path=f"/{CANARY}2.wav", owner=404),
    "foreign key in COPY": lambda: PresentationJob.enqueue_many([again(voice_clone=404)]),
    "restrict": lambda: VoiceClone.delete().execute(),
    "check": lambda: User.update(email=pw.Value(CANARY, converter=False)).execute(),
    "check in an upsert": lambda: (
        User.insert(id=1, name=CANARY)
        .on_conflict(conflict_target=[User.id], update={"email": pw.Value(CANARY, converter=False)})
        .execute()
    ),
    "not null": lambda: User.update(name=pw.SQL("NULL")).execute(),
    "transition": lambda: PresentationJob.update(status="completed", error_message=CANARY).execute(),
    "transition by trigger": lambda: (
        PresentationJob.update(status="failed", error_message=CANARY).execute(),
        PresentationJob.update(status="completed", s3_video_path=CANARY).execute(),
    ),
    "lost lease": lambda: (PresentationJob.update(worker="other").execute(), job_of("w1").heartbeat(0.5, CANARY)),
    "wrong e-mail": lambda: User.create(name="Ada", email=CANARY),
    "wrong path": lambda: VoiceClone.create(name="v", s3_path=CANARY, owner=1),
    "wrong whole number": lambda: User.create(id=CANARY, name="Ada"),
    "wrong number": lambda: PresentationJob.create(**again(progress=CANARY)),
    "wrong flag": lambda: User.create(name="Ada", is_active=CANARY),
    "wrong moment": lambda: PresentationJob.create(**again(run_at=CANARY)),
    "wrong moment in COPY": lambda: PresentationJob.enqueue_many([again(run_at=CANARY)]),
    "wrong status": lambda: PresentationJob.update(status=CANARY).execute(),
    "wrong owner": lambda: PresentationJob.create(**again(owner=CANARY)),
    "wrong document": lambda: PresentationJob.update(checkpoint={CANARY: float("nan")}).execute(),
    "deep document": lambda: PresentationJob.update(checkpoint=[[CANARY]] + [[]] * 2 + [object()]).execute(),
    "NUL": lambda: User.create(name=f"{CANARY}\0"),
    "surrogate": lambda: User.create(name=f"{CANARY}\ud800"),
    "surrogate in COPY": lambda: PresentationJob.enqueue_many([again(idempotency_key=f"{CANARY}\ud800")]),
    "long text": lambda: User.create(name=CANARY * 100),
    "wrong row": lambda: PresentationJob.enqueue_many([CANARY]),  # type: ignore[list-item]
    "short row": lambda: User.insert_many([(CANARY,)]).execute(),
    "naive end": unreachable_end,
    "wrong error": lambda: job().fail(CANARY.encode()),
    "wrong worker": lambda: PresentationJob.claim(f"{CANARY}\0"),
    "wrong ids": lambda: PresentationJob.retry_many(CANARY),  # type: ignore[arg-type]
    "wrong cursor": lambda: PresentationJob.dead_letters(owner=CANARY),
    "wrong password": lambda: User.get_by_id(1).set_password(CANARY * 1000),
}


def job_of(worker: str) -> Any:
    mine = job()
    mine.claim_token = (worker, 1)
    return mine


def test_no_refusal_shows_a_value(manager: DatabaseManager) -> None:
    for name, failure in FAILURES.items():
        with pytest.raises(PresgenError) as caught, manager.transaction():  # which undoes what came before
            failure()
        assert CANARY not in told(caught.value), name


@pytest.mark.parametrize("find", ["get", "get_by_id", "index"])
def test_a_row_that_is_not_found_shows_no_value(manager: DatabaseManager, find: str) -> None:
    finders: dict[str, Callable[[], Any]] = {
        "get": lambda: User.get(User.email == f"other-{MAIL}"),
        "get_by_id": lambda: User.get_by_id(70_316_404),
        "index": lambda: User[70_316_404],
    }
    with pytest.raises(User.DoesNotExist) as caught:
        finders[find]()
    assert CANARY not in told(caught.value)
    assert "70316404" not in str(caught.value)


def test_a_name_that_is_no_field_is_cut(manager: DatabaseManager) -> None:
    with pytest.raises(PresgenError) as caught:
        User.insert({"x" * 1_000_000 + CANARY * 100_000 + "x" * 1_000: 1})
    assert len(str(caught.value)) < 100
    assert CANARY not in told(caught.value)


@pytest.mark.parametrize("verb", ["execute", "in a transaction"])
def test_a_lost_connection_shows_no_value(postgresql: str, manager: DatabaseManager, url: str, verb: str) -> None:
    with pytest.raises(PresgenError) as caught, manager.session() as database:
        pid = database.execute_sql("SELECT pg_backend_pid()").fetchone()[0]

        def write() -> None:
            User.create(name=CANARY)
            end(url, pid)
            User.create(name=CANARY, email=f"2{MAIL}")

        if verb == "execute":
            write()
        else:
            with manager.transaction():
                write()
    assert CANARY not in told(caught.value)


def end(url: str, pid: int) -> None:
    with suppress(psycopg2.Error):
        connection = psycopg2.connect(url)
        connection.cursor().execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        connection.close()


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


@pytest.mark.parametrize("place", ["nobody listens", "no such host", "refused"])
def test_no_failed_connection_shows_the_password(
    postgresql: str, url: str, log: pytest.LogCaptureFixture, place: str
) -> None:
    targets = {
        "nobody listens": f"postgresql://ada:{CANARY}@127.0.0.1:1/x",
        "no such host": f"postgresql://ada:{CANARY}@host.invalid/x",
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
    assert CANARY not in told(caught.value) + repr(shown)


BAD_URLS = ["postgresql://ada:{}@host:port/x", "postgresql://ada:{}@a@b/x", "mysql://ada:{}@host/x", "postgresql://ada:{}%zz@host/x",
            "postgresql://ada:{}@host/x?nonsense=1", "ada:{}@host", "postgresql://ada:{}@host:70000/x"]  # fmt: skip


@pytest.mark.parametrize("url", BAD_URLS)
def test_no_malformed_url_shows_the_password(url: str) -> None:
    for make in (DatabaseConfig, DatabaseManager, lambda url: DatabaseConfig.from_env({"DATABASE_URL": url})):
        with pytest.raises(ConfigurationError) as caught:
            make(url.format(CANARY))
        assert CANARY not in told(caught.value)


def test_the_canary_would_be_heard() -> None:
    """An error of the driver, and one in whose context it stands, do sing."""
    with pytest.raises(KeyError) as caught:
        try:
            raise ValueError(f"value {CANARY}")
        except ValueError:
            raise KeyError("x")  # noqa: B904 (its context is the point)
    assert CANARY in told(caught.value)
