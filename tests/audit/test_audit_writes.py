"""Every way to write a row appears in the audit log, and what is no change does not."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from fixtures.debian import program
from fixtures.rows import Enqueue

from presgen import DatabaseManager, JobStatus, PresentationJob, User, VoiceClone
from presgen.ext import audit

Log = Callable[[], list[tuple[Any, ...]]]


@pytest.fixture
def log(db: DatabaseManager) -> Log:
    """What has been recorded since the last look, oldest first: operation, table, old and new."""
    seen = {"id": 0}

    def log() -> list[tuple[Any, ...]]:
        entries = [entry for entry in reversed(audit.search()) if entry.id > seen["id"]]
        seen["id"] = max([seen["id"], *(entry.id for entry in entries)])
        return [(entry.operation, entry.table_name, entry.old, entry.new) for entry in entries]

    return log


def named(before: str, after: str) -> tuple[Any, ...]:
    return ("UPDATE", "users", {"name": before}, {"name": after})


def operations(entries: Iterable[tuple[Any, ...]]) -> list[tuple[str, str]]:
    return [(operation, table) for operation, table, _, _ in entries]


def test_a_new_row_is_recorded_whole_but_for_the_excluded_columns(log: Log, voice: VoiceClone) -> None:
    added, voice_added = log()
    created_at = added[3].pop("created_at")
    assert added == (
        "INSERT",
        "users",
        None,
        {"id": 1, "name": "Ada", "email": "ada@example.com", "is_active": True, "password_hash": None},
    )
    assert added[3]["is_active"] is True  # which equals 1
    assert created_at.startswith("20")
    assert "T" in created_at
    assert created_at.endswith("+00:00")
    assert voice_added[3].pop("created_at") is not None
    assert voice_added == (
        "INSERT",
        "voice_clones",
        None,
        {
            "id": 1,
            "name": "Ada's voice",
            "s3_path": "/voices/ada.wav",
            "owner_id": 1,
            "duration_seconds": 3.5,
            "is_active": True,
            "file_size": None,
            "sample_rate": None,
        },
    )


def test_an_update_is_recorded_with_the_columns_that_changed(log: Log, user: User) -> None:
    log()
    user.name, user.is_active = "Ada L.", False
    user.save()
    changed = ({"name": "Ada", "is_active": True}, {"name": "Ada L.", "is_active": False})
    assert log() == [("UPDATE", "users", *changed)]


def test_a_deleted_row_is_recorded_whole(log: Log, user: User) -> None:
    ((_, _, _, new),) = log()
    user.delete_instance()
    assert log() == [("DELETE", "users", new, None)]


def test_the_bulk_methods_are_recorded_row_by_row(log: Log, db: DatabaseManager) -> None:
    User.insert_many([{"name": "Ada"}, {"name": "Eve"}]).execute()
    User.bulk_create([User(name="Bob")])
    assert operations(log()) == [("INSERT", "users")] * 3
    ada, eve = User.select().where(User.name != "Bob").order_by(User.id)
    ada.name, eve.name = "A", "E"
    User.bulk_update([ada, eve], [User.name])
    assert sorted(log(), key=str) == [named("Ada", "A"), named("Eve", "E")]
    User.update(name="X").where(User.name == "A").execute()
    assert log() == [named("A", "X")]
    User.insert(id=ada.id, name="Y").on_conflict(conflict_target=[User.id], update={"name": "Y"}).execute()
    assert log() == [named("X", "Y")]
    User.delete().where(User.name == "Y").execute()
    assert operations(log()) == [("DELETE", "users")]


def test_raw_sql_is_recorded(log: Log, db: DatabaseManager, user: User) -> None:
    log()
    db.database.execute_sql("UPDATE users SET name = 'Raw'")
    db.database.execute_sql("UPDATE users SET name = 'Raw'")
    assert log() == [named("Ada", "Raw")]
    db.database.execute_sql("DELETE FROM users")
    assert operations(log()) == [("DELETE", "users")]


def test_what_a_cascade_deletes_is_recorded(log: Log, user: User, enqueue: Enqueue) -> None:
    enqueue()
    enqueue()
    log()
    user.delete_instance()
    gone = operations(log())
    assert sorted(gone) == [
        *[("DELETE", "presentation_jobs")] * 2,
        ("DELETE", "users"),
        ("DELETE", "voice_clones"),
    ]


def test_copy_is_recorded_row_by_row(log: Log, user: User, voice: VoiceClone) -> None:
    log()
    rows = ({"owner": user, "voice_clone": voice, "s3_pptx_path": f"/{number}.pptx"} for number in range(20))
    assert PresentationJob.enqueue_many(rows) == 20
    entries = log()
    assert operations(entries) == [("INSERT", "presentation_jobs")] * 20
    assert [entry[3]["s3_pptx_path"] for entry in entries] == [f"/{number}.pptx" for number in range(20)]


def test_a_jobs_life_is_recorded_and_its_heartbeats_are_not(log: Log, job: PresentationJob) -> None:
    log()
    (claimed,) = PresentationJob.claim("w1")
    ((_, _, old, new),) = log()
    assert (old["status"], new["status"], new["worker"]) == ("pending", "processing_slides", "w1")
    for part in range(5):
        claimed.heartbeat(progress=part / 10, checkpoint={"slide": part})
    assert log() == []
    claimed.advance(JobStatus.SYNTHESIZING_AUDIO, progress=0.7, slides_count=3)
    assert log() == [
        (
            "UPDATE",
            "presentation_jobs",
            {"status": "processing_slides", "slides_count": None},
            {"status": "synthesizing_audio", "slides_count": 3},
        )
    ]
    claimed.complete(s3_video_path="/a.mp4")
    ((_, _, _, new),) = log()
    assert (new["status"], new["s3_video_path"]) == ("completed", "/a.mp4")
    moment = new["completed_at"]
    assert claimed.completed_at.isoformat().startswith(moment.partition("+")[0])


def test_what_is_rolled_back_leaves_nothing(log: Log, db: DatabaseManager, user: User) -> None:
    log()
    with pytest.raises(ZeroDivisionError), db.transaction():
        user.name = "Nobody"
        user.save()
        audit.action("login")
        raise ZeroDivisionError
    assert log() == []


def test_another_program_is_recorded_with_its_role(
    log: Log, db: DatabaseManager, user: User, url: str, backend: str
) -> None:
    log()
    code = """
import os, sqlite3, psycopg2
url = os.environ["DATABASE_URL"]
connection = sqlite3.connect(url[len("sqlite:///"):]) if url.startswith("sqlite") else psycopg2.connect(url)
connection.cursor().execute("UPDATE users SET name = 'Elsewhere'")
connection.commit()
connection.close()
"""
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "DATABASE_URL": url}, check=True)
    assert log() == [named("Ada", "Elsewhere")]
    (entry, *_) = audit.search(operation="UPDATE")
    assert (entry.actor, entry.user_id) == (None, None)
    if backend != "sqlite":
        assert entry.database_user == db.database.execute_sql("SELECT session_user").fetchone()[0]
        assert entry.transaction_id > 0


def test_psql_is_recorded(log: Log, user: User, url: str, postgresql: str) -> None:
    log()
    psql = program("psql", package="postgresql-client")
    subprocess.run([psql, "-qX", url, "-c", "UPDATE users SET name = 'By hand'"], check=True)
    assert log() == [named("Ada", "By hand")]


def test_truncate_is_recorded_for_every_table_that_it_empties(
    log: Log, db: DatabaseManager, postgresql: str, enqueue: Enqueue
) -> None:
    job = enqueue()
    log()
    db.database.execute_sql("TRUNCATE users CASCADE")
    assert sorted(log()) == [
        ("TRUNCATE", table, None, None) for table in ("presentation_jobs", "users", "voice_clones")
    ]
    assert [entry.operation for entry in audit.history(job)] == ["INSERT", "TRUNCATE"]
    assert [entry.operation for entry in audit.history(User.create(name="Eve"))] == ["INSERT"]


def test_a_column_that_is_added_later_is_recorded_as_well(log: Log, db: DatabaseManager, user: User) -> None:
    db.database.execute_sql("ALTER TABLE users ADD COLUMN motto VARCHAR(99)")
    if db.config.backend == "sqlite":  # whose triggers name the columns: it has to be installed again, and says so
        assert db.features() == []
        db.install("audit")
    assert db.features() == ["audit"]
    log()
    db.database.execute_sql("UPDATE users SET motto = 'x'")
    assert log() == [("UPDATE", "users", {"motto": None}, {"motto": "x"})]


def test_a_session_cannot_hide_a_change_behind_its_settings(
    log: Log, db: DatabaseManager, postgresql: str, voice: VoiceClone
) -> None:
    log()
    with db.session():
        db.database.execute_sql("SET extra_float_digits = -15; SET timezone = 'Asia/Tokyo'; SET DateStyle = 'SQL, DMY'")
        db.database.execute_sql(
            "UPDATE voice_clones SET duration_seconds = 3.5000001, created_at = '2026-01-31 12:00Z'"
        )
        db.database.execute_sql("RESET ALL")
    ((_, _, old, new),) = log()
    assert (old["duration_seconds"], new["duration_seconds"]) == (3.5, 3.5000001)
    assert new["created_at"] == "2026-01-31T12:00:00+00:00"


def test_values_that_sqlite_takes_and_no_model_writes_break_no_write(tmp_path: Path, sqlite_template: Path) -> None:
    path = tmp_path / "odd.db"
    path.write_bytes(sqlite_template.read_bytes())
    with DatabaseManager(f"sqlite:///{path}") as manager:
        manager.install("audit")
        odd = "INSERT INTO users (name, is_active, created_at) VALUES (x'41ff', 7, 'yesterday')"
        connection = sqlite3.connect(path)
        connection.execute(odd)
        connection.commit()
        connection.close()
        (entry,) = audit.search()
        shown = (entry.new["name"], entry.new["is_active"], entry.new["created_at"])
        assert shown == ("\\x41ff", 7, "yesterday")
