"""Keeping partitions: nothing that was written is lost with a partition that looked empty, and none comes too late."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg2
import pytest
from fixtures.partitioned import SIZE, enqueue, go_on_at, rows
from fixtures.waiting import wait_until

from presgen import DatabaseManager, JobEvent, JobStatus, PresentationJob, User, VoiceClone, Worker
from presgen.embedded import EmbeddedServer
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


def test_one_that_comes_late_begins_ahead_of_the_ids(partitioned: DatabaseManager) -> None:
    """What had no partition is in the last one, and stays there."""
    partitioned.install("search")
    go_on_at(partitioned, 400)
    enqueue(5)
    Worker(partitioned, finish).drain()
    enqueue(5)
    before = rows()
    assert partitions.advance(partitioned, size=SIZE) == ["presentation_jobs_from_510", "presentation_jobs_from_610"]
    assert rows() == before
    assert ends(partitioned) == ends(partitioned, "job_events") == [131, 231, 331, 610, 710, None]
    assert partitioned.schema_differences() == []
    assert partitioned.features() == ["search", "partitions"]
    go_on_at(partitioned, 500)
    jobs = enqueue(20)
    Worker(partitioned, finish).drain()
    assert {job.history()[-1].to_status for job in jobs} == {JobStatus.COMPLETED}
    with pytest.raises(ConstraintViolation):
        JobEvent.insert(job=9999, from_status="pending", to_status="failed", attempt=0).execute()
    PresentationJob.delete().where(PresentationJob.id > 300).execute()
    assert not JobEvent.select().where(JobEvent.job > 300).exists()


def test_ids_by_hand_are_in_nobodys_way(partitioned: DatabaseManager) -> None:
    voice = VoiceClone.get()
    for job_id in (-(2**63), 0, 340, 345, 480, 10**12, 2**63 - 1):
        PresentationJob.insert(id=job_id, owner=voice.owner_id, voice_clone=voice, s3_pptx_path="/x").execute()
    go_on_at(partitioned, 240)
    enqueue()
    assert partitions.advance(partitioned, size=SIZE) == ["presentation_jobs_from_481", "presentation_jobs_from_581"]
    assert PresentationJob.select().where(PresentationJob.id > 300).count() == 5
    assert len(PresentationJob.claim("w", 100)) == 28


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
@pytest.mark.parametrize("job_id", [50, 450])
def test_a_row_that_is_written_meanwhile_is_not_lost(partitioned: DatabaseManager, isolation: str, job_id: int) -> None:
    """Uncommitted yet, where a partition is to be, or in one that looks empty; also with an older look."""
    (name,) = partitioned.database.execute_sql("SELECT current_database()").fetchone()
    partitioned.database.execute_sql(f"ALTER DATABASE {name} SET default_transaction_isolation = '{isolation}'")
    voice = VoiceClone.get()
    go_on_at(partitioned, 340)
    PresentationJob.delete().execute()
    enqueue()
    with ThreadPoolExecutor(1) as pool, closing(psycopg2.connect(partitioned.config.url)) as looking:
        looking.autocommit = True

        def is_waiting() -> bool:
            cursor = looking.cursor()
            cursor.execute("SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'LOCK TABLE%'")
            return bool(cursor.rowcount)

        with partitioned.transaction():
            PresentationJob.insert(id=job_id, owner=voice.owner_id, voice_clone=voice, s3_pptx_path="/x").execute()
            done = pool.submit(partitions.compact if job_id == 50 else partitions.advance, partitioned)
            wait_until(lambda: is_waiting() or done.done())
        done.result(timeout=60)
    assert {job.id for job in PresentationJob.select()} == {340, job_id}


def test_what_was_emptied_gives_its_space_back(partitioned: DatabaseManager, tmp_path: Path) -> None:
    """What is restored is in the last partition then."""
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
    assert ends(partitioned) == ends(partitioned, "job_events") == [331, None]
    assert partitions.compact(partitioned) == []
    assert partitioned.schema_differences() == []
    archive.restore(partitioned, tmp_path, everything=True)
    assert rows() == before
    assert len(partitions.advance(partitioned)) == 2
    assert rows() == before


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

    with monkeypatch.context() as patched, pytest.raises(ConfigurationError, match="out of order"):
        patched.setattr(conversion, "_partition", fail_at_events)
        filled.install("partitions", size=SIZE)
    assert filled.features() == []
    for work in (partitions.status, partitions.advance, partitions.compact):
        with pytest.raises(ConfigurationError, match="not both partitioned; run: presgen install partitions"):
            work(filled)
    filled.uninstall("partitions")
    go_on_at(filled, 400)  # beyond the first partition: nothing that was made for the conversion is in the way
    (job,) = enqueue()
    job.cancel()
    before = rows()
    filled.install("partitions", size=SIZE)
    assert rows() == before
    assert filled.features() == ["partitions"]
    assert filled.schema_differences() == []
    # The first one of the events ends later than the jobs'; that hinders nothing.
    assert (ends(filled), ends(filled, "job_events")) == ([131, 231, 331, None], [501, None])
    assert partitions.advance(filled, size=SIZE) == ["presentation_jobs_from_501", "presentation_jobs_from_601"]
    assert rows() == before
    assert (ends(filled)[3:], ends(filled, "job_events")) == ([601, 701, None], [501, 601, 701, None])
    go_on_at(filled, 510)
    enqueue()
    PresentationJob.delete().where(PresentationJob.id < 510).execute()
    assert len(partitions.compact(filled)) == 3
    assert ends(filled) == ends(filled, "job_events") == [601, 701, None]


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "0", "-1", "a", ""])
def test_a_size_that_is_none(filled: DatabaseManager, size: object) -> None:
    with pytest.raises(ValidationError, match="size"):
        filled.install("partitions", size=size)
    assert filled.features() == []


@pytest.mark.parametrize("size", [0, -1, True, 1.5])
def test_advancing_by_a_size_that_is_none(partitioned: DatabaseManager, size: object) -> None:
    with pytest.raises(ValidationError, match="size"):
        partitions.advance(partitioned, size=size)  # type: ignore[arg-type]


def test_what_a_transaction_may_still_see_is_not_compacted(partitioned: DatabaseManager) -> None:
    """A dropped partition has no rows for an older snapshot, whose rows they were."""
    go_on_at(partitioned, 140)
    enqueue()
    with closing(psycopg2.connect(partitioned.config.url)) as reading:
        reading.set_session(isolation_level="REPEATABLE READ")
        cursor = reading.cursor()
        cursor.execute("SELECT count(*) FROM users")
        PresentationJob.delete().where(PresentationJob.id < 131).execute()
        assert partitions.compact(partitioned) == []
        cursor.execute("SELECT count(*) FROM presentation_jobs")
        assert cursor.fetchone() == (31,)
    assert partitions.compact(partitioned) == ["presentation_jobs_first"]


def test_who_has_read_a_user_and_then_adds_a_job_is_not_in_the_way(partitioned: DatabaseManager) -> None:
    """Nor the other way round: who adds a job, for which PostgreSQL looks at the user."""
    go_on_at(partitioned, 140)
    with ThreadPoolExecutor(5) as pool:
        has_ended = threading.Event()

        def add() -> int:
            added = 0
            while not has_ended.is_set():
                with partitioned.transaction():
                    voice = VoiceClone.get()
                    time.sleep(0.01)
                    PresentationJob.enqueue(owner=voice.owner_id, voice_clone=voice, s3_pptx_path="/x.pptx")
                added += 1
            return added

        adding = [pool.submit(add) for _ in range(4)]
        try:
            for _ in range(3):
                partitions.advance(partitioned, size=SIZE)
                partitions.compact(partitioned)
                written = PresentationJob.select().count()
                wait_until(lambda written=written: PresentationJob.select().count() > written + 50)
        finally:
            has_ended.set()
        added = sum(one.result(timeout=60) for one in adding)
    assert PresentationJob.select().where(PresentationJob.id >= 140).count() == added


def test_statistics_are_those_of_the_whole(partitioned: DatabaseManager) -> None:
    go_on_at(partitioned, 400)
    enqueue(200)
    partitions.advance(partitioned, size=SIZE)
    sql = "SELECT reltuples FROM pg_class WHERE relname = 'presentation_jobs'"
    assert partitioned.database.execute_sql(sql).fetchone() == (230,)


def test_the_last_few_deleted_rows_keep_no_partition(
    partitioned: DatabaseManager, caplog: pytest.LogCaptureFixture
) -> None:
    """PostgreSQL leaves the pages of so few, of its own accord."""
    database = partitioned.database
    database.execute_sql("ALTER TABLE presentation_jobs_first SET (vacuum_truncate = off)")
    PresentationJob.delete().where(PresentationJob.id < 30).execute()
    database.execute_sql("VACUUM presentation_jobs_first")
    go_on_at(partitioned, 140)
    enqueue()
    PresentationJob.delete().where(PresentationJob.id == 30).execute()
    assert partitions.compact(partitioned) == ["presentation_jobs_first"]


def test_an_autovacuum_makes_way(little_room: None) -> None:
    """PostgreSQL ends one for whoever waits for a second, and no sooner."""
    slow = "autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 100"
    with TemporaryDirectory(prefix="presgen-server-") as folder:
        Path(folder).chmod(0o755)
        server = EmbeddedServer(Path(folder) / "server", settings={"autovacuum_naptime": "1s", "fsync": "off"})
        with server, DatabaseManager(server.url) as manager:
            manager.migrate()
            voice = VoiceClone.create(name="v", s3_path="/v.wav", owner=User.create(name="Ada"))
            row = {"owner": voice.owner_id, "voice_clone": voice.id, "s3_pptx_path": "/x.pptx"}
            PresentationJob.enqueue_many([row] * 20_000)
            manager.install("partitions", size=SIZE)
            go_on_at(manager, 20_150)
            manager.database.execute_sql(
                f"ALTER TABLE presentation_jobs_first SET ({slow}, autovacuum_vacuum_cost_limit = 1)"
            )
            PresentationJob.update(priority=1).execute()
            enqueue()
            sql = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'autovacuum:%%presentation_jobs_first%%'"
            wait_until(lambda: manager.database.execute_sql(sql).fetchall())
            began = time.monotonic()
            assert len(partitions.advance(manager, size=SIZE)) == 1
            assert time.monotonic() - began < 20


def test_sizes_are_counted_once(partitioned: DatabaseManager) -> None:
    total = sum(
        one.bytes
        for table in ("presentation_jobs", "job_events")
        for one in ranges.partitions_of(partitioned.database, table)
    )
    assert sum(one.bytes for one in partitions.status(partitioned)) == total


def test_before_there_is_a_schema(postgresql: str, empty_url: str) -> None:
    with DatabaseManager(empty_url) as manager, pytest.raises(ConfigurationError, match="run: presgen migrate"):
        partitions.status(manager)


def test_when_all_but_the_last_are_gone(partitioned: DatabaseManager) -> None:
    go_on_at(partitioned, 500)
    PresentationJob.delete().execute()
    enqueue()
    assert len(partitions.compact(partitioned)) == 3
    assert ends(partitioned) == ends(partitioned, "job_events") == [None]
    assert partitions.advance(partitioned, size=SIZE) == ["presentation_jobs_from_601", "presentation_jobs_from_701"]
    go_on_at(partitioned, 650)
    enqueue()
    assert PresentationJob.select().count() == 2
