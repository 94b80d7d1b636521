"""Archiving: which jobs leave the database, and what is in the files then."""

from __future__ import annotations

import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from fixtures.archives import AT_ONCE, archived_ids, finished, in_hand, lines_of, new_voice, stored_ids, unseal
from fixtures.tenants import Tenancy

from presgen import DatabaseManager, JobEvent, JobStatus, PresentationJob, PresgenError, ValidationError, VoiceClone
from presgen.errors import ArchiveError, ConfigurationError, InvalidTransition
from presgen.ext import archive, audit
from presgen.roles import create, plan


def test_a_finished_job_leaves_with_its_history(db: DatabaseManager, voice: VoiceClone, folder: Path) -> None:
    job, last = finished(voice), in_hand(voice)
    history = [(event.from_status, event.to_status) for event in job.history()]
    assert archive.run(db, folder) == 1
    (line,) = lines_of(folder)
    assert (line["job"]["id"], line["job"]["s3_video_path"]) == (job.id, "/videos/talk.mp4")
    assert [(event["from_status"], event["to_status"]) for event in line["events"]] == history
    assert line["job"].keys() == PresentationJob._meta.columns.keys()
    assert stored_ids() == [last.id]
    assert {event.job_id for event in JobEvent.select()} == {last.id}


def test_a_status_is_kept_for_as_long_as_it_says(db: DatabaseManager, voice: VoiceClone, folder: Path) -> None:
    by_age = {
        (status, days): finished(voice, status, days_ago=days).id
        for status in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)
        for days in (10, 45, 100)
    }
    in_hand(voice)
    retention = {JobStatus.COMPLETED: timedelta(days=30), JobStatus.CANCELLED: timedelta(days=60)}
    assert archive.count_due(db, retention=retention) == 3
    assert archive.run(db, folder, retention=retention) == 3
    expected = [("completed", 45), ("completed", 100), ("cancelled", 100)]
    assert archived_ids(folder) == sorted(by_age[JobStatus(status), days] for status, days in expected)
    assert archive.run(db, folder, retention=retention) == 0


def test_unfinished_jobs_stay_whatever_their_age(db: DatabaseManager, voice: VoiceClone, folder: Path) -> None:
    job = PresentationJob.enqueue(owner=voice.owner, voice_clone=voice, s3_pptx_path="/a.pptx")
    PresentationJob.update(created_at=job.created_at - timedelta(days=999)).execute()
    in_hand(voice)
    assert archive.run(db, folder, retention=AT_ONCE) == 0
    assert len(stored_ids()) == 2
    assert archive.manifests(folder) == []


def test_a_batch_is_a_file_with_a_manifest(db: DatabaseManager, voice: VoiceClone, folder: Path) -> None:
    jobs = [finished(voice, days_ago=100 + number) for number in range(5)]
    in_hand(voice)
    told: list[tuple[int, int]] = []
    assert archive.run(db, folder, batch=2, progress=lambda *step: told.append(step)) == 5
    assert told == [(2, 5), (4, 5), (5, 5)]
    manifests = archive.manifests(folder)
    assert [(found.jobs, found.first_job_id, found.last_job_id) for found in manifests] == [
        (2, jobs[0].id, jobs[1].id),
        (2, jobs[2].id, jobs[3].id),
        (1, jobs[4].id, jobs[4].id),
    ]
    assert {(found.events, found.schema) for found in manifests} == {
        (4, db.migrations.applied()[-1]),
        (2, db.migrations.applied()[-1]),
    }
    assert manifests[0].first_finished_at < manifests[0].last_finished_at
    for file in folder.glob("jobs-*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert archive.verify(folder, manager=db) == []


def test_the_same_jobs_give_the_same_file(db: DatabaseManager, voice: VoiceClone, folder: Path) -> None:
    finished(voice)
    in_hand(voice)
    digests = []
    for _ in range(2):
        archive.run(db, folder)
        digests.append(archive.manifests(folder)[0].sha256)
        archive.restore(db, folder, everything=True)
    assert digests[0] == digests[1]


def test_a_job_that_somebody_has_locked_is_left_for_the_next_time(
    postgresql: str, db: DatabaseManager, voice: VoiceClone, folder: Path, url: str
) -> None:
    locked, free = finished(voice), finished(voice)
    with psycopg2.connect(db.config.url) as other, other.cursor() as cursor:
        cursor.execute("SELECT id FROM presentation_jobs WHERE id = %s FOR UPDATE", (locked.id,))
        assert archive.run(db, folder) == 1
    other.close()
    assert archived_ids(folder) == [free.id]
    assert archive.run(db, folder) == 1


def test_archivers_at_once_share_the_work(url: str, db: DatabaseManager, voice: VoiceClone, folder: Path) -> None:
    jobs = [finished(voice).id for _ in range(30)]
    in_hand(voice)
    start = threading.Barrier(3)

    def work(_: int) -> int:
        start.wait()
        return archive.run(db, folder, batch=3)

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(work, range(3))) == 30
    assert archived_ids(folder) == jobs
    assert archive.verify(folder, manager=db) == []


def test_nothing_is_archived_inside_a_transaction(db: DatabaseManager, voice: VoiceClone, folder: Path) -> None:
    job = finished(voice)
    in_hand(voice)
    with pytest.raises(PresgenError, match=r"archive.run\(\) inside a transaction"), db.transaction():
        archive.run(db, folder)
    archive.run(db, folder)
    with pytest.raises(PresgenError, match=r"archive.restore\(\) inside a transaction"), db.transaction():
        archive.restore(db, folder, everything=True)
    assert archived_ids(folder) == [job.id]


def test_another_isolation_is_refused(postgresql: str, db: DatabaseManager, voice: VoiceClone, folder: Path) -> None:
    """Its snapshot would not show what the archiver before has committed."""
    job = finished(voice)
    name = db.database.execute_sql("SELECT current_database()").fetchone()[0]
    db.database.execute_sql(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
    url = db.config.url
    db.close()
    with DatabaseManager(url) as manager, pytest.raises(ConfigurationError, match="READ COMMITTED"):
        archive.run(manager, folder)
    with DatabaseManager(url):
        assert stored_ids() == [job.id]


def test_a_folder_belongs_to_one_database(db: DatabaseManager, voice: VoiceClone, folder: Path, tmp_path: Path) -> None:
    """Another one changes nothing there, whatever a crash has left."""
    finished(voice)
    in_hand(voice)
    archive.run(db, folder)
    unseal(folder)
    before = {file.name for file in folder.iterdir()}
    with DatabaseManager(f"sqlite:///{tmp_path / 'other.db'}") as other:
        other.migrate()
        other.install("archive")
        for _ in range(3):
            finished(new_voice())
        with pytest.raises(ArchiveError, match="belongs to another database"):
            archive.run(other, folder)
    assert {file.name for file in folder.iterdir()} == before


def test_sqlite_keeps_its_highest_ids_so_that_no_new_job_gets_an_archived_one(tmp_path: Path) -> None:
    with DatabaseManager(f"sqlite:///{tmp_path / 'a.db'}") as manager:
        manager.migrate()
        manager.install("archive")
        voice = new_voice()
        first, second, third = (finished(voice) for _ in range(3))
        assert archive.run(manager, tmp_path / "archive") == 2
        assert stored_ids() == [third.id]
        assert finished(voice).id == third.id + 1
        assert archived_ids(tmp_path / "archive") == [first.id, second.id]


def test_the_folder_of_another_database_is_refused(
    db: DatabaseManager, voice: VoiceClone, folder: Path, tmp_path: Path
) -> None:
    finished(voice)
    in_hand(voice)
    archive.run(db, folder)
    db.uninstall("archive")
    db.install("archive")  # as a database that was restored from an older backup
    with pytest.raises(ArchiveError, match="belongs to another database; use another folder"):
        archive.run(db, folder)
    (finding,) = archive.verify(folder, manager=db)
    assert "has not written" in str(finding)
    assert len(lines_of(folder)) == 1


def test_rows_of_others_that_would_go_with_a_job_keep_it_in_the_database(
    db: DatabaseManager, voice: VoiceClone, folder: Path
) -> None:
    db.database.execute_sql(
        "CREATE TABLE ratings (job_id BIGINT NOT NULL REFERENCES presentation_jobs (id) ON DELETE CASCADE, stars INT)"
    )
    job = finished(voice)
    in_hand(voice)
    with pytest.raises(ConfigurationError, match="rows of ratings would be deleted with the jobs that they refer to"):
        archive.run(db, folder)
    assert job.id in stored_ids()


def test_without_the_feature_nothing_is_archived(url: str, folder: Path) -> None:
    with DatabaseManager(url) as manager, pytest.raises(ConfigurationError, match="presgen install archive"):
        archive.run(manager, folder)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retention": {}}, "retention names no status"),
        ({"retention": {"pending": timedelta(1)}}, "retention is for completed, failed, cancelled, not for 'pending'"),
        ({"retention": {"completed": 3}}, "retention must be a timedelta"),
        ({"retention": {"completed": timedelta(-1)}}, "not negative"),
        ({"batch": 0}, "batch"),
        ({"batch": 10**6}, "batch"),
        ({"compression": "lzma"}, "compression must be gzip or zstd, not 'lzma'"),
        ({"folder": None}, "folder must be a path"),
    ],
)
def test_what_makes_no_sense_is_refused(
    db: DatabaseManager, folder: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        archive.run(db, **{"folder": folder, **options})


def test_the_audit_log_tells_who_moved_the_jobs(db: DatabaseManager, voice: VoiceClone, folder: Path) -> None:
    db.install("audit")
    job = finished(voice)
    in_hand(voice)
    archive.run(db, folder)
    assert [(entry.operation, entry.actor) for entry in audit.history(job)][-1] == ("DELETE", "archive")


def test_a_login_that_sees_some_rows_only_is_refused(tenancy: Tenancy, folder: Path) -> None:
    with DatabaseManager(tenancy.admin_url) as admin:
        admin.install("archive")
    with tenancy.open("app") as app, pytest.raises(ConfigurationError, match="does not see all rows"):
        archive.run(app, folder)


def test_the_worker_role_archives_what_is_everybodys(with_roles: Tenancy, folder: Path) -> None:
    with DatabaseManager(with_roles.admin_url) as admin:
        admin.install("archive")
        create(admin.database, plan(admin.database, with_roles.roles))
        admin.install("tenancy", app=with_roles.roles.app, worker=with_roles.roles.worker)
        for name in ("Ada", "Grace"):
            finished(new_voice(name))
    with with_roles.open("worker") as worker:
        assert archive.run(worker, folder) == 2
        with pytest.raises(ConfigurationError, match="connect as the role that owns presgen's tables"):
            archive.restore(worker, folder, everything=True)
    with with_roles.open("owner") as owner:
        assert archive.restore(owner, folder, everything=True) == 2


def test_a_soft_deleted_job_is_hidden_and_later_purged(db: DatabaseManager, voice: VoiceClone) -> None:
    old, fresh, shown = finished(voice), finished(voice), finished(voice)
    for job in (old, fresh):
        job.soft_delete()
        assert job.deleted_at is not None
    before = old.deleted_at
    old.soft_delete()
    assert old.deleted_at == before
    PresentationJob.update(deleted_at=before - timedelta(days=8)).where(PresentationJob.id == old.id).execute()
    assert [job.id for job in PresentationJob.alive()] == [shown.id]
    assert archive.purge(db, older_than=timedelta(days=7)) == 1
    assert stored_ids() == [fresh.id, shown.id]
    fresh.undelete()
    assert fresh.deleted_at is None
    assert archive.purge(db, older_than=timedelta(0)) == 0


def test_an_unfinished_job_is_neither_soft_deleted_nor_purged(db: DatabaseManager, voice: VoiceClone) -> None:
    job = in_hand(voice)
    with pytest.raises(InvalidTransition, match="it cannot be soft-deleted"):
        job.soft_delete()
    PresentationJob.update(deleted_at=job.created_at - timedelta(days=9)).execute()
    assert archive.purge(db, older_than=timedelta(days=1)) == 0
    with pytest.raises(ValidationError, match="older_than must be a timedelta"):
        archive.purge(db, older_than=3)  # type: ignore[arg-type]


def test_purging_takes_batch_by_batch(db: DatabaseManager, voice: VoiceClone) -> None:
    for _ in range(5):
        finished(voice).soft_delete()
    assert archive.purge(db, older_than=timedelta(0), batch=2) == 5
