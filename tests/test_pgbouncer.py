"""Through PgBouncer in transaction mode: what works, what presgen leaves alone there, and what an outage does.

`tox -e pgbouncer` runs the tests of the backends through it as well.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg2
import pytest
from fixtures.pgbouncer import NOT_THROUGH_PGBOUNCER, PgBouncer, goes_through_pgbouncer
from fixtures.servers import VERSIONS, Server
from fixtures.waiting import wait_until

from presgen import (
    CommitUnknown,
    DatabaseConfig,
    DatabaseManager,
    DatabaseUnavailable,
    JobStatus,
    PresentationJob,
    User,
    VoiceClone,
    Worker,
)
from presgen.errors import ConfigurationError, StatementTimeout

_numbers = itertools.count(1)
# So few that clients share them all the time.
SERVER_CONNECTIONS = 3
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


@pytest.fixture(scope="module", params=VERSIONS)
def server(request: pytest.FixtureRequest, servers: dict[str, Server]) -> Server:
    return servers[request.param]


@pytest.fixture(scope="module")
def shared_pgbouncer(server: Server) -> Iterator[PgBouncer]:
    with ExitStack() as running:
        folder = Path(running.enter_context(TemporaryDirectory(prefix="presgen-pgbouncer-")))
        yield running.enter_context(PgBouncer(folder, server.url_of("postgres"), pool_size=SERVER_CONNECTIONS))


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


def make_video(job: PresentationJob) -> None:
    job.complete(s3_video_path=f"/{job.id}.mp4")


def in_use(manager: DatabaseManager) -> int:
    """How many connections others than this thread have."""
    manager.database.close()
    return manager.pool_stats()["in_use"]


@pytest.mark.parametrize("left_out", NOT_THROUGH_PGBOUNCER)
def test_what_is_left_out_exists(left_out: str) -> None:
    file, _, test = left_out.partition("::")
    assert f"def {test}" in (Path(__file__).parent / file).read_text(encoding="utf-8")
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
    assert in_use(db) == 0


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
    assert finished() == 120
    assert in_use(db) == 0


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


def test_a_statement_timeout_belongs_to_the_role_or_the_database(
    db: DatabaseManager, server: Server, url: str, database: str
) -> None:
    with pytest.raises(ConfigurationError, match="cannot pass through PgBouncer: set it for the role instead"):
        DatabaseConfig(url, pgbouncer=True, statement_timeout=1)
    server.execute(
        f"ALTER DATABASE {database} SET statement_timeout = '100ms'",
        f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{database}'",
    )
    with DatabaseManager(DatabaseConfig(url, pgbouncer=True)) as manager:
        with pytest.raises(StatementTimeout):
            manager.database.execute_sql("SELECT pg_sleep(5)")
        assert manager.health_check()


def test_nothing_of_a_session_stays_for_the_next_client(
    db: DatabaseManager, server: Server, database: str, enqueue: Callable[[int], int]
) -> None:
    db.install("notify")
    enqueue(30)
    with db.wake_ups(lambda: None):
        Worker(db, make_video, max_per_owner=2).drain()
    db.uninstall("notify")
    with ExitStack() as opened:
        pids = set()
        for _ in range(SERVER_CONNECTIONS):
            # Each stays in its transaction, and so gets a server connection that no other has.
            cursor = opened.enter_context(closing(psycopg2.connect(db.database.config.url))).cursor()
            cursor.execute("SELECT pg_backend_pid()")
            pids.add(cursor.fetchone())
            for left in SESSION_STATE:
                cursor.execute(left)
                assert cursor.fetchall() == [], left
        assert len(pids) == SERVER_CONNECTIONS


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


@pytest.fixture
def own_pgbouncer(start_pgbouncer: Callable[..., PgBouncer], server: Server) -> PgBouncer:
    """One that may be ended."""
    return start_pgbouncer(server.url_of("postgres"))


@pytest.fixture
def manager(own_pgbouncer: PgBouncer, db: DatabaseManager, database: str) -> Iterator[DatabaseManager]:
    with DatabaseManager(DatabaseConfig(own_pgbouncer.url_of(database), pgbouncer=True)) as manager:
        yield manager


def test_workers_outlive_a_restart_of_pgbouncer(
    own_pgbouncer: PgBouncer, manager: DatabaseManager, enqueue: Callable[[int], int]
) -> None:
    enqueue(100)
    worked, ready_again = threading.Semaphore(0), threading.Event()

    def handler(job: PresentationJob) -> None:
        worked.release()
        if not ready_again.is_set():
            ready_again.wait(0.05)
        make_video(job)

    workers = [Worker(manager, handler, name=f"w{number}", poll=0.05, lease=2) for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        running = [threads.submit(worker.run) for worker in workers]
        try:
            for _ in range(20):
                assert worked.acquire(timeout=20)
            own_pgbouncer.kill()
            wait_until(lambda: not manager.health_check())
            own_pgbouncer.start()
            ready_again.set()
            began = time.monotonic()
            wait_until(manager.health_check)
            assert time.monotonic() - began < 1
            wait_until(lambda: finished() == 100)
        finally:
            for worker in workers:
                worker.stop()
            for future in running:
                future.result(timeout=30)
    assert in_use(manager) == 0


def finished() -> int:
    return int(PresentationJob.select().where(PresentationJob.status == JobStatus.COMPLETED).count())


def test_a_transaction_cut_by_pgbouncers_end_is_not_applied(own_pgbouncer: PgBouncer, manager: DatabaseManager) -> None:
    with pytest.raises(DatabaseUnavailable, match="was lost"), manager.transaction():
        User.create(name="Grace")
        own_pgbouncer.kill()
        User.create(name="Edsger")
    with pytest.raises(DatabaseUnavailable, match="cannot connect to postgresql://"):
        User.create(name="Barbara")
    own_pgbouncer.start()
    assert User.select().count() == 0
    manager.database.close()


def test_a_commit_cut_by_pgbouncers_end_is_unknown(own_pgbouncer: PgBouncer, manager: DatabaseManager) -> None:
    with pytest.raises(CommitUnknown), manager.transaction():
        User.create(name="Grace")
        own_pgbouncer.kill()
    own_pgbouncer.start()
    assert User.select().count() == 0
    manager.database.close()


def test_a_server_connection_lost_in_a_transaction_is_an_outage_of_the_client(
    manager: DatabaseManager, server: Server
) -> None:
    with pytest.raises(DatabaseUnavailable) as caught, manager.transaction():
        (pid,) = manager.database.execute_sql("SELECT pg_backend_pid()").fetchone()
        server.execute(f"SELECT pg_terminate_backend({pid}, 5000)")
        User.create(name="Grace")
    assert caught.value.retryable
    User.create(name="Barbara")
    assert [user.name for user in User.select()] == ["Barbara"]
    assert in_use(manager) == 0
