"""`presgen migrate adopt` takes over what SQLAlchemy made and filled: every row is there, and the schema as declared."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from fixtures.sqlalchemy_models import JobStatus as Status
from fixtures.sqlalchemy_models import current_models, improved_models
from fixtures.sqlalchemy_rows import START, connected, fill
from sqlalchemy import select, text

from presgen import DatabaseManager, JobStatus, PresentationJob, User, VoiceClone, Worker
from presgen.cli import cli
from presgen.errors import ConfigurationError, MigrationError
from presgen.migrating.catalog import catalog

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
        assert not PresentationJob.select().where(PresentationJob.status == JobStatus.PENDING).exists()
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
    ("UPDATE users SET name = repeat('x', 300) WHERE id = 1", "users: 1 row breaks name (longer than 255)", "id 1"),
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
        with pytest.raises(MigrationError, match="broken by rows"):
            manager.migrations.adopt()
        assert catalog(database) == before


def test_what_is_the_applications_own_stays(postgresql: str, empty_url: str) -> None:
    own = """
        ALTER TABLE users ADD COLUMN nickname text;
        UPDATE users SET nickname = 'n' || id;
        CREATE INDEX mine ON users (nickname);
        ALTER TABLE users ADD CONSTRAINT short_nickname CHECK (length(nickname) < 100);
        CREATE TABLE invoices (id serial PRIMARY KEY, user_id int NOT NULL REFERENCES users (id));
        INSERT INTO invoices (user_id) VALUES (1), (2);
        CREATE TABLE alembic_version (version_num text);
        CREATE UNIQUE INDEX one_voice ON voice_clones (owner_id);
    """
    with connected(empty_url) as engine:
        fill(engine, improved_models())
        with engine.begin() as connection:
            connection.execute(text(own))
    with DatabaseManager(empty_url) as manager, manager.session() as database:
        manager.migrations.adopt()
        nicknames = database.execute_sql("SELECT nickname FROM users ORDER BY id").fetchall()
        assert nicknames == [("n1",), ("n2",), ("n3",)]
        assert {one.name for one in manager.schema_differences()} == {"nickname", "mine", "short_nickname", "one_voice"}
        assert database.execute_sql("SELECT count(*) FROM invoices JOIN users ON users.id = user_id").fetchone() == (2,)


def test_moments_are_those_of_the_time_zone_that_they_were_written_in(postgresql: str, empty_url: str) -> None:
    with connected(empty_url) as engine:
        fill(engine, current_models())
    with DatabaseManager(empty_url) as manager:
        with pytest.raises(ConfigurationError, match="knows no time zone 'Mars'"):
            manager.migrations.adoption_plan(timezone="Mars")
        manager.migrations.adopt(timezone="Europe/Berlin")
        assert User.get_by_id(1).created_at == START.replace(tzinfo=timezone.utc) - timedelta(hours=1)


def test_what_cannot_be_adopted_says_why(postgresql: str, empty_url: str) -> None:
    with DatabaseManager(empty_url) as manager:
        with pytest.raises(MigrationError, match="no table users to adopt; .* presgen migrate"):
            manager.migrations.adopt()
        manager.database.execute_sql("CREATE TABLE users (id serial PRIMARY KEY, name text)")
        with pytest.raises(MigrationError, match="users has no column created_at|nothing can stand in"):
            manager.database.execute_sql("CREATE TABLE voice_clones (id serial PRIMARY KEY, name text)")
            manager.migrations.adopt()
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
