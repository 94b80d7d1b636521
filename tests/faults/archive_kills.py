"""Archiving and restoring under SIGKILL, at every step of both: python -m archive_kills [JOBS [BATCH]].

A step is a statement, a commit, a line that is encoded, and whatever is done to a file. The k-th process is killed just
before its k-th step, until one comes through; a checker that knows nothing of presgen.ext.archive but the files' form
then says where each job is. All processes are forks of one that never opens a database.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import sys
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from killing import Violation, forked, in_child, steps_until, was_killed

from presgen import DatabaseManager, User, VoiceClone
from presgen.embedded import EmbeddedServer
from presgen.errors import ArchiveError
from presgen.ext import archive
from presgen.ext.archive import archiving, catalog, rows, settling

_LINES_A_STEP: Final = 500
_EVERYTHING: Final = dict.fromkeys(archive.RETENTION, timedelta(0))
_STAGES: Final = ("pending", "processing_slides", "synthesizing_audio", "assembling_video")


def main() -> None:
    """Kill archiving and restoring at every step, on a server of its own; exits with 1 after a violation."""
    jobs, batch = (int(number) for number in [*sys.argv[1:], "60000", "1000"][:2])
    with TemporaryDirectory(prefix="presgen-kills-") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedServer(Path(folder) / "server") as server:
            result = kill_everywhere(server.url, Path(folder) / "archive", jobs=jobs, batch=batch)
    print(json.dumps(result))


def kill_everywhere(url: str, path: Path, *, jobs: int, batch: int, mutant: str | None = None) -> dict[str, Any]:
    """Migrate and fill a database, archive all and restore all; gives counts. Raises Violation."""
    before = in_child(lambda: _fill(url, jobs))

    def archive_all(manager: DatabaseManager) -> None:
        archive.run(manager, path, retention=_EVERYTHING, batch=batch)

    def restore_all(manager: DatabaseManager) -> None:
        # Some jobs alone first, so that archives are written anew.
        try:
            archive.restore(manager, path, job_ids=range(batch // 2, batch // 2 + 5))
        except ArchiveError as error:
            if "are in no archive" not in str(error):  # they are back already
                raise
        archive.restore(manager, path, everything=True)

    kills = {}
    for name, work in (("archive", archive_all), ("restore", restore_all)):
        for step in count(1):
            is_killed = _killed_at(step, url, work, mutant)
            found = in_child(lambda: _checked(url, path, jobs))
            if not is_killed:
                break
        kills[name] = step - 1
        if name == "archive":
            size = sum(file.stat().st_size for file in path.glob("jobs-*") if file.suffix != ".abandoned")
            left = 1 if url.startswith("sqlite") else 0  # which keeps its highest ids
            if found["archived"] != jobs - left:
                raise Violation(f"{found} of {jobs} jobs are archived")
    after = in_child(lambda: _digest_of(url))
    if after != before["digest"]:
        raise Violation("the rows are not what they were")
    left = [file.name for file in path.glob("jobs-*") if file.suffix not in (".restored", ".abandoned")]
    if left:
        raise Violation(f"{left[0]} is left")
    return {"jobs": jobs, "kills": kills, "ratio": round(size / before["size"], 3) if before["size"] else None}


def _killed_at(step: int, url: str, work: Callable[[DatabaseManager], None], mutant: str | None) -> bool:
    """Whether a process that does the work is killed before its step of that number."""

    def archive_or_die() -> None:
        _MUTANTS.get(mutant or "", lambda: None)()
        with DatabaseManager(url) as manager:
            manager.database.connect(reuse_if_open=True)
            _count_steps(manager, step)
            work(manager)

    return was_killed(forked(archive_or_die))


def _count_steps(manager: DatabaseManager, last: int) -> None:
    """Kill this process before its step number `last`."""
    stepping = steps_until(last)
    encoded, lines = rows.encoded, count(1)

    def encoding(line: Any) -> str:
        if next(lines) % _LINES_A_STEP == 0:
            step()
        return encoded(line)

    step = stepping(lambda: None)
    rows.encoded = encoding
    for name in ("fsync", "replace", "open"):
        setattr(os, name, stepping(getattr(os, name)))
    Path.unlink = stepping(Path.unlink)  # type: ignore[method-assign]
    database: Any = manager.database
    database.execute_sql = stepping(database.execute_sql)
    database.commit = stepping(database.commit)


def _checked(url: str, path: Path, jobs: int) -> dict[str, int]:
    """Raise Violation unless each job is in one place: in the database, or in one archive."""
    with DatabaseManager(url) as manager:
        stored = [job_id for (job_id,) in manager.database.execute_sql("SELECT id FROM presentation_jobs").fetchall()]
        sql = "SELECT name, removed_at IS NOT NULL FROM presgen_archives"
        recorded = {name: bool(removed) for name, removed in manager.database.execute_sql(sql).fetchall()}
    archived: list[int] = []
    for file in sorted((*path.glob("*.json"), *path.glob("*.json.part"))):
        try:
            found = json.loads(file.read_text())
        except ValueError:
            found = {"name": None}
        is_archive = file.suffix == ".json" or found["name"] in recorded
        if is_archive and not recorded.get(found["name"]):
            archived += _ids_of(path, found["file"])
    if sorted(stored + archived) != list(range(1, jobs + 1)):
        lost = jobs - len({*stored, *archived})
        raise Violation(f"{lost} jobs are lost, {len(stored) + len(archived) + lost - jobs} are there twice")
    return {"stored": len(stored), "archived": len(archived)}


def _ids_of(path: Path, name: str) -> list[int]:
    file = path / name if (path / name).exists() else path / f"{name}.part"
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["job"]["id"] for line in lines]


def _fill(url: str, jobs: int) -> dict[str, Any]:
    """Add finished jobs that resemble real ones, with their events; gives a digest of the rows, and the tables' size."""
    chance = random.Random(1)
    with DatabaseManager(url) as manager:
        manager.migrate()
        manager.install("archive")
        owners = [User.create(name=f"User {number}") for number in range(20)]
        voices = [VoiceClone.create(name="voice", s3_path=f"/voices/{owner.id}.wav", owner=owner) for owner in owners]
        events = count(1)
        for start in range(1, jobs + 1, 1000):
            lines = [
                _line(job_id, chance, chance.choice(voices), events)
                for job_id in range(start, min(start + 1000, jobs + 1))
            ]
            with manager.transaction():
                rows.insert(manager.database, lines)
        return {"digest": _digest(manager), "size": _size(manager)}


def _line(job_id: int, chance: random.Random, voice: Any, events: Any) -> rows.Line:
    def name() -> str:
        return str(uuid.UUID(int=chance.getrandbits(128)))

    start = datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(
        seconds=job_id * 30, microseconds=chance.randrange(10**6)
    )
    moments = [start + timedelta(seconds=seconds, microseconds=chance.randrange(10**6)) for seconds in (2, 40, 95, 160)]
    end, worker = moments[-1], f"render-{chance.randrange(12):02}.internal:{chance.randrange(65536)}"
    status = chance.choices(("completed", "failed", "cancelled"), (90, 7, 3))[0]
    is_completed = status == "completed"
    job = {
        "id": job_id,
        "status": status,
        "s3_pptx_path": f"/decks/{name()}/quarterly-review-{chance.randrange(4000)}.pptx",
        "s3_video_path": f"/videos/{name()}.mp4" if is_completed else None,
        "slides_count": chance.randrange(3, 60),
        "video_duration_seconds": chance.uniform(30, 900) if is_completed else None,
        "file_size_bytes": chance.randrange(10**6, 10**9) if is_completed else None,
        "processing_time_seconds": chance.uniform(60, 600),
        "error_message": f"RuntimeError: slide {chance.randrange(60)} has no notes \u2014 {name()}\n"
        if status == "failed"
        else None,
        "created_at": _stored(start),
        "updated_at": _stored(end),
        "started_at": _stored(moments[0]),
        "completed_at": _stored(end),
        "owner_id": voice.owner_id,
        "voice_clone_id": voice.id,
        "priority": 0,
        "run_at": _stored(start),
        "attempt": 1,
        "max_attempts": 3,
        "worker": worker,
        "lease_expires_at": None,
        "cancel_requested_at": None,
        "progress": 1.0 if is_completed else 0.7,
        "checkpoint": json.dumps({"slides": chance.randrange(60), "audio": name()}),
        "idempotency_key": name(),
        "deleted_at": None,
    }
    history = [
        {
            "id": next(events),
            "job_id": job_id,
            "from_status": before,
            "to_status": after,
            "at": _stored(moment),
            "worker": worker,
            "attempt": 1,
        }
        for before, after, moment in zip(_STAGES, (*_STAGES[1:], status), moments, strict=True)
    ]
    return {"job": job, "events": history}


def _stored(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="microseconds")


def _digest_of(url: str) -> str:
    with DatabaseManager(url) as manager:
        return _digest(manager)


def _digest(manager: DatabaseManager) -> str:
    digest = hashlib.sha256()
    for table in ("presentation_jobs", "job_events"):
        for row in manager.database.execute_sql(f"SELECT * FROM {table} ORDER BY id").fetchall():
            digest.update(repr(row).encode())
    return digest.hexdigest()


def _size(manager: DatabaseManager) -> int | None:
    """The bytes of the tables with their indexes; None on SQLite, where they are one file."""
    if manager.config.url.startswith("sqlite"):
        return None
    sql = "SELECT pg_total_relation_size('presentation_jobs') + pg_total_relation_size('job_events')"
    return int(manager.database.execute_sql(sql).fetchone()[0])


def _seal_without_asking() -> None:
    settling.catalog.known = lambda _database, names=None: dict.fromkeys(names or (), ("", False))
    settling.catalog.require_known = lambda *_: catalog.Record("", False)


def _forget_the_record() -> None:
    catalog.record = lambda *_: None
    settling.catalog.require_known = lambda *_: catalog.Record("", False)


def _keep_restored_archives() -> None:
    catalog.record_removal = lambda *_: None


def _discard_without_asking() -> None:
    settling.catalog.known = lambda *_: {}
    settling.catalog.require_known = lambda *_: catalog.Record("", False)


def _delete_before_the_file() -> None:
    """Commit the deletion, and only then write the file."""
    store, delete = archiving.store, rows.delete

    def late(manager: DatabaseManager, target: Any, lines: Any, suffix: str, **options: Any) -> Any:
        delete(manager.database, [line["job"]["id"] for line in lines])
        manager.database.commit()
        manager.database.begin()
        return store(manager, target, lines, suffix, **options)

    archiving.store = late
    rows.delete = lambda *_: None


_MUTANTS: Final[dict[str, Callable[[], None]]] = {
    "seal_without_asking": _seal_without_asking,
    "discard_without_asking": _discard_without_asking,
    "forget_the_record": _forget_the_record,
    "keep_restored_archives": _keep_restored_archives,
    "delete_before_the_file": _delete_before_the_file,
}
MUTANTS: Final = tuple(_MUTANTS)

if __name__ == "__main__":
    main()
