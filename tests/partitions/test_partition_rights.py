"""Partitions under roles and tenancy: whoever sees a part of the rows sees no more, and whoever sees all sees all."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.partitioned import SIZE, enqueue, go_on_at
from fixtures.tenants import Tenancy, with_voice_and_job

from presgen import DatabaseManager, JobEvent, JobStatus, PresentationJob, User, VoiceClone, Worker
from presgen.errors import ConfigurationError, StatementInvalid
from presgen.ext import archive, backup, partitions, tenancy
from presgen.ext.partitions import ranges
from presgen.roles import create, plan

PARTITIONS = "SELECT relname::text FROM pg_class WHERE relispartition AND relkind = 'r' ORDER BY 1"


def finish(job: PresentationJob) -> None:
    job.complete(s3_video_path="/x.mp4")


def names(tenants: Tenancy) -> list[str]:
    return [name for (name,) in tenants.admin(PARTITIONS)]


def with_partitions(tenants: Tenancy, first: str) -> None:
    """Tenancy and partitions, the one or the other first, installed by the owner's login or the superuser's."""
    roles = tenants.roles
    login = tenants.admin_url if first == "tenancy" else tenants.urls["owner"]
    with DatabaseManager(tenants.admin_url) as admin:
        create(admin.database, plan(admin.database, roles))
        if first == "tenancy":
            admin.install("tenancy", app=roles.app, worker=roles.worker)
    with DatabaseManager(login) as owner:
        owner.install("partitions", size=SIZE)
    with DatabaseManager(tenants.admin_url) as admin:
        admin.install("tenancy", app=roles.app, worker=roles.worker)
        assert admin.features() == ["tenancy", "partitions"]
        assert admin.schema_differences() == []


@pytest.fixture(params=["tenancy", "partitions"])
def tenants(with_roles: Tenancy, little_room: None, request: pytest.FixtureRequest) -> Tenancy:
    with_partitions(with_roles, request.param)
    return with_roles


def test_tenants_see_their_own_rows_only(tenants: Tenancy) -> None:
    with DatabaseManager(tenants.urls["app"]) as app:
        assert tenancy.check(app) == []
        ada, eve = (tenancy.sign_up(app, name=name, email=f"{name}@example.com") for name in ("ada", "eve"))
        with app.acting_as(ada):
            job = with_voice_and_job(ada)
            assert PresentationJob.select().count() == 1
            keyed = PresentationJob.enqueue(
                owner=ada, voice_clone=job.voice_clone_id, s3_pptx_path="/k.pptx", idempotency_key="k"
            )
            with app.transaction():
                assert (
                    PresentationJob.enqueue(
                        owner=ada, voice_clone=job.voice_clone_id, s3_pptx_path="/k.pptx", idempotency_key="k"
                    )
                    == keyed
                )
            for name in [*names(tenants), "presgen_idempotency_keys"]:
                with pytest.raises(StatementInvalid, match="permission denied"):
                    app.database.execute_sql(f"SELECT * FROM {name}")
        with app.acting_as(eve):
            assert not PresentationJob.select().exists()
            assert not JobEvent.select().exists()
    with DatabaseManager(tenants.urls["worker"]) as worker:
        Worker(worker, finish).drain()
        assert PresentationJob.get_by_id(job.id).status is JobStatus.COMPLETED


def test_nothing_is_lost_when_the_owner_keeps_partitions(tenants: Tenancy, tmp_path: Path) -> None:
    """Its login sees, by the policies, nobody's rows without the worker role's; no partition looks empty to it."""
    with DatabaseManager(tenants.admin_url) as admin:
        admin.install("archive")
        create(admin.database, plan(admin.database, tenants.roles))
        user = User.create(name="Ada")
        VoiceClone.create(name="v", s3_path="/v.wav", owner=user)
        for job_id in (5, 150, 250, 450):
            go_on_at(admin, job_id)
            enqueue()
    with DatabaseManager(tenants.urls["worker"]) as worker:
        Worker(worker, finish).drain()
        before = PresentationJob.select().count(), JobEvent.select().count()
    with DatabaseManager(tenants.urls["owner"]) as owner:
        assert len(partitions.advance(owner, size=SIZE)) == 2
        partitions.compact(owner)
    with DatabaseManager(tenants.urls["worker"]) as worker:
        assert (PresentationJob.select().count(), JobEvent.select().count()) == before
        archive.run(worker, tmp_path, retention=dict.fromkeys(archive.RETENTION, archive.RETENTION["completed"] * 0))
        assert not PresentationJob.select().exists()
    with DatabaseManager(tenants.urls["owner"]) as owner:
        assert partitions.compact(owner)
        archive.restore(owner, tmp_path, everything=True)
    with DatabaseManager(tenants.urls["worker"]) as worker:
        assert (PresentationJob.select().count(), JobEvent.select().count()) == before
    assert {owner for (owner,) in tenants.admin(PARTITIONS.replace("relname::text", "pg_get_userbyid(relowner)"))} == {
        tenants.roles.owner
    }


def test_a_worker_login_makes_backups(tenants: Tenancy, tmp_path: Path) -> None:
    with DatabaseManager(tenants.urls["owner"]) as owner:
        go_on_at(owner, 140)
    with DatabaseManager(tenants.admin_url):
        user = User.create(name="Ada")
        job = with_voice_and_job(user)
        PresentationJob.enqueue(owner=user, voice_clone=job.voice_clone_id, s3_pptx_path="/x", idempotency_key="k")
    with DatabaseManager(tenants.urls["owner"]) as owner:
        partitions.advance(owner, size=SIZE)
    with DatabaseManager(tenants.urls["worker"]) as worker:
        backup.create(worker, tmp_path)
    backup.verify(tmp_path)


def test_roles_that_come_later_have_what_they_need(with_roles: Tenancy, little_room: None, tmp_path: Path) -> None:
    with DatabaseManager(with_roles.admin_url) as admin:
        for table in ("users", "voice_clones", "presentation_jobs", "job_events", "migratehistory"):
            admin.database.execute_sql(f"ALTER TABLE {table} OWNER TO postgres")
            admin.database.execute_sql(f"REVOKE ALL ON {table} FROM {with_roles.roles.worker}")
        admin.install("partitions", size=SIZE)
        create(admin.database, plan(admin.database, with_roles.roles))
        user = User.create(name="Ada")
        VoiceClone.create(name="v", s3_path="/v.wav", owner=user)
        go_on_at(admin, 140)
        with_voice_and_job(user)
    with DatabaseManager(with_roles.urls["owner"]) as owner:
        assert len(partitions.advance(owner)) == 1
        assert len(ranges.partitions_of(owner.database, "presentation_jobs")) == 5
    with DatabaseManager(with_roles.urls["worker"]) as worker:
        backup.create(worker, tmp_path)


def test_a_right_on_a_partition_is_told(tenants: Tenancy) -> None:
    tenants.admin(f"GRANT SELECT (id) ON presentation_jobs_first TO {tenants.roles.app}")
    tenants.admin("GRANT TRUNCATE ON job_events_first TO PUBLIC")
    with DatabaseManager(tenants.urls["app"]) as app:
        assert [finding.partition(",")[0] for finding in tenancy.check(app)] == [
            "this login may use job_events_first",
            "this login may use presentation_jobs_first",
        ]


def test_what_the_owner_gives_by_default_shows_nothing_to_tenants(with_roles: Tenancy, little_room: None) -> None:
    """Whatever comes first."""
    roles = with_roles.roles
    default = f"ALTER DEFAULT PRIVILEGES FOR ROLE {roles.owner} IN SCHEMA public"
    with_roles.admin(f"{default} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {roles.app}")
    for name in ("tenancy", "partitions", "tenancy"):
        with DatabaseManager(with_roles.admin_url) as admin:
            options = {"app": roles.app, "worker": roles.worker} if name == "tenancy" else {"size": SIZE}
            if name == "partitions":
                admin.uninstall("tenancy")
            admin.install(name, **options)
    with DatabaseManager(with_roles.admin_url) as admin:
        go_on_at(admin, 140)
        assert partitions.advance(admin, size=SIZE)
    with DatabaseManager(with_roles.urls["app"]) as app:
        assert tenancy.check(app) == []
    with_roles.admin(f"GRANT DELETE ON presgen_idempotency_keys TO {roles.app}")
    with DatabaseManager(with_roles.urls["app"]) as app:
        (finding,) = tenancy.check(app)
        assert "presgen_idempotency_keys" in finding


def test_who_does_not_own_the_tables_cannot(tenants: Tenancy) -> None:
    with DatabaseManager(tenants.admin_url) as admin:
        go_on_at(admin, 450)
    for login in ("app", "worker"):
        with DatabaseManager(tenants.urls[login]) as manager:
            for work in (partitions.compact, partitions.advance):
                with pytest.raises(ConfigurationError, match="connect as the role that owns|does not see all rows"):
                    work(manager)


def test_an_owner_that_does_not_see_all_jobs_takes_no_key_from_their_holders(tenants: Tenancy) -> None:
    with DatabaseManager(tenants.admin_url) as admin:
        user = User.create(name="Ada")
        voice = with_voice_and_job(user).voice_clone_id
        row = {"owner": user, "voice_clone": voice, "s3_pptx_path": "/x.pptx", "idempotency_key": "k"}
        job = PresentationJob.enqueue(**row)
        owner = admin.database.execute_sql(
            "SELECT proowner::regrole::text FROM pg_proc WHERE proname = 'presgen_hold_key'"
        )
        assert owner.fetchone() == (tenants.roles.owner,)
    with DatabaseManager(tenants.urls["worker"]):
        assert PresentationJob.enqueue(**row) == job
    tenants.admin(f"REVOKE {tenants.roles.worker} FROM {tenants.roles.owner}")
    with DatabaseManager(tenants.urls["worker"]):
        with pytest.raises(StatementInvalid, match="does not see all jobs: make it a member of the worker role"):
            PresentationJob.enqueue(**row)
        PresentationJob.get_by_id(job.id).cancel()
        assert PresentationJob.enqueue(**row).id != job.id
