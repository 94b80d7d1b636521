"""acting_as() and what runs inside it: every way of writing, transactions that share, and what is raised anywhere."""

from __future__ import annotations

import asyncio
import io
import sqlite3
from pathlib import Path
from typing import Any

import peewee as pw
import psycopg2.extras
import pytest
from fixtures.acting import NOTHING, Carried, Program, carried_in, left_behind, note_acting, write_raw
from fixtures.effort import IS_FULL

from presgen import DatabaseManager, User, VoiceClone
from presgen.errors import DatabaseBusy

SEVEN: Carried = (7, "user 7")


def test_every_way_of_writing_carries_them(noting: DatabaseManager, carried: Any) -> None:
    ways = [
        lambda: User.create(name="a"),
        lambda: User.insert(name="a").execute(),
        lambda: User.insert_many([{"name": "a"}, {"name": "b"}]).execute(),
        lambda: list(User.insert(name="a").returning(User.id).execute()),
        lambda: User.bulk_create([User(name="c")]),
        lambda: User.bulk_update([User(id=1, name="d")], [User.name]),
        lambda: write_raw(noting, "100 % ; '\\"),
        lambda: noting.database.execute_sql("INSERT INTO users (name) VALUES ('50 %% off; \\')"),
        lambda: noting.run_in_transaction(lambda: write_raw(noting)),
        lambda: User.get_or_create(name="e"),
    ]
    with noting.acting_as(7):
        for way in ways:
            way()
        with noting.database:
            write_raw(noting)
        with noting.database.connection_context():
            write_raw(noting)
    seen = carried()
    assert set(seen) == {SEVEN}
    assert len(seen) >= len(ways)


def test_what_sqlite_alone_knows_carries_them(tmp_path: Path, sqlite_template: Path) -> None:
    path = tmp_path / "sqlite.db"
    path.write_bytes(sqlite_template.read_bytes())
    with DatabaseManager(f"sqlite:///{path}") as manager:
        note_acting(manager)
        with manager.acting_as(7):
            User.replace(id=1, name="r").execute()
            manager.database.execute_sql("REPLACE INTO users (id, name) VALUES (1, 'r')")
            with manager.transaction():
                manager.database.cursor().executemany("INSERT INTO users (name) VALUES (?)", [("m",)])
            manager.database.cursor().executemany("INSERT INTO users (name) VALUES (?)", [("m",), ("n",)])
            with pytest.raises(sqlite3.IntegrityError):
                manager.database.cursor().executemany("INSERT INTO users (name) VALUES (?)", [("o",), ("",)])
        assert User.select().where(User.name.in_(["m", "n", "o"])).count() == 3
        assert set(carried_in(manager)) == {SEVEN}
        assert left_behind(manager) == []


def test_an_actor_may_be_any_text(noting: DatabaseManager, carried: Any) -> None:
    for actor in ("50 % %s %(x)s", "O'Hara; DROP TABLE users --", "back\\slash", "日本語 🐝", "$1 $$", "x" * 255):
        with noting.acting_as(actor=actor):
            write_raw(noting, "%s")
        assert carried() == [(None, actor)]


@pytest.mark.usefixtures("postgresql")
def test_cursors_of_the_driver_carry_them_as_well(noting: DatabaseManager, carried: Any) -> None:
    with noting.session() as database, noting.acting_as(7):
        cursor = database.cursor()
        cursor.execute(b"INSERT INTO users (name) VALUES (%s)", ("bytes",))
        cursor.executemany("INSERT INTO users (name) VALUES (%s)", [("m",), ("n",)])
        cursor.copy_expert("COPY users (name) FROM STDIN", io.StringIO("copied\n"))
        psycopg2.extras.execute_values(database.connection().cursor(), "INSERT INTO users (name) VALUES %s", [("v",)])
        with noting.transaction():
            cursor.executemany("INSERT INTO users (name) VALUES (%s)", [("m",)])
            with noting.acting_as(actor="copier"):
                cursor.copy_expert("COPY users (name) FROM STDIN", io.StringIO("copied\n"))
    assert carried() == [SEVEN] * 6 + [(7, "copier")]


@pytest.mark.usefixtures("postgresql")
def test_a_cursor_of_the_servers_is_read_as_the_user(noting: DatabaseManager) -> None:
    with noting.transaction(), noting.acting_as(7):
        cursor = noting.database.connection().cursor("of the server", withhold=True)
        cursor.execute("SELECT current_setting('presgen.user_id', true)")
        assert cursor.fetchone() == ("7",)


@pytest.mark.usefixtures("postgresql")
def test_reads_carry_them_and_an_isolation_level_is_kept(noting: DatabaseManager) -> None:
    ask = "SELECT current_setting('presgen.user_id', true), current_setting('transaction_isolation')"
    database = noting.database
    with noting.acting_as(7):
        assert database.execute_sql(ask).fetchone() == ("7", "read committed")
        with database.atomic(isolation_level="SERIALIZABLE"):
            assert database.execute_sql(ask).fetchone() == ("7", "serializable")
        with noting.session():
            database.execute_sql("BEGIN ISOLATION LEVEL REPEATABLE READ;")
            assert database.execute_sql(ask).fetchone() == ("7", "repeatable read")
            database.execute_sql("COMMIT")


@pytest.mark.usefixtures("postgresql")
def test_what_runs_in_no_transaction_runs_inside(noting: DatabaseManager) -> None:
    with noting.acting_as(actor="dba"):
        noting.database.execute_sql("VACUUM users")
        noting.database.execute_sql("CREATE INDEX CONCURRENTLY i ON users (name)")
        noting.database.execute_sql("DROP INDEX CONCURRENTLY i")


def test_the_migrations_run_inside(empty_url: str) -> None:
    with DatabaseManager(empty_url) as manager, manager.acting_as(actor="deploy"):
        known = manager.migrate()
        assert manager.rollback(len(known)) == known[::-1]


def test_prefetch_reads_inside(noting: DatabaseManager) -> None:
    ada = User.create(name="Ada")
    VoiceClone.create(name="v", s3_path="/v.wav", owner=ada)
    with noting.acting_as(ada):
        (user,) = pw.prefetch(User.select(), VoiceClone.select())
        assert [voice.name for voice in user.voice_clones] == ["v"]


def test_what_is_called_after_the_commit_acts_as_its_block(noting: DatabaseManager, carried: Any) -> None:
    with noting.acting_as(7):
        with noting.transaction():
            noting.database.after_commit(lambda: User.create(name="after"))
            User.create(name="before")
        assert carried() == [SEVEN, SEVEN]


def test_a_repeated_transaction_carries_them_again(noting: DatabaseManager, carried: Any) -> None:
    runs: list[int] = []

    def work() -> None:
        User.create(name="Ada")
        runs.append(1)
        if len(runs) < 3:
            raise DatabaseBusy("once more")

    with noting.acting_as(7):
        noting.run_in_transaction(work)
    assert (len(runs), carried()) == (3, [SEVEN])


@pytest.mark.usefixtures("postgresql")
def test_threads_in_one_transaction_write_each_as_their_own_block(noting: DatabaseManager, carried: Any) -> None:
    def write(actor: str) -> None:
        for _ in range(30):
            with noting.acting_as(actor=actor):
                User.create(name=actor)

    async def main() -> None:
        with noting.transaction():
            await asyncio.gather(*(asyncio.to_thread(write, actor) for actor in "abcd"))

    asyncio.run(main())
    seen = carried()
    assert {actor: seen.count((None, actor)) for actor in "abcd"} == dict.fromkeys("abcd", 30)
    assert [user.name for user in User.select()].count("a") == 30


PROGRAMS = 5000 if IS_FULL else 200


def test_whatever_is_nested_each_write_carries_what_its_innermost_block_says(noting: DatabaseManager) -> None:
    for seed in range(PROGRAMS):
        Program(noting, seed).run()
    User.create(name="last")
    assert carried_in(noting) == [NOTHING]
