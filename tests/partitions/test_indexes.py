"""Indexes are built and dropped CONCURRENTLY over partitions, by migrations and by features."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.partitioned import enqueue, go_on_at

from presgen import DatabaseManager
from presgen.errors import ConstraintViolation, MigrationError
from presgen.ext import partitions, search
from presgen.migrating.concurrent import concurrent
from presgen.migrator import Migrator

MIGRATION = """
def migrate(migrator, database, *, fake=False):
    migrator.sql("CREATE INDEX CONCURRENTLY idx_later ON presentation_jobs (worker) WHERE attempt > 1")


def rollback(migrator, database, *, fake=False):
    migrator.sql("DROP INDEX CONCURRENTLY idx_later")
"""
VALID = "SELECT count(*), bool_and(indisvalid) FROM pg_index JOIN pg_class ON oid = indexrelid WHERE relname LIKE %s"


def test_a_migration_of_a_later_version(
    partitioned: DatabaseManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in Migrator(partitioned.database).folder.glob("0*.py"):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "004_later.py").write_text(MIGRATION)
    migrator = Migrator(partitioned.database, tmp_path)
    assert migrator.migrate() == ["004_later"]
    assert partitioned.database.execute_sql(VALID, ("idx_later%",)).fetchone() == (5, True)
    assert partitions.advance(partitioned) == []
    assert migrator.rollback() == ["004_later"]
    assert partitioned.database.execute_sql(VALID, ("idx_later%",)).fetchone() == (0, None)


def test_what_was_broken_off_is_built_to_its_end(partitioned: DatabaseManager) -> None:
    """Left are the whole one, which is not valid, one part that is, and one that is not."""
    database = partitioned.database
    statement = concurrent("CREATE UNIQUE INDEX CONCURRENTLY u ON public.presentation_jobs (id, s3_pptx_path)")
    assert statement is not None
    database.execute_sql("CREATE UNIQUE INDEX u ON ONLY presentation_jobs (id, s3_pptx_path)")
    database.execute_sql("CREATE UNIQUE INDEX first_u ON presentation_jobs_first (id, s3_pptx_path)")
    database.execute_sql("ALTER INDEX u ATTACH PARTITION first_u")
    go_on_at(partitioned, 140)
    enqueue(2)
    (number,) = database.execute_sql("SELECT 'presentation_jobs_from_131'::regclass::oid").fetchone()
    with pytest.raises(ConstraintViolation):
        database.execute_sql(f"CREATE UNIQUE INDEX CONCURRENTLY u_{number} ON presentation_jobs_from_131 (status)")
    assert database.execute_sql(VALID, ("u\\_%",)).fetchone() == (1, False)
    statement.run(database.execute_sql)
    assert database.execute_sql(VALID, ("u\\_%",)).fetchone() == (3, True)
    statement.run(database.execute_sql)
    other = concurrent("CREATE INDEX CONCURRENTLY u ON presentation_jobs (id)")
    assert other is not None
    with pytest.raises(MigrationError, match="another index of the name"):
        other.run(database.execute_sql)


@pytest.mark.parametrize("name", ["x" * 63, "\u00e9" * 31])
def test_names_as_long_as_they_may_be(partitioned: DatabaseManager, name: str) -> None:
    statement = concurrent(f'CREATE INDEX CONCURRENTLY "{name}" ON presentation_jobs (worker)')
    assert statement is not None
    statement.run(partitioned.database.execute_sql)
    assert partitioned.database.execute_sql(VALID, (f"{name[:20]}%",)).fetchone() == (5, True)


def test_search_after_partitions_and_before(filled: DatabaseManager) -> None:
    filled.install("search")
    filled.install("partitions", size=100)
    assert len(search.jobs("pptx", limit=100)) == 30
    filled.uninstall("search")
    filled.install("search")
    assert len(search.jobs("pptx", limit=100)) == 30
    assert filled.schema_differences() == []
