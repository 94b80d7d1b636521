"""The pool hands out live connections, waits with a deadline, and loses no slot."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, tzinfo

import peewee as pw
import psycopg2
import pytest
from fixtures.server_processes import backend_pid
from fixtures.waiting import wait_until

import presgen.pool
from presgen import (
    DatabaseConfig,
    DatabaseManager,
    DatabaseUnavailable,
    PoolTimeout,
    PresentationJob,
    User,
    VoiceClone,
)
from presgen.database import PostgresPool
from presgen.errors import ConstraintViolation, StatementTimeout, TransactionAborted

pytestmark = pytest.mark.usefixtures("postgresql")


@pytest.fixture
def pool(url: str) -> Callable[..., DatabaseManager]:
    opened: list[DatabaseManager] = []

    def pool(**settings: object) -> DatabaseManager:
        manager = DatabaseManager(DatabaseConfig(url, **settings))  # type: ignore[arg-type]
        opened.append(manager)
        return manager

    yield pool  # type: ignore[misc]
    for manager in reversed(opened):
        manager.close()


def test_a_connection_is_set_up_as_configured(pool: Callable[..., DatabaseManager]) -> None:
    manager = pool(application_name="the-app", statement_timeout=7.5)
    with manager.session() as database:
        settings = dict(
            database.execute_sql(
                "SELECT name, setting FROM pg_settings WHERE name IN ('TimeZone', 'application_name', 'statement_timeout')"
            ).fetchall()
        )
    assert settings == {"TimeZone": "UTC", "application_name": "the-app", "statement_timeout": "7500"}


def test_sessions_of_a_thread_share_one_connection(pool: Callable[..., DatabaseManager]) -> None:
    manager = pool()
    with manager.session():
        first = backend_pid(manager)
        with manager.session(), manager.transaction(), manager.session():
            assert backend_pid(manager) == first
            assert manager.pool_stats()["in_use"] == 1
        assert manager.pool_stats()["in_use"] == 1
    assert manager.pool_stats().items() >= {"in_use": 0, "idle": 1, "max_connections": 50}.items()
    for database in manager.get_session():
        assert backend_pid(manager) == first
        assert not database.is_closed()
    assert manager.pool_stats()["in_use"] == 0


def test_who_waits_gets_the_connection_that_comes_back(pool: Callable[..., DatabaseManager]) -> None:
    manager = pool(pool_size=1, max_overflow=0, pool_timeout=30)
    with ThreadPoolExecutor(8) as threads:
        pids = set(threads.map(lambda _: with_session(manager), range(40)))
    assert len(pids) == 1


def with_session(manager: DatabaseManager) -> int:
    with manager.session():
        return backend_pid(manager)


def test_an_old_connection_is_recycled(pool: Callable[..., DatabaseManager]) -> None:
    manager = pool(pool_recycle=1)
    first = with_session(manager)
    wait_until(lambda: with_session(manager) != first)
    assert manager.pool_stats().items() >= {"idle": 1, "created": 2, "recycled": 1, "dead": 0}.items()


def test_a_connection_that_was_idle_for_long_is_asked(
    pool: Callable[..., DatabaseManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = pool()
    first = with_session(manager)
    monkeypatch.setattr(PostgresPool, "_is_closed", lambda self, connection: True)
    assert with_session(manager) == first
    monkeypatch.setattr(presgen.pool, "IDLE_SECONDS_BEFORE_PING", 0.0)
    assert with_session(manager) != first


def test_a_transaction_left_open_does_not_leak_to_the_next_borrower(pool: Callable[..., DatabaseManager]) -> None:
    manager = pool()
    with manager.session() as database:
        database.connection().cursor().execute("BEGIN")
        User.create(name="Ada")
    with manager.session():
        assert User.select().count() == 0


def test_closing_inside_a_transaction_is_an_error(pool: Callable[..., DatabaseManager]) -> None:
    manager = pool()
    with manager.session() as database, manager.transaction():
        with pytest.raises(pw.OperationalError, match="while transaction is open"):
            database.close()
        with pytest.raises(pw.OperationalError, match="already opened"):
            database.connect()
    assert database.close() is False


def test_closing_everything_leaves_nothing(pool: Callable[..., DatabaseManager]) -> None:
    manager = pool()
    with_session(manager)
    database = manager.database
    manager.close()
    assert database.pool_stats().items() >= {"in_use": 0, "idle": 0, "max_connections": 50}.items()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda url: "postgresql://ada:canary@127.0.0.1:1/x", "is the server running, and does it listen"),
        (lambda url: "postgresql://ada:canary@no-such-host.invalid/x", "check the host"),
        (lambda url: "postgresql://ada:canary@%2Fno%2Fsuch/x", "is the server running, and is the socket's folder"),
        (lambda url: url.rpartition("/")[0] + "/no_such_database", "create it, or check POSTGRES_DB"),
    ],
)
def test_a_failed_connection_says_where_and_what_to_do(url: str, change: Callable[[str], str], said: str) -> None:
    with DatabaseManager(DatabaseConfig(change(url), connect_timeout=3)) as manager:
        with pytest.raises(DatabaseUnavailable, match="^cannot connect to postgresql://") as caught:
            manager.database.connect()
        assert said in str(caught.value)
        assert "canary" not in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
        assert caught.value.__context__ is None
        assert manager.pool_stats()["in_use"] == 0
        assert manager.health().error == str(caught.value)
        assert manager.health_check() is False


def test_a_hanging_connect_delays_nobody_else(
    pool: Callable[..., DatabaseManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = pool()
    with_session(manager)
    connecting, go_on = threading.Event(), threading.Event()
    connect = psycopg2.connect

    def slow(*given: object, **parameters: object) -> object:
        connecting.set()
        go_on.wait(20)
        return connect(*given, **parameters)

    monkeypatch.setattr(psycopg2, "connect", slow)
    with manager.session(), ThreadPoolExecutor(2) as threads:
        stuck = threads.submit(with_session, manager)
        connecting.wait(20)
        assert manager.pool_stats()["in_use"] == 2
        manager.database.close()
        assert threads.submit(with_session, manager).result(timeout=10)
        go_on.set()
        assert stuck.result(timeout=10)
    assert manager.pool_stats()["in_use"] == 0


def test_leases_and_times_come_from_the_servers_clock(
    pool: Callable[..., DatabaseManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    class WrongClock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) - timedelta(hours=3)

    monkeypatch.setattr("presgen.clock.datetime", WrongClock)
    manager = pool()
    with manager.session() as database:
        (before,) = database.execute_sql("SELECT clock_timestamp()").fetchone()
        user = User.create(name="Ada")
        user.name = "Ada L."
        user.save()
        voice = VoiceClone.create(name="v", s3_path="/v.wav", owner=user)
        PresentationJob.enqueue(owner=user, voice_clone=voice, s3_pptx_path="/x.pptx")
        PresentationJob.enqueue_many([{"owner": user, "voice_clone": voice, "s3_pptx_path": "/y.pptx"}])
        job, other = PresentationJob.claim("w1", limit=2, lease=60)
        leases = [job.lease_expires_at - timedelta(seconds=60), other.lease_expires_at - timedelta(seconds=60)]
        job.complete(s3_video_path="/v.mp4")
        (after,) = database.execute_sql("SELECT clock_timestamp()").fetchone()
    moments = [user.created_at, user.updated_at, voice.created_at, other.created_at, other.run_at, *leases]
    for moment in [*moments, job.run_at, job.started_at, job.completed_at, job.updated_at]:
        assert before <= moment <= after


def test_committing_after_a_swallowed_error_says_that_nothing_was_stored(pool: Callable[..., DatabaseManager]) -> None:
    manager = pool()
    with pytest.raises(TransactionAborted, match="nothing of it was stored"), manager.transaction():
        User.create(name="first", email="ada@example.com")
        with pytest.raises(ConstraintViolation):
            User.create(name="second", email="ada@example.com")
    assert User.select().count() == 0
    with manager.transaction():
        User.create(name="first", email="ada@example.com")
        with pytest.raises(ConstraintViolation), manager.transaction():
            User.create(name="second", email="ada@example.com")
    assert [user.name for user in User.select()] == ["first"]


def test_a_statement_that_takes_too_long_is_no_outage(pool: Callable[..., DatabaseManager]) -> None:
    manager = pool(statement_timeout=0.1)
    with pytest.raises(StatementTimeout, match="raise DATABASE_STATEMENT_TIMEOUT") as caught:
        manager.database.execute_sql("SELECT pg_sleep(5)")
    assert not caught.value.retryable


def test_waiting_for_a_connection_is_no_slow_statement(
    pool: Callable[..., DatabaseManager], caplog: pytest.LogCaptureFixture
) -> None:
    manager = pool(pool_size=1, max_overflow=0, pool_timeout=0.2, slow_query_seconds=0.1)
    manager.open()
    with manager.session(), ThreadPoolExecutor(1) as threads, pytest.raises(PoolTimeout):
        threads.submit(User.select().count).result()
    assert "Slow" not in caplog.text


def test_reading_a_relation_leaves_no_connection_behind(pool: Callable[..., DatabaseManager]) -> None:
    manager = pool()
    manager.open()
    user = User.create(name="Ada")
    voice = VoiceClone.create(name="v", s3_path="/v.wav", owner=user.id)
    assert voice.owner.name == "Ada"
    user.delete_instance()
    assert manager.pool_stats()["in_use"] == 0
