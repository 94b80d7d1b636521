"""Keeping partitions: nothing that was written is lost with a partition that looked empty, and none comes too late."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from fixtures.partitioned import SIZE, enqueue, go_on_at, rows
from fixtures.waiting import wait_until

from presgen import DatabaseManager, JobEvent, PresentationJob, VoiceClone, Worker
from presgen.errors import ConfigurationError, ConstraintViolation, ValidationError
from presgen.ext import archive, partitions
from presgen.ext.partitions import conversion, ranges


def finish(job: PresentationJob) -> None:
    job.complete(s3_video_path="/x.mp4")


def ends(manager: DatabaseManager, table: str = "presentation_jobs") -> list[int | None]:
    return [one.end for one in ranges.partitions_of(manager.database, table)]


def archive_all(manager: DatabaseManager, folder: Path) -> None:
    archive.run(manager, folder, retention=dict.fromkeys(archive.RETENTION, archive.RETENTION["completed"] * 0))


def test_partitions_are_created_ahead(partitioned: DatabaseManager) -> None:
    assert partitions.advance(partitioned) == []
    go_on_at(partitioned, 140)
    enqueue()
    assert partitions.advance(partitioned, size=50) == ["presentation_jobs_from_331"]
    assert partitions.advance(partitioned) == []
    assert ends(partitioned) == ends(partitioned, "job_events") == [131, 231, 331, 381, None]


def test_one_that_comes_late_gives_the_last_partition_an_end(partitioned: DatabaseManager) -> None:
    """Whatever was written into it stays, and what comes has partitions again."""
    partitioned.install("search")
    go_on_at(partitioned, 400)
    enqueue(5)
    Worker(partitioned, finish).drain()
    enqueue(5)
    before = rows()
    assert partitions.advance(partitioned, size=SIZE) == ["presentation_jobs_from_510", "presentation_jobs_from_610"]
    assert rows() == before
    assert ends(partitioned) == ends(partitioned, "job_events") == [131, 231, 331, 510, 610, 710, None]
    assert partitioned.schema_differences() == []
    assert partitioned.features() == ["search", "partitions"]
    go_on_at(partitioned, 520)
    enqueue()
    Worker(partitioned, finish).drain()
    with pytest.raises(ConstraintViolation):
        JobEvent.insert(job=9999, from_status="pending", to_status="failed", attempt=0).execute()
    PresentationJob.delete().where(PresentationJob.id > 300).execute()
    assert not JobEvent.select().where(JobEvent.job > 300).exists()


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_a_row_that_is_written_meanwhile_is_not_dropped_with_its_partition(
    partitioned: DatabaseManager, isolation: str
) -> None:
    """The last partition is empty for whoever looks before the writer has committed, or with an older look."""
    (name,) = partitioned.database.execute_sql("SELECT current_database()").fetchone()
    partitioned.database.execute_sql(f"ALTER DATABASE {name} SET default_transaction_isolation = '{isolation}'")
    go_on_at(partitioned, 140)
    enqueue()
    with ThreadPoolExecutor(1) as pool, closing(psycopg2.connect(partitioned.config.url)) as looking:
        looking.autocommit = True

        def is_waiting() -> bool:
            cursor = looking.cursor()
            cursor.execute("SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'LOCK TABLE%'")
            return bool(cursor.rowcount)

        with partitioned.transaction():
            go_on_at(partitioned, 400)
            (job,) = enqueue()
            done = pool.submit(partitions.advance, partitioned, size=SIZE)
            wait_until(is_waiting)
        assert done.result(timeout=30) == ["presentation_jobs_from_501", "presentation_jobs_from_601"]
    assert PresentationJob.get_by_id(job.id) == job


def test_what_was_emptied_gives_its_space_back_and_its_place_stays(
    partitioned: DatabaseManager, tmp_path: Path
) -> None:
    partitioned.install("archive")
    go_on_at(partitioned, 140)
    enqueue(3)
    Worker(partitioned, finish).drain()
    go_on_at(partitioned, 240)
    enqueue()
    before = rows()
    assert partitions.compact(partitioned) == []
    archive_all(partitioned, tmp_path)
    assert PresentationJob.select().count() == 1
    assert partitions.compact(partitioned) == ["presentation_jobs_first", "presentation_jobs_from_131"]
    assert [(one.start, one.end) for one in partitions.status(partitioned)][:2] == [(0, 231), (231, 331)]
    assert partitions.compact(partitioned) == []
    archive.restore(partitioned, tmp_path, everything=True)
    assert rows() == before
    voice = VoiceClone.get()
    PresentationJob.insert(id=-5, owner=voice.owner_id, voice_clone=voice, s3_pptx_path="/x.pptx").execute()


def test_one_emptied_partition_is_made_anew_for_its_space(partitioned: DatabaseManager) -> None:
    go_on_at(partitioned, 140)
    enqueue()
    PresentationJob.delete().where(PresentationJob.id < 131).execute()
    before = partitions.status(partitioned)[0].bytes
    assert partitions.compact(partitioned) == ["presentation_jobs_first"]
    assert partitions.status(partitioned)[0].bytes < before
    assert partitions.compact(partitioned) == []


def test_new_partitions_are_stored_as_the_old_ones(partitioned: DatabaseManager) -> None:
    go_on_at(partitioned, 240)
    enqueue()
    partitions.advance(partitioned, size=SIZE)
    sql = "SELECT DISTINCT reloptions::text FROM pg_class WHERE relname LIKE %s AND relkind = 'r'"
    ((options,),) = partitioned.database.execute_sql(sql, ("presentation_jobs\\_f%",)).fetchall()
    assert "fillfactor=70" in options


def test_half_a_conversion_is_told_and_gone_on_with(filled: DatabaseManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that ends between the jobs and their events leaves what works, and what installing ends."""
    partition = conversion._partition

    def fail_at_events(database: object, table: str, size: int) -> None:
        if table == "job_events":
            raise ConfigurationError("out of order")
        partition(database, table, size)

    monkeypatch.setattr(conversion, "_partition", fail_at_events)
    with pytest.raises(ConfigurationError, match="out of order"):
        filled.install("partitions", size=SIZE)
    monkeypatch.undo()
    assert filled.features() == []
    for work in (partitions.status, partitions.advance, partitions.compact):
        with pytest.raises(ConfigurationError, match="not both partitioned; run: presgen install partitions"):
            work(filled)
    go_on_at(filled, 400)  # beyond the first partition: nothing that was made for the conversion is in the way
    (job,) = enqueue()
    job.cancel()
    before = rows()
    filled.install("partitions", size=SIZE)
    assert rows() == before
    assert filled.features() == ["partitions"]
    assert filled.schema_differences() == []
    # The first one of the events holds those of several of the jobs'; that hinders nothing.
    assert (ends(filled), ends(filled, "job_events")) == ([131, 231, 331, 601, None], [601, None])
    go_on_at(filled, 610)
    enqueue()
    before = rows()
    assert partitions.advance(filled, size=SIZE) == ["presentation_jobs_from_711", "presentation_jobs_from_811"]
    assert rows() == before
    assert ends(filled) == [131, 231, 331, 601, 711, 811, 911, None]
    PresentationJob.delete().where(PresentationJob.id < 300).execute()
    assert len(partitions.compact(filled)) == 3
    assert (ends(filled)[:2], ends(filled, "job_events")[:2]) == ([331, 601], [601, 711])
    PresentationJob.delete().where(PresentationJob.id < 601).execute()
    assert partitions.compact(filled) == ["presentation_jobs_from_0", "presentation_jobs_from_331"]
    assert ends(filled) == ends(filled, "job_events") == [601, 711, 811, 911, None]


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "0", "-1", "a", "", "٣"])
def test_a_size_that_is_none(filled: DatabaseManager, size: object) -> None:
    with pytest.raises(ValidationError, match="size"):
        filled.install("partitions", size=size)
    assert filled.features() == []


@pytest.mark.parametrize("size", [0, -1, True, 1.5])
def test_advancing_by_a_size_that_is_none(partitioned: DatabaseManager, size: object) -> None:
    with pytest.raises(ValidationError, match="size"):
        partitions.advance(partitioned, size=size)  # type: ignore[arg-type]
