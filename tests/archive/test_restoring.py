"""Restoring: every value comes back as it was, once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures.archives import AT_ONCE, archived_ids, finished, in_hand, new_voice, rows_of, stored_ids
from fixtures.effort import settings_for
from hypothesis import given
from hypothesis import strategies as st

from presgen import DatabaseManager, JobStatus, PresentationJob, User, ValidationError, VoiceClone
from presgen.errors import ArchiveError
from presgen.ext import archive

NASTY: list[dict[str, Any]] = [
    {"s3_pptx_path": "/decks/\u00fcber \\t tab\t, quote\" and 'half'\n\u2028\U0001f600.pptx"},
    {"error_message": "100 %s %(x)s {} \\N \\.\r\n" * 300},
    {"checkpoint": {"b": [1, 2.5, None, "\u00e9"], "a": {"deep": True}, "big": 2**62}},
    {"checkpoint": [], "idempotency_key": "null"},
    {"video_duration_seconds": 0.1 + 0.2, "processing_time_seconds": 1e-300},
    {"priority": -(2**31), "file_size_bytes": 2**63 - 1, "slides_count": 2**31 - 1, "progress": 1 / 3},
]


@pytest.mark.parametrize("columns", NASTY, ids=range(len(NASTY)))
def test_values_come_back_as_they_were(
    db: DatabaseManager, voice: VoiceClone, folder: Path, columns: dict[str, Any]
) -> None:
    finished(voice, **columns)
    in_hand(voice)
    before = rows_of(db)
    assert archive.run(db, folder) == 1
    assert rows_of(db) != before
    assert archive.restore(db, folder, everything=True) == 1
    assert rows_of(db) == before
    assert archive.manifests(folder) == []


def test_what_other_programs_have_stored_comes_back_too(
    postgresql: str, db: DatabaseManager, voice: VoiceClone, folder: Path
) -> None:
    job = finished(voice)
    db.database.execute_sql(
        "UPDATE presentation_jobs SET checkpoint = 'null', run_at = 'infinity', deleted_at = '-infinity', "
        "created_at = '0044-03-15 12:00:00.000001 BC' WHERE id = %s",
        (job.id,),
    )
    db.database.execute_sql("SET TIME ZONE 'Asia/Kolkata'")
    sql = "SELECT presentation_jobs::text FROM presentation_jobs"
    before = db.database.execute_sql(sql).fetchall()
    archive.run(db, folder)
    archive.restore(db, folder, everything=True)
    assert db.database.execute_sql(sql).fetchall() == before


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
stored_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=200)


@settings_for(short=25, full=400)
@given(
    checkpoint=json_values,
    error=stored_text.filter(str.strip),
    seconds=st.floats(0.001, 1e9),
    attempt=st.integers(1, 3),
)
def test_any_value_comes_back(
    open_archive: Callable[[], tuple[DatabaseManager, Path]], checkpoint: Any, error: str, seconds: float, attempt: int
) -> None:
    db, folder = open_archive()
    voice = new_voice()
    try:
        finished(
            voice,
            JobStatus.FAILED,
            checkpoint=checkpoint,
            error_message=error,
            video_duration_seconds=seconds,
            attempt=attempt,
        )
    except ValidationError:
        return  # a value that no job may have
    in_hand(voice)
    before = rows_of(db)
    assert archive.run(db, folder) >= 1
    archive.restore(db, folder, everything=True)
    assert rows_of(db) == before


@pytest.fixture
def open_archive(db: DatabaseManager, folder: Path) -> Callable[[], tuple[DatabaseManager, Path]]:
    """The same database and folder for every example; what one example leaves is there for the next."""
    return lambda: (db, folder)


def test_a_job_comes_back_alone_and_the_others_stay(db: DatabaseManager, voice: VoiceClone, folder: Path) -> None:
    jobs = [finished(voice) for _ in range(6)]
    last = in_hand(voice)
    before = rows_of(db)
    archive.run(db, folder, batch=3)
    assert archive.restore(db, folder, job_ids=[jobs[1].id, jobs[4].id]) == 2
    assert stored_ids() == [jobs[1].id, jobs[4].id, last.id]
    assert archived_ids(folder) == [jobs[number].id for number in (0, 2, 3, 5)]
    assert all(found.replaces for found in archive.manifests(folder))
    assert archive.verify(folder, manager=db) == []
    assert archive.restore(db, folder, everything=True) == 4
    assert rows_of(db) == before


def test_an_archive_comes_back_by_its_name(db: DatabaseManager, voice: VoiceClone, folder: Path) -> None:
    jobs = [finished(voice) for _ in range(4)]
    in_hand(voice)
    archive.run(db, folder, batch=2)
    told: list[tuple[int, int]] = []
    first = archive.manifests(folder)[0].name
    assert archive.restore(db, folder, names=[first], progress=lambda *step: told.append(step)) == 2
    assert told == [(2, 2)]
    assert archived_ids(folder) == [job.id for job in jobs[2:]]
    with pytest.raises(ArchiveError, match="has no archive 'jobs-"):
        archive.restore(db, folder, names=[first])


def test_a_restored_job_is_worked_on_as_before(db: DatabaseManager, voice: VoiceClone, folder: Path) -> None:
    job = finished(voice, JobStatus.FAILED)
    in_hand(voice)
    archive.run(db, folder)
    archive.restore(db, folder, job_ids=[job.id])
    restored = PresentationJob.get_by_id(job.id)
    restored.retry()
    assert restored.status is JobStatus.PENDING
    assert len(restored.history()) == 3


def test_jobs_that_are_nowhere_are_named(db: DatabaseManager, voice: VoiceClone, folder: Path) -> None:
    job = finished(voice)
    in_hand(voice)
    archive.run(db, folder)
    with pytest.raises(ArchiveError, match="1 jobs are in no archive of .*, the first is job 999"):
        archive.restore(db, folder, job_ids=[job.id, 999])
    assert job.id in stored_ids()


def test_a_job_that_the_database_has_is_not_restored(db: DatabaseManager, voice: VoiceClone, folder: Path) -> None:
    job = finished(voice)
    in_hand(voice)
    archive.run(db, folder)
    clone = PresentationJob.create(id=job.id, owner=voice.owner, voice_clone=voice, s3_pptx_path="/decks/other.pptx")
    with pytest.raises(ArchiveError, match=f"has 1 jobs of jobs-.* already, the first is job {job.id}"):
        archive.restore(db, folder, everything=True)
    (finding,) = archive.verify(folder, manager=db)
    assert f"as well, the first is job {job.id}" in str(finding)
    clone.delete_instance()
    assert archive.restore(db, folder, everything=True) == 1


def test_a_job_whose_owner_is_gone_is_not_restored_but_the_others_are(
    db: DatabaseManager, voice: VoiceClone, folder: Path
) -> None:
    gone = new_voice("Eve")
    orphan, job = finished(gone), finished(voice)
    in_hand(voice)
    archive.run(db, folder)
    User.delete().where(User.id == gone.owner_id).execute()
    with pytest.raises(ArchiveError, match=f"owner or the voice of 1 jobs .* is gone, the first is job {orphan.id}"):
        archive.restore(db, folder, everything=True)
    assert archive.restore(db, folder, job_ids=[job.id]) == 1
    assert archived_ids(folder) == [orphan.id]


def test_columns_that_somebody_has_added_are_kept(db: DatabaseManager, voice: VoiceClone, folder: Path) -> None:
    db.database.execute_sql("ALTER TABLE presentation_jobs ADD COLUMN mood VARCHAR(9) DEFAULT 'good'")
    db.database.execute_sql("ALTER TABLE presentation_jobs ADD COLUMN day DATE DEFAULT '2026-02-28'")
    finished(voice)
    in_hand(voice)
    before = rows_of(db)
    archive.run(db, folder)
    archive.restore(db, folder, everything=True)
    assert rows_of(db) == before


def test_generated_columns_are_left_to_the_database(
    postgresql: str, db: DatabaseManager, voice: VoiceClone, folder: Path
) -> None:
    sql = "ALTER TABLE presentation_jobs ADD COLUMN size INT GENERATED ALWAYS AS (length(s3_pptx_path)) STORED"
    db.database.execute_sql(sql)
    finished(voice)
    before = rows_of(db)
    archive.run(db, folder)
    archive.restore(db, folder, everything=True)
    assert rows_of(db) == before


def test_an_archive_of_a_later_schema_is_refused(db: DatabaseManager, voice: VoiceClone, folder: Path) -> None:
    db.database.execute_sql("ALTER TABLE presentation_jobs ADD COLUMN mood VARCHAR(9)")
    finished(voice)
    in_hand(voice)
    archive.run(db, folder)
    db.database.execute_sql("ALTER TABLE presentation_jobs DROP COLUMN mood")
    with pytest.raises(ArchiveError, match="presentation_jobs has no column mood: the archive is of a later schema"):
        archive.restore(db, folder, everything=True)
    assert len(archived_ids(folder)) == 1


@pytest.mark.parametrize("arguments", [{}, {"everything": True, "job_ids": [1]}, {"names": ["a"], "job_ids": [1]}])
def test_one_choice_has_to_be_made(db: DatabaseManager, folder: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="name archives or job_ids, or say everything=True"):
        archive.restore(db, folder, **arguments)


def test_damage_keeps_an_archive_out_of_the_database(db: DatabaseManager, voice: VoiceClone, folder: Path) -> None:
    finished(voice)
    last = in_hand(voice)
    archive.run(db, folder, retention=AT_ONCE)
    file = folder / archive.manifests(folder)[0].file
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(ArchiveError, match="is damaged"):
        archive.restore(db, folder, everything=True)
    assert stored_ids() == [last.id]
    file.write_bytes(whole)
    assert archive.restore(db, folder, everything=True) == 1
