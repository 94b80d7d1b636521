"""The files: damage of every kind is found, and searches find what the database would have found."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from fixtures.archives import finished, in_hand, new_voice, rows_of, unseal

from presgen import DatabaseManager, JobStatus, PresentationJob, ValidationError, VoiceClone
from presgen.errors import ArchiveError, MissingExtra
from presgen.ext import archive

COMPRESSIONS = ("gzip", "zstd")


@pytest.fixture(params=COMPRESSIONS)
def archived(request: pytest.FixtureRequest, db: DatabaseManager, voice: VoiceClone, folder: Path) -> Path:
    """An archive's data file."""
    for number in range(20):
        finished(voice, s3_pptx_path=f"/decks/{number}.pptx")
    in_hand(voice)
    archive.run(db, folder, compression=request.param)
    return folder / archive.manifests(folder)[0].file


def test_what_zstd_has_compressed_comes_back(db: DatabaseManager, voice: VoiceClone, folder: Path) -> None:
    finished(voice)
    in_hand(voice)
    before = rows_of(db)
    archive.run(db, folder, compression="zstd")
    assert archive.manifests(folder)[0].file.endswith(".jsonl.zst")
    assert archive.verify(folder, manager=db) == []
    archive.restore(db, folder, everything=True)
    assert rows_of(db) == before


def test_zstd_names_the_extra_that_it_needs(db: DatabaseManager, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with pytest.raises(MissingExtra, match=r"pip install 'presgen\[zstd\]'"):
        archive.run(db, folder, compression="zstd")


def test_every_flipped_bit_is_found(archived: Path) -> None:
    whole = archived.read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        archived.write_bytes(damaged)
        (error,) = archive.verify(archived.parent)
        assert archived.name in str(error)
    archived.write_bytes(whole)
    assert archive.verify(archived.parent) == []


def test_every_missing_end_is_found(archived: Path) -> None:
    whole = archived.read_bytes()
    for length in (*range(0, len(whole), 11), len(whole) - 1):
        archived.write_bytes(whole[:length])
        assert len(archive.verify(archived.parent)) == 1
        with pytest.raises(ArchiveError, match="is damaged"):
            list(archive.search(archived.parent))


def test_a_missing_or_exchanged_file_is_found(db: DatabaseManager, voice: VoiceClone, folder: Path) -> None:
    for _ in range(2):
        finished(voice)
    in_hand(voice)
    archive.run(db, folder, batch=1)
    one, other = (folder / found.file for found in archive.manifests(folder))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    assert len(archive.verify(folder)) == 1
    one.unlink()
    (error,) = archive.verify(folder)
    assert "is missing" in str(error)
    one.write_bytes(content)
    (folder / f"{archive.manifests(folder)[1].name}.json").unlink()
    assert archive.verify(folder) == []  # nothing tells any more that there was one
    (error,) = archive.verify(folder, manager=db)
    assert "is not in this folder" in str(error)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"name": "x"}', "\x00"])
def test_a_damaged_manifest_is_an_error(archived: Path, content: str) -> None:
    (archived.parent / f"{archive.manifests(archived.parent)[0].name}.json").write_text(content)
    with pytest.raises(ArchiveError, match="is no manifest of an archive, or is damaged"):
        archive.manifests(archived.parent)


def test_a_damaged_manifest_keeps_nobody_from_verifying_the_other_archives(archived: Path) -> None:
    (archived.parent / "jobs-20200101T000000000000Z-00000000.json").write_text("{")
    damaged = bytearray(archived.read_bytes())
    damaged[50] ^= 1
    archived.write_bytes(damaged)
    said = [str(error) for error in archive.verify(archived.parent)]
    assert len(said) == 2
    assert "is no manifest of an archive, or is damaged" in said[0]
    assert archived.name in said[1]


def test_a_manifest_of_a_later_presgen_is_refused(archived: Path) -> None:
    manifest = archive.manifests(archived.parent)[0]
    text = json.dumps({**manifest.as_dict(), "format": 2, "new": True})
    (archived.parent / f"{manifest.name}.json").write_text(text)
    with pytest.raises(ArchiveError, match="was written by a later presgen, in format 2"):
        archive.manifests(archived.parent)


def test_a_search_finds_jobs_with_their_history_as_they_were(
    db: DatabaseManager, voice: VoiceClone, folder: Path
) -> None:
    job = finished(voice, checkpoint={"slide": 3})
    history = job.history()
    in_hand(voice)
    archive.run(db, folder)
    (found,) = archive.search(folder, job_id=job.id)
    assert found.job.__data__ == job.__data__
    assert [event.__data__ for event in found.events] == [event.__data__ for event in history]
    assert found.archive == archive.manifests(folder)[0].name
    assert found.job.dirty_fields == []


@pytest.fixture
def library(db: DatabaseManager, voice: VoiceClone, folder: Path) -> dict[str, PresentationJob]:
    """Jobs that differ, in two archives."""
    other = new_voice("Grace")
    jobs = {
        "old": finished(voice, days_ago=400, s3_pptx_path="/decks/Quarterly.pptx"),
        "failed": finished(other, JobStatus.FAILED, days_ago=200, error_message='Slide 3: "\u00c4rger"\nno notes'),
        "worker": finished(voice, days_ago=150, worker="render-07"),
        "key": finished(other, JobStatus.CANCELLED, days_ago=120, idempotency_key="order 5"),
    }
    in_hand(voice)
    archive.run(db, folder, batch=2)
    return jobs


@pytest.mark.parametrize(
    ("conditions", "names"),
    [
        (lambda jobs: {}, ["old", "failed", "worker", "key"]),
        (lambda jobs: {"text": "QUARTERLY"}, ["old"]),
        (lambda jobs: {"text": '3: "\u00e4rger"\nNO'}, ["failed"]),
        (lambda jobs: {"text": "render-07"}, ["worker"]),
        (lambda jobs: {"text": "order 5"}, ["key"]),
        (lambda jobs: {"text": "presentation"}, []),
        (lambda jobs: {"status": JobStatus.FAILED}, ["failed"]),
        (lambda jobs: {"status": "completed"}, ["old", "worker"]),
        (lambda jobs: {"owner": jobs["old"].owner_id}, ["old", "worker"]),
        (lambda jobs: {"owner": jobs["key"].owner, "status": "cancelled"}, ["key"]),
        (lambda jobs: {"since": jobs["failed"].completed_at}, ["failed", "worker", "key"]),
        (lambda jobs: {"until": jobs["failed"].completed_at}, ["old"]),
        (lambda jobs: {"job_id": jobs["worker"].id}, ["worker"]),
        (lambda jobs: {"job_id": 10**9}, []),
    ],
)
def test_a_search_meets_all_its_conditions(
    folder: Path, library: dict[str, PresentationJob], conditions: Callable[..., dict[str, object]], names: list[str]
) -> None:
    found = [hit.job.id for hit in archive.search(folder, **conditions(library))]  # type: ignore[arg-type]
    assert found == [library[name].id for name in names]


def test_a_search_reads_no_more_than_it_is_asked_for(folder: Path, library: dict[str, PresentationJob]) -> None:
    last = archive.manifests(folder)[-1]
    (folder / last.file).write_bytes(b"")
    assert len(list(islice(archive.search(folder), 2))) == 2


@pytest.mark.parametrize(
    "conditions", [{"text": " "}, {"text": 3}, {"since": "2026"}, {"job_id": "x"}, {"status": "done"}, {"owner": True}]
)
def test_conditions_that_make_no_sense_are_refused(folder: Path, conditions: dict[str, object]) -> None:
    folder.mkdir()
    with pytest.raises(ValidationError):
        archive.search(folder, **conditions)  # type: ignore[arg-type]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    for look in (archive.search, archive.manifests, archive.verify):
        with pytest.raises(FileNotFoundError):
            look(tmp_path / "nowhere")


def test_what_a_crash_has_left_is_no_archive(db: DatabaseManager, voice: VoiceClone, folder: Path) -> None:
    job = finished(voice)
    in_hand(voice)
    archive.run(db, folder)
    unseal(folder)
    assert list(archive.search(folder)) == []
    assert archive.run(db, folder) == 0  # which finishes what was recorded
    assert [found.job.id for found in archive.search(folder)] == [job.id]


def test_what_was_not_recorded_is_set_aside_and_not_deleted(
    db: DatabaseManager, voice: VoiceClone, folder: Path
) -> None:
    """As a copy of the database does that is older than the archive."""
    finished(voice)
    in_hand(voice)
    archive.run(db, folder)
    unseal(folder)
    db.database.execute_sql("DELETE FROM presgen_archives")
    assert archive.run(db, folder) == 0
    assert sorted(file.suffix for file in folder.glob("jobs-*")) == [".abandoned", ".abandoned"]


def test_a_manifest_that_was_not_written_whole_stops_nothing(
    db: DatabaseManager, voice: VoiceClone, folder: Path
) -> None:
    finished(voice)
    in_hand(voice)
    folder.mkdir()
    name = "jobs-20260101T000000000000Z-0123abcd"
    (folder / f"{name}.json.part").write_text('{"name": "jo')
    (folder / f"{name}.jsonl.gz.part").write_bytes(b"x")
    assert archive.run(db, folder) == 1
    assert not (folder / f"{name}.jsonl.gz.part").exists()


def test_files_of_others_are_left_alone(db: DatabaseManager, voice: VoiceClone, folder: Path, tmp_path: Path) -> None:
    finished(voice)
    in_hand(voice)
    folder.mkdir()
    victim = tmp_path / "victim.txt"
    victim.write_text("x")
    for name in ("jobs-of-the-week.json", "jobs-report.jsonl.part", "notes.txt"):
        (folder / name).write_text("{}")
    (folder / "jobs-20260101T000000000000Z-0123abcd.json.part").write_text('{"file": "../victim.txt", "format": 1}')
    assert archive.run(db, folder) == 1
    assert victim.exists()
    assert all((folder / name).exists() for name in ("jobs-of-the-week.json", "jobs-report.jsonl.part", "notes.txt"))
    assert len(archive.manifests(folder)) == 1


def test_missing_data_are_no_archive(db: DatabaseManager, voice: VoiceClone, folder: Path) -> None:
    finished(voice)
    in_hand(voice)
    archive.run(db, folder)
    manifest = archive.manifests(folder)[0]
    (folder / f"{manifest.name}.json").rename(folder / f"{manifest.name}.json.part")
    (folder / manifest.file).unlink()
    with pytest.raises(ArchiveError, match="is missing in .*, and its jobs have left the database"):
        archive.run(db, folder)
