"""Indexes are built and dropped CONCURRENTLY by `presgen migrate` and by `pw_migrate`, whatever broke off before."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from fixtures.later_migrations import LATER, write_later_migrations
from fixtures.waiting import wait_until

from presgen import DatabaseConfig, DatabaseManager, User
from presgen.errors import MigrationError
from presgen.migrating.catalog import catalog
from presgen.migrating.concurrent import concurrent
from presgen.migrating.turns import keep_others_out
from presgen.migrator import Migrator, migrations_folder

FILLED, INDEXED = list(LATER)[1:3]
BUILDING = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'CREATE%%INDEX CONCURRENTLY%%' AND state = 'active'"
VALID = "SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indrelid = 'users'::regclass"


def indexes(manager: DatabaseManager) -> dict[str, bool]:
    return dict(manager.database.execute_sql(VALID).fetchall())


@contextmanager
def old_transaction(url: str) -> Iterator[None]:
    """A transaction with a snapshot, whose end CREATE INDEX CONCURRENTLY waits for."""
    with closing(psycopg2.connect(url)) as connection:
        connection.set_session(isolation_level="REPEATABLE READ")
        connection.cursor().execute("SELECT count(*) FROM users")
        yield


def builder_of(manager: DatabaseManager) -> int | None:
    found = manager.database.execute_sql(BUILDING).fetchone()
    return int(found[0]) if found else None


def test_up_down_up_leaves_the_same_catalogs(url: str, later: Path) -> None:
    with DatabaseManager(url) as manager:
        migrator = Migrator(manager.database, later)

        def look() -> Any:
            with manager.session() as database:
                return catalog(database)

        before = look()
        assert migrator.migrate() == list(LATER)
        up = look()
        migrator.rollback(4)
        down = look()
        assert before["indexes"] == down["indexes"]
        assert before["constraints"] == down["constraints"]
        migrator.migrate()
        assert look() == up
        assert not [text for _, _, text in up["indexes"] if "INVALID" in text]


def test_writers_go_on_while_an_index_is_built(postgresql: str, url: str, later: Path) -> None:
    with DatabaseManager(url) as manager, ThreadPoolExecutor(1) as pool:
        migrator = Migrator(manager.database, later)
        migrator.migrate(FILLED)
        with old_transaction(url):
            done = pool.submit(migrator.migrate, INDEXED)
            wait_until(lambda: builder_of(manager) is not None)
            User.create(name="Ada")
            assert not done.done()
        assert done.result(timeout=30) == [INDEXED]
        assert indexes(manager)["idx_users_nickname"]


@pytest.mark.parametrize("unique", [False, True])
def test_a_build_that_was_broken_off_is_begun_anew(postgresql: str, url: str, later: Path, unique: bool) -> None:
    with DatabaseManager(url) as manager, ThreadPoolExecutor(1) as pool:
        migrator = Migrator(manager.database, later)
        name = "idx_users_nickname_id" if unique else "idx_users_nickname"
        migrator.migrate(FILLED)
        if unique:  # the first index is there, and not recorded
            manager.database.execute_sql("CREATE INDEX idx_users_nickname ON users (nickname)")
        with old_transaction(url):
            done = pool.submit(migrator.migrate)
            wait_until(lambda: indexes(manager).get(name) is False)
            manager.database.execute_sql("SELECT pg_terminate_backend(%s)", (builder_of(manager),))
            with pytest.raises(MigrationError, match=INDEXED):
                done.result(timeout=30)
        assert indexes(manager)[name] is False
        assert migrator.migrate() == list(LATER)[2:]
        assert all(indexes(manager).values())


def test_what_a_killed_migrator_has_begun_ends_soon_and_is_done_anew(postgresql: str, url: str, later: Path) -> None:
    code = "import sys\nfrom pathlib import Path\nfrom presgen import DatabaseManager\nfrom presgen.migrator import Migrator\n"
    code += (
        "with DatabaseManager(sys.argv[1]) as manager:\n    Migrator(manager.database, Path(sys.argv[2])).migrate()\n"
    )
    with DatabaseManager(url) as manager:
        migrator = Migrator(manager.database, later)
        migrator.migrate(FILLED)
        with old_transaction(url):
            process = subprocess.Popen([sys.executable, "-c", code, url, str(later)])
            wait_until(lambda: builder_of(manager) is not None)
            process.kill()
            process.wait(timeout=30)
            wait_until(lambda: builder_of(manager) is None)  # the server has looked after its client
        assert indexes(manager)["idx_users_nickname"] is False
        assert migrator.migrate() == list(LATER)[2:]
        assert all(indexes(manager).values())


def test_an_index_that_is_another_one_is_not_taken_for_it(postgresql: str, url: str, later: Path) -> None:
    with DatabaseManager(url) as manager:
        migrator = Migrator(manager.database, later)
        migrator.migrate(FILLED)
        for other in ("CREATE INDEX {} ON users (created_at)", "CREATE INDEX {} ON users (nickname) WHERE id > 1"):
            manager.database.execute_sql(other.format("idx_users_nickname"))
            with pytest.raises(MigrationError, match="there is another index of the name idx_users_nickname: CREATE"):
                migrator.migrate()
            manager.database.execute_sql("DROP INDEX idx_users_nickname")
        manager.database.execute_sql("CREATE INDEX idx_users_nickname_id ON users (nickname, id)")
        with pytest.raises(MigrationError, match="failed, but what it had committed is there: there is another index"):
            migrator.migrate()
        manager.database.execute_sql("DROP INDEX idx_users_nickname_id")
        assert migrator.migrate() == list(LATER)[2:]


def test_a_long_name_hides_no_half_index(postgresql: str, url: str, tmp_path: Path) -> None:
    name = "idx_users_" + 60 * "x"
    sql = f"CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS {name} ON users (name)"
    folder = write_later_migrations(
        tmp_path, **{"004_expand_x": f"def migrate(migrator, database, *, fake=False):\n    migrator.sql({sql!r})\n"}
    )
    with DatabaseManager(url) as manager:
        users = [User.create(name="Ada") for _ in range(2)]
        for _ in range(2):
            with pytest.raises(MigrationError, match="unique"):
                Migrator(manager.database, folder).migrate()
        users[0].delete_instance()
        assert Migrator(manager.database, folder).migrate() == ["004_expand_x"]
        assert all(indexes(manager).values())


def test_duplicates_leave_no_half_index_that_refuses_writes(postgresql: str, url: str, tmp_path: Path) -> None:
    unique = "migrator.sql('CREATE UNIQUE INDEX CONCURRENTLY idx_users_one_name ON users (name)')"
    folder = write_later_migrations(
        tmp_path, **{"004_expand_names": f"def migrate(migrator, database, *, fake=False):\n    {unique}\n"}
    )
    with DatabaseManager(url) as manager:
        for _ in range(2):
            User.create(name="Ada")
        with pytest.raises(MigrationError, match="004_expand_names failed .*unique"):
            Migrator(manager.database, folder).migrate()
        assert "idx_users_one_name" not in indexes(manager)
        User.create(name="Ada")


def test_what_comes_before_could_not_be_undone_and_is_refused(postgresql: str, url: str, tmp_path: Path) -> None:
    body = """
    migrator.sql("ALTER TABLE users ADD COLUMN nickname TEXT")
    migrator.sql("CREATE INDEX CONCURRENTLY idx_users_nickname ON users (nickname)")
"""
    folder = write_later_migrations(
        tmp_path, **{"004_expand_x": f"def migrate(migrator, database, *, fake=False):{body}"}
    )
    with DatabaseManager(url) as manager:
        with pytest.raises(MigrationError, match="CONCURRENTLY comes first in a migration"):
            Migrator(manager.database, folder).migrate()
        assert "nickname" not in str(catalog(manager.database)["columns"])


def test_pw_migrate_itself_builds_concurrently(postgresql: str, url: str, tmp_path: Path, later: Path) -> None:
    shutil.copy(migrations_folder() / "conf.py", later)
    script = Path(sys.executable).parent / "pw_migrate"
    environment = {"DATABASE_URL": url, "PATH": ""}
    with DatabaseManager(url) as manager:
        for arguments in (["migrate"], ["rollback", "--count", "4"], ["migrate"]):
            done = subprocess.run(
                [str(script), *arguments, "--directory", str(later)], env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
        assert manager.migrations.applied()[3:] == list(LATER)
        assert indexes(manager)["idx_users_nickname_id"]


def test_not_through_pgbouncer_and_not_inside_a_transaction(postgresql: str, url: str, later: Path) -> None:
    with DatabaseManager(DatabaseConfig(url, pgbouncer=True)) as manager:
        with pytest.raises(MigrationError, match="through PgBouncer: use the server itself"):
            Migrator(manager.database, later).migrate()
        assert Migrator(manager.database, later).pending() == list(LATER)
    with (
        DatabaseManager(url) as manager,
        manager.transaction(),
        pytest.raises(MigrationError, match="run it outside of yours"),
    ):
        Migrator(manager.database, later).migrate()


def test_a_limit_for_the_applications_statements_is_none_for_migrations(
    postgresql: str, url: str, tmp_path: Path
) -> None:
    body = "migrator.sql('SELECT pg_sleep(0.4)')"
    folder = write_later_migrations(
        tmp_path, **{"004_expand_slowly": f"def migrate(migrator, database, *, fake=False):\n    {body}\n"}
    )
    with DatabaseManager(DatabaseConfig(url, statement_timeout=0.2)) as manager:
        assert Migrator(manager.database, folder).migrate() == ["004_expand_slowly"]


def test_limits_of_the_database_and_of_an_earlier_migration_are_none_either(
    postgresql: str, url: str, tmp_path: Path
) -> None:
    waiting = "SELECT count(*) / (current_setting('lock_timeout') = '2s')::int FROM pg_sleep(0.4)"
    bodies = {"004_expand_x": "SET lock_timeout = '1h'", "005_expand_y": waiting}
    files = {
        name: f"def migrate(migrator, database, *, fake=False):\n    migrator.sql({sql!r})\n"
        for name, sql in bodies.items()
    }
    with DatabaseManager(url) as manager:
        for name in ("statement_timeout", "idle_in_transaction_session_timeout"):
            database = manager.database.execute_sql("SELECT current_database()").fetchone()[0]
            manager.database.execute_sql(f"ALTER DATABASE {database} SET {name} = '200ms'")
    with DatabaseManager(url) as manager:
        assert Migrator(manager.database, write_later_migrations(tmp_path, **files)).migrate() == list(files)


def test_a_migration_that_reads_does_not_stand_in_the_way_of_later_ones(url: str, tmp_path: Path) -> None:
    reading = """
def migrate(migrator, database, *, fake=False):
    (count,) = database.execute_sql("SELECT count(*) FROM users").fetchone()
    migrator.sql(f"UPDATE users SET name = '{count}'")


def rollback(migrator, database, *, fake=False):
    pass
"""
    plain = (
        "def migrate(migrator, database, *, fake=False):\n    migrator.sql('UPDATE users SET is_active = is_active')\n"
    )
    with DatabaseManager(url) as manager:
        User.create(name="Ada")
        folder = write_later_migrations(tmp_path, **{"004_expand_reads": reading, "005_expand_plain": plain})
        migrator = Migrator(manager.database, folder)
        assert migrator.migrate("004_expand_reads") == ["004_expand_reads"]
        assert migrator.migrate() == ["005_expand_plain"]
        assert User.get().name == "1"


def test_models_of_earlier_migrations_are_there_for_later_ones(url: str, tmp_path: Path) -> None:
    first = """
import peewee as pw


def migrate(migrator, database, *, fake=False):
    @migrator.create_model
    class Tag(pw.Model):
        name = pw.CharField()

        class Meta:
            table_name = "tags"


def rollback(migrator, database, *, fake=False):
    migrator.remove_model("tags")
"""
    second = """
import peewee as pw


def migrate(migrator, database, *, fake=False):
    migrator.add_fields("tags", note=pw.CharField(null=True))


def rollback(migrator, database, *, fake=False):
    migrator.remove_fields("tags", "note")
"""
    folder = write_later_migrations(tmp_path, **{"004_expand_tags": first, "005_expand_notes": second})
    with DatabaseManager(url) as manager:
        migrator = Migrator(manager.database, folder)
        assert len(migrator.plan()) == 2
        assert not [one for one in migrator.lint() if one.rule in ("cannot-be-told", "cannot-be-replayed")]
        migrator.migrate("004_expand_tags")
        migrator.migrate()
        assert [column.name for column in manager.database.get_columns("tags")] == ["id", "name", "note"]
        assert migrator.rollback(2) == ["005_expand_notes", "004_expand_tags"]
        assert not manager.database.table_exists("tags")


def test_an_error_of_a_migrations_code_names_the_migration(url: str, tmp_path: Path) -> None:
    folder = write_later_migrations(
        tmp_path, **{"004_expand_x": "def migrate(migrator, database, *, fake=False):\n    raise KeyError('x')\n"}
    )
    with (
        DatabaseManager(url) as manager,
        pytest.raises(MigrationError, match="004_expand_x failed and was undone: 'x'"),
    ):
        Migrator(manager.database, folder).migrate()


def test_what_a_migrations_code_has_committed_is_told(postgresql: str, url: str, tmp_path: Path) -> None:
    body = """
def migrate(migrator, database, *, fake=False):
    if fake:
        return
    database.execute_sql("ALTER TABLE users ADD COLUMN nickname text")
    database.commit()
    database.begin()
    raise ValueError("halfway")
"""
    folder = write_later_migrations(tmp_path, **{"004_expand_x": body})
    with DatabaseManager(url) as manager:
        with pytest.raises(MigrationError, match="004_expand_x failed, but what it had committed is there: halfway"):
            Migrator(manager.database, folder).migrate()
        assert "nickname" in str(catalog(manager.database)["columns"])


def test_a_name_that_the_router_does_not_know_is_none(url: str, tmp_path: Path) -> None:
    body = "def migrate(migrator, database, *, fake=False):\n    pass\n"
    folder = write_later_migrations(tmp_path, **{"004_expand_v1.2": body, "005_contract_x": body})
    with DatabaseManager(url) as manager:
        migrator = Migrator(manager.database, folder)
        assert migrator.migrate(expand_only=True) == []
        assert migrator.migrate() == ["005_contract_x"]


def test_nothing_to_migrate_waits_for_nobody(postgresql: str, url: str) -> None:
    with DatabaseManager(url) as manager, DatabaseManager(url) as other, other.session() as busy:
        keep_others_out(busy)
        assert manager.migrate() == []


def test_two_migrators_wait_for_each_other_without_waiting_for_ever(postgresql: str, url: str, later: Path) -> None:
    """CREATE INDEX CONCURRENTLY waits for whoever has a snapshot, and a migrator that waits must have none."""
    barrier = threading.Barrier(3)

    def migrate() -> list[str]:
        with DatabaseManager(url) as manager:
            barrier.wait()
            return Migrator(manager.database, later).migrate()

    with ThreadPoolExecutor(3) as pool:
        done = [pool.submit(migrate) for _ in range(3)]
        assert sorted(one.result(timeout=60) for one in done) == [[], [], list(LATER)]


@pytest.mark.parametrize(
    ("sql", "index", "table"),
    [
        ("CREATE INDEX /* c */ CONCURRENTLY a /* b */ ON t -- c", "a", "t"),
        ("DROP INDEX CONCURRENTLY a -- tail", "a", None),
        ("CREATE INDEX CONCURRENTLY a ON t (x)", "a", "t"),
        ('create unique index concurrently if not exists "A b" on only s."T" using gin (x)', '"A b"', 's."T"'),
        ("-- why\n/* how */ CREATE INDEX\n CONCURRENTLY a ON t(x)", "a", "t"),
        ("DROP INDEX CONCURRENTLY IF EXISTS s.a;", "s.a", None),
        ("DROP INDEX CONCURRENTLY a RESTRICT", "a", None),
    ],
)
def test_what_is_concurrent(sql: str, index: str, table: str | None) -> None:
    statement = concurrent(sql)
    assert statement is not None
    assert (statement.index, statement.table) == (index, table)


@pytest.mark.parametrize("sql", ["CREATE INDEX a ON t (x)", "INSERT INTO t VALUES ('CREATE INDEX CONCURRENTLY')"])
def test_what_is_not(sql: str) -> None:
    assert concurrent(sql) is None


@pytest.mark.parametrize("sql", ["CREATE INDEX CONCURRENTLY ON t (x)", "DROP INDEX CONCURRENTLY a, b"])
def test_what_could_not_be_run_again_is_refused(sql: str) -> None:
    with pytest.raises(MigrationError, match="needs a name"):
        concurrent(sql)
