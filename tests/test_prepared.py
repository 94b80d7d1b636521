"""Prepared statements: what a connection keeps, how it is planned, and what happens when the server knows no more of it."""

from __future__ import annotations

import copy
import logging
import math
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import Context, copy_context
from typing import Any

import psycopg2
import pytest
from test_compiled import VALUES, one_of_each, raw

from presgen import DatabaseConfig, DatabaseManager, JobStatus, PresentationJob, User, VoiceClone, prepared
from presgen.errors import ConstraintViolation, PresgenError
from presgen.models import found

REFUSING = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'not today' USING ERRCODE = 'feature_not_supported'; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION refuse()
"""
KEPT = "SELECT name, statement, generic_plans + custom_plans FROM pg_prepared_statements ORDER BY prepare_time"


def kept(db: DatabaseManager) -> list[tuple[str, str, int]]:
    """What the session's connection keeps: name, text, and how often it has been run."""
    return list(db.database.execute_sql(KEPT).fetchall())


def elsewhere(url: str, statement: str) -> None:
    """Run a statement on a connection of its own."""
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement)


@pytest.fixture
def session(postgresql: str, db: DatabaseManager) -> Iterator[DatabaseManager]:
    """A session, whose connection is one and has kept nothing yet."""
    db.database.close_all()
    with db.session():
        yield db


@pytest.fixture
def for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count runs, and keep statements, to the end of the test."""
    monkeypatch.setattr(prepared, "KEPT_SECONDS", math.inf)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch, for_good: None) -> None:
    """Keep statements from their first use on, and to the end."""
    monkeypatch.setattr(prepared, "USES_BEFORE", 0)


def test_what_is_run_often_is_kept(session: DatabaseManager, user: User, for_good: None) -> None:
    get = User.get_by_id
    for _ in range(prepared.USES_BEFORE):
        get(user.id)
    assert not any('FROM "users"' in statement for _, statement, _ in kept(session))
    for _ in range(20):
        assert get(user.id).name == user.name
    ((_, statement, uses),) = [row for row in kept(session) if 'FROM "users"' in row[1]]
    assert statement.startswith("PREPARE presgen_")
    assert statement.endswith('("t1"."id" = $1)')
    assert uses >= 20


def test_a_statement_that_is_run_once_is_sent_as_it_is(session: DatabaseManager, user: User) -> None:
    user.name = user.name.upper()
    user.save(only=[User.name])
    assert not any("UPDATE" in statement for _, statement, _ in kept(session))


def test_what_has_a_plan_for_each_value_is_sent_as_it_is(session: DatabaseManager, user: User, at_once: None) -> None:
    assert User.get(User.email == user.email) == user
    assert len(kept(session)) == 1
    assert User.get(User.name == user.name) == user
    assert User.get(User.id == user.id, User.name == user.name) == user
    assert len(kept(session)) == 1
    assert PresentationJob.get_or_none(id=1, priority=2**40) is None  # more than its column holds


def test_logs_and_hooks_see_the_statement_itself(
    session: DatabaseManager, user: User, statements: list[str], at_once: None, caplog: pytest.LogCaptureFixture
) -> None:
    session.database.slow_query_seconds = -1.0
    statements.clear()
    User.get_by_id(user.id)
    assert [statement.partition(" ")[0] for statement in statements] == ["SELECT"]
    assert 'SELECT "t1"."id", "t1"."name"' in caplog.text
    assert "EXECUTE" not in caplog.text


def test_in_a_transaction_statements_are_sent_as_they_are(session: DatabaseManager, user: User, at_once: None) -> None:
    with session.transaction():
        User.get_by_id(user.id)
        assert kept(session) == []
    User.get_by_id(user.id)
    ((_, _, uses),) = kept(session)
    with session.transaction():
        User.get_by_id(user.id)
        assert [row[2] for row in kept(session)] == [uses]


@pytest.mark.parametrize(("model", "name", "value"), VALUES)
def test_a_value_is_stored_as_without(
    session: DatabaseManager, user: User, voice: VoiceClone, at_once: None, model: Any, name: str, value: Any
) -> None:
    def stored(**options: Any) -> tuple[Any, ...]:
        row = model(**{**one_of_each(user, voice)[model], **options})
        row.save()
        if not options:
            setattr(row, name, value)
            row.save()
        found = model.get_by_id(row.id)
        assert found.__data__[name] == model._meta.fields[name].clean(value)
        result = raw(model, row.id)
        model.delete_by_id(row.id)
        return result

    with_it = stored(), stored(**{name: value})
    assert len([row for row in kept(session) if row[2]]) >= 3
    session.database.may_prepare = False
    assert (stored(), stored(**{name: value})) == with_it


def test_a_job_lives_its_life(session: DatabaseManager, user: User, voice: VoiceClone, at_once: None) -> None:
    for _ in range(8):
        PresentationJob.enqueue(owner=user, voice_clone=voice, s3_pptx_path="/a.pptx", idempotency_key="one")
    assert PresentationJob.select().count() == 1
    for stage in range(7):  # beyond the five runs after which PostgreSQL may stop to plan
        (job,) = PresentationJob.claim(f"w{stage}", 1)
        job.heartbeat(progress=0.5, checkpoint={"slide": stage})
        job.advance(JobStatus.SYNTHESIZING_AUDIO, slides_count=3) if stage == 0 else job.keep_alive()
        job.release()
    (job,) = PresentationJob.claim("last", 1)
    assert (job.status, job.checkpoint, job.worker) == (JobStatus.SYNTHESIZING_AUDIO, {"slide": 6}, "last")
    job.complete(s3_video_path="/v.mp4")
    assert PresentationJob.get_by_id(job.id).status is JobStatus.COMPLETED
    assert len(job.history()) == 17
    assert any("SKIP LOCKED" in statement and uses == 8 for _, statement, uses in kept(session))


def test_the_plan_of_any_claim_rests_on_the_index_of_claimable_jobs(
    session: DatabaseManager, user: User, voice: VoiceClone, at_once: None
) -> None:
    """The plan that is made once knows the status that the index is for, and how many jobs are wanted."""
    row = {"owner": user, "voice_clone": voice, "s3_pptx_path": "/x.pptx"}
    PresentationJob.enqueue_many([row] * 3000)
    session.database.execute_sql("ANALYZE presentation_jobs")
    for job in PresentationJob.claim("w", 3):
        job.complete(s3_video_path="/v.mp4")
    PresentationJob.reap()
    execute = session.database.execute_sql
    execute("SET plan_cache_mode = force_generic_plan")

    def plan(part: str, arguments: str = "") -> str:
        (name,) = [name for name, statement, _ in kept(session) if part in statement]
        return "\n".join(line for (line,) in execute(f"EXPLAIN EXECUTE {name}{arguments}").fetchall())

    claim = plan("SKIP LOCKED", "('w', 60)")
    assert "idx_presentation_jobs_claimable" in claim
    assert "idx_presentation_jobs_running" in claim
    assert "Seq Scan" not in claim
    assert "idx_presentation_jobs_running" in plan("AS SELECT")


def claims_kept(db: DatabaseManager) -> list[int]:
    """How often the kept claims have been run."""
    return [uses for _, statement, uses in kept(db) if "SKIP LOCKED" in statement]


def test_what_finds_nothing_is_planned_each_time(
    session: DatabaseManager, user: User, voice: VoiceClone, for_good: None
) -> None:
    """Or a queue that has been empty for long is read as a whole once it is full, by the plan for few rows."""
    for _ in range(20):
        assert PresentationJob.claim("w", 1) == []
    assert claims_kept(session) == []
    row = {"owner": user, "voice_clone": voice, "s3_pptx_path": "/x.pptx"}
    PresentationJob.enqueue_many([row] * 20)
    for _ in range(20):
        assert len(PresentationJob.claim("w", 1)) == 1
    assert claims_kept(session) == [20 - prepared.USES_BEFORE]
    for _ in range(10):
        assert PresentationJob.claim("w", 1) == []
    assert claims_kept(session) == [20 - prepared.USES_BEFORE + 1]  # the first of them found nothing


def test_only_what_is_run_often_is_kept_and_planned_anew_now_and_then(
    session: DatabaseManager, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(prepared, "monotonic", lambda: now[0])

    def uses_after(seconds: float, runs: int) -> list[int]:
        now[0] += seconds
        for _ in range(runs):
            assert User.get_by_id(user.id) == user
        return [uses for _, statement, uses in kept(session) if "SELECT" in statement]

    for _ in range(3):
        assert uses_after(prepared.KEPT_SECONDS, 5) == []  # five in a second are not often
    assert uses_after(0.1, 3) == [3]
    assert uses_after(prepared.KEPT_SECONDS - 0.1, 4) == [7]
    assert uses_after(0.2, 5) == [7]  # as it is
    assert uses_after(0.1, 1) == [1]  # anew


def test_a_column_that_changes_its_type_ends_nothing(url: str, postgresql: str, at_once: None) -> None:
    with DatabaseManager(url) as db, db.session():
        user = User.create(name="Ada", email="ada@example.org")
        assert User.get_by_id(user.id) == user
        elsewhere(url, "ALTER TABLE users ALTER COLUMN name TYPE text")
        for _ in range(3):
            assert User.get_by_id(user.id).name == "Ada"
        user.name = "Grace"
        user.save()
        assert db.database.may_prepare
        assert [uses for _, statement, uses in kept(db) if "SELECT" in statement] == [2]


def test_an_error_that_looks_like_an_outdated_plan_is_the_statements_own(
    url: str, postgresql: str, at_once: None
) -> None:
    with DatabaseManager(url) as db, db.session():
        user = User.create(name="Ada")
        elsewhere(url, REFUSING)
        for _ in range(2):
            user.name = user.name[::-1]
            with pytest.raises(PresgenError, match="not today"):
                user.save()
        assert db.database.may_prepare
        assert User.get_by_id(user.id).name == "Ada"


def test_what_the_server_knows_already_is_kept(session: DatabaseManager, user: User, at_once: None) -> None:
    """As after an interrupt between its answer and our note of it."""
    assert User.get_by_id(user.id) == user
    session.database.connection()._kept.clear()
    for _ in range(3):
        assert User.get_by_id(user.id) == user
    assert session.database.may_prepare
    assert [uses for _, _, uses in kept(session)] == [4]


def test_a_parameter_that_changes_its_type_ends_nothing(url: str, postgresql: str, at_once: None) -> None:
    with DatabaseManager(url) as db, db.session():
        user = User.create(name="Ada", password_hash="a")
        user.password_hash = "b"
        user.save()
        elsewhere(
            url,
            "CREATE TYPE mood AS ENUM ('a', 'b', 'c');"
            "ALTER TABLE users ALTER COLUMN password_hash TYPE mood USING password_hash::mood",
        )
        for value in "cac":
            user.password_hash = value
            user.save()
        assert User.get_by_id(user.id).password_hash == "c"


@pytest.mark.parametrize("interference", ["DISCARD ALL", "DEALLOCATE ALL"])
def test_a_session_that_is_not_ours_alone_keeps_no_more(
    session: DatabaseManager, user: User, at_once: None, caplog: pytest.LogCaptureFixture, interference: str
) -> None:
    """As behind a pooler of transactions that nobody told of, where a statement finds another session than its own."""
    assert User.get_by_id(user.id) == user
    session.database.execute_sql(interference)
    caplog.set_level(logging.WARNING, logger="database")
    assert User.get_by_id(user.id) == user
    assert "DATABASE_PGBOUNCER" in caplog.text
    caplog.clear()
    User.create(name="Grace")
    assert caplog.text == ""
    assert kept(session) == []


def test_what_hooks_are_given_can_be_copied(session: DatabaseManager, user: User, statements: list[str]) -> None:
    statements.clear()
    User.get_by_id(user.id)
    (statement,) = statements
    assert pickle.loads(pickle.dumps(statement)) == copy.deepcopy(statement) == statement


@pytest.mark.parametrize("settings", [{"pgbouncer": True}, {"pool_reset": "discard"}])
def test_nothing_is_kept_where_sessions_do_not_last(
    url: str, postgresql: str, at_once: None, settings: dict[str, Any]
) -> None:
    with DatabaseManager(DatabaseConfig(url, **settings)) as db, db.session():
        user = User.create(name="Ada")
        User.get_by_id(user.id)
        assert kept(db) == []


def test_a_connection_keeps_a_bounded_number(
    session: DatabaseManager, user: User, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "KEPT_MAX", 2)
    now = [0.0]
    monkeypatch.setattr(prepared, "monotonic", lambda: now[0])
    monkeypatch.setattr(prepared, "KEPT_SECONDS", 10.0)
    User.get_by_id(user.id)
    for name in ("email", "password_hash", "is_active"):
        setattr(user, name, {"email": "a@example.org", "password_hash": "a", "is_active": False}[name])
        user.save()
    before = [name for name, _, _ in kept(session)]
    assert len(before) == 2
    assert not User.get_by_id(user.id).is_active
    now[0] = 11.0
    user.name = "Grace"
    user.save()  # and makes room for itself
    ((name, _, _),) = kept(session)
    assert name not in before


def test_a_statement_that_is_compiled_anew_is_another_one(session: DatabaseManager, user: User, at_once: None) -> None:
    assert User.get_by_id(user.id) == user
    found._having._built[session.database].clear()
    assert User.get_by_id(user.id) == user
    assert User.get(User.id == user.id) == user
    assert session.database.may_prepare
    assert [uses for _, _, uses in kept(session)] == [1, 2]


def test_an_error_of_the_statement_is_its_own_and_happens_once(
    session: DatabaseManager, at_once: None, statements: list[str]
) -> None:
    User.create(name="Ada", email="a@example.org")
    statements.clear()
    for _ in range(3):
        with pytest.raises(ConstraintViolation, match="idx_users_email"):
            User.create(name="Grace", email="a@example.org")
    assert len(statements) == 3
    assert session.database.may_prepare
    (uses,) = [uses for _, statement, uses in kept(session) if "INSERT" in statement]
    assert uses == 4


def test_another_connection_keeps_its_own(session: DatabaseManager, user: User, at_once: None) -> None:
    User.get_by_id(user.id)
    session.database.execute_sql("SELECT 1")
    elsewhere(session.config.url, f"SELECT pg_terminate_backend({session.database.connection().info.backend_pid})")
    with pytest.raises(Exception, match="connection"):
        User.get_by_id(user.id)
    assert User.get_by_id(user.id) == user
    assert len(kept(session)) == 1


def test_threads_that_share_a_session(
    session: DatabaseManager, user: User, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "KEPT_SECONDS", 0.0)  # each statement takes the one before away

    def work(context: Context) -> None:
        for _ in range(50):
            assert context.run(User.get_by_id, user.id) == user

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, [copy_context() for _ in range(4)]))
    assert session.database.may_prepare


def test_threads_with_connections_of_their_own(
    postgresql: str, db: DatabaseManager, at_once: None, user: User, voice: VoiceClone
) -> None:
    PresentationJob.enqueue_many([{"owner": user, "voice_clone": voice, "s3_pptx_path": "/x.pptx"}] * 200)

    def work(number: int) -> int:
        done = 0
        while jobs := PresentationJob.claim(f"w{number}", 2):
            for job in jobs:
                job.complete(s3_video_path="/v.mp4")
                done += 1
        return done

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(work, range(8))) == 200
    assert PresentationJob.select().where(PresentationJob.attempt == 1).count() == 200
