"""`presgen migrate check` finds whatever is not as the models and migrations declare it, and nothing else."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures.encrypted import keyed
from fixtures.later_migrations import write_later_migrations

from presgen import DatabaseManager, User
from presgen.errors import ConfigurationError, MigrationError
from presgen.migrating.drift import differences
from presgen.migrator import Migrator

CHANGES = [
    ("ALTER TABLE users ADD COLUMN nickname TEXT", "column nickname of users is not declared", False),
    ("CREATE INDEX mine ON users (is_active)", "index mine of users is not declared", False),
    ("DROP INDEX idx_users_name", "index idx_users_name of users is missing", True),
    ("DROP TRIGGER {touch}", "trigger {touch_name} of users is missing", True),
]
ON_POSTGRESQL = [
    ("ALTER TABLE users ALTER COLUMN name TYPE text", "column name of users is text NOT NULL, and declared as", True),
    (
        "ALTER TABLE users ALTER COLUMN is_active DROP DEFAULT",
        "column is_active of users is boolean NOT NULL, and",
        True,
    ),
    (
        "ALTER TABLE presentation_jobs DROP CONSTRAINT valid_progress",
        "constraint valid_progress of presentation_jobs is missing",
        True,
    ),
    ("ALTER TABLE users DISABLE TRIGGER touch", "trigger touch of users is CREATE TRIGGER", True),
    (
        "CREATE OR REPLACE FUNCTION presgen_touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "function presgen_touch is",
        True,
    ),
    ("ALTER TABLE users DROP COLUMN password_hash", "column password_hash of users is missing", True),
    (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_users_name'::regclass",
        "INVALID, and declared as",
        True,
    ),
]


@pytest.fixture
def own(url: str) -> Iterator[DatabaseManager]:
    """A manager on a database that the test may change."""
    with DatabaseManager(url) as manager:
        yield manager


def test_a_migrated_database_is_as_declared(own: DatabaseManager) -> None:
    assert own.schema_differences() == []


@pytest.mark.parametrize(("sql", "said", "is_fault"), CHANGES)
def test_changes_are_found(own: DatabaseManager, backend: str, sql: str, said: str, is_fault: bool) -> None:
    name = "touch_users" if backend == "sqlite" else "touch"
    touch = name if backend == "sqlite" else "touch ON users"
    own.database.execute_sql(sql.format(touch=touch))
    (difference,) = own.schema_differences()
    assert str(difference).startswith(said.format(touch_name=name))
    assert difference.is_fault is is_fault


@pytest.mark.parametrize(("sql", "said", "is_fault"), ON_POSTGRESQL)
def test_changes_are_found_on_postgresql(
    postgresql: str, own: DatabaseManager, sql: str, said: str, is_fault: bool
) -> None:
    own.database.execute_sql(sql)
    found = own.schema_differences()
    assert any(said in str(difference) for difference in found)
    assert any(difference.is_fault for difference in found) is is_fault
    assert not own.database.execute_sql("SELECT 1 FROM pg_namespace WHERE nspname LIKE 'presgen%%'").fetchall()


def test_what_features_change_is_no_difference(url: str, backend: str) -> None:
    with keyed(url) as manager:
        User.create(name="Ada", email="ada@example.com")
        for feature in ("audit", "encryption", "archive", "search", *(() if backend == "sqlite" else ("notify",))):
            manager.install(feature)
        assert manager.schema_differences() == []


def test_other_names_in_other_schemas_are_nobodys_business(postgresql: str, own: DatabaseManager) -> None:
    own.database.execute_sql("CREATE SCHEMA other; CREATE TABLE other.users (id int); CREATE TABLE mine (id int)")
    assert own.schema_differences() == []


def test_a_role_that_may_not_create_a_schema_is_told_so(postgresql: str, own: DatabaseManager) -> None:
    own.database.execute_sql("CREATE ROLE reader; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    try:
        with own.transaction():
            own.database.execute_sql("SET LOCAL ROLE reader")
            with pytest.raises(ConfigurationError, match="a role that may create a schema"):
                own.schema_differences()
    finally:
        own.database.execute_sql("DROP OWNED BY reader; DROP ROLE reader")


def test_columns_and_switches_that_keep_presgen_from_writing_are_faults(postgresql: str, own: DatabaseManager) -> None:
    own.database.execute_sql("ALTER TABLE users ADD COLUMN tenant int NOT NULL")
    own.database.execute_sql("ALTER TABLE users ADD COLUMN nickname text NOT NULL DEFAULT ''")
    own.database.execute_sql("ALTER TABLE voice_clones ENABLE ROW LEVEL SECURITY")
    own.database.execute_sql("CREATE RULE nothing AS ON UPDATE TO users DO INSTEAD NOTHING")
    found = {one.name: one.is_fault for one in own.schema_differences()}
    assert found == {"tenant": True, "nickname": False, "ROW LEVEL SECURITY": True, "nothing": False}


def test_nothing_is_written_whatever_migrations_call(postgresql: str, own: DatabaseManager, tmp_path: Path) -> None:
    own.database.execute_sql("CREATE TABLE written (x int)")
    own.database.execute_sql(
        "CREATE FUNCTION writes() RETURNS int LANGUAGE sql AS 'INSERT INTO written VALUES (1) RETURNING x'"
    )
    for body in ("migrator.sql('SELECT writes()')", "database.execute_sql('SELECT writes()')"):
        text = f"def migrate(migrator, database, *, fake=False):\n    {body}\n"
        folder = write_later_migrations(tmp_path, **{"004_expand_x": text})
        known = Migrator(own.database, folder).known()
        with contextlib.suppress(MigrationError):
            differences(own.database, folder, known)
        assert own.database.execute_sql("SELECT count(*) FROM written").fetchone() == (0,)


def test_a_trigger_on_what_the_next_version_adds_is_left_out(
    postgresql: str, own: DatabaseManager, tmp_path: Path
) -> None:
    statements = (
        "ALTER TABLE users ADD COLUMN nickname text",
        "-- on a column of the next version\nCREATE TRIGGER later BEFORE UPDATE OF nickname ON users FOR EACH ROW "
        "EXECUTE FUNCTION presgen_touch()",
    )
    lines = "".join(f"    migrator.sql({sql!r})\n" for sql in statements)
    text = f"def migrate(migrator, database, *, fake=False):\n{lines}"
    folder = write_later_migrations(tmp_path, **{"004_expand_x": text})
    migrator = Migrator(own.database, folder)
    migrator.migrate()
    found = differences(own.database, folder, migrator.known())
    assert not [one for one in found if one.is_fault]


def test_the_command_exits_with_1_for_what_is_missing(url: str) -> None:
    def presgen(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "presgen", "migrate", *arguments]
        done = subprocess.run(command, env={**os.environ, "DATABASE_URL": url}, capture_output=True, text=True)
        return done.returncode, done.stdout

    assert presgen("check") == (0, "the database has all that the models declare\n")
    with DatabaseManager(url) as manager:
        manager.database.execute_sql("CREATE INDEX mine ON users (is_active)")
        code, said = presgen("check")
        assert (code, said.splitlines()[1]) == (0, "the database has all that the models declare")
        manager.database.execute_sql("DROP INDEX idx_users_name")
        code, said = presgen("check")
        assert (code, len(said.splitlines())) == (1, 2)
        manager.rollback(1)
        code, said = presgen("check")
        assert said.startswith("migration 003_create_triggers is pending\n")
