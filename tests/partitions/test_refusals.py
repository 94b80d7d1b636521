"""What a table has is carried over, or keeps it from being partitioned: nothing is lost silently."""

from __future__ import annotations

from typing import Any

import pytest
from fixtures.partitioned import SIZE, enqueue, go_on_at, rows

from presgen import DatabaseManager
from presgen.errors import ConfigurationError, ConstraintViolation, StatementInvalid
from presgen.ext import partitions

PREPARED = """
SELECT conname::text FROM pg_constraint WHERE conname = 'presgen_range'
UNION ALL SELECT relname::text FROM pg_class WHERE relname IN ('job_events_job_id_id', 'idx_job_events_id')
"""
OBSTACLES = [
    ("CREATE VIEW v AS SELECT id FROM presentation_jobs", "rule _RETURN on view v"),
    ("CREATE VIEW v AS SELECT job FROM job_events AS job", "rule _RETURN on view v"),
    ("ALTER TABLE presentation_jobs ADD COLUMN of bigint REFERENCES presentation_jobs (id)", "refers to itself"),
    ("CREATE UNIQUE INDEX u ON presentation_jobs (s3_pptx_path, created_at)", "unique index u, which has no id"),
    ("CREATE PUBLICATION p FOR TABLE presentation_jobs", "publication of table presentation_jobs in publication p"),
    ("CREATE PUBLICATION p FOR ALL TABLES", "publication p"),
    ("CREATE STATISTICS s (dependencies) ON status, priority FROM presentation_jobs", "statistics object s"),
    ("CREATE TABLE child () INHERITS (presentation_jobs)", "table child"),
    ("CREATE TABLE parent ();; ALTER TABLE job_events INHERIT parent", "parent table parent"),
    (
        "ALTER TABLE presentation_jobs ADD CONSTRAINT c CHECK (priority < 9) NOT VALID",
        "constraint c, which was not valid",
    ),
    ("ALTER TABLE job_events ADD CONSTRAINT c CHECK (attempt < 9) NO INHERIT", "constraint c, which is NO INHERIT"),
    ("CREATE TABLE presentation_jobs_first ()", "relation presentation_jobs_first, whose name"),
    (
        "CREATE FUNCTION f() RETURNS SETOF presentation_jobs LANGUAGE sql AS 'SELECT * FROM presentation_jobs'",
        "function f",
    ),
    (
        "CREATE FUNCTION f() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM presentation_jobs; END",
        "function f",
    ),
    ("CREATE FUNCTION f(presentation_jobs[]) RETURNS int LANGUAGE sql AS 'SELECT 1'", "function f"),
    ("ALTER TABLE job_events ADD CONSTRAINT x EXCLUDE USING btree (id WITH =)", "exclusion constraint x"),
    ("CREATE UNIQUE INDEX u ON job_events (attempt, id) INCLUDE (job_id)", "unique index u, which has no job_id"),
    ("ALTER TABLE job_events ALTER COLUMN id DROP IDENTITY", "column id, whose values are no identity's"),
    (
        "CREATE INDEX i ON presentation_jobs (attempt);; "
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'i'::regclass",
        "index i, which is not valid",
    ),
    (
        "CREATE TABLE mine (event_id bigint REFERENCES job_events)",
        "mine_event_id_fkey of mine, for an event's id alone",
    ),
    (
        "CREATE TABLE mine (id bigint DEFAULT nextval('presentation_jobs_id_seq'))",
        "default value for column id of table mine",
    ),
    (
        "CREATE TABLE mine (id bigint REFERENCES presentation_jobs);; COMMENT ON CONSTRAINT mine_id_fkey ON mine IS 'mine'",
        "the foreign key mine_id_fkey of mine",
    ),
    (
        "CREATE TABLE mine (id bigint REFERENCES presentation_jobs);; ALTER TABLE mine DISABLE TRIGGER ALL",
        "the foreign key mine_id_fkey of mine",
    ),
    (
        "CREATE TABLE mine (id bigint);; ALTER TABLE mine ENABLE ROW LEVEL SECURITY;; "
        "CREATE POLICY p ON mine USING (EXISTS (SELECT FROM presentation_jobs WHERE status = 'failed'));; "
        "COMMENT ON POLICY p ON mine IS 'mine'",
        "the policy p of mine",
    ),
    ("UPDATE presentation_jobs SET id = 1000000000000 WHERE id = 30", "job 1000000000000 lies far beyond the last id"),
    ("UPDATE presentation_jobs SET id = 9223372036854775807 WHERE id = 30", "job 9223372036854775807 lies far"),
    ("ALTER TABLE presentation_jobs REPLICA IDENTITY FULL", "switches and words of the table"),
    ("ALTER TABLE presentation_jobs DISABLE TRIGGER touch", "the trigger touch"),
    ("COMMENT ON TRIGGER touch ON presentation_jobs IS 'mine'", "the trigger touch"),
    ("GRANT SELECT (status) ON presentation_jobs TO PUBLIC", "the column status"),
    ("ALTER TABLE presentation_jobs ALTER COLUMN status SET STATISTICS 7", "the column status"),
    ("ALTER TABLE presentation_jobs CLUSTER ON presentation_jobs_pkey", "the index presentation_jobs_pkey"),
    ("GRANT SELECT ON presentation_jobs TO pg_monitor WITH GRANT OPTION", "right of pg_monitor on presentation_jobs"),
    ("COMMENT ON SEQUENCE presentation_jobs_id_seq IS 'mine'", "the sequence of the ids"),
]


def catalogs(manager: DatabaseManager) -> list[Any]:
    with manager.session() as database:
        return database.execute_sql(PREPARED).fetchall()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("sql", "said"), OBSTACLES, ids=[said for _, said in OBSTACLES])
def test_what_would_be_lost_is_told_and_nothing_is_done(filled: DatabaseManager, sql: str, said: str) -> None:
    for statement in sql.split(";; "):
        filled.database.execute_sql(statement)
    before = rows()
    with pytest.raises(ConfigurationError, match=said):
        filled.install("partitions", size=SIZE)
    assert filled.features() == []
    assert catalogs(filled) == []
    assert rows() == before
    go_on_at(filled, 1000)
    enqueue(2)


CARRIED = [
    "COMMENT ON TABLE {} IS 'one''s'",
    "COMMENT ON COLUMN {}.id IS 'the id'",
    'CREATE INDEX "an ""index" ON {} (attempt) WHERE attempt > 1',
    "CREATE INDEX i ON {} ((attempt + 1)) INCLUDE (worker) WITH (fillfactor = 50)",
    f'CREATE INDEX "{"a" * 60}1" ON {{}} (worker); CREATE INDEX "{"a" * 60}2" ON {{}} (attempt)',
    f'CREATE INDEX "{"é" * 31}" ON {{}} (attempt)',
    "CREATE UNIQUE INDEX u ON {} (attempt, {key}) INCLUDE (worker)",
    "ALTER TABLE {} ADD CONSTRAINT u UNIQUE ({key})",
    "ALTER TABLE {} ADD COLUMN twice int GENERATED ALWAYS AS (attempt * 2) STORED",
    "ALTER TABLE {} ALTER COLUMN id SET GENERATED ALWAYS",
    "ALTER TABLE {} ALTER COLUMN id SET INCREMENT BY 5 SET CACHE 2 SET MAXVALUE 900000",
    "ALTER TABLE {} ALTER COLUMN worker SET STORAGE EXTERNAL",
    "ALTER TABLE {} SET (autovacuum_enabled = off, toast.autovacuum_enabled = off)",
    "GRANT SELECT, INSERT ON {} TO pg_monitor; GRANT USAGE ON SEQUENCE {}_id_seq TO pg_monitor",
    "CREATE POLICY mine ON {} AS RESTRICTIVE FOR UPDATE TO pg_monitor USING (attempt > 0) WITH CHECK (attempt > 1)",
    "ALTER TABLE {} ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE {} ADD CONSTRAINT mine CHECK (attempt < 1000 AND worker NOT IN ('x', 'y'))",
    "CREATE TRIGGER mine BEFORE UPDATE ON {} FOR EACH ROW WHEN (OLD.attempt > 99) "
    "EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "ALTER TABLE {} ADD COLUMN note text, DROP COLUMN IF EXISTS gone",
]


@pytest.mark.parametrize("sql", CARRIED)
@pytest.mark.parametrize("table", ["presentation_jobs", "job_events"])
def test_what_a_table_has_the_partitioned_one_has(filled: DatabaseManager, sql: str, table: str) -> None:
    """The installation itself compares all that the catalogs say, and would refuse."""
    key = "id" if table == "presentation_jobs" else "job_id, id"
    for statement in sql.replace("{}", table).replace("{key}", key).split("; "):
        filled.database.execute_sql(statement)
    differences = filled.schema_differences()
    before = rows()
    filled.install("partitions", size=SIZE)
    assert rows() == before
    assert filled.schema_differences() == differences
    for job in enqueue(2):
        job.cancel()
    assert len(partitions.status(filled)) == 4


def test_what_a_killed_installation_left_is_told_and_taken_away(filled: DatabaseManager) -> None:
    """It would refuse ids one day."""
    for table, key in (("presentation_jobs", "id"), ("job_events", "job_id")):
        filled.database.execute_sql(f"ALTER TABLE {table} ADD CONSTRAINT presgen_range CHECK ({key} < 131) NOT VALID")
    filled.database.execute_sql("CREATE UNIQUE INDEX job_events_job_id_id ON job_events (job_id, id)")
    told = filled.schema_differences()
    assert [one.name for one in told if one.is_fault] == ["presgen_range", "presgen_range"]
    filled.uninstall("partitions")
    assert catalogs(filled) == filled.schema_differences() == []


def test_somebody_elses_key_that_does_not_hold_stays_as_it_is(filled: DatabaseManager) -> None:
    execute = filled.database.execute_sql
    execute("CREATE TABLE mine (job_id bigint)")
    execute("INSERT INTO mine VALUES (9999)")
    execute("ALTER TABLE mine ADD CONSTRAINT mine_key FOREIGN KEY (job_id) REFERENCES presentation_jobs NOT VALID")
    filled.install("partitions", size=SIZE)
    assert filled.features() == ["partitions"]
    assert execute("SELECT convalidated FROM pg_constraint WHERE conname = 'mine_key'").fetchone() == (False,)
    with pytest.raises(ConstraintViolation):
        execute("INSERT INTO mine VALUES (9998)")


def test_what_only_a_newer_server_has(filled: DatabaseManager) -> None:
    if filled.database.server_version < 180000:
        with pytest.raises(StatementInvalid):
            filled.database.execute_sql("ALTER TABLE users ADD CONSTRAINT c NOT NULL email NOT VALID")
        return
    execute = filled.database.execute_sql
    execute("CREATE TABLE mine (job_id bigint REFERENCES presentation_jobs NOT ENFORCED)")
    execute("ALTER TABLE job_events ADD CONSTRAINT c NOT NULL worker NOT VALID")
    with pytest.raises(ConfigurationError, match="constraint c, which was not validated"):
        filled.install("partitions", size=SIZE)
    execute("ALTER TABLE job_events DROP CONSTRAINT c")
    filled.install("partitions", size=SIZE)
    assert filled.features() == ["partitions"]
