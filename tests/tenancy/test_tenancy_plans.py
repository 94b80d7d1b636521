"""Under row-level security the hot statements stay on their indexes."""

from __future__ import annotations

import pytest
from fixtures.tenants import Tenancy

from presgen import DatabaseManager, PresentationJob, User, VoiceClone, queries

USERS, JOBS = 4_000, 40_000
_ROWS = (
    "INSERT INTO users (name, email) SELECT 'u' || n, 'u' || n || '@x.org' FROM generate_series(1, {users}) AS n",
    "INSERT INTO voice_clones (name, s3_path, owner_id) SELECT 'v', '/' || n || '.wav', n FROM generate_series(1, {users}) AS n",
    "INSERT INTO presentation_jobs (owner_id, voice_clone_id, s3_pptx_path, status, created_at) "
    "SELECT 1 + n % {users}, 1 + n % {users}, '/x.pptx', CASE WHEN n % 100 = 0 THEN 'pending' ELSE 'cancelled' END, "
    "now() - n * interval '1 minute' FROM generate_series(1, {jobs}) AS n",
    "ANALYZE",
)


@pytest.fixture
def many(tenancy: Tenancy) -> Tenancy:
    for statement in _ROWS:
        tenancy.admin(statement.format(users=USERS, jobs=JOBS))
    return tenancy


def plans(manager: DatabaseManager, statements: list[tuple[str, tuple[object, ...]]]) -> str:
    lines = []
    for sql, values in statements:
        lines += [line for (line,) in manager.database.execute_sql(f"EXPLAIN {sql}", values).fetchall()]
    return "\n".join(lines)


def run_of(manager: DatabaseManager, work: object) -> list[tuple[str, tuple[object, ...]]]:
    """The statements that a piece of work sends."""
    sent: list[tuple[str, tuple[object, ...]]] = []

    def hook(event: object) -> None:
        sent.append((event.sql, tuple(event.params or ())))  # type: ignore[attr-defined]

    manager.database.query_hooks.append(hook)
    work()  # type: ignore[operator]
    manager.database.query_hooks.remove(hook)
    return sent


def test_a_users_lists_and_rows_are_read_by_their_indexes(many: Tenancy) -> None:
    with many.open("app") as app, app.acting_as(7):
        for work, index in (
            (lambda: queries.get_presentation_jobs(limit=20), "idx_presentation_jobs_owner_created_at"),
            (lambda: queries.owned_by(7).get_presentation_jobs(limit=20), "idx_presentation_jobs_owner_created_at"),
            (lambda: queries.get_user_presentation_jobs(7), "idx_presentation_jobs_owner"),
            (lambda: queries.get_user_voice_clones(7), "Index Cond: (owner_id = 7)"),
            (lambda: User.get_by_id(7), "users_pkey"),
            (lambda: VoiceClone.get_by_id(7), "voice_clones"),
            (lambda: PresentationJob.get_by_id(6), "presentation_jobs_pkey"),
        ):
            sent = run_of(app, work)
            assert len(sent) == 1
            plan = plans(app, sent)
            assert index in plan, plan
            assert "Seq Scan on presentation_jobs" not in plan, plan
        page = queries.get_presentation_jobs(limit=20)
        assert {job.owner_id for job in page} == {7}
        plan = plans(app, run_of(app, lambda: queries.get_presentation_jobs(limit=20, after=page[-1])))
        assert "idx_presentation_jobs_owner_created_at" in plan, plan
        assert "ROW(" in plan, plan


def test_a_jobs_history_reads_no_other_job(many: Tenancy) -> None:
    with many.open("app") as app, app.acting_as(7):
        job = PresentationJob.select().first()
        plan = plans(app, run_of(app, job.history))
    assert "presentation_jobs_pkey" in plan, plan
    assert "hashed SubPlan" not in plan, plan


def test_workers_claim_and_look_after_dead_letters_by_their_indexes(many: Tenancy) -> None:
    with many.open("worker") as worker:
        for work in (lambda: PresentationJob.claim("w"), queries.get_dead_letters):
            plan = plans(worker, run_of(worker, work))
            assert "Seq Scan on presentation_jobs" not in plan, plan


def test_a_user_is_found_by_the_index_on_emails(many: Tenancy) -> None:
    (body,) = many.admin("SELECT prosrc FROM pg_proc WHERE proname = 'presgen_find_user'")[0]
    with many.open("worker") as worker:
        plan = plans(worker, [(body.replace("%", "%%").replace("key", "'u7@x.org'"), ())])
    assert "idx_users_email" in plan, plan
