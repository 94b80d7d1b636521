"""What a table has is carried over, or keeps it from being partitioned: nothing is lost silently."""

from __future__ import annotations

from typing import Any

import pytest
from fixtures.partitioned import SIZE, enqueue, go_on_at, rows

from presgen import DatabaseManager, PresentationJob
from presgen.errors import ConfigurationError, ConstraintViolation, StatementInvalid
from presgen.ext import partitions

PREPARED = """
SELECT conname::text FROM pg_constraint WHERE conname = 'presgen_range'
UNION ALL SELECT relname::text FROM pg_class WHERE relname IN ('job_events_job_id_id', 'idx_job_events_id')
"""
# What is made, and what is said of it; all of a list at once.
OF_JOBS = [
    ("CREATE VIEW v AS SELECT id FROM presentation_jobs", "rule _RETURN on view v"),
    ("ALTER TABLE presentation_jobs ADD COLUMN of bigint REFERENCES presentation_jobs (id)", "refers to itself"),
    ("CREATE UNIQUE INDEX u ON presentation_jobs (s3_pptx_path, created_at)", "unique index u, which has no id"),
    ("CREATE PUBLICATION p FOR TABLE presentation_jobs", "publication of table presentation_jobs in publication p"),
    ("CREATE PUBLICATION q FOR ALL TABLES", "publication q"),
    ("CREATE STATISTICS s (dependencies) ON status, priority FROM presentation_jobs", "statistics object s"),
    ("CREATE TABLE child () INHERITS (presentation_jobs)", "table child"),
    ("ALTER TABLE presentation_jobs ADD CONSTRAINT c CHECK (priority < 9) NOT VALID", "c, which was not validated"),
    ("CREATE TABLE presentation_jobs_first ()", "relation presentation_jobs_first, whose name"),
    (
        "CREATE FUNCTION f() RETURNS SETOF presentation_jobs LANGUAGE sql AS 'SELECT * FROM presentation_jobs'",
        "function f()",
    ),
    (
        "CREATE FUNCTION g() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM presentation_jobs; END",
        "function g()",
    ),
    (
        "CREATE FUNCTION h(presentation_jobs[]) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "function h(presentation_jobs[])",
    ),
    (
        "CREATE TABLE mine (id bigint DEFAULT nextval('presentation_jobs_id_seq'))",
        "default value for column id of table mine",
    ),
    ("CREATE INDEX i ON presentation_jobs (attempt)", None),
    ("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'i'::regclass", "index i, which is not valid"),
]
OF_EVENTS = [
    ("CREATE VIEW v AS SELECT job FROM job_events AS job", "rule _RETURN on view v"),
    ("CREATE TABLE parent ()", None),
    ("ALTER TABLE job_events INHERIT parent", "parent table parent"),
    ("ALTER TABLE job_events ADD CONSTRAINT c CHECK (attempt < 9) NO INHERIT", "constraint c, which is NO INHERIT"),
    ("ALTER TABLE job_events ADD CONSTRAINT x EXCLUDE USING btree (id WITH =)", "exclusion constraint x"),
    ("CREATE UNIQUE INDEX u ON job_events (attempt, id) INCLUDE (job_id)", "unique index u, which has no job_id"),
    (
        "CREATE TABLE mine (event_id bigint REFERENCES job_events)",
        "mine_event_id_fkey of mine, for an event's id alone",
    ),
    ("CREATE TABLE job_events_from_77 ()", "relation job_events_from_77, whose name"),
    ("ALTER TABLE job_events ALTER COLUMN id DROP IDENTITY", "column id, whose values are no identity's"),
]
LOST = [
    ("CREATE TABLE one (id bigint REFERENCES presentation_jobs)", None),
    ("COMMENT ON CONSTRAINT one_id_fkey ON one IS 'mine'", "the foreign key one_id_fkey of one"),
    ("CREATE TABLE two (id bigint REFERENCES presentation_jobs)", None),
    ("ALTER TABLE two DISABLE TRIGGER ALL", "the foreign key two_id_fkey of two"),
    ("CREATE POLICY p ON one USING (EXISTS (SELECT FROM presentation_jobs WHERE status = 'failed'))", None),
    ("COMMENT ON POLICY p ON one IS 'mine'", "the policy p of one"),
    ("ALTER TABLE presentation_jobs REPLICA IDENTITY FULL", "the switches and words of the table"),
    ("ALTER TABLE presentation_jobs DISABLE TRIGGER touch", "the trigger touch"),
    ("COMMENT ON TRIGGER guard_transition ON presentation_jobs IS 'mine'", "the trigger guard_transition"),
    ("GRANT SELECT (status) ON presentation_jobs TO PUBLIC", "the column status"),
    ("ALTER TABLE presentation_jobs ALTER COLUMN worker SET STATISTICS 7", "the column worker"),
    ("ALTER TABLE presentation_jobs CLUSTER ON presentation_jobs_pkey", "the index presentation_jobs_pkey"),
    ("GRANT SELECT ON presentation_jobs TO pg_monitor WITH GRANT OPTION", "a right of pg_monitor on presentation_jobs"),
    ("COMMENT ON SEQUENCE presentation_jobs_id_seq IS 'mine'", "the sequence of the ids"),
]


def catalogs(manager: DatabaseManager) -> list[Any]:
    with manager.session() as database:
        return database.execute_sql(PREPARED).fetchall()  # type: ignore[no-any-return]


@pytest.mark.parametrize("obstacles", [OF_JOBS, OF_EVENTS, LOST], ids=["jobs", "events", "lost"])
def test_what_would_be_lost_is_told_and_nothing_is_done(
    filled: DatabaseManager, obstacles: list[tuple[str, str | None]]
) -> None:
    for sql, _ in obstacles:
        filled.database.execute_sql(sql)
    before = rows()
    with pytest.raises(ConfigurationError) as told:
        filled.install("partitions", size=SIZE)
    for _, said in obstacles:
        assert said is None or said in str(told.value)
    assert filled.features() == []
    assert catalogs(filled) == []
    assert rows() == before
    go_on_at(filled, 1000)
    assert len(enqueue(2)) == 2


def test_an_id_far_ahead_is_told_and_nothing_is_done(filled: DatabaseManager) -> None:
    for job_id in (10**12, 2**63 - 1):
        PresentationJob.update(id=job_id).where(PresentationJob.id >= 30).execute()
        with pytest.raises(ConfigurationError, match=f"job {job_id} lies far beyond the last id that was given, 30"):
            filled.install("partitions", size=SIZE)
        assert catalogs(filled) == []


CARRIED = [
    "COMMENT ON TABLE {} IS 'one''s'",
    "COMMENT ON COLUMN {}.id IS 'the id'",
    'CREATE INDEX "an ""index" ON {} (attempt) WHERE attempt > 1',
    "CREATE INDEX i ON {} ((attempt + 1)) INCLUDE (worker) WITH (fillfactor = 50)",
    f'CREATE INDEX "{"a" * 60}1" ON {{}} (worker)',
    f'CREATE INDEX "{"a" * 60}2" ON {{}} (attempt)',
    f'CREATE INDEX "{"é" * 31}" ON {{}} (attempt DESC)',
    "CREATE UNIQUE INDEX u ON {} (attempt, {key}) INCLUDE (worker)",
    "ALTER TABLE {} ADD CONSTRAINT v UNIQUE ({key})",
    "ALTER TABLE {} ADD COLUMN twice int GENERATED ALWAYS AS (attempt * 2) STORED",
    "ALTER TABLE {} ALTER COLUMN id SET GENERATED ALWAYS",
    "ALTER TABLE {} ALTER COLUMN id SET INCREMENT BY 5 SET CACHE 2 SET MAXVALUE 900000",
    "ALTER TABLE {} ALTER COLUMN worker SET STORAGE EXTERNAL",
    "ALTER TABLE {} SET (autovacuum_enabled = off, toast.autovacuum_enabled = off)",
    "GRANT SELECT, INSERT ON {} TO pg_monitor",
    "GRANT USAGE ON SEQUENCE {}_id_seq TO pg_monitor",
    "CREATE POLICY mine ON {} AS RESTRICTIVE FOR UPDATE TO pg_monitor USING (attempt > 0) WITH CHECK (attempt > 1)",
    "ALTER TABLE {} ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE {} ADD CONSTRAINT mine CHECK (attempt < 1000 AND worker NOT IN ('x', 'y'))",
    "CREATE TRIGGER mine BEFORE UPDATE ON {} FOR EACH ROW WHEN (OLD.attempt > 99) "
    "EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "ALTER TABLE {} ADD COLUMN gone text",
    "ALTER TABLE {} ADD COLUMN note text",
    "ALTER TABLE {} DROP COLUMN gone",
]


@pytest.mark.parametrize("table", ["presentation_jobs", "job_events"])
def test_what_a_table_has_the_partitioned_one_has(filled: DatabaseManager, table: str) -> None:
    """The installation itself compares all that the catalogs say, and would refuse."""
    key = "id" if table == "presentation_jobs" else "job_id, id"
    for sql in CARRIED:
        filled.database.execute_sql(sql.replace("{}", table).replace("{key}", key))
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
