"""Partitions: nothing is lost on the way, and everything works on them as it did before."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fixtures.partitioned import SIZE, enqueue, go_on_at, rows

from presgen import (
    DatabaseConfig,
    DatabaseManager,
    JobEvent,
    JobStatus,
    PresentationJob,
    User,
    Worker,
    queries,
)
from presgen.cli import cli
from presgen.errors import ConfigurationError, ConstraintViolation
from presgen.ext import audit, backup, partitions, search


def finish(job: PresentationJob) -> None:
    job.complete(s3_video_path="/x.mp4")


def test_every_row_is_there_and_the_schema_is_as_declared(filled: DatabaseManager) -> None:
    before = rows()
    filled.install("partitions", size=SIZE)
    assert rows() == before
    assert filled.features() == ["partitions"]
    assert filled.schema_differences() == []
    places = [(one.start, one.end) for one in partitions.status(filled)]
    assert places == [(None, 131), (131, 231), (231, 331), (None, None)]
    filled.install("partitions")
    assert rows() == before
    assert enqueue()[0].id == 31


def test_a_jobs_life_in_each_partition(partitioned: DatabaseManager) -> None:
    jobs = []
    for job_id in (31, 130, 200, 331, 100_000):
        go_on_at(partitioned, job_id)
        jobs += enqueue(2)
    Worker(partitioned, finish).drain()
    assert not PresentationJob.select().where(PresentationJob.status != JobStatus.COMPLETED).exists()
    for job in jobs:
        assert [event.to_status for event in job.history()][-1] is JobStatus.COMPLETED
    assert partitioned.metrics()["jobs_by_status"]["completed"] == 30 + len(jobs)
    found, cursor = [], None
    while page := queries.get_presentation_jobs(limit=7, after=cursor):
        found += [job.id for job in page]
        cursor = page[-1]
    assert len(found) == len(set(found)) == 30 + len(jobs)
    User.get().delete_instance()
    assert rows() == ([], [])


def test_workers_and_writers_go_on_while_a_table_is_partitioned(filled: DatabaseManager) -> None:
    has_ended = threading.Event()

    def add() -> int:
        added = 0
        while not has_ended.is_set() or added < 30:
            enqueue()
            added += 1
        return added

    def work() -> None:
        worker = Worker(filled, finish)
        while worker.run_once() or not has_ended.is_set():
            pass

    with ThreadPoolExecutor(4) as pool:
        adding, working = [pool.submit(add) for _ in range(2)], [pool.submit(work) for _ in range(2)]
        try:
            filled.install("partitions", size=100_000)
        finally:
            has_ended.set()
        added = sum(one.result(timeout=60) for one in adding)
        for one in working:
            one.result(timeout=60)
    Worker(filled, finish).drain()
    assert PresentationJob.select().where(PresentationJob.status == JobStatus.COMPLETED).count() == 30 + added


def test_plans_look_into_one_partition_or_use_each_ones_index(partitioned: DatabaseManager) -> None:
    go_on_at(partitioned, 140)
    enqueue(3)
    database = partitioned.database
    database.execute_sql("ANALYZE")

    def explained(query: Any) -> str:
        sql, values = query.sql()
        lines = database.execute_sql(f"EXPLAIN {sql}", values).fetchall()
        return "\n".join(line for (line,) in lines)

    with partitioned.transaction():
        database.execute_sql("SET LOCAL enable_seqscan = off")
        one = explained(
            PresentationJob.update(progress=0.5).where(PresentationJob.id == 141, PresentationJob.attempt == 0)
        )
        assert "presentation_jobs_from_131" in one
        assert "presentation_jobs_first" not in one
        events = explained(JobEvent.select().where(JobEvent.job == 5))
        assert "job_events_first" in events
        assert "job_events_from" not in events
        for query in (
            PresentationJob._due(1),
            PresentationJob.select().order_by(PresentationJob.created_at.desc(), PresentationJob.id.desc()).limit(5),
            JobEvent.select().order_by(JobEvent.id.desc()).limit(5),
        ):
            said = explained(query)
            assert "Merge Append" in said
            assert "Seq Scan" not in said
            assert "Sort\n" not in said


def test_keys_of_other_tables_refer_to_the_new_one(filled: DatabaseManager) -> None:
    filled.database.execute_sql(
        "CREATE TABLE reviews (job_id bigint REFERENCES presentation_jobs (id) ON DELETE CASCADE)"
    )
    filled.database.execute_sql("INSERT INTO reviews VALUES (1)")
    filled.install("partitions", size=SIZE)
    go_on_at(filled, 140)
    (job,) = enqueue()
    filled.database.execute_sql("INSERT INTO reviews VALUES (%s)", (job.id,))
    with pytest.raises(ConstraintViolation):
        filled.database.execute_sql("INSERT INTO reviews VALUES (9999)")
    PresentationJob.delete().execute()
    assert filled.database.execute_sql("SELECT count(*) FROM reviews").fetchone() == (0,)


def test_not_on_sqlite_not_in_a_transaction_and_not_through_pgbouncer(filled: DatabaseManager) -> None:
    with filled.transaction(), pytest.raises(ConfigurationError, match="outside of a transaction"):
        filled.install("partitions")
    with (
        DatabaseManager(DatabaseConfig(filled.config.url, pgbouncer=True)) as manager,
        pytest.raises(ConfigurationError, match="on the server itself"),
    ):
        manager.install("partitions")
    with DatabaseManager("sqlite:///:memory:") as manager:
        manager.migrate()
        with pytest.raises(ConfigurationError, match="partitions need PostgreSQL"):
            manager.install("partitions")
    with pytest.raises(ConfigurationError, match="run: presgen install partitions"):
        partitions.advance(filled)


def test_they_are_not_uninstalled(partitioned: DatabaseManager) -> None:
    with pytest.raises(ConfigurationError, match="partitions stay"):
        partitioned.uninstall("partitions")


def test_other_features_before_and_after(filled: DatabaseManager, tmp_path: Path) -> None:
    for feature in ("audit", "search", "notify", "archive"):
        filled.install(feature)
    filled.install("partitions", size=SIZE)
    for feature in ("audit", "search", "notify", "archive"):
        filled.install(feature)
    assert filled.features() == ["notify", "audit", "archive", "search", "partitions"]
    assert filled.schema_differences() == []
    go_on_at(filled, 140)
    (job,) = enqueue()
    job.cancel()
    assert [entry.row_id for entry in audit.search(table="presentation_jobs", limit=1)] == [job.id]
    assert len(search.jobs("pptx", limit=100)) == 31
    backup.create(filled, tmp_path)
    backup.verify(tmp_path)


def test_the_command(partitioned: DatabaseManager) -> None:
    def presgen(*arguments: str) -> str:
        done = CliRunner().invoke(cli, ["--database", partitioned.config.url, "partitions", *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    assert len(presgen("status").splitlines()) == 5
    assert presgen("advance") == "nothing to create\n"
    assert presgen("compact") == "nothing to compact\n"
