"""Lists: what is in them, in which order, in how many statements, on which index."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pytest

from presgen import DatabaseManager, JobStatus, PresentationJob, User, ValidationError, VoiceClone, queries


@pytest.fixture
def crowd(db: DatabaseManager) -> list[User]:
    """Three users with 0, 1 and 2 voices; the last has 25 jobs, five of them of the same moment."""
    users = [User.create(name=f"u{i}") for i in range(3)]
    for index, user in enumerate(users):
        for number in range(index):
            VoiceClone.create(name=f"v{number}", s3_path=f"/{index}/{number}.wav", owner=user)
    row = {"owner": users[2], "voice_clone": users[2].voice_clones.get(), "s3_pptx_path": "/x.pptx"}
    PresentationJob.enqueue_many([row] * 25)
    for job in PresentationJob.select():
        moment = datetime(2026, 1, 1, 0, min(job.id, 20), tzinfo=timezone.utc)
        PresentationJob.update(created_at=moment).where(PresentationJob.id == job.id).execute()
    return users


def test_users_come_with_their_voices_in_two_statements(crowd: list[User], statements: list[str]) -> None:
    statements.clear()
    users = queries.get_users_with_voice_clones()
    assert [(user.name, [voice.name for voice in user.voice_clones]) for user in users] == [
        ("u0", []),
        ("u1", ["v0"]),
        ("u2", ["v0", "v1"]),
    ]
    assert all(voice.owner.name == user.name for user in users for voice in user.voice_clones)
    assert len(statements) == 2


def test_a_page_of_jobs_with_owners_is_one_statement(crowd: list[User], statements: list[str]) -> None:
    statements.clear()
    jobs = queries.get_presentation_jobs(limit=10)
    assert [job.owner.name for job in jobs] == ["u2"] * 10
    assert len(statements) == 1


def test_skip_and_cursor_give_the_same_pages(crowd: list[User]) -> None:
    everything = queries.get_presentation_jobs()
    assert [(job.created_at, job.id) for job in everything] == sorted(
        ((job.created_at, job.id) for job in everything), reverse=True
    )
    by_skip = [queries.get_presentation_jobs(skip=skip, limit=7) for skip in range(0, 28, 7)]
    assert [job for page in by_skip for job in page] == everything
    for after in (lambda job: job, lambda job: job.cursor):
        pages, last = [], None
        while page := queries.get_presentation_jobs(limit=7, after=last and after(last)):
            pages.append(page)
            last = page[-1]
        assert pages == by_skip


def test_pages_can_be_narrowed_and_leave_out_the_deleted(crowd: list[User]) -> None:
    deleted, done = queries.get_presentation_jobs(limit=2)
    deleted.deleted_at = datetime.now(timezone.utc)
    deleted.save()
    done.status, done.s3_video_path = JobStatus.COMPLETED, "/v.mp4"
    done.save()
    assert queries.get_presentation_jobs(status=JobStatus.COMPLETED) == [done]
    assert queries.get_presentation_jobs(status="completed", owner=crowd[2]) == [done]
    assert queries.get_presentation_jobs(owner=crowd[1].id) == []
    assert len(queries.get_presentation_jobs()) == 24


@pytest.mark.parametrize(
    "arguments",
    [
        {"skip": -1},
        {"skip": 1.5},
        {"skip": True},
        {"limit": -1},
        {"limit": queries.LIMIT_MAX + 1},
        {"limit": "5"},
        {"after": "nonsense"},
        {"after": "2026-01-01~5"},
        {"after": "nonsense~5"},
        {"after": 5},
        {"after": "2026-01-01T00:00:00+00:00~9999999999999999999"},
        {"after": "2026-01-01T00:00:00~5"},
        {"status": "done"},
        {"owner": "1"},
    ],
)
def test_bad_arguments_are_refused(db: DatabaseManager, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        queries.get_presentation_jobs(**arguments)
    assert caught.value.field == next(iter(arguments)) or "after" in arguments


def test_a_page_of_none(crowd: list[User]) -> None:
    assert queries.get_presentation_jobs(limit=0) == []


def test_users_see_their_own_rows_only(crowd: list[User], statements: list[str]) -> None:
    statements.clear()
    assert [len(queries.get_user_voice_clones(user.id)) for user in crowd] == [0, 1, 2]
    assert [len(queries.get_user_presentation_jobs(user.id)) for user in crowd] == [0, 0, 25]
    assert len(statements) == 6
    assert queries.get_user_presentation_jobs(crowd[2].id) == queries.get_presentation_jobs()
    for query in (queries.get_user_voice_clones, queries.get_user_presentation_jobs):
        with pytest.raises(ValidationError):
            query("1 OR 1=1")  # type: ignore[arg-type]


@pytest.fixture
def many(db: DatabaseManager, user: User, voice: VoiceClone) -> DatabaseManager:
    """20,000 jobs, most of them finished, as in a database that has been at work for a while."""
    with db.session() as database:
        # A COMPLETED job in every twenty is left pending, one in a thousand is running.
        PresentationJob.enqueue_many(
            {"owner": user, "voice_clone": voice, "s3_pptx_path": f"/{i}.pptx"} for i in range(20_000)
        )
        database.execute_sql("UPDATE presentation_jobs SET status = 'cancelled' WHERE id / 20 * 20 <> id")
        database.execute_sql(
            "UPDATE presentation_jobs SET status = 'processing_slides', worker = 'w', lease_expires_at = created_at "
            "WHERE id / 1000 * 1000 = id"
        )
        database.execute_sql("ANALYZE")
    return db


def test_hot_statements_use_their_indexes(many: DatabaseManager) -> None:
    job = PresentationJob
    seen: list[Any] = []
    many.database.query_hooks.append(lambda event: seen.append((event.sql, event.params)))

    def plans(call: Callable[[], Any]) -> str:
        seen.clear()
        call()
        statements = list(seen)
        explain = "EXPLAIN QUERY PLAN " if many.config.backend == "sqlite" else "EXPLAIN "
        rows = [row for sql, parameters in statements for row in many.database.execute_sql(explain + sql, parameters)]
        return "\n".join(str(row[-1]) for row in rows)

    last = queries.get_presentation_jobs(limit=5000)[-1]
    assert "idx_presentation_jobs_created_at" in plans(lambda: queries.get_presentation_jobs(limit=50, after=last))
    assert "idx_presentation_jobs_created_at" in plans(lambda: queries.get_presentation_jobs(limit=50))
    claim = plans(lambda: job.claim("w1"))
    assert "idx_presentation_jobs_claimable" in claim
    # By the statistics; PostgreSQL 18 skips over owners, of whom there is one.
    assert any(f"idx_presentation_jobs_{name}" in claim for name in ("running", "status", "owner_status"))
    assert "SCAN t1" not in claim.splitlines()  # as SQLite says it; with an index, the line goes on
    assert "Seq Scan on presentation_jobs" not in claim


def test_rows_are_found_by_their_indexes(many: DatabaseManager, user: User, voice: VoiceClone) -> None:
    """Among enough other users, with jobs and voices of their own."""
    others = [{"name": f"u{number}", "email": f"u{number}@example.com"} for number in range(2_000)]
    User.insert_many(others).execute()
    ids = [number for (number,) in User.select(User.id).where(User.id != user.id).tuples()]
    clones = [{"name": "v", "s3_path": f"/{number}.wav", "owner": number} for number in ids]
    VoiceClone.insert_many(clones).execute()
    by_owner = {clone.owner_id: clone.id for clone in VoiceClone.select()}
    rows = ({"owner": number, "voice_clone": by_owner[number], "s3_pptx_path": "/x.pptx"} for number in ids * 10)
    PresentationJob.enqueue_many(rows)
    many.database.execute_sql("ANALYZE")
    seen: list[Any] = []
    many.database.query_hooks.append(lambda event: seen.append((event.sql, event.params)))
    is_sqlite = many.config.backend == "sqlite"
    key = "INTEGER PRIMARY KEY" if is_sqlite else "{}_pkey"
    for call, index in (
        (lambda: PresentationJob.get_by_id(77), key.format("presentation_jobs")),
        (lambda: User.get(email="u7@example.com"), "idx_users_email"),
        # That of the composite key, (owner_id, id), which gives them in their order.
        (lambda: queries.get_user_voice_clones(ids[7]), "autoindex_voice_clones" if is_sqlite else "owner_id_id"),
        (lambda: queries.get_user_presentation_jobs(ids[7]), "idx_presentation_jobs_owner_status"),
        (lambda: PresentationJob.get_by_id(77).history(), "idx_job_events_job"),
    ):
        seen.clear()
        call()
        sql, parameters = seen[-1]
        explain = "EXPLAIN QUERY PLAN " if is_sqlite else "EXPLAIN "
        plan = "\n".join(str(row[-1]) for row in many.database.execute_sql(explain + sql, parameters).fetchall())
        assert index in plan, plan


def test_a_claim_never_takes_more_than_its_limit(many: DatabaseManager) -> None:
    if many.config.backend != "sqlite":
        many.database.execute_sql("SET enable_hashjoin = off")
        many.database.execute_sql("SET enable_mergejoin = off")
    assert len(PresentationJob.claim("w1", limit=3)) == 3
    many.database.close_all()
