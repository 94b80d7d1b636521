"""Tenancy: everybody sees their own rows only, whoever acts for nobody sees none, and workers see all."""

from __future__ import annotations

import math

import pytest
from fixtures.tenants import Tenancy

from presgen import DatabaseManager, JobEvent, JobStatus, PresentationJob, User, VoiceClone, Worker, prepared, queries
from presgen.errors import ConstraintViolation, StatementInvalid
from presgen.migrating.catalog import catalog

COUNTED = (User, VoiceClone, PresentationJob, JobEvent)


def seen() -> tuple[int, ...]:
    return tuple(model.select().count() for model in COUNTED)


def test_who_acts_for_nobody_sees_nothing_and_writes_nothing(app: DatabaseManager) -> None:
    assert seen() == (0, 0, 0, 0)
    assert User.update(name="Eve").execute() == 0
    assert PresentationJob.delete().execute() == 0
    with pytest.raises(StatementInvalid, match="users"):
        User.create(name="Eve")
    with app.acting_as(actor="support"):
        assert seen() == (0, 0, 0, 0)


def test_who_acts_for_a_user_sees_the_users_rows_alone(app: DatabaseManager, ada: int, bob: int) -> None:
    for user, name in ((ada, "Ada"), (bob, "Bob")):
        with app.acting_as(user):
            assert seen() == (1, 1, 1, 1)
            assert [row.name for row in User.select()] == [name]
            assert {row.owner_id for row in VoiceClone.select()} == {user}
            assert {event.job.owner_id for event in JobEvent.select()} == {user}
            (job,) = queries.get_presentation_jobs()
            assert (job.owner.name, [event.to_status for event in job.history()]) == (name, [JobStatus.CANCELLED])
    assert seen() == (0, 0, 0, 0)


def test_nobody_elses_rows_can_be_written(app: DatabaseManager, ada: int, bob: int) -> None:
    with app.acting_as(bob):
        bobs_voice, bobs_job = VoiceClone.get(), PresentationJob.get()
    with app.acting_as(ada):
        adas_job = PresentationJob.get()
        assert User.update(name="Eve").where(User.id == bob).execute() == 0
        assert bobs_voice.delete_instance() == 0
        with pytest.raises(PresentationJob.DoesNotExist):
            bobs_job.retry()
        for write in (
            lambda: VoiceClone.create(name="x", s3_path="/x.wav", owner=bob),
            lambda: PresentationJob.enqueue(owner=bob, voice_clone=bobs_voice, s3_pptx_path="/x.pptx"),
            lambda: (
                PresentationJob.update(owner=bob, voice_clone=bobs_voice).where(PresentationJob.owner == ada).execute()
            ),
            lambda: User.update(id=bob + 100).where(User.id == ada).execute(),
            lambda: User.create(name="Eve"),
        ):
            with pytest.raises(StatementInvalid, match="row-level security.*; write it inside manager.acting_as"):
                write()
        assert PresentationJob.get().id == adas_job.id


def test_a_job_cannot_name_another_users_voice(app: DatabaseManager, ada: int, bob: int) -> None:
    with app.acting_as(bob):
        voice = VoiceClone.get()
    with app.acting_as(ada):
        row = {"owner": ada, "voice_clone": voice, "s3_pptx_path": "/x.pptx"}
        for write in (
            lambda: PresentationJob.enqueue(**row),
            lambda: PresentationJob.create(**row),
            lambda: PresentationJob.enqueue_many([row]),
            lambda: PresentationJob.update(voice_clone=voice).execute(),
        ):
            with pytest.raises(ConstraintViolation) as refused:
                write()
            assert refused.value.constraint == "presentation_jobs_own_voice_clone"


def test_jobs_are_enqueued_as_ever(app: DatabaseManager, ada: int) -> None:
    with app.acting_as(ada):
        row = {"owner": ada, "voice_clone": VoiceClone.get(), "s3_pptx_path": "/x.pptx"}
        assert PresentationJob.enqueue_many(row for _ in range(1201)) == 1201
        one, again = (PresentationJob.enqueue(**row, idempotency_key="once") for _ in range(2))
        assert one.id == again.id
        with pytest.raises(ConstraintViolation):
            PresentationJob.enqueue_many([row, {**row, "idempotency_key": "once"}])
        voice, is_new = VoiceClone.get_or_create(name="new", defaults={"s3_path": "/new.wav", "owner": ada})
        assert (is_new, VoiceClone.get_or_create(name="new")) == (True, (voice, False))
        assert seen() == (1, 2, 1203, 1)


def test_an_idempotency_key_is_each_owners_own(app: DatabaseManager, ada: int, bob: int) -> None:
    jobs = []
    for user in (ada, bob):
        with app.acting_as(user):
            row = {"owner": user, "voice_clone": VoiceClone.get(), "s3_pptx_path": "/x.pptx"}
            jobs.append(PresentationJob.enqueue(**row, idempotency_key="once"))
    assert [job.owner_id for job in jobs] == [ada, bob]


def test_who_deletes_their_account_takes_their_rows_along(
    app: DatabaseManager, tenancy: Tenancy, ada: int, bob: int
) -> None:
    with app.acting_as(ada):
        User.get().delete_instance()
        assert seen() == (0, 0, 0, 0)
    with app.acting_as(bob):
        assert seen() == (1, 1, 1, 1)
    assert tenancy.admin("SELECT count(*) FROM job_events") == [(1,)]


def test_nobody_but_the_trigger_writes_events(app: DatabaseManager, tenancy: Tenancy, ada: int) -> None:
    forge = """
        INSERT INTO job_events (job_id, from_status, to_status, attempt)
        SELECT id, 'pending', 'completed', 1 FROM presentation_jobs
    """
    with app.acting_as(ada):
        for statement in (forge, "UPDATE job_events SET worker = 'x'", "DELETE FROM job_events"):
            with pytest.raises(StatementInvalid, match="permission denied"):
                app.database.execute_sql(statement)
    with tenancy.open("worker") as worker, pytest.raises(StatementInvalid, match="permission denied"):
        worker.database.execute_sql(forge)


def test_a_worker_makes_everybodys_videos(app: DatabaseManager, tenancy: Tenancy, ada: int, bob: int) -> None:
    for user in (ada, bob):
        with app.acting_as(user):
            PresentationJob.get().retry()
    assert PresentationJob.claim("w1", 10) == []
    with tenancy.open("worker") as workers:
        owners = []

        def make_video(job: PresentationJob) -> None:
            owners.append(job.owner_id)
            job.complete(s3_video_path=f"/{job.voice_clone.name}.mp4")

        Worker(workers, make_video).drain()
        assert sorted(owners) == [ada, bob]
        metrics = workers.metrics()
        assert (metrics["total_users"], metrics["jobs_by_status"]["completed"]) == (2, 2)
        assert workers.health().ok
        assert workers.health().pending_migrations == ()
    with app.acting_as(ada):
        assert [job.s3_video_path for job in queries.get_presentation_jobs()] == ["/Ada.mp4"]
        assert app.health().ok


def test_operators_look_after_everybodys_dead_letters(
    app: DatabaseManager, tenancy: Tenancy, ada: int, bob: int
) -> None:
    for user in (ada, bob):
        with app.acting_as(user):
            PresentationJob.get().retry()
    with tenancy.open("worker"):
        for job in PresentationJob.claim("w1", 10):
            job.fail("broken", retry=False)
    with app.acting_as(bob):
        assert [job.owner_id for job in queries.get_dead_letters()] == [bob]
        assert PresentationJob.retry_many(everything=True) == 1
    with tenancy.open("worker"):
        assert [(error.error, error.jobs) for error in queries.get_dead_letter_errors()] == [("broken", 1)]
        assert PresentationJob.retry_many(everything=True) == 1
        assert queries.get_database_metrics()["pending_jobs"] == 2


def test_the_owner_sees_what_a_migration_has_to_change(app: DatabaseManager, tenancy: Tenancy) -> None:
    with tenancy.open("owner") as owner:
        assert seen() == (2, 2, 2, 2)
        assert owner.rollback(2) == ["003_create_triggers", "002_create_indexes"]
        owner.migrate()
        assert owner.features() == ["tenancy"]
        owner.rollback(3)
        owner.migrate()
        assert owner.features() == []
        owner.install("tenancy", app=tenancy.roles.app, worker=tenancy.roles.worker)
        assert owner.features() == ["tenancy"]


def test_installing_again_keeps_the_roles_that_were_chosen(
    tenancy: Tenancy, app: DatabaseManager, ada: int, bob: int
) -> None:
    with DatabaseManager(tenancy.admin_url) as admin:
        before = catalog(admin.database)
        admin.install("tenancy")
        assert (admin.features(), catalog(admin.database)) == (["tenancy"], before)
    with app.acting_as(ada):
        assert [user.id for user in User.select()] == [ada]
    with tenancy.open("worker"):
        assert User.select().count() == 2


def test_installing_leaves_the_policies_of_another_schema(tenancy: Tenancy) -> None:
    tenancy.admin("CREATE SCHEMA two; CREATE TABLE two.users (id bigint)")
    tenancy.admin("CREATE POLICY presgen_own_rows ON two.users USING (true)")
    with DatabaseManager(tenancy.admin_url) as admin:
        admin.install("tenancy")
        admin.uninstall("tenancy")
    found = tenancy.admin("SELECT polrelid::regclass::text FROM pg_policy")
    assert found == [("two.users",)]


def test_the_oldest_transaction_of_another_login_is_measured(tenancy: Tenancy, app: DatabaseManager, ada: int) -> None:
    with app.acting_as(ada), app.transaction():
        User.update(name="Ada L.").execute()
        began = tenancy.admin("SELECT xact_start FROM pg_stat_activity WHERE backend_xid IS NOT NULL")[0][0]
        with tenancy.open("worker") as workers:
            age = workers.metrics()["oldest_snapshot_seconds"]
        passed = tenancy.admin("SELECT statement_timestamp() - %s", (began,))[0][0]
        assert 0 <= age <= passed.total_seconds()
        assert age > 0


def test_a_login_that_owns_the_tables_is_bound_as_well(
    app: DatabaseManager, tenancy: Tenancy, ada: int, bob: int
) -> None:
    for model in COUNTED:
        tenancy.admin(f"ALTER TABLE {model._meta.table_name} OWNER TO {tenancy.name('nobody')}")
    with tenancy.open("nobody") as owner:
        assert seen() == (0, 0, 0, 0)
        assert User.update(name="Eve").execute() == 0
        with owner.acting_as(ada):
            assert seen() == (1, 1, 1, 1)
            assert User.update(name="Countess").execute() == 1
    assert tenancy.admin("SELECT name FROM users WHERE id = %s", (bob,)) == [("Bob",)]


def test_prepared_statements_see_what_is_of_who_acts_now(
    app: DatabaseManager, ada: int, bob: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "USES_BEFORE", 0)
    monkeypatch.setattr(prepared, "KEPT_SECONDS", math.inf)
    jobs = {}
    for user in (ada, bob):
        with app.acting_as(user):
            jobs[user] = PresentationJob.get().id
    with app.session():
        for user in (ada, bob) * 7:
            with app.acting_as(user):
                assert PresentationJob.get_by_id(jobs[user]).owner_id == user
        kept = "SELECT generic_plans + custom_plans FROM pg_prepared_statements"
        assert (14,) in app.database.execute_sql(kept).fetchall()
        for user, other in ((ada, bob), (bob, ada)):
            with app.acting_as(user):
                assert PresentationJob.get_by_id(jobs[user]).owner_id == user
                assert PresentationJob.get_or_none(id=jobs[other]) is None
        assert all(PresentationJob.get_or_none(id=job) is None for job in jobs.values())
