"""DatabaseManager: binding, transactions, retries, health and metrics."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any

import peewee as pw
import pytest

from presgen import (
    MODELS,
    DatabaseConfig,
    DatabaseManager,
    DatabaseUnavailable,
    JobStatus,
    PresentationJob,
    User,
    VoiceClone,
    Worker,
)
from presgen.errors import ConfigurationError, MigrationError
from presgen.queries import get_database_metrics


def test_the_models_are_bound_while_the_manager_is_open(url: str) -> None:
    before = [model._meta.database for model in MODELS]
    with DatabaseManager(url) as manager:
        assert all(model._meta.database is manager.database for model in MODELS)
        with DatabaseManager("sqlite:///:memory:") as inner:
            assert User._meta.database is inner.database
        assert User._meta.database is manager.database
        User.create(name="Ada")
    assert [model._meta.database for model in MODELS] == before
    with DatabaseManager(DatabaseConfig(url)) as again:
        assert again.database.is_closed()
        assert User.get().name == "Ada"


def test_closing_in_the_order_of_opening_leaves_no_model_on_a_closed_database() -> None:
    first, second = DatabaseManager("sqlite:///:memory:"), DatabaseManager("sqlite:///:memory:")
    first.open()
    second.open()
    first.close()
    second.close()
    assert [model._meta.database for model in MODELS] == [None] * 4


def test_threads_that_open_a_manager_at_once_share_one_database() -> None:
    manager = DatabaseManager("sqlite:///:memory:")
    start = threading.Barrier(8)

    def first_use() -> object:
        start.wait(10)
        return manager.database

    with ThreadPoolExecutor(8) as threads:
        databases = {id(future.result()) for future in [threads.submit(first_use) for _ in range(8)]}
    assert len(databases) == 1
    manager.close()


def test_a_manager_opens_on_first_use(empty_url: str) -> None:
    manager = DatabaseManager(empty_url)
    manager.init_db()
    assert User.create(name="Ada").id
    assert manager.health_check()
    manager.close()
    manager.close()


def test_the_environment_names_the_database(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    with DatabaseManager.from_env() as manager:
        assert repr(manager) == f"<DatabaseManager {manager.config.safe_url}>"
        assert manager.health_check()


def test_a_transaction_is_all_or_nothing_and_nests(db: DatabaseManager) -> None:
    with db.transaction():
        User.create(name="kept")
        with pytest.raises(ZeroDivisionError), db.transaction():
            User.create(name="undone")
            raise ZeroDivisionError
    assert [user.name for user in User.select()] == ["kept"]


def test_a_failed_request_is_rolled_back_by_its_own_transaction(db: DatabaseManager) -> None:
    session = db.get_session()
    database: Any = next(session)
    with pytest.raises(ZeroDivisionError), database.atomic():
        User.create(name="undone")
        raise ZeroDivisionError
    session.close()  # type: ignore[attr-defined]
    assert User.select().count() == 0


def test_run_in_transaction_gives_the_result_and_repeats_nothing_that_is_wrong(db: DatabaseManager) -> None:
    assert db.run_in_transaction(lambda: User.create(name="Ada").name) == "Ada"
    calls: list[int] = []

    def broken() -> None:
        calls.append(1)
        User.insert(name="x", email="ada@example.com").execute()
        User.insert(name="y", email="ada@example.com").execute()

    with pytest.raises(pw.IntegrityError):
        db.run_in_transaction(broken)
    assert len(calls) == 1
    assert User.select().count() == 1


def test_run_in_transaction_repeats_after_a_lost_connection(postgresql: str, db: DatabaseManager) -> None:
    calls: list[int] = []

    def work() -> int:
        calls.append(User.create(name=f"try {len(calls)}").id)
        if len(calls) < 3:
            db.database.execute_sql("SELECT pg_terminate_backend(pg_backend_pid())")
        return len(calls)

    assert db.run_in_transaction(work) == 3
    assert [user.name for user in User.select()] == ["try 2"]

    calls.clear()
    with pytest.raises(DatabaseUnavailable):
        db.run_in_transaction(work, retries=1)
    assert len(calls) == 2


def test_run_in_transaction_survives_a_deadlock(postgresql: str, db: DatabaseManager) -> None:
    first, second = User.create(name="a"), User.create(name="b")
    both_hold = threading.Barrier(2, timeout=20)
    tries: list[int] = []

    def move(one: int, other: int) -> Callable[[], None]:
        met: list[bool] = []

        def work() -> None:
            tries.append(one)
            User.update(name=User.name.concat("!")).where(User.id == one).execute()
            if not met:
                met.append(True)
                both_hold.wait()
            User.update(name=User.name.concat("!")).where(User.id == other).execute()

        return work

    threads = [
        threading.Thread(target=db.run_in_transaction, args=(move(one, other),))
        for one, other in ((first.id, second.id), (second.id, first.id))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(tries) == 3
    assert sorted(user.name for user in User.select()) == ["a!!", "b!!"]


def test_inside_a_transaction_run_in_transaction_runs_once(postgresql: str, db: DatabaseManager) -> None:
    calls: list[int] = []

    def lose() -> None:
        calls.append(1)
        db.database.execute_sql("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(DatabaseUnavailable), db.transaction():
        db.run_in_transaction(lose)
    assert len(calls) == 1


def test_health_tells_what_there_is_to_know(db: DatabaseManager, backend: str) -> None:
    health = db.health()
    assert health.ok
    assert health.role == "primary"
    assert health.error is None
    assert health.pending_migrations == ()
    assert 0 < (health.latency_seconds or 0) < 5
    name, _, number = (health.server_version or "").partition(" ")
    assert name == ("SQLite" if backend == "sqlite" else "PostgreSQL")
    if backend.startswith("postgresql-"):
        assert number.split(".")[0] == backend.partition("-")[2]
    assert set(health.pool) >= {"in_use", "idle", "max_connections"}


def test_health_shows_pending_migrations_without_writing(empty_url: str) -> None:
    with DatabaseManager(empty_url) as manager:
        assert len(manager.health().pending_migrations) == 3
        assert manager.database.get_tables() == []


@pytest.mark.parametrize("url", ["postgresql://ada@127.0.0.1:1/x", "sqlite:////no/such/folder/x.db"])
def test_a_database_that_is_not_there_is_unhealthy_and_says_so(url: str) -> None:
    with DatabaseManager(url) as manager:
        health = manager.health()
        assert not health.ok
        assert health.error is not None
        assert health.error.startswith(
            ("cannot connect to postgresql://ada@127.0.0.1:1/x", "cannot open sqlite:////no/")
        )
        assert not manager.health_check()
        with pytest.raises(DatabaseUnavailable):
            manager.migrate()
        with pytest.raises(DatabaseUnavailable):
            User.select().count()


def test_metrics_count_in_one_statement(
    db: DatabaseManager, job: PresentationJob, enqueue: Callable[..., PresentationJob], statements: list[str]
) -> None:
    User.create(name="Gone", is_active=False)
    (claimed,) = PresentationJob.claim("w1")
    claimed.fail("x", retry=False)
    old = enqueue()
    old.cancel()
    PresentationJob.update(status=JobStatus.PENDING).where(PresentationJob.id == old.id).execute()
    PresentationJob.claim("w1")
    yesterday = datetime.now(timezone.utc) - timedelta(days=1, minutes=1)
    waiting = enqueue()
    PresentationJob.update(created_at=yesterday).where(PresentationJob.id == waiting.id).execute()
    long_ago = enqueue()
    long_ago.cancel()
    long_ago.retry()
    PresentationJob.update(created_at=yesterday, status=JobStatus.FAILED).where(
        PresentationJob.id == long_ago.id
    ).execute()

    statements.clear()
    gone = enqueue()
    gone.deleted_at = datetime.now(timezone.utc)
    gone.save()
    statements.clear()
    metrics = get_database_metrics()
    assert len(statements) == 1
    assert 86_400 < metrics.pop("oldest_pending_seconds") < 90_000
    assert metrics == {
        "total_users": 2,
        "active_users": 1,
        "total_voice_clones": 1,
        "pending_jobs": 1,
        "failed_jobs_today": 1,
        "jobs_by_status": {
            "pending": 1,
            "processing_slides": 1,
            "synthesizing_audio": 0,
            "assembling_video": 0,
            "completed": 0,
            "failed": 2,
            "cancelled": 0,
        },
    }
    assert db.metrics()["failed_jobs_today"] == 1
    assert db.metrics()["pool"]["in_use"] in (0, 1)


def test_metrics_of_an_empty_database(db: DatabaseManager) -> None:
    metrics = db.metrics()
    assert metrics["oldest_pending_seconds"] is None
    assert set(metrics["jobs_by_status"].values()) == {0}


def test_slow_statements_are_logged_without_their_parameters(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with DatabaseManager(DatabaseConfig(url, slow_query_seconds=0.0, debug=True)) as manager, manager.session():
        User.create(name="canary-name", email="canary@example.com")
        with pytest.raises(pw.IntegrityError):
            User.create(name="again", email="canary@example.com")
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any(text.startswith("Slow query (0.") and 'INSERT INTO "users"' in text for text in warnings)
    assert all(record.name == "database" for record in caplog.records if record.levelname == "WARNING")
    assert any(record.levelname == "DEBUG" for record in caplog.records if record.name == "database")
    assert "canary" not in caplog.text


def test_fast_statements_are_not_logged(db: DatabaseManager, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    User.create(name="Ada")
    assert "INSERT" not in caplog.text


def test_a_memory_database_is_shared_by_threads_and_lives_as_long_as_its_manager() -> None:
    manager = DatabaseManager("sqlite:///:memory:")
    manager.migrate()

    def add() -> None:
        with manager.session():
            User.create(name="from a thread")

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert User.select().count() == 4
    manager.close()
    with manager:
        assert manager.database.get_tables() == []


def test_sqlite_enforces_foreign_keys_and_waits_for_the_writer(tmp_path: Any) -> None:
    with DatabaseManager(f"sqlite:///{tmp_path / 'x.db'}") as manager:
        manager.migrate()
        with pytest.raises(pw.IntegrityError, match="FOREIGN KEY"):
            VoiceClone.create(name="v", s3_path="/v.wav", owner=404)
        assert manager.database.journal_mode == "wal"
        assert manager.pool_stats().items() >= {"in_use": 1, "idle": 0, "max_connections": 0, "waiting": 0}.items()


def test_an_old_sqlite_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 34, 0))
    with pytest.raises(ConfigurationError, match="presgen needs 3.36"):
        DatabaseManager("sqlite:///:memory:").open()


def test_migrating_an_unknown_target_is_refused(db: DatabaseManager) -> None:
    with pytest.raises(MigrationError):
        db.migrate("nonsense")


def test_a_manager_that_was_not_opened_opens_at_its_first_use(url: str) -> None:
    for use in (lambda db: db.metrics(), lambda db: Worker(db, lambda job: None).drain()):
        manager = DatabaseManager(url)
        use(manager)
        manager.close()
