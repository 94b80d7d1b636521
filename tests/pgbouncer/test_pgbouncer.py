"""Through PgBouncer in transaction mode: what works, what presgen leaves alone there, and what an outage does.

`tox -e pgbouncer` runs the tests of the backends through it as well.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path

import psycopg2
import pytest
from fixtures.pgbouncer import NOT_THROUGH_PGBOUNCER, PgBouncer, goes_through_pgbouncer
from fixtures.rows import completed
from fixtures.servers import Server
from fixtures.waiting import within

from presgen import (
    DatabaseConfig,
    DatabaseManager,
    DatabaseUnavailable,
    JobStatus,
    PresentationJob,
    User,
    Worker,
)
from presgen.errors import StatementTimeout

# What one client could leave to the next; the five settings are those that PgBouncer sets for each client by itself.
SESSION_STATE = (
    """
    SELECT name FROM pg_settings
    WHERE source = 'session' AND name NOT IN
        ('application_name', 'client_encoding', 'DateStyle', 'TimeZone', 'standard_conforming_strings')
    """,
    "SELECT objid FROM pg_locks WHERE locktype = 'advisory'",
    "SELECT pg_listening_channels()",
    "SELECT name FROM pg_prepared_statements",
    "SELECT name FROM pg_cursors",
    "SELECT relname::text FROM pg_class WHERE relpersistence = 't'",
)


def make_video(job: PresentationJob) -> None:
    job.complete(s3_video_path=f"/{job.id}.mp4")


@pytest.mark.parametrize("left_out", NOT_THROUGH_PGBOUNCER)
def test_what_is_left_out_exists(left_out: str) -> None:
    file, _, test = left_out.partition("::")
    assert f"def {test}" in (Path(__file__).parents[1] / file).read_text(encoding="utf-8")
    assert not goes_through_pgbouncer(file, test)


def test_the_migrations_go_up_down_and_up(db: DatabaseManager) -> None:
    known = db.migrations.known()
    assert db.migrations.applied() == known
    assert db.rollback(len(known)) == known[::-1]
    assert db.migrate() == known
    assert db.health().ok


def test_managers_that_migrate_at_once_apply_each_migration_once(url: str) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(3) as threads:
        managers = [stack.enter_context(DatabaseManager(DatabaseConfig(url, pgbouncer=True))) for _ in range(3)]
        applied = list(threads.map(lambda manager: manager.migrate(), managers))
        assert sorted(applied, key=len) == [[], [], managers[0].migrations.known()]


def test_a_job_lives_its_life(db: DatabaseManager, enqueue: Callable[[int], int]) -> None:
    assert enqueue(1) == 1
    (job,) = PresentationJob.claim("w1")
    job.heartbeat(progress=0.1, checkpoint={"slide": 1})
    job.advance(JobStatus.SYNTHESIZING_AUDIO)
    job.release()
    (job,) = PresentationJob.claim("w2")
    make_video(job)
    stored = PresentationJob.get_by_id(job.id)
    assert (stored.status, stored.checkpoint) == (JobStatus.COMPLETED, {"slide": 1})
    assert stored.completed_at.utcoffset() == timedelta(0)
    assert abs(stored.completed_at.timestamp() - time.time()) < 60
    assert db.pool_stats()["in_use"] == 0


def test_ten_thousand_jobs_go_in_by_copy(db: DatabaseManager, enqueue: Callable[[int], int]) -> None:
    assert enqueue(10_000) == 10_000
    assert PresentationJob.select().count() == 10_000


def test_claims_at_the_same_time_keep_to_the_owners_share(db: DatabaseManager, enqueue: Callable[[int], int]) -> None:
    enqueue(40)
    begin = threading.Barrier(8)

    def claim(number: int) -> int:
        begin.wait()
        with db.session():
            return len(PresentationJob.claim(f"w{number}", limit=3, max_per_owner=5))

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(claim, range(8))) == 5


def test_more_threads_than_server_connections_lose_and_double_nothing(
    db: DatabaseManager, enqueue: Callable[[int], int]
) -> None:
    enqueue(120)
    done: list[int] = []

    def work(number: int) -> None:
        with db.session():
            while jobs := PresentationJob.claim(f"w{number}", limit=2):
                for job in jobs:
                    make_video(job)
                    done.append(job.id)

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(work, range(12)))
    assert Counter(done) == Counter(dict.fromkeys(done, 1))
    assert completed() == 120
    assert db.pool_stats()["in_use"] == 0


def test_transactions_that_meet_are_repeated_until_each_is_applied_once(db: DatabaseManager, owner: User) -> None:
    other = User.create(name="0")
    owner.name = "0"
    owner.save()

    def count(*order: int) -> None:
        def add() -> None:
            for id in order:  # in opposite orders, which deadlocks
                user = User.select().where(User.id == id).for_update().get()
                User.update(name=str(int(user.name) + 1)).where(User.id == id).execute()

        db.run_in_transaction(add, retries=50)
        db.database.close()

    with ThreadPoolExecutor(4) as threads:
        futures = [
            threads.submit(count, *(ids if number % 2 else ids[::-1]))
            for ids in [(owner.id, other.id)]
            for number in range(20)
        ]
        for future in futures:
            future.result()
    assert [user.name for user in User.select()] == ["20", "20"]


def test_a_statement_timeout_of_the_database_is_no_outage(
    db: DatabaseManager, server: Server, url: str, database: str
) -> None:
    server.execute(
        f"ALTER DATABASE {database} SET statement_timeout = '100ms'",
        f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{database}'",
    )
    with DatabaseManager(DatabaseConfig(url, pgbouncer=True, statement_timeout=5)) as manager:
        with pytest.raises(StatementTimeout):
            manager.database.execute_sql("SELECT pg_sleep(5)")
        assert manager.health_check()


def test_a_statement_timeout_of_the_clients_breaks_the_line_off(url: str, db: DatabaseManager) -> None:
    with DatabaseManager(DatabaseConfig(url, pgbouncer=True, statement_timeout=0.5)) as manager:
        with within(0.5), pytest.raises(DatabaseUnavailable):
            manager.database.execute_sql("SELECT pg_sleep(20)")
        assert manager.health_check()


def test_nothing_of_a_session_stays_for_the_next_client(
    db: DatabaseManager, shared_pgbouncer: PgBouncer, enqueue: Callable[[int], int]
) -> None:
    db.install("notify")
    enqueue(30)
    with db.wake_ups(lambda: None):
        Worker(db, make_video, max_per_owner=2).drain()
    db.uninstall("notify")
    with ExitStack() as opened:
        pids = set()
        for _ in range(shared_pgbouncer.pool_size):
            # Each stays in its transaction, and so gets a server connection that no other has.
            cursor = opened.enter_context(closing(psycopg2.connect(db.database.config.url))).cursor()
            cursor.execute("SELECT pg_backend_pid()")
            pids.add(cursor.fetchone())
            for left in SESSION_STATE:
                cursor.execute(left)
                assert cursor.fetchall() == [], left
        assert len(pids) == shared_pgbouncer.pool_size


def test_with_notify_installed_workers_poll(db: DatabaseManager, enqueue: Callable[[int], int]) -> None:
    db.install("notify")
    done = threading.Event()

    def handler(job: PresentationJob) -> None:
        make_video(job)
        done.set()

    worker = Worker(db, handler, poll=0.05)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(worker.run)
        try:
            assert "presgen-wake-ups" not in {thread.name for thread in threading.enumerate()}
            enqueue(1)
            assert done.wait(20)
        finally:
            worker.stop()
            running.result(timeout=20)
