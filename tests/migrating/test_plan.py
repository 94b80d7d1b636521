"""A plan shows the statements that a migration executes, and the locks that the server then takes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from fixtures.later_migrations import LATER, write_later_migrations

from presgen import DatabaseConfig, DatabaseManager, User
from presgen.migrating.locks import Lock, Mode, Tables
from presgen.migrator import Migrator

# Each on fresh copies of these; measured one after the other.
SETTING_UP = (
    "CREATE TABLE a (id int PRIMARY KEY, x int, y text)",
    "CREATE TABLE b (id int PRIMARY KEY, a_id int)",
    "CREATE INDEX a_x ON a (x)",
    "CREATE INDEX b_x ON b (a_id)",
    "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "CREATE TRIGGER t AFTER INSERT ON a FOR EACH ROW EXECUTE FUNCTION f()",
    "CREATE POLICY p ON a USING (true)",
    "ALTER TABLE b ADD CONSTRAINT b_key FOREIGN KEY (a_id) REFERENCES a (id) NOT VALID",
    "ALTER TABLE a ADD CONSTRAINT a_check CHECK (x > 0) NOT VALID",
    "CREATE TABLE parts (id int, at int) PARTITION BY RANGE (at)",
    "CREATE TABLE part (id int, at int)",
    "CREATE TABLE p0 PARTITION OF parts FOR VALUES FROM (10) TO (20)",
)
MEASURED = (
    "CREATE TABLE c (id int)",
    "CREATE TABLE c (id int PRIMARY KEY, a_id int REFERENCES a (id))",
    "CREATE INDEX a_y ON a (y)",
    "CREATE UNIQUE INDEX a_y ON a USING btree (y) WHERE y <> 'ON b'",
    "DROP INDEX a_x",
    "ALTER TABLE a ADD COLUMN z int",
    "ALTER TABLE ONLY a ADD COLUMN z int DEFAULT 1",
    "ALTER TABLE a DROP COLUMN y",
    "ALTER TABLE a ALTER COLUMN x TYPE bigint",
    "ALTER TABLE a ALTER COLUMN x SET NOT NULL",
    "ALTER TABLE a ALTER COLUMN x SET STATISTICS 100",
    "ALTER TABLE a SET (fillfactor = 70)",
    "ALTER TABLE a SET (fillfactor = 70), ADD COLUMN z int",
    "ALTER TABLE a RENAME COLUMN x TO z",
    "ALTER TABLE a RENAME TO z",
    "ALTER TABLE a ADD CONSTRAINT c CHECK (x > 1)",
    "ALTER TABLE a ADD CONSTRAINT c CHECK (x > 1) NOT VALID",
    "ALTER TABLE a VALIDATE CONSTRAINT a_check",
    "ALTER TABLE a ADD CONSTRAINT c UNIQUE (x)",
    "ALTER TABLE b ADD CONSTRAINT c FOREIGN KEY (a_id) REFERENCES a (id)",
    "ALTER TABLE b ADD FOREIGN KEY (a_id) REFERENCES a (id) NOT VALID",
    "ALTER TABLE b ADD CONSTRAINT c FOREIGN KEY (a_id) REFERENCES a (id), ADD COLUMN z int",
    "ALTER TABLE a DISABLE TRIGGER t",
    "ALTER TABLE a ENABLE ALWAYS TRIGGER t",
    "ALTER TABLE a ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE parts ATTACH PARTITION part FOR VALUES FROM (1) TO (2)",
    "CREATE TRIGGER u AFTER UPDATE ON a FOR EACH ROW WHEN (OLD.x > 1) EXECUTE FUNCTION f()",
    "DROP TRIGGER t ON a",
    "CREATE OR REPLACE FUNCTION g() RETURNS void LANGUAGE plpgsql AS $$ BEGIN UPDATE a SET x = 1; END $$",
    "CREATE POLICY q ON a USING (true)",
    "ALTER POLICY p ON a USING (false)",
    "DROP POLICY p ON a",
    "COMMENT ON TABLE a IS 'DROP TABLE b'",
    "COMMENT ON COLUMN a.x IS 'x'",
    "CREATE STATISTICS s ON x, y FROM a",
    "ANALYZE a",
    "INSERT INTO a VALUES (1, 1, 'x')",
    "UPDATE a SET x = 2",
    "UPDATE ONLY a SET x = 2",
    "DELETE FROM a",
    "TRUNCATE part",
    "TRUNCATE TABLE part",
    "DROP TABLE part",
    "DROP TABLE b",
    "DROP TABLE part, b",
    "TRUNCATE part, b",
    "GRANT SELECT ON a TO PUBLIC",
    "ALTER TABLE a ADD COLUMN z int; ALTER TABLE b ADD COLUMN z int",
    'ALTER TABLE "a" ADD COLUMN z int',
    "ALTER TABLE public.a ADD COLUMN z int -- b; c",
    "DROP INDEX public.a_x",
    "DROP INDEX a_x, b_x",
    "CREATE TABLE IF NOT EXISTS a (id int)",
    "CREATE TABLE p1 PARTITION OF parts FOR VALUES FROM (30) TO (40)",
    "ALTER TABLE parts DETACH PARTITION p0",
    "CREATE OR REPLACE RULE r AS ON INSERT TO a DO INSTEAD NOTHING",
)
# What the text alone does not tell.
UNKNOWN = (
    "DO $$ BEGIN ALTER TABLE a ADD COLUMN z int; END $$",
    "TRUNCATE a CASCADE",
    "DROP TABLE a CASCADE",
    "ALTER TABLE a DROP COLUMN id CASCADE",
    "DROP FUNCTION f() CASCADE",
    "DROP ROUTINE f CASCADE",
    "REFRESH MATERIALIZED VIEW x",
    "VACUUM a",
)
LOCKS = """
SELECT relation, mode FROM pg_locks WHERE pid = pg_backend_pid() AND relation = ANY (%s)
"""
OIDS = "SELECT oid::int, relname::text FROM pg_class WHERE relname IN ('a', 'b', 'parts', 'part', 'p0')"
STRENGTH = ["AccessShareLock", "RowShareLock", *(mode.value for mode in Mode)]


def test_the_locks_are_those_that_the_server_takes(postgresql: str, empty_url: str) -> None:
    with DatabaseManager(empty_url) as manager, manager.session() as database:
        for statement in SETTING_UP:
            database.execute_sql(statement)
        oids = dict(database.execute_sql(OIDS).fetchall())
        for sql in MEASURED:
            assert (sql, told_of(sql)) == (sql, taken_by(sql, database, oids))


def told_of(sql: str) -> dict[str, str]:
    tables = Tables()
    for statement in SETTING_UP:
        tables.locks_of(statement)
    tables.created.clear()
    return {lock.table: lock.mode.value for lock in tables.locks_of(sql)}


def taken_by(sql: str, database: Any, oids: dict[int, str]) -> dict[str, str]:
    """The strongest lock that a statement takes on each table, but for those that only keep a table from changing."""
    taken: dict[str, str] = {}
    with database.atomic() as transaction:
        database.execute_sql(sql)
        for oid, mode in database.execute_sql(LOCKS, (list(oids),)).fetchall():
            taken[oids[oid]] = max(mode, taken.get(oids[oid], mode), key=STRENGTH.index)
        transaction.rollback()
    return {table: mode for table, mode in taken.items() if mode not in ("AccessShareLock", "RowShareLock")}


def test_what_is_done_concurrently_keeps_nobody_waiting() -> None:
    tables = Tables()
    (lock,) = tables.locks_of("CREATE INDEX CONCURRENTLY a_x ON a (x)")
    assert (lock.table, lock.mode, lock.mode.consequence) == ("a", Mode.SHARE_UPDATE_EXCLUSIVE, "nobody waits")
    assert tables.locks_of("DROP INDEX CONCURRENTLY a_x") == [lock]


@pytest.mark.parametrize("sql", UNKNOWN)
def test_what_is_not_known_is_taken_for_the_worst(sql: str) -> None:
    locks = Tables().locks_of(sql)
    assert any(lock.table.startswith("what ") and lock.mode is Mode.ACCESS_EXCLUSIVE for lock in locks)


def test_a_table_that_may_be_there_already_is_not_taken_for_a_new_one() -> None:
    tables = Tables()
    tables.locks_of("CREATE TABLE IF NOT EXISTS users (id int)")
    assert [lock.table for lock in tables.locks_of("ALTER TABLE users ADD COLUMN x int")] == ["users"]


def test_a_plan_is_what_is_executed_afterwards_and_changes_nothing(
    url: str, backend: str, later: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with DatabaseManager(DatabaseConfig(url, debug=True)) as manager:
        User.create(name="Ada")
        migrator = Migrator(manager.database, later)
        steps = migrator.plan()
        assert [step.name for step in steps] == list(LATER)
        assert migrator.pending() == list(LATER)
        statements = [statement for step in steps for statement in step.statements]
        assert statements[0].sql == "ALTER TABLE users ADD COLUMN nickname TEXT"
        assert any(statement.sql.startswith("UPDATE users SET nickname") for statement in statements)
        if backend != "sqlite":
            assert statements[0].locks == (Lock("users", Mode.ACCESS_EXCLUSIVE),)
        with caplog.at_level(logging.DEBUG, "database"):
            migrator.migrate()
        executed = "\n".join(record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG)
        for statement in statements:
            assert statement.sql in executed
        assert migrator.plan() == []
        undoing = migrator.rollback_plan(4)
        assert [step.name for step in undoing] == [*LATER][::-1]
        assert undoing[-1].statements[-1].sql == "ALTER TABLE users DROP COLUMN nickname"


def test_tables_that_a_plan_makes_keep_nobody_waiting(empty_url: str) -> None:
    with DatabaseManager(empty_url) as manager:
        steps = manager.migrations.plan()
        assert [step.name for step in steps] == manager.migrations.known()
        assert not any(statement.locks for step in steps for statement in step.statements)
        assert not manager.database.table_exists("users")


def test_rolling_everything_back_locks_every_table(postgresql: str, url: str) -> None:
    with DatabaseManager(url) as manager:
        steps = manager.migrations.rollback_plan(3)
        named = {lock.table for step in steps for statement in step.statements for lock in statement.locks}
        assert named == {"users", "voice_clones", "presentation_jobs", "job_events", "what depends on it"}


def test_a_migration_that_reads_is_answered(url: str, tmp_path: Path) -> None:
    body = """
def migrate(migrator, database, *, fake=False):
    (count,) = database.execute_sql("SELECT count(*) FROM users").fetchone()
    migrator.sql("UPDATE users SET name = %s" if database.param == "%s" else "UPDATE users SET name = ?", f"{count}'s")
"""
    folder = write_later_migrations(tmp_path, **{"004_expand_counts": body})
    with DatabaseManager(url) as manager:
        User.create(name="Ada")
        (step,) = Migrator(manager.database, folder).plan()
        assert [statement.sql for statement in step.statements] == ["UPDATE users SET name = '1''s'"]


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        ("None", "NULL"),
        ("True", "true"),
        ("[1, 2]", "ARRAY[1, 2]"),
        ('["\u00e9"]', "ARRAY['\u00e9']"),
        ('"it\'s"', "'it''s'"),
        ("3.5", "3.5"),
    ],
)
def test_values_are_shown_as_literals(postgresql: str, url: str, tmp_path: Path, value: str, literal: str) -> None:
    body = f"def migrate(migrator, database, *, fake=False):\n    migrator.sql('SELECT %s', {value})\n"
    folder = write_later_migrations(tmp_path, **{"004_expand_x": body})
    with DatabaseManager(url) as manager:
        (step,) = Migrator(manager.database, folder).plan()
        assert [statement.sql for statement in step.statements] == [f"SELECT {literal}"]


def test_a_percent_sign_that_would_fail_is_told(postgresql: str, url: str, tmp_path: Path) -> None:
    body = "def migrate(migrator, database, *, fake=False):\n    migrator.sql(\"UPDATE users SET name = 'a%'\")\n"
    folder = write_later_migrations(tmp_path, **{"004_expand_x": body})
    with DatabaseManager(url) as manager:
        (step,) = Migrator(manager.database, folder).plan()
        assert "is written as %%" in str(step.problem)


def test_a_migration_whose_code_fails_is_told_up_to_there(url: str, tmp_path: Path) -> None:
    body = "def migrate(migrator, database, *, fake=False):\n    migrator.sql('SELECT 1')\n    migrator.run(lambda: 1 / 0)\n"
    folder = write_later_migrations(tmp_path, **{"004_expand_x": body, "005_expand_y": body})
    with DatabaseManager(url) as manager:
        (step,) = Migrator(manager.database, folder).plan()
        assert [statement.sql for statement in step.statements] == ["SELECT 1"]
        assert step.problem == "004_expand_x cannot be told beforehand: division by zero"
