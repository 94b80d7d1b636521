"""reading() and writing(): which statements a replica answers, and that nobody reads what is stale to them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from fixtures.rows import Enqueue

from presgen import (
    DatabaseConfig,
    DatabaseManager,
    JobEvent,
    PresentationJob,
    User,
    ValidationError,
    VoiceClone,
    queries,
)
from presgen.errors import ConfigurationError, ReadOnlyBlock

WHERE = "SELECT pg_is_in_recovery()"


def is_replica(db: DatabaseManager, sql: str = WHERE) -> bool:
    return bool(db.database.execute_sql(sql).fetchone()[0])


def reads(db: DatabaseManager) -> int:
    """How many statements replicas have answered."""
    return sum(found["reads"] for found in db.database.replicas.look().values())


def test_plain_selects_go_to_a_replica_and_nothing_else_does(db: DatabaseManager) -> None:
    assert not is_replica(db)
    with db.reading():
        assert is_replica(db)
        assert is_replica(db, "WITH here AS (SELECT pg_is_in_recovery() AS it) SELECT it FROM here")
        assert is_replica(db, "(SELECT pg_is_in_recovery()) UNION ALL (SELECT true)")
        assert not is_replica(db, "SELECT pg_is_in_recovery() FROM pg_class LIMIT 1 FOR UPDATE")
        assert not is_replica(db, "SELECT pg_is_in_recovery(), pg_try_advisory_xact_lock(7)")
        assert not is_replica(db, "SELECT pg_is_in_recovery(), set_config('presgen.x', '1', true)")
        assert not is_replica(db, "SELECT pg_is_in_recovery(), nextval('users_id_seq')")
        with db.transaction():
            assert not is_replica(db)
        with db.session():
            assert is_replica(db)
        with db.reading():
            assert is_replica(db)
        assert is_replica(db)
    assert not is_replica(db)


def test_models_and_queries_read_from_replicas(db: DatabaseManager, enqueue: Enqueue) -> None:
    with db.writing():
        job = enqueue()
    with db.reading():
        before = reads(db)
        (found,) = queries.get_presentation_jobs()
        assert (found, found.owner.name, found.voice_clone.name) == (job, job.owner.name, job.voice_clone.name)
        assert User.get(email=job.owner.email) == job.owner
        assert PresentationJob.select().count() == 1
        assert job.history() == list(JobEvent.select())
        assert reads(db) > before + 3
    metrics = db.metrics()["replicas"]
    assert metrics.pop("reads_of_primary") >= 0
    assert [set(found) for found in metrics.values()] == [{"usable", "lag_seconds", "reads"}] * 2
    assert [found["usable"] for found in metrics.values()] == [True, True]


WRITES: tuple[Callable[[], Any], ...] = (
    lambda: User.create(name="Eve"),
    lambda: User.update(name="Eve").execute(),
    lambda: User.delete().execute(),
    lambda: User.insert_many([{"name": "Eve"}]).execute(),
    lambda: User(id=1, name="Eve").save(),
    lambda: User(id=1).delete_instance(),
    lambda: PresentationJob.claim("w"),
    lambda: PresentationJob.enqueue_many([{"owner": 1, "voice_clone": 1, "s3_pptx_path": "/x.pptx"}]),
    lambda: User._meta.database.execute_sql("WITH gone AS (DELETE FROM users RETURNING id) SELECT * FROM gone"),
    lambda: User._meta.database.execute_sql("TRUNCATE users CASCADE"),
    PresentationJob.reap,
    lambda: User._meta.database.execute_sql("SELECT hidden_write()"),
)


def test_a_write_inside_a_reading_block_is_refused(db: DatabaseManager, enqueue: Enqueue) -> None:
    enqueue()
    with db.writing():
        db.database.execute_sql(
            "CREATE OR REPLACE FUNCTION hidden_write() RETURNS void LANGUAGE sql AS $$ UPDATE users SET name = 'x' $$"
        )
    before = list(User.select().dicts())
    for write in WRITES:
        with pytest.raises(ReadOnlyBlock, match=r"a reading\(\) block only reads: write outside of it"), db.reading():
            write()
    with pytest.raises(ReadOnlyBlock), db.reading(), db.transaction():
        User.create(name="Eve")
    assert (list(User.select().dicts()), PresentationJob.get().status) == (before, "pending")


def test_nothing_is_stale_after_500_commits(db: DatabaseManager) -> None:
    user = User.create(name="-")
    for number in range(500):
        with db.writing():
            User.update(name=str(number)).where(User.id == user.id).execute()
        with db.reading():
            assert User.get_by_id(user.id).name == str(number)
    assert reads(db) > 0


def test_a_block_inside_a_transaction_counts_from_its_commit(db: DatabaseManager) -> None:
    with db.transaction():
        with db.writing() as written:
            user = User.create(name="Ada")
        with pytest.raises(ValidationError, match="there is no token before the block"):
            _ = written.token
    with db.reading():
        assert User.get_by_id(user.id).name == "Ada"
    assert db.database.execute_sql("SELECT %s::pg_lsn <= pg_current_wal_flush_lsn()", (written.token,)).fetchone()[0]


OTHER_PROCESS = """
import sys
from presgen import DatabaseConfig, DatabaseManager, User
primary, replicas, number, token = sys.argv[1:]
with DatabaseManager(DatabaseConfig(primary, replica_urls=tuple(replicas.split()))) as db, db.reading(after=token):
    print(User.get_by_id(number).name)
"""


def test_a_token_says_it_to_another_process(db: DatabaseManager) -> None:
    with db.writing() as written:
        user = User.create(name="Ada")
    config = db.config
    words = [config.url, " ".join(config.replica_urls), str(user.id), written.token]
    done = subprocess.run([sys.executable, "-c", OTHER_PROCESS, *words], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("Ada\n", "")


def test_what_no_replica_has_seen_yet_is_asked_of_the_primary(db: DatabaseManager) -> None:
    before = db.metrics()["replicas"]["reads_of_primary"]
    with db.reading(after="FFFFFFF/0"):
        assert not is_replica(db)
        with db.reading(after="0/0"):
            assert not is_replica(db)
    assert db.metrics()["replicas"]["reads_of_primary"] == before + 2


def test_a_block_is_of_its_context_alone(db: DatabaseManager) -> None:
    seen: list[bool] = []
    with db.reading():
        thread = threading.Thread(target=lambda: seen.append(is_replica(db)))
        thread.start()
        thread.join()
        assert is_replica(db)
    assert seen == [False]


def test_replicas_hear_on_whose_behalf_they_are_asked(db: DatabaseManager) -> None:
    sql = "SELECT current_setting('presgen.user_id', true), pg_is_in_recovery()"
    with db.acting_as(7), db.reading():
        assert db.database.execute_sql(sql).fetchone() == ("7", True)
        with db.reading(after="FFFFFFF/0"):  # which the primary answers
            assert db.database.execute_sql(sql).fetchone() == ("7", False)
    with db.reading():
        assert db.database.execute_sql(sql).fetchone() in (("", True), (None, True))


@pytest.mark.parametrize("token", ["", "x", "0", "0/", "0/0 ", 7, "0/123456789"])
def test_what_is_no_token_is_refused(db: DatabaseManager, token: Any) -> None:
    with (
        pytest.raises(ValidationError, match=r"after must be the token of a writing\(\) block"),
        db.reading(after=token),
    ):
        pass


def test_without_replicas_the_blocks_mean_the_same() -> None:
    with DatabaseManager("sqlite:///:memory:") as manager:
        manager.migrate()
        with manager.writing() as written:
            User.create(name="Ada")
        with manager.reading(after=written.token):
            assert User.get().name == "Ada"
            with pytest.raises(ReadOnlyBlock):
                VoiceClone.delete().execute()
        assert (written.token, "replicas" in manager.metrics()) == ("0/0", False)


def test_replicas_are_read_from_the_environment_without_their_passwords() -> None:
    environ = {
        "DATABASE_URL": "postgresql://ada:s1@primary/app",
        "DATABASE_REPLICA_URLS": "postgresql://ada:s2@one,two/app, postgresql://ada:s3@three/app",
        "DATABASE_REPLICA_MAX_LAG": "2.5",
        "DATABASE_SSL": "true",
    }
    config = DatabaseConfig.from_env(environ)
    assert (len(config.replica_urls), config.replica_max_lag) == (2, 2.5)
    assert not {"s1", "s2", "s3"} & set(str(vars(config)).replace("'", " ").replace(":", " ").replace("@", " ").split())
    one, three = (config.of_replica(url).connect_parameters() for url in config.replica_urls)
    assert (one["host"], one["password"], three["password"], three["sslmode"]) == ("one,two", "s2", "s3", "require")


@pytest.mark.parametrize(
    ("urls", "said"),
    [
        ("postgresql://x/y", "must be a tuple of URLs"),
        (("nowhere",), "the database URL is malformed"),
        (("sqlite:///x.db",), "must be of PostgreSQL"),
    ],
)
def test_what_is_no_replica_is_refused(urls: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        DatabaseConfig("postgresql://x/y", replica_urls=urls)


def test_sqlite_has_no_replicas() -> None:
    with pytest.raises(ConfigurationError, match="SQLite has no replicas"):
        DatabaseConfig("sqlite:///x.db", replica_urls=("postgresql://x/y",))
