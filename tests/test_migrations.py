"""The numbered files build the schema, undo it, and agree with the models, on both backends."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from presgen import MODELS, DatabaseConfig, DatabaseManager, PresentationJob, User, VoiceClone
from presgen.errors import MigrationError, ValidationError
from presgen.migrating.catalog import catalog
from presgen.migrator import Migrator, migrations_folder
from presgen.status import TRANSITIONS

NAMES = ["001_create_tables", "002_create_indexes", "003_create_triggers"]
ROOT = Path(__file__).parent.parent


def pw_migrate(url: str, *arguments: str) -> subprocess.Popen[str]:
    """Start `pw_migrate` as a person would from the project's root."""
    script = Path(sys.executable).parent / "pw_migrate"
    environment = {**os.environ, "DATABASE_URL": url}
    return subprocess.Popen(
        [str(script), *arguments],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finished(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    return output


def test_up_down_up_leaves_the_same_catalogs(empty_url: str) -> None:
    with DatabaseManager(empty_url) as manager, manager.session() as database:
        assert manager.pending_migrations() == NAMES
        nothing = catalog(database)
        assert manager.migrate() == NAMES
        assert manager.migrate() == []
        assert manager.pending_migrations() == []
        up = catalog(database)
        assert all(things for kind, things in up.items() if kind != "switches")
        for count in (1, len(NAMES) - 1):
            manager.rollback(count)
        assert catalog(database) == nothing
        manager.init_db()
        assert catalog(database) == up


def test_models_and_migrations_describe_the_same_schema(
    db: DatabaseManager, backend: str, request: pytest.FixtureRequest
) -> None:
    with db.session() as database:
        migrated = catalog(database)
    url = "sqlite:///:memory:" if backend == "sqlite" else request.getfixturevalue("new_database")()
    with DatabaseManager(url) as other, other.session() as database:
        database.create_tables(MODELS)
        declared = catalog(database)

    for kind in ("columns", "constraints", "indexes"):
        assert migrated[kind] == declared[kind]


def test_the_names_of_the_specification_are_there(db: DatabaseManager) -> None:
    with db.session() as database:
        text = str(catalog(database))
    for name in [
        "positive_file_size",
        "positive_duration",
        "valid_completion_time",
        "positive_slides_count",
        "positive_video_duration",
        "completed_jobs_have_video",
        "idx_presentation_jobs_owner_status",
        "idx_presentation_jobs_created_at",
        "idx_voice_clones_owner_name",
        "idx_users_email",
    ]:
        assert name in text


def test_migrating_step_by_step(empty_url: str) -> None:
    with DatabaseManager(empty_url) as manager:
        assert manager.migrate(NAMES[0]) == NAMES[:1]
        assert manager.migrate(NAMES[0]) == []
        assert manager.pending_migrations() == NAMES[1:]
        with pytest.raises(MigrationError, match="there is no migration '999_x'; known are 001_create_tables"):
            manager.migrate("999_x")
        with pytest.raises(MigrationError, match="cannot roll back 2 of 1 applied"):
            manager.rollback(2)
        for count in (0, -1, 1.5, "1"):
            with pytest.raises(ValidationError, match="^count must be "):
                manager.rollback(count)  # type: ignore[arg-type]
        assert manager.rollback() == NAMES[:1]


def test_a_database_of_a_newer_version_is_left_alone(url: str) -> None:
    with DatabaseManager(url) as manager:
        future = "INSERT INTO migratehistory (name, migrated_at) VALUES ('777_future', '2030-01-01')"
        manager.database.execute_sql(future)
        for change in (manager.migrate, manager.rollback):
            with pytest.raises(MigrationError, match=r"does not know \(777_future\); upgrade presgen"):
                change()


def test_a_failed_migration_is_undone_whole(empty_url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "001_first.py").write_text(
        "def migrate(migrator, database, *, fake=False):\n    migrator.sql('CREATE TABLE a (x int)')\n"
        "    migrator.sql('CREATE TABLE a (x int)')\n"
    )
    with DatabaseManager(empty_url) as manager:
        migrator = Migrator(manager.database, folder=tmp_path)
        with pytest.raises(MigrationError, match="failed and was undone: .*a.* already exists"):
            migrator.migrate()
        assert migrator.pending() == ["001_first"]
        assert not manager.database.table_exists("a")
    assert "Traceback" not in capfd.readouterr().err


def test_pw_migrate_itself_goes_up_down_and_up(empty_url: str) -> None:
    def look() -> dict[str, set[object]]:
        with DatabaseManager(empty_url) as manager, manager.session() as database:
            return catalog(database)

    assert "003_create_triggers" in finished(pw_migrate(empty_url, "migrate"))
    up = look()
    assert re.search(r"Done: 3, Pending: 0", finished(pw_migrate(empty_url, "list")))
    finished(pw_migrate(empty_url, "rollback", "--count", "3"))
    assert not any(look().values())
    finished(pw_migrate(empty_url, "migrate"))
    assert look() == up


def test_four_pw_migrate_at_once_apply_each_migration_once(empty_url: str) -> None:
    outputs = [finished(process) for process in [pw_migrate(empty_url, "migrate") for _ in range(4)]]
    assert sorted(output.count("- [x]") for output in outputs) == [0, 0, 0, 3]


def test_two_managers_at_once_apply_each_migration_once(empty_url: str) -> None:
    code = "from presgen import DatabaseManager; print(DatabaseManager.from_env().migrate())"
    environ = {**os.environ, "DATABASE_URL": empty_url}
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=environ, text=True, stdout=subprocess.PIPE) for _ in range(2)
    ]
    assert sorted(finished(process).strip() for process in processes) == sorted(["[]", str(NAMES)])


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "set DATABASE_URL, or POSTGRES_USER"),
        ({"DATABASE_URL": "postgresql://u:canary@127.0.0.1:1/x"}, "cannot connect to postgresql://u@127.0.0.1:1/x"),
        ({"DATABASE_URL": "postgres:/u:canary@h"}, "malformed"),
        ({"DATABASE_URL": "sqlite:///README.md"}, "file is not a database"),
        ({"DATABASE_URL": "sqlite:///:memory:", "arguments": "rollback --count 9"}, "Unable to rollback 9 migrations"),
        ({"DATABASE_URL": "postgresql://h/x", "DATABASE_PGBOUNCER": "true", "DATABASE_CONNECT_TIMEOUT": "1"}, "h"),
    ],
)
def test_pw_migrate_says_in_one_line_what_is_wrong(variables: dict[str, str], said: str) -> None:
    script = Path(sys.executable).parent / "pw_migrate"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE", "POSTGRES"))}
    arguments = variables.get("arguments", "migrate").split()
    done = subprocess.run(
        [str(script), *arguments],
        cwd=ROOT,
        env={**environment, **variables},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "canary" not in done.stderr + done.stdout


def test_behind_pgbouncer_everything_is_one_transaction(postgresql: str, empty_url: str) -> None:
    with DatabaseManager(DatabaseConfig(empty_url, pgbouncer=True)) as manager:
        assert manager.migrate() == NAMES
        assert manager.rollback(3) == NAMES[::-1]
        with pytest.raises(MigrationError, match="run `presgen migrate`"):
            manager.locked_for_migrations()


def test_no_migration_imports_presgen() -> None:
    files = sorted(migrations_folder().glob("[0-9]*.py"))
    assert [file.stem for file in files] == NAMES
    for file in files:
        assert not re.search(r"^\s*(from|import) (presgen|\.)", file.read_text(), re.MULTILINE)
        assert "def rollback(" in file.read_text()


def test_the_trigger_and_the_table_of_transitions_are_the_same() -> None:
    scope: dict[str, object] = {}
    exec((migrations_folder() / "003_create_triggers.py").read_text(), scope)
    frozen = scope["TRANSITIONS"]
    assert isinstance(frozen, dict)
    assert {before: set(after) for before, after in frozen.items()} == {
        before.value: {status.value for status in after} for before, after in TRANSITIONS.items()
    }


def test_deleting_a_user_works_whatever_the_order_of_the_constraints(postgresql: str, url: str) -> None:
    with DatabaseManager(url) as manager:
        _delete_a_user_after_each_order(manager.database)


def _delete_a_user_after_each_order(database: Any) -> None:
    for first, second in (("presentation_jobs", "voice_clones"), ("voice_clones", "presentation_jobs")):
        for table in (first, second):
            database.execute_sql(
                f"ALTER TABLE {table} DROP CONSTRAINT {table}_owner_id_fkey, ADD CONSTRAINT {table}_owner_id_fkey "
                "FOREIGN KEY (owner_id) REFERENCES users (id) ON DELETE CASCADE"
            )
        user = User.create(name="Ada")
        voice = VoiceClone.create(name="v", s3_path="/v.wav", owner=user)
        PresentationJob.enqueue(owner=user, voice_clone=voice, s3_pptx_path="/x.pptx")
        database.execute_sql("DELETE FROM users")
        assert [model.select().count() for model in MODELS] == [0, 0, 0, 0]


ALTERING = """
def migrate(migrator, database, *, fake=False):
    migrator.sql("ALTER TABLE users ADD COLUMN nickname TEXT")


def rollback(migrator, database, *, fake=False):
    migrator.sql("ALTER TABLE users DROP COLUMN nickname")
"""


@pytest.fixture
def altering(tmp_path: Path) -> Path:
    """The migrations, and one that alters a table."""
    for file in migrations_folder().glob("0*.py"):
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "004_nickname.py").write_text(ALTERING)
    return tmp_path


def test_a_migration_that_waits_for_a_lock_keeps_nobody_else_waiting_for_long(
    postgresql: str, url: str, altering: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long reader holds the table until others have read it between two attempts of the migration."""
    monkeypatch.setattr("presgen.migrating.database.LOCK_TIMEOUT", "200ms")
    attempts = threading.Semaphore(0)
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: attempts.release() if "is tried again" in record.getMessage() else None  # type: ignore[method-assign]
    logger = logging.getLogger("database.migrations")
    logger.addHandler(handler)
    monkeypatch.setattr(logger, "propagate", False)
    try:
        with DatabaseManager(url) as manager, ThreadPoolExecutor(1) as pool, closing(psycopg2.connect(url)) as reader:
            reader.cursor().execute("SELECT count(*) FROM users")  # and keeps its lock
            done = pool.submit(lambda: Migrator(manager.database, altering).migrate())
            for _ in range(2):
                assert attempts.acquire(timeout=30)
                assert User.select().count() == 0
            assert not done.done()
            reader.rollback()
            assert done.result(timeout=30) == ["004_nickname"]
            assert manager.database.execute_sql("SHOW lock_timeout").fetchone() == ("0",)
            Migrator(manager.database, altering).rollback()
            assert Migrator(manager.database, altering).pending() == ["004_nickname"]
    finally:
        logger.removeHandler(handler)


def test_a_migration_that_never_gets_its_lock_says_so(
    postgresql: str, url: str, altering: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("presgen.migrating.database.LOCK_TIMEOUT", "50ms")
    monkeypatch.setattr("presgen.migrating.apart.LOCK_PATIENCE_SECONDS", 0.0)
    with DatabaseManager(url) as manager, closing(psycopg2.connect(url)) as reader:
        reader.cursor().execute("SELECT count(*) FROM users")
        with pytest.raises(MigrationError, match="004_nickname failed and was undone: .*lock timeout"):
            Migrator(manager.database, altering).migrate()
        assert Migrator(manager.database, altering).pending() == ["004_nickname"]


def test_pw_migrate_itself_gives_up_waiting_for_a_lock(postgresql: str, url: str) -> None:
    with closing(psycopg2.connect(url)) as reader:
        reader.cursor().execute("SELECT count(*) FROM presentation_jobs")
        process = pw_migrate(url, "rollback")
        output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "lock timeout" in output
