"""Backups: they give back what was there, and say so when they do not."""

from __future__ import annotations

import json
import random
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixtures.tenants import Tenancy, with_voice_and_job

from presgen import DatabaseManager, PresentationJob, PresgenError, User, ValidationError, VoiceClone
from presgen.durable import sha256_of
from presgen.errors import BackupError, ConfigurationError
from presgen.ext import backup, search
from presgen.ext.backup import on_postgresql, programs

NewManager = Callable[[], DatabaseManager]


def rows_of(manager: DatabaseManager) -> list[Any]:
    """All that the database has, as the driver gives it."""
    tables = ("users", "voice_clones", "presentation_jobs", "job_events", "migratehistory")
    return [
        row for table in tables for row in manager.database.execute_sql(f"SELECT * FROM {table} ORDER BY id").fetchall()
    ]


def test_a_backup_gives_back_every_row(db: DatabaseManager, folder: Path, new_manager: NewManager) -> None:
    told: list[tuple[int, int]] = []
    made = backup.create(db, folder, progress=lambda *step: told.append(step))
    assert [found.name for found in backup.backups(folder)] == [made.name]
    assert made.rows == len(rows_of(db))
    assert made.schema == db.migrations.applied()[-1]
    assert told[-1][0] == told[-1][1] == len(told)
    before = rows_of(db)
    assert backup.verify(folder, manager=db) == made
    restored = new_manager()
    assert backup.restore(restored, folder) == made
    assert rows_of(restored) == before
    assert restored.pending_migrations() == []
    # New ids go on behind the old ones.
    assert User.create(name="next").id == 2
    for file in folder.glob("presgen-*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_features_come_back_with_the_rows(db: DatabaseManager, folder: Path, new_manager: NewManager) -> None:
    for feature in ("audit", "archive", "search"):
        db.install(feature)
    User.create(name="Grace Hopper")
    backup.create(db, folder)
    backup.verify(folder, manager=db)
    restored = new_manager()
    backup.restore(restored, folder)
    assert restored.features() == db.features() == ["audit", "archive", "search"]
    assert [hit.row.name for hit in search.users("hopper")] == ["Grace Hopper"]


def test_a_backup_is_of_one_moment_while_four_threads_write(
    db: DatabaseManager, folder: Path, new_manager: NewManager
) -> None:
    owner = User.get()
    done = threading.Event()
    written = [0] * 4

    def write(number: int) -> None:
        chance = random.Random(number)
        while not done.is_set():
            with db.transaction():  # users and their voices come in pairs
                user = User.create(name=f"writer {number}")
                VoiceClone.create(name="pair", s3_path=f"/pair/{user.id}.wav", owner=user)
                if chance.random() < 0.3:
                    User.delete().where(User.name == f"writer {number}", User.id < user.id).execute()
            User.update(name=User.name).where(User.id == owner.id).execute()
            written[number] += 1
        db.database.close()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        made = [backup.create(db, folder) for _ in range(3)]
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert all(written)
    for found in made:
        backup.verify(folder, name=found.name, manager=db)
    restored = new_manager()
    backup.restore(restored, folder, name=made[1].name)
    pairs = {voice.owner_id for voice in VoiceClone.select().where(VoiceClone.name == "pair")}
    assert pairs == {user.id for user in User.select().where(User.name.startswith("writer"))}


def test_a_dump_of_another_moment_than_its_fingerprint_is_noticed(
    postgresql: str, db: DatabaseManager, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deliberate bug: pg_dump takes a snapshot of its own, and somebody writes in between."""
    run = on_postgresql.run_program

    def late(program: Path, *words: str, **options: Any) -> None:
        if program.name == "pg_dump":
            User.create(name="in between")
            words = tuple(word for word in words if not word.startswith("--snapshot"))
        run(program, *words, **options)

    monkeypatch.setattr(on_postgresql, "run_program", late)
    backup.create(db, folder)
    with pytest.raises(BackupError, match="does not give back what was saved: public.users differs"):
        backup.verify(folder, manager=db)


@pytest.fixture
def made(db: DatabaseManager, folder: Path) -> Path:
    """A backup's file."""
    return folder / backup.create(db, folder).file


def test_every_flipped_bit_and_every_missing_end_is_found(made: Path, db: DatabaseManager) -> None:
    whole = made.read_bytes()
    chance = random.Random(7)
    for place in chance.sample(range(len(whole)), 40):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << chance.randrange(8)
        made.write_bytes(damaged)
        with pytest.raises(BackupError, match="is damaged: its SHA-256"):
            backup.verify(made.parent, manager=db)
    for length in (*chance.sample(range(len(whole)), 10), 0, len(whole) - 1):
        made.write_bytes(whole[:length])
        with pytest.raises(BackupError, match=f"is damaged: it has {length} of {len(whole)} bytes"):
            backup.verify(made.parent, manager=db)
    made.unlink()
    with pytest.raises(BackupError, match="is missing"):
        backup.verify(made.parent, manager=db)


def test_damage_is_found_by_restoring_too(made: Path, db: DatabaseManager, folder: Path) -> None:
    """A file whose SHA-256 is right, and whose content is another database's."""
    User.create(name="later")
    later = folder / backup.create(db, folder).file
    made.write_bytes(later.read_bytes())
    document = made.with_suffix(".json")
    manifest = json.loads(document.read_text())
    document.write_text(json.dumps({**manifest, "sha256": sha256_of(made), "bytes": made.stat().st_size}))
    with pytest.raises(BackupError, match=r"does not give back what was saved: .*users differs"):
        backup.verify(folder, name=manifest["name"], manager=db)


def test_a_damaged_manifest_keeps_nobody_from_the_other_backups(
    db: DatabaseManager, folder: Path, new_manager: Callable[[], DatabaseManager]
) -> None:
    made = backup.create(db, folder)
    old = "presgen-20200101T000000Z-00000000"
    (folder / f"{old}.json").write_text("{")
    assert backup.restore(new_manager(), folder).name == made.name
    assert backup.verify(folder, name=made.name, manager=db) == made
    with pytest.raises(BackupError, match="is damaged"):
        backup.verify(folder, name=old, manager=db)
    with pytest.raises(BackupError, match="is damaged"):
        backup.rotate(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "x"}'])
def test_a_damaged_manifest_is_an_error(made: Path, content: str) -> None:
    made.with_suffix(".json").write_text(content)
    with pytest.raises(BackupError, match="is no manifest of a backup, or is damaged"):
        backup.backups(made.parent)


def test_a_backup_is_restored_into_an_empty_database_alone(made: Path, db: DatabaseManager) -> None:
    before = rows_of(db)
    with pytest.raises(BackupError, match="is not empty: it has .*; restore into a new"):
        backup.restore(db, made.parent)
    assert rows_of(db) == before


def test_a_view_makes_a_database_not_empty(made: Path, new_manager: NewManager) -> None:
    manager = new_manager()
    manager.database.execute_sql("CREATE VIEW one AS SELECT 1 AS one")
    with pytest.raises(BackupError, match="is not empty: it has .*one"):
        backup.restore(manager, made.parent)


def test_a_restore_that_fails_leaves_nothing(
    postgresql: str, made: Path, new_manager: NewManager, db: DatabaseManager
) -> None:
    """Its last bytes are missing, and its manifest says that this is right."""
    whole = made.read_bytes()
    made.write_bytes(whole[: len(whole) * 9 // 10])
    document = made.with_suffix(".json")
    manifest = json.loads(document.read_text())
    document.write_text(json.dumps({**manifest, "sha256": sha256_of(made), "bytes": made.stat().st_size}))
    manager = new_manager()
    with pytest.raises(BackupError):
        backup.restore(manager, made.parent)
    assert manager.database.get_tables() == []


def test_backups_of_another_backend_are_refused(made: Path, db: DatabaseManager, tmp_path: Path, backend: str) -> None:
    other = "sqlite:///:memory:" if backend != "sqlite" else "postgresql://nobody@127.0.0.1:1/x"
    with pytest.raises(BackupError, match="is a backup of"):
        backup.restore(DatabaseManager(other), made.parent)


def test_names_that_are_none_are_told(made: Path, db: DatabaseManager, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="has no backup 'x'; see: presgen backup list"):
        backup.verify(made.parent, name="x", manager=db)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BackupError, match="has no backup"):
        backup.verify(tmp_path / "empty", manager=db)
    with pytest.raises(FileNotFoundError):
        backup.verify(tmp_path / "nowhere", manager=db)
    with pytest.raises(ValidationError, match="folder must be a path"):
        backup.create(db, "")


def test_what_was_broken_off_is_removed_and_nothing_else(made: Path, db: DatabaseManager) -> None:
    folder = made.parent
    part = folder / "presgen-20200101T000000Z-0123abcd.dump.part"
    others = [
        folder / name
        for name in ("presgen-dev.db", "presgen-keys.env", "presgen-20200101T000000Z-0123abcd.dump", "presgen-x.part")
    ]
    for path in (part, *others):
        path.write_bytes(b"x")
    (folder / "presgen-old").mkdir()
    backup.create(db, folder)
    backup.rotate(folder, daily=1)
    assert not part.exists()
    assert all(path.read_bytes() == b"x" for path in others)
    assert len(backup.backups(folder)) == 1


def test_a_truncate_meanwhile_is_not_in_it(postgresql: str, db: DatabaseManager, folder: Path) -> None:
    """TRUNCATE is not of a snapshot's time: it waits until the backup is done, or was before it."""
    refused: list[str] = []

    def meanwhile(_done: int, _total: int) -> None:
        if not refused:
            with pytest.raises(PresgenError, match="lock timeout"), db.transaction():
                db.database.execute_sql("SET LOCAL lock_timeout = '50ms'")
                db.database.execute_sql("TRUNCATE users CASCADE")
            refused.append("once")

    made = backup.create(db, folder, progress=meanwhile)
    assert refused
    assert made.tables["public.users"].rows == 1
    backup.verify(folder, manager=db)


def test_a_manifest_that_names_another_file_is_refused(made: Path, tmp_path: Path) -> None:
    document = made.with_suffix(".json")
    precious = tmp_path / "precious.txt"
    precious.write_text("x")
    document.write_text(json.dumps({**json.loads(document.read_text()), "file": "../precious.txt"}))
    with pytest.raises(BackupError, match="is no manifest of a backup"):
        backup.rotate(made.parent, daily=0)
    assert precious.exists()


def test_a_backup_inside_a_transaction_does_not_hang(db: DatabaseManager, folder: Path, backend: str) -> None:
    with db.transaction():
        User.create(name="not yet")
        if backend == "sqlite":
            with pytest.raises(BackupError, match="commit first"):
                backup.create(db, folder)
        else:
            assert backup.create(db, folder).tables["public.users"].rows == 1


def test_two_at_once_do_not_disturb_each_other(db: DatabaseManager, folder: Path) -> None:
    seen: list[BackupError] = []

    def meanwhile(_done: int, _total: int) -> None:
        with pytest.raises(BackupError, match="somebody else writes to") as caught:
            backup.create(db, folder)
        seen.append(caught.value)

    backup.create(db, folder, progress=meanwhile)
    assert seen
    assert len(backup.backups(folder)) == 1


def test_a_killed_backup_is_none(postgresql: str, db: DatabaseManager, folder: Path) -> None:
    code = (
        "import os, signal, sys; from presgen import DatabaseManager; from presgen.ext import backup\n"
        "with DatabaseManager(sys.argv[1]) as manager:\n"
        "    backup.create(manager, sys.argv[2], progress=lambda done, total: os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    process = subprocess.run([sys.executable, "-c", code, db.config.url, str(folder)], check=False)
    assert process.returncode == -signal.SIGKILL
    assert backup.backups(folder) == []
    backup.create(db, folder)
    assert len(list(folder.glob("presgen-*"))) == 2


def test_verifying_without_a_manager_uses_a_server_of_its_own(made: Path) -> None:
    assert backup.verify(made.parent).rows > 0


def test_no_scratch_database_is_left(
    postgresql: str, made: Path, db: DatabaseManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scratch_databases() -> int:
        sql = "SELECT count(*) FROM pg_database WHERE datname LIKE 'presgen\\_verify\\_%%'"
        return int(db.database.execute_sql(sql).fetchone()[0])

    seen: list[int] = []
    backup.verify(made.parent, manager=db, progress=lambda *_: seen.append(scratch_databases()))
    assert (max(seen), scratch_databases()) == (1, 0)

    def fail(*_: Any) -> None:
        assert scratch_databases() == 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        backup.verify(made.parent, manager=db, progress=fail)
    assert scratch_databases() == 0


def test_a_password_is_on_no_command_line(
    postgresql: str, db: DatabaseManager, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that writes down how it was called, in place of pg_dump."""
    spy = tmp_path / "pg_dump"
    spy.write_text(
        '#!/bin/sh\nif [ "$1" = --version ]; then echo "pg_dump (PostgreSQL) 99.0"; exit; fi\n'
        f'echo "$@" > {tmp_path}/words; env > {tmp_path}/environ; echo "no $PGPASSWORD here" | sed s/canary// >&2; exit 1\n'
    )
    spy.chmod(0o755)
    monkeypatch.setattr(programs, "_candidates", lambda _name: [spy])
    url = db.config.url.replace("//postgres@", "//postgres:canary@")
    with DatabaseManager(url) as manager, pytest.raises(BackupError, match="pg_dump failed: no"):
        backup.create(manager, folder)
    assert "canary" not in (tmp_path / "words").read_text()
    assert "PGPASSWORD=canary" in (tmp_path / "environ").read_text()
    assert list(folder.glob("presgen-*")) == []


def test_a_missing_program_is_told_with_the_remedy(
    postgresql: str, db: DatabaseManager, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "_candidates", lambda _name: [Path("/nowhere/pg_dump")])
    with pytest.raises(
        ConfigurationError, match="pg_dump of PostgreSQL .* is not installed: install postgresql-client"
    ):
        backup.create(db, folder)


def test_a_server_that_is_away_is_told(postgresql: str, db: DatabaseManager, folder: Path) -> None:
    made = backup.create(db, folder)
    away = replace(db.config, url="postgresql://nobody:canary@127.0.0.1:1/x")
    with pytest.raises(BackupError, match="the server does not answer") as caught:
        on_postgresql.verify(away, folder / made.file, made, None)
    assert "canary" not in str(caught.value)


def test_under_tenancy_the_worker_backs_up_all_rows_and_the_app_is_refused(tenancy: Tenancy, folder: Path) -> None:
    with DatabaseManager(tenancy.admin_url) as admin:
        for name in ("Ada", "Eve"):
            with_voice_and_job(User.create(name=name))
    with tenancy.open("app") as app, pytest.raises(ConfigurationError, match="does not see all rows"):
        backup.create(app, folder)
    with tenancy.open("worker") as worker:
        made = backup.create(worker, folder)
    assert made.tables["public.presentation_jobs"].rows == 2
    assert {tenancy.roles.app, tenancy.roles.worker} <= set(made.roles)
    with DatabaseManager(tenancy.admin_url) as admin:
        backup.verify(folder, manager=admin)
    backup.verify(folder)  # on a server that has no such roles


def test_a_restrictive_policy_counts(tenancy: Tenancy, folder: Path) -> None:
    """Whom another policy lets see all rows may have to do without some."""
    tenancy.admin(f"CREATE POLICY few ON users AS RESTRICTIVE FOR SELECT TO {tenancy.roles.worker} USING (id < 0)")
    with tenancy.open("worker") as worker, pytest.raises(ConfigurationError, match="does not see all rows"):
        backup.create(worker, folder)


def test_owners_and_rights_come_back_or_are_left_out(
    tenancy: Tenancy, folder: Path, new_manager: NewManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DatabaseManager(tenancy.admin_url) as admin:
        with_voice_and_job(User.create(name="Ada"))
        made = backup.create(admin, folder)
    restored = new_manager()
    backup.restore(restored, folder)
    assert restored.features() == ["tenancy"]
    owner = "SELECT tableowner::text FROM pg_tables WHERE tablename = 'users'"
    assert restored.database.execute_sql(owner).fetchone() == (tenancy.roles.owner,)
    restored.close()
    document = folder / f"{made.name}.json"
    document.write_text(json.dumps({**json.loads(document.read_text()), "roles": ["no_such_role"]}))
    other = new_manager()
    with pytest.raises(ConfigurationError, match=r"that this server does not have: no_such_role; .*--no-owners"):
        backup.restore(other, folder)
    backup.restore(other, folder, keep_owners=False)
    assert other.database.execute_sql(owner).fetchone() == ("postgres",)
    assert PresentationJob.select().count() == 1


def test_other_tables_and_schemas_are_in_it(
    postgresql: str, db: DatabaseManager, folder: Path, new_manager: NewManager
) -> None:
    for sql in (
        "CREATE SCHEMA studio",
        'CREATE TABLE studio."Odd "" name" (id int, doc jsonb, day date, span interval, data bytea, number float8)',
        """INSERT INTO studio."Odd "" name" VALUES
            (1, '{"a": 1}', 'infinity', '1 mon 2 days', '\\x00ff', 'NaN'), (NULL, NULL, NULL, NULL, NULL, 1e-300)""",
        "CREATE TABLE parts (id int) PARTITION BY RANGE (id)",
        "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10)",
        "INSERT INTO parts VALUES (1), (2), (2)",
    ):
        db.database.execute_sql(sql.replace("%", "%%"))
    made = backup.create(db, folder)
    assert made.tables['studio."Odd "" name"'].rows == 2
    assert made.tables["public.parts_1"].rows == 3
    backup.verify(folder, manager=db)
    backup.restore(new_manager(), folder)


def test_settings_of_the_database_do_not_change_the_fingerprint(
    postgresql: str, db: DatabaseManager, folder: Path
) -> None:
    name = db.database.execute_sql("SELECT current_database()").fetchone()[0]
    first = backup.create(db, folder)
    for setting in ("TimeZone = 'Asia/Kolkata'", "DateStyle = 'SQL, DMY'", "extra_float_digits = -3"):
        db.database.execute_sql(f"ALTER DATABASE {name} SET {setting}")
    db.close()
    with DatabaseManager(replace(db.config, statement_timeout=30)) as manager:
        second = backup.create(manager, folder)
    assert second.tables == first.tables
