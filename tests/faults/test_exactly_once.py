"""run_in_transaction(): what was committed is not repeated, and what was not is, whatever becomes of the reply."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from chaos.proxy import CuttingProxy
from chaos.server import CrashServer

from presgen import CommitUnknown, DatabaseConfig, DatabaseManager, DatabaseUnavailable, User, VoiceClone
from presgen.errors import ConstraintViolation, DatabaseBusy, TransactionAborted

TRANSACTIONS, THREADS = 600, 6


@pytest.fixture(scope="module")
def server() -> Iterator[CrashServer]:
    with TemporaryDirectory(prefix="presgen-once-") as folder, CrashServer(Path(folder)) as server:
        with DatabaseManager(server.url) as manager:
            manager.migrate()
        yield server


@pytest.fixture(scope="module")
def proxy(server: CrashServer) -> Iterator[CuttingProxy]:
    with CuttingProxy(server.socket) as proxy:
        yield proxy


@pytest.fixture
def db(server: CrashServer, proxy: CuttingProxy) -> Iterator[DatabaseManager]:
    with DatabaseManager(DatabaseConfig(proxy.url_of(server.database), connect_timeout=2)) as manager:
        yield manager
        manager.database.execute_sql("TRUNCATE users, voice_clones, presentation_jobs, job_events")


def test_two_row_transactions_are_applied_exactly_once(proxy: CuttingProxy, db: DatabaseManager) -> None:
    """With a fifth of the replies to COMMIT cut, and deadlocks among the rest."""
    pair = [User.create(name="left"), User.create(name="right")]
    db.database.execute_sql("ALTER SYSTEM SET deadlock_timeout = '20ms'")
    db.database.execute_sql("SELECT pg_reload_conf()")
    chance, deadlocks = random.Random(1), Counter[str]()

    def apply(number: int) -> None:
        if chance.random() < 0.2:
            proxy.order("COMMIT")

        def work() -> None:
            VoiceClone.create(name=f"{number}", s3_path=f"/{number}.wav", owner=pair[0])
            for user in pair if number % 2 else reversed(pair):
                try:
                    User.update(name=f"{number}").where(User.id == user.id).execute()
                except DatabaseBusy:
                    deadlocks["seen"] += 1
                    raise

        db.run_in_transaction(work, retries=50)
        db.database.close()

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(apply, range(TRANSACTIONS)))
    assert Counter(clone.name for clone in VoiceClone.select()) == {f"{n}": 1 for n in range(TRANSACTIONS)}
    assert proxy.cuts["COMMIT"] > TRANSACTIONS / 10
    assert deadlocks["seen"] > 0
    assert db.pool_stats()["in_use"] <= 1  # this thread's


def test_a_commit_that_never_arrived_is_repeated(
    server: CrashServer, db: DatabaseManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    commit = db.database.commit

    def commit_too_late() -> None:
        if len(runs) == 1:
            server.query("SELECT pg_terminate_backend(%s, 5000)", (pids.pop(),))
        commit()

    def work() -> int:
        runs.append(1)
        User.create(name="once")
        pids.append(db.database.execute_sql("SELECT pg_backend_pid()").fetchone()[0])
        return len(runs)

    pids: list[int] = []
    monkeypatch.setattr(db.database, "commit", commit_too_late)
    assert db.run_in_transaction(work) == 2
    assert User.select().where(User.name == "once").count() == 1


def test_nobody_to_ask_is_an_unknown_commit(
    proxy: CuttingProxy, db: DatabaseManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("presgen.manager._VERIFY_SECONDS", 0.3)
    socket = proxy.socket

    def work() -> None:
        User.create(name="somewhere")
        proxy.order("COMMIT")
        proxy.socket = Path("nowhere")

    try:
        with pytest.raises(CommitUnknown, match="ask pg_xact_status"):
            db.run_in_transaction(work)
    finally:
        proxy.socket = socket
    assert User.select().where(User.name == "somewhere").count() == 1


def test_no_repeat_begins_after_the_deadline(db: DatabaseManager) -> None:
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        raise DatabaseUnavailable("away")

    with pytest.raises(DatabaseUnavailable):
        db.run_in_transaction(work, retries=1000, within=0.3)
    assert 1 < len(runs) < 20


def test_a_swallowed_error_is_told_as_such(db: DatabaseManager) -> None:
    def work() -> None:
        with suppress(ConstraintViolation):
            db.database.execute_sql("INSERT INTO users (name) VALUES ('')")

    with pytest.raises(TransactionAborted):
        db.run_in_transaction(work)
