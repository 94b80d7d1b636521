"""`presgen migrate adopt` takes over what SQLAlchemy made and filled: every row is there, and the schema as declared."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest
from click.testing import CliRunner
from fixtures.sqlalchemy_models import JobStatus as Status
from fixtures.sqlalchemy_models import current_models, improved_models
from fixtures.sqlalchemy_rows import START, connected, fill
from sqlalchemy import insert, select, text

from presgen import DatabaseManager, JobStatus, PresentationJob, User, VoiceClone, Worker
from presgen.cli import cli
from presgen.errors import ConfigurationError, MigrationError
from presgen.migrating.catalog import catalog
from presgen.migrator import Migrator
from presgen.status import RUNNING

Models = Callable[[], SimpleNamespace]
SHAPES: dict[str, Models] = {
    "current": current_models,
    "improved": improved_models,
    "values": lambda: improved_models(with_values=True),
}


def rows_of(engine: Any, model: Any) -> list[dict[str, Any]]:
    """The rows as SQLAlchemy reads them."""
    with engine.connect() as connection:
        return [dict(row._mapping) for row in connection.execute(select(model.__table__).order_by(model.id))]


def converted(row: dict[str, Any]) -> dict[str, Any]:
    """A row of SQLAlchemy's as presgen gives it."""
    values = dict(row)
    for name, value in row.items():
        if isinstance(value, datetime):
            values[name] = value.replace(tzinfo=timezone.utc)
        elif isinstance(value, Status):
            values[name] = JobStatus(value.value)
        elif name == "email" and value is not None:
            values[name] = value.lower()
    return {{"owner_id": "owner", "voice_clone_id": "voice_clone"}.get(name, name): one for name, one in values.items()}


def require_same_rows(before: dict[str, list[dict[str, Any]]]) -> None:
    for model, name in ((User, "User"), (VoiceClone, "VoiceClone"), (PresentationJob, "PresentationJob")):
        read = list(model.select().order_by(model.id).dicts())
        assert len(read) == len(before[name])
        for row, was in zip(read, before[name], strict=True):
            assert {key: row[key] for key in converted(was)} == converted(was)


@pytest.fixture(params=SHAPES)
def models(request: pytest.FixtureRequest) -> SimpleNamespace:
    return SHAPES[request.param]()


def all_rows(engine: Any, models: SimpleNamespace) -> dict[str, list[dict[str, Any]]]:
    return {name: rows_of(engine, getattr(models, name)) for name in ("User", "VoiceClone", "PresentationJob")}


def test_an_adopted_database_is_as_a_migrated_one_and_has_every_row(
    postgresql: str, empty_url: str, models: SimpleNamespace
) -> None:
    with connected(empty_url) as engine:
        fill(engine, models)
        before = all_rows(engine, models)
    with DatabaseManager(empty_url) as manager:
        manager.migrations.adopt()
        assert manager.pending_migrations() == []
        assert manager.schema_differences() == []
        require_same_rows(before)
        assert not manager.database.execute_sql("SELECT 1 FROM pg_type WHERE typname = 'jobstatus'").fetchall()
        assert User.create(name="Ada").id == len(before["User"]) + 1
        progress = {job.status: job.progress for job in PresentationJob.select()}
        assert (progress[JobStatus.COMPLETED], progress[JobStatus.PENDING]) == (1.0, 0.0)
        with pytest.raises(MigrationError, match="nothing to adopt"):
            manager.migrations.adopt()
        Worker(manager, lambda job: job.complete(s3_video_path="/x.mp4")).drain()
        assert not PresentationJob.select().where(
            PresentationJob.status == JobStatus.PENDING, PresentationJob.attempt == 0
        )
        manager.rollback(3)


def test_many_rows_are_read_back_equal(postgresql: str, empty_url: str) -> None:
    models = improved_models()
    with connected(empty_url) as engine:
        fill(engine, models, users=500, jobs=100_000)
        before = all_rows(engine, models)
    with DatabaseManager(empty_url) as manager:
        manager.migrations.adopt()
        require_same_rows(before)


def test_a_plan_changes_nothing_and_says_what_will(postgresql: str, empty_url: str, models: SimpleNamespace) -> None:
    with connected(empty_url) as engine:
        fill(engine, models)
    with DatabaseManager(empty_url) as manager, manager.session() as database:
        before = catalog(database)
        plan = manager.migrations.adoption_plan()
        assert catalog(database) == before
        assert plan.broken == ()
        titles = [step.title for step in plan.steps]
        assert "convert presentation_jobs" in titles
        done: list[tuple[int, int]] = []
        manager.migrations.adopt(progress=lambda *how_far: done.append(how_far))
        assert done == [(number, len(titles)) for number in range(1, len(titles) + 1)]


BROKEN = [
    ("UPDATE users SET name = ' ' WHERE id = 2", "users: 1 row breaks valid_user_name", "id 2"),
    ("UPDATE users SET email = 'nobody' WHERE id = 1", "users: 1 row breaks valid_email", "id 1"),
    ("UPDATE users SET email = 'USER2@EXAMPLE.COM' WHERE id = 3", "users: 2 rows break idx_users_email", "id 2, 3"),
    ("UPDATE users SET name = repeat('x', 300) WHERE id = 1", "users: 1 row breaks valid_user_name", "id 1"),
    ("UPDATE users SET created_at = NULL WHERE id = 1", "users: 1 row breaks created_at (it is NULL)", "id 1"),
    ("UPDATE voice_clones SET s3_path = 'v.wav' WHERE id = 1", "voice_clones: 1 row breaks absolute_s3_path", "id 1"),
    ("UPDATE voice_clones SET s3_path = '/v.mp3' WHERE id = 1", "voice_clones: 1 row breaks wav_s3_path", "id 1"),
    (
        "UPDATE voice_clones SET s3_path = '/v/2.wav' WHERE id = 1",
        "voice_clones: 2 rows break idx_voice_clones_s3",
        "id 1, 2",
    ),
    (
        "UPDATE voice_clones SET owner_id = NULL WHERE id = 1",
        "voice_clones: 1 row breaks owner_id (it is NULL)",
        "id 1",
    ),
    (
        "UPDATE presentation_jobs SET s3_video_path = NULL WHERE status = 'COMPLETED'",
        "presentation_jobs: 3 rows break completed_jobs_have_video",
        "id 5, 12, 19",
    ),
    (
        "UPDATE presentation_jobs SET voice_clone_id = 1 + owner_id % 3 WHERE id = 4",
        "presentation_jobs: 1 row breaks presentation_jobs_own_voice_clone",
        "id 4",
    ),
]


@pytest.mark.parametrize(("sql", "said", "ids"), BROKEN)
def test_rows_that_break_a_rule_are_told_and_nothing_is_changed(
    postgresql: str, empty_url: str, sql: str, said: str, ids: str
) -> None:
    with connected(empty_url) as engine:
        fill(engine, current_models())
        with engine.begin() as connection:
            connection.execute(text(sql))
    with DatabaseManager(empty_url) as manager, manager.session() as database:
        before = catalog(database)
        broken = [str(rows) for rows in manager.migrations.adoption_plan().broken]
        assert any(one.startswith(said) and one.endswith(f": {ids}") for one in broken), broken
        with pytest.raises(MigrationError, match="things to mend first, such as: "):
            manager.migrations.adopt()
        assert catalog(database) == before


OWN = """
    ALTER TABLE users ADD COLUMN nickname text;
    UPDATE users SET nickname = 'n' || id;
    CREATE INDEX mine ON users (nickname);
    ALTER TABLE users ADD CONSTRAINT short_nickname CHECK (length(nickname) < 100);
    ALTER TABLE users ADD COLUMN plan text NOT NULL DEFAULT 'free';
    ALTER TABLE users ADD COLUMN voice_id int REFERENCES voice_clones (id) ON DELETE SET NULL;
    ALTER TABLE presentation_jobs ADD COLUMN retry_of int REFERENCES presentation_jobs (id);
    CREATE TABLE invoices (id serial PRIMARY KEY, user_id int NOT NULL REFERENCES users (id));
    INSERT INTO invoices (user_id) VALUES (1), (2);
    CREATE TABLE alembic_version (version_num text);
    CREATE UNIQUE INDEX one_voice ON voice_clones (owner_id);
    CREATE INDEX by_pattern ON users (name varchar_pattern_ops);
    CREATE INDEX by_hash ON users USING hash (name);
    CREATE INDEX by_case ON users (lower(name::text));
    CREATE INDEX of_failed ON presentation_jobs (id) WHERE error_message IS NOT NULL;
    CREATE INDEX with_size ON voice_clones (owner_id) INCLUDE (file_size);
    CREATE INDEX by_time ON presentation_jobs USING brin (created_at);
"""
KEPT = {
    "nickname", "mine", "short_nickname", "plan", "voice_id", "users_voice_id_fkey", "retry_of",
    "presentation_jobs_retry_of_fkey", "one_voice", "by_pattern", "by_hash", "by_case", "of_failed", "with_size",
    "by_time",
}  # fmt: skip


def run_sql(engine: Any, script: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(script))


def test_what_is_the_applications_own_stays(postgresql: str, empty_url: str) -> None:
    with connected(empty_url) as engine:
        fill(engine, improved_models())
        run_sql(engine, OWN)
    with DatabaseManager(empty_url) as manager, manager.session() as database:
        manager.migrations.adopt()
        nicknames = database.execute_sql("SELECT nickname FROM users ORDER BY id").fetchall()
        assert nicknames == [("n1",), ("n2",), ("n3",)]
        assert {one.name for one in manager.schema_differences()} == KEPT
        assert database.execute_sql("SELECT count(*) FROM invoices JOIN users ON users.id = user_id").fetchone() == (2,)
        assert User.create(name="Ada")


CONVENTION = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


def test_a_naming_convention_is_no_obstacle(postgresql: str, empty_url: str) -> None:
    models = improved_models(convention=CONVENTION)
    with connected(empty_url) as engine:
        fill(engine, models)
        before = all_rows(engine, models)
    with DatabaseManager(empty_url) as manager:
        manager.migrations.adopt()
        # A check that asks for less than the declared one, and has another name, stays beside it.
        (left,) = manager.schema_differences()
        assert (left.name, left.is_fault) == ("ck_presentation_jobs_positive_video_duration", False)
        require_same_rows(before)


OBSTACLES = [
    ("CREATE VIEW v AS SELECT status FROM presentation_jobs", "view v"),
    ("CREATE MATERIALIZED VIEW v AS SELECT created_at FROM users", "materialized view v"),
    (
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; CREATE TRIGGER t AFTER UPDATE "
        "OF status ON presentation_jobs FOR EACH ROW EXECUTE FUNCTION f()",
        "trigger t",
    ),
    ("CREATE POLICY p ON users USING (id > 0)", "policy p"),
    ("ALTER TABLE users ADD COLUMN g text GENERATED ALWAYS AS (lower(email)) STORED", "column g of table users"),
    ("CREATE FUNCTION f() RETURNS bigint BEGIN ATOMIC SELECT id FROM users; END", "function f()"),
    ("CREATE INDEX i ON presentation_jobs (id) WHERE status = 'PENDING'", "the index i of presentation_jobs"),
    (
        "ALTER TABLE presentation_jobs ADD CONSTRAINT c CHECK (status <> 'FAILED' OR error_message IS NOT NULL) NOT VALID",
        "the constraint c of presentation_jobs, which refers to the old status",
    ),
    ("CREATE TABLE o (email varchar REFERENCES users (email))", "another column than the id of users"),
    (
        "ALTER TABLE users ADD COLUMN plan text; UPDATE users SET plan = 'x'; ALTER TABLE users ALTER plan SET NOT NULL",
        "the column plan of users, which presgen has no value for",
    ),
]


@pytest.mark.parametrize(("sql", "said"), OBSTACLES)
def test_what_is_in_the_way_is_told_and_nothing_is_changed(
    postgresql: str, empty_url: str, sql: str, said: str
) -> None:
    with connected(empty_url) as engine:
        fill(engine, improved_models())
        run_sql(engine, sql)
    with DatabaseManager(empty_url) as manager, manager.session() as database:
        before = catalog(database)
        problems = manager.migrations.adoption_plan().problems
        assert any(problem.startswith("in the way is ") and said in problem for problem in problems), problems
        with pytest.raises(MigrationError, match="to mend first"):
            manager.migrations.adopt()
        assert catalog(database) == before


def test_an_adoption_that_fails_was_not_there(postgresql: str, empty_url: str) -> None:
    with connected(empty_url) as engine:
        fill(engine, improved_models())
        run_sql(engine, "CREATE TABLE other (x int); CREATE INDEX idx_users_name ON other (x)")
    with DatabaseManager(empty_url) as manager, manager.session() as database:
        before = catalog(database)
        with pytest.raises(
            MigrationError, match="the adoption failed and was undone: .*idx_users_name.* already exists"
        ):
            manager.migrations.adopt()
        assert catalog(database) == before
        assert manager.migrations.applied() == []


def test_it_waits_for_who_reads_and_is_tried_again(
    postgresql: str, empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("presgen.migrating.database.LOCK_TIMEOUT", "100ms")
    monkeypatch.setattr("presgen.migrating.apart._PAUSE_SECONDS", 0.05)
    with connected(empty_url) as engine:
        fill(engine, improved_models())
    with DatabaseManager(empty_url) as manager, closing(psycopg2.connect(empty_url)) as reader:
        reader.cursor().execute("SELECT count(*) FROM users")
        waiter = threading.Timer(0.5, reader.rollback)
        waiter.start()
        manager.migrations.adopt()
        waiter.join()
        assert manager.pending_migrations() == []


@pytest.mark.parametrize("change", ["SELECT 1", "ALTER TABLE users ALTER id DROP DEFAULT"])
def test_ids_go_on_where_they_were(postgresql: str, empty_url: str, change: str) -> None:
    models = current_models()
    with connected(empty_url) as engine:
        models.Base.metadata.create_all(engine)
        with engine.begin() as connection:
            for number in range(3):
                connection.execute(insert(models.User).values(name=f"User {number}", created_at=START))
        run_sql(engine, f"DELETE FROM users WHERE id = 3; {change}")
    with DatabaseManager(empty_url) as manager:
        manager.migrations.adopt()
        ada = User.create(name="Ada")
        assert ada.id == 4
        assert VoiceClone.create(name="v", s3_path="/v.wav", owner=ada).id == 1


def test_an_identity_becomes_one_that_takes_ids(postgresql: str, empty_url: str) -> None:
    with connected(empty_url) as engine:
        fill(engine, current_models())
        run_sql(
            engine,
            "ALTER TABLE users ALTER id DROP DEFAULT; DROP SEQUENCE users_id_seq; "
            "ALTER TABLE users ALTER id ADD GENERATED ALWAYS AS IDENTITY (START 10)",
        )
    with DatabaseManager(empty_url) as manager:
        manager.migrations.adopt()
        assert manager.schema_differences() == []
        assert User.create(name="Ada").id == 10
        User.insert(id=99, name="Grace").execute()


def test_columns_that_were_missing_say_what_the_rows_say(postgresql: str, empty_url: str) -> None:
    with connected(empty_url) as engine:
        fill(engine, current_models())
    with DatabaseManager(empty_url) as manager:
        manager.migrations.adopt()
        for job in PresentationJob.select():
            assert job.run_at == job.created_at == job.updated_at
            is_running = job.status in RUNNING
            assert (job.worker, job.attempt) == (("adopted", 1) if is_running else (None, 0))
        for user in User.select():
            assert user.updated_at == user.created_at
        sql = "SELECT reloptions FROM pg_class WHERE relname = 'presentation_jobs'"
        assert "fillfactor=70" in manager.database.execute_sql(sql).fetchone()[0]
        sql = "SELECT count(*) FROM pg_stats WHERE tablename = 'presentation_jobs' AND attname = 'status'"
        assert manager.database.execute_sql(sql).fetchone() == (1,)


def test_jobs_in_hand_are_taken_back(postgresql: str, empty_url: str) -> None:
    with connected(empty_url) as engine:
        fill(engine, improved_models())
    with DatabaseManager(empty_url) as manager:
        manager.migrations.adopt()
        running = PresentationJob.select().where(PresentationJob.status.in_(RUNNING)).count()
        assert running
        PresentationJob.reap()
        assert not PresentationJob.select().where(PresentationJob.status.in_(RUNNING)).exists()


ADDRESSES = [
    (" Ada@Example.com ", "ada@example.com"),
    ("Bob@xn--mnchen-3ya.de", "bob@m\u00fcnchen.de"),
    ("Zoe\u0308@Example.com", "zo\u00eb@example.com"),
    ("\u00c4RZTE@example.com", "\u00e4rzte@example.com"),
]


@pytest.mark.parametrize(("written", "stored"), ADDRESSES)
def test_addresses_are_found_as_presgen_looks_for_them(
    postgresql: str, empty_url: str, written: str, stored: str
) -> None:
    models = improved_models()
    with connected(empty_url) as engine:
        models.Base.metadata.create_all(engine)
        with engine.begin() as connection:
            row = {"name": "A", "email": written, "created_at": START, "updated_at": START, "is_active": True}
            connection.execute(insert(models.User).values(**row))
    with DatabaseManager(empty_url) as manager:
        manager.migrations.adopt()
        assert User.get(email=written.strip()).email == stored


@pytest.mark.parametrize(
    ("addresses", "said"),
    [
        (["a@@b@"], "users: 1 row breaks email (it is no address): id 1"),
        (["foo bar <foo@bar.com>"], "users: 1 row breaks email (it is no address): id 1"),
        (["bob@xn--mnchen-3ya.de", "Bob@m\u00fcnchen.de"], "users: 2 rows break idx_users_email"),
        (["a@example.com", "A@EXAMPLE.com"], "users: 2 rows break idx_users_email"),
    ],
)
def test_addresses_that_are_none_or_twice_are_told(
    postgresql: str, empty_url: str, addresses: list[str], said: str
) -> None:
    models = improved_models()
    with connected(empty_url) as engine:
        models.Base.metadata.create_all(engine)
        with engine.begin() as connection:
            for address in addresses:
                row = {"name": "A", "email": address, "created_at": START, "updated_at": START, "is_active": True}
                connection.execute(insert(models.User).values(**row))
    with DatabaseManager(empty_url) as manager:
        assert any(one.startswith(said) for one in manager.migrations.adoption_plan().problems)


NUMBERS = [
    ("voice_clones", "duration_seconds", "numeric(30, 15)", "123456789.012345678", False),
    ("voice_clones", "duration_seconds", "numeric(10, 2)", "12.25", 12.25),
    ("voice_clones", "duration_seconds", "real", "0.1", 0.1),
    ("voice_clones", "sample_rate", "double precision", "12.7", False),
    ("voice_clones", "sample_rate", "double precision", "44100", 44100),
    ("voice_clones", "sample_rate", "bigint", "3000000000", False),
    ("voice_clones", "file_size", "numeric", "1e30", False),
    ("voice_clones", "file_size", "integer", "7", 7),
]


@pytest.mark.parametrize(("table", "column", "kind", "value", "kept"), NUMBERS)
def test_numbers_are_kept_or_told(
    postgresql: str, empty_url: str, table: str, column: str, kind: str, value: str, kept: Any
) -> None:
    with connected(empty_url) as engine:
        fill(engine, improved_models())
        run_sql(
            engine,
            f"ALTER TABLE {table} ALTER {column} TYPE {kind}; UPDATE {table} SET {column} = {value} WHERE id = 2",
        )
    with DatabaseManager(empty_url) as manager:
        if kept is False:
            (problem,) = manager.migrations.adoption_plan().problems
            assert problem == f"{table}: 1 row breaks {column} (it does not fit): id 2"
        else:
            manager.migrations.adopt()
            assert getattr(VoiceClone.get_by_id(2), column) == kept


@pytest.mark.parametrize("kind", ["timestamp", "timestamp(3)", "timestamptz", "timestamptz(0)", "date"])
def test_moments_of_every_type(postgresql: str, empty_url: str, kind: str) -> None:
    with connected(empty_url) as engine:
        fill(engine, current_models())
        run_sql(engine, f"SET LOCAL timezone = 'Asia/Tokyo'; ALTER TABLE users ALTER created_at TYPE {kind}")
    with DatabaseManager(empty_url) as manager:
        manager.migrations.adopt(timezone="Asia/Tokyo")
        day = START.replace(hour=0, minute=0, second=0) if kind == "date" else START
        expected = day.replace(microsecond=0, tzinfo=timezone.utc) - timedelta(hours=9)
        assert User.get_by_id(1).created_at.replace(microsecond=0) == expected


def test_later_migrations_are_applied_afterwards(postgresql: str, empty_url: str, later: Path) -> None:
    with connected(empty_url) as engine:
        fill(engine, improved_models())
    with DatabaseManager(empty_url) as manager:
        migrator = Migrator(manager.database, later)
        migrator.adopt()
        assert migrator.pending() == []
        assert migrator.applied() == migrator.known()


def test_moments_are_those_of_the_time_zone_that_they_were_written_in(postgresql: str, empty_url: str) -> None:
    with connected(empty_url) as engine:
        fill(engine, current_models())
    with DatabaseManager(empty_url) as manager:
        with pytest.raises(ConfigurationError, match="knows no time zone 'Mars'"):
            manager.migrations.adoption_plan(timezone="Mars")
        manager.migrations.adopt(timezone="Europe/Berlin")
        assert User.get_by_id(1).created_at == START.replace(tzinfo=timezone.utc) - timedelta(hours=1)


USERS = "CREATE TABLE users (id serial PRIMARY KEY, name text); "
VOICES = "CREATE TABLE voice_clones (id serial PRIMARY KEY, name text, s3_path text, owner_id int); "
NOT_ADOPTABLE = [
    ("", "no tables users and voice_clones to adopt; .* presgen migrate"),
    (USERS, "no tables users and voice_clones to adopt"),
    (USERS + "CREATE TABLE voice_clones (id int, name text, s3_path text)", "voice_clones has no column owner_id"),
    ("CREATE TABLE users (id uuid PRIMARY KEY, name text); " + VOICES, "ids of users are uuid, and have to be whole"),
    (
        USERS + VOICES + "CREATE TABLE presentation_jobs (id int, s3_pptx_path text, owner_id int, voice_clone_id int)",
        "presentation_jobs has no column status",
    ),
]


@pytest.mark.parametrize(("script", "said"), NOT_ADOPTABLE)
def test_what_cannot_be_adopted_says_why(postgresql: str, empty_url: str, script: str, said: str) -> None:
    with DatabaseManager(empty_url) as manager:
        if script:
            manager.database.execute_sql(script)
        with pytest.raises(MigrationError, match=said):
            manager.migrations.adoption_plan()


def test_tables_without_moments_are_adopted(postgresql: str, empty_url: str) -> None:
    with DatabaseManager(empty_url) as manager:
        manager.database.execute_sql(USERS + VOICES + "INSERT INTO users (name) VALUES ('Ada')")
        manager.migrations.adopt()
        assert User.get().created_at == User.get().updated_at


def test_sqlite_is_not_adopted() -> None:
    with DatabaseManager("sqlite:///:memory:") as manager, pytest.raises(ConfigurationError, match="PostgreSQL"):
        manager.migrations.adopt()


def test_the_command_shows_its_plan_asks_and_adopts(postgresql: str, empty_url: str) -> None:
    def adopt(*arguments: str, typed: str = "") -> Any:
        return CliRunner().invoke(cli, ["--database", empty_url, "migrate", "adopt", *arguments], input=typed)

    with connected(empty_url) as engine:
        fill(engine, current_models())
        with engine.begin() as connection:
            connection.execute(text("UPDATE users SET name = NULL WHERE id = 2"))
    said = adopt("--plan")
    assert said.exit_code == 1
    assert "users: 1 row breaks name (it is NULL): id 2" in said.output
    with connected(empty_url) as engine, engine.begin() as connection:
        connection.execute(text("UPDATE users SET name = 'Grace' WHERE id = 2"))
    said = adopt("--plan")
    assert said.exit_code == 0
    assert "-- convert presentation_jobs" in said.output
    assert adopt(typed="n\n").exit_code != 0
    said = adopt(typed="y\n")
    assert said.exit_code == 0, said.output
    assert said.output.splitlines()[-1] == "adopted"
    with DatabaseManager(empty_url) as manager:
        assert manager.pending_migrations() == []
