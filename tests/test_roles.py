"""Roles: created by SQL that is shown first, with the rights that each needs and no others."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from click.testing import CliRunner
from fixtures.servers import Server
from fixtures.tenants import Tenancy

from presgen import DatabaseManager, PresentationJob, User, ValidationError, VoiceClone
from presgen.cli import cli
from presgen.errors import ConfigurationError, DatabaseBusy, MigrationError, StatementInvalid
from presgen.ext import audit
from presgen.roles import Roles, create, plan

_RIGHTS = """
SELECT privilege_type::text FROM information_schema.role_table_grants WHERE grantee = %s AND table_name = %s
UNION
SELECT privilege_type::text FROM information_schema.role_column_grants WHERE grantee = %s AND table_name = %s
"""
DML = {"SELECT", "INSERT", "UPDATE", "DELETE"}


def run(url: str, *arguments: str, answer: str | None = None) -> Any:
    return CliRunner().invoke(cli, ["--database", url, "roles", "create", *arguments], input=answer)


def named(roles: Roles) -> list[str]:
    return ["--owner", roles.owner, "--app", roles.app, "--worker", roles.worker]


def test_the_app_and_the_worker_have_what_they_need_and_no_more(with_roles: Tenancy) -> None:
    def rights(role: str, table: str) -> set[str]:
        return {right for (right,) in with_roles.admin(_RIGHTS, (role, table, role, table))}

    roles = with_roles.roles
    for role in (roles.app, roles.worker):
        for table in ("users", "voice_clones", "presentation_jobs"):
            assert rights(role, table) == DML
        for table in ("job_events", "migratehistory"):
            assert rights(role, table) == {"SELECT"}
    roles_made = with_roles.admin(
        "SELECT rolcanlogin, rolsuper, rolbypassrls, rolcreaterole FROM pg_roles WHERE rolname = ANY (%s)",
        ([roles.owner, roles.app, roles.worker],),
    )
    assert roles_made == [(False, False, False, False)] * 3


def test_jobs_go_through_their_life_under_the_roles_alone(with_roles: Tenancy) -> None:
    with with_roles.open("app"):
        user = User.create(name="Ada")
        voice = VoiceClone.create(name="v", s3_path="/v.wav", owner=user)
        job = PresentationJob.enqueue(owner=user, voice_clone=voice, s3_pptx_path="/a.pptx")
    with with_roles.open("worker") as worker:
        (claimed,) = PresentationJob.claim("w1")
        claimed.complete(s3_video_path="/a.mp4")
        assert len(claimed.history()) == 2
        assert worker.metrics()["jobs_by_status"]["completed"] == 1
    with with_roles.open("app") as app:
        assert app.health().ok
        assert job.wait(1) == "completed"


def test_neither_the_app_nor_the_worker_may_change_the_schema(with_roles: Tenancy) -> None:
    for login in ("app", "worker"):
        with with_roles.open(login) as manager:
            for statement in (
                "CREATE TABLE mine (id bigint)",
                "ALTER TABLE users DISABLE ROW LEVEL SECURITY",
                "ALTER TABLE users DISABLE TRIGGER ALL",
                "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
                "TRUNCATE users CASCADE",
                "INSERT INTO migratehistory (name, migrated_at) VALUES ('999_forged', now())",
                "DROP FUNCTION presgen_record_transition() CASCADE",
                f"SET ROLE {with_roles.roles.owner}",
            ):
                with pytest.raises(StatementInvalid, match=r"permission denied|must be owner"):
                    manager.database.execute_sql(statement)


def test_a_login_in_no_role_sees_nothing(with_roles: Tenancy) -> None:
    with with_roles.open("nobody"), pytest.raises(StatementInvalid, match="permission denied"):
        User.select().count()


def test_the_owner_migrates(with_roles: Tenancy) -> None:
    with with_roles.open("owner") as owner:
        owner.rollback(3)
        owner.migrate()
        owner.install("notify")
    owners = with_roles.admin("SELECT DISTINCT pg_get_userbyid(relowner)::text FROM pg_class WHERE relname IN %s", (
        ("users", "voice_clones", "presentation_jobs", "job_events", "migratehistory"),))  # fmt: skip
    assert owners == [(with_roles.roles.owner,)]


def test_again_gives_rights_on_what_is_new(with_roles: Tenancy) -> None:
    with with_roles.open("owner") as owner:
        owner.rollback(3)
        owner.migrate()
        owner.install("audit")
        with pytest.raises(StatementInvalid, match="permission denied"), with_roles.open("app"):
            User.select().count()
        create(owner.database, plan(owner.database, with_roles.roles))
    for login in ("app", "worker"):
        with with_roles.open(login) as manager:
            assert User.select().count() == 0
            audit.action("login", by=login)
            with pytest.raises(StatementInvalid, match="permission denied"):
                manager.database.execute_sql("DELETE FROM audit_log")
    with with_roles.open("worker"):
        assert [entry.details for entry in audit.search()] == [{"by": "worker"}, {"by": "app"}]
    with with_roles.open("app"), pytest.raises(StatementInvalid, match="permission denied"):
        audit.search()
    with with_roles.open("owner") as owner:
        assert owner.features() == ["audit"]
        assert audit.prune(before=datetime.now(timezone.utc) - timedelta(days=1)) == 0


def test_what_an_administrator_installed_becomes_the_owners(with_roles: Tenancy) -> None:
    with_roles.admin("CREATE TABLE audit_trail (id int)")
    with DatabaseManager(with_roles.admin_url) as admin:
        admin.install("audit", tables="users")
        create(admin.database, plan(admin.database, with_roles.roles))
    with with_roles.open("owner") as owner:
        owner.install("audit", tables="users,voice_clones")
        assert owner.features() == ["audit"]
        owner.uninstall("audit")
    of_others = with_roles.admin("SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'audit_trail'")
    assert of_others != [(with_roles.roles.owner,)]


def test_tenancys_function_stays_with_the_role_that_sees_all_users(with_roles: Tenancy, roles: Roles) -> None:
    with DatabaseManager(with_roles.admin_url) as admin:
        admin.install("tenancy", app=roles.app, worker=roles.worker)
        assert "presgen_find_user" not in "".join(plan(admin.database, Roles("x_owner", "x_app", "x_worker")))


@pytest.mark.parametrize("name", ["postgres", "pg_monitor"])
def test_a_role_that_no_policy_binds_is_refused(with_roles: Tenancy, name: str) -> None:
    with (
        DatabaseManager(with_roles.admin_url) as admin,
        pytest.raises(ConfigurationError, match=f"role {name} is a superuser, has BYPASSRLS or is PostgreSQL's own"),
    ):
        plan(admin.database, Roles(app=name))


def test_again_says_nothing_about_what_is_there(with_roles: Tenancy) -> None:
    with with_roles.open("owner") as owner:
        statements = plan(owner.database, with_roles.roles)
        assert not [statement for statement in statements if statement.startswith(("CREATE", "ALTER TABLE"))]
        create(owner.database, statements)


def test_a_role_that_may_create_roles_and_owns_the_database_is_enough(
    roles: Roles, empty_url: str, postgresql: str, servers: dict[str, Server], backend: str
) -> None:
    """As on a hosted server, where nobody is a superuser."""
    name, database = f"{roles.owner}_login", empty_url.rpartition("/")[2]
    servers[backend].execute(
        f"CREATE ROLE {name} LOGIN CREATEROLE", f"ALTER DATABASE {database} OWNER TO {name}"
    )  # fmt: skip
    with DatabaseManager(empty_url.replace("//postgres@", f"//{name}@")) as manager:
        manager.migrate()
        for _ in range(2):
            create(manager.database, plan(manager.database, roles))
            manager.install("tenancy", app=roles.app, worker=roles.worker)
        assert manager.features() == ["tenancy"]
        manager.uninstall("tenancy")
        assert manager.features() == []


def test_a_role_that_may_not_create_roles_is_told_so(with_roles: Tenancy) -> None:
    others = Roles(owner="presgen_none_1", app="presgen_none_2", worker="presgen_none_3")
    with with_roles.open("owner") as owner:
        statements = plan(owner.database, others)
        with pytest.raises(ConfigurationError, match=f"role {with_roles.roles.owner} may not create roles: .*dry-run"):
            create(owner.database, statements)


def test_who_does_not_own_the_tables_is_told_so(with_roles: Tenancy) -> None:
    with with_roles.open("worker") as worker, pytest.raises(StatementInvalid, match=r"must|permission denied"):
        create(worker.database, plan(worker.database, with_roles.roles))


def test_the_sql_gives_way_to_writers_and_keeps_nothing(
    roles: Roles, url: str, postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("presgen.roles._LOCK_TIMEOUT", "20ms")
    with DatabaseManager(url) as manager, manager.transaction():
        manager.database.execute_sql("LOCK TABLE presentation_jobs IN ROW EXCLUSIVE MODE")
        with DatabaseManager(url) as other:
            with pytest.raises(DatabaseBusy):
                create(other.database, plan(other.database, roles))
            found = other.database.execute_sql("SELECT FROM pg_roles WHERE rolname = %s", (roles.owner,)).fetchall()
            assert found == []


def test_the_command_shows_the_sql_and_asks(roles: Roles, url: str, postgresql: str) -> None:
    def exist() -> bool:
        with DatabaseManager(url) as manager:
            sql = "SELECT count(*) FROM pg_roles WHERE rolname = %s"
            return bool(manager.database.execute_sql(sql, (roles.app,)).fetchone()[0])

    shown = run(url, *named(roles), "--dry-run")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert f"CREATE ROLE {roles.app} NOLOGIN;\n" in shown.stdout
    refused = run(url, *named(roles), answer="n\n")
    assert refused.exit_code == 1
    assert refused.stdout.startswith(shown.stdout)
    assert not exist()
    agreed = run(url, *named(roles), answer="y\n")
    assert (agreed.exit_code, exist()) == (0, True)
    again = run(url, *named(roles), "--yes")
    assert again.exit_code == 0
    assert "CREATE ROLE" not in again.stdout


def test_the_shown_sql_is_all_there_is_to_it(with_roles: Tenancy, url: str) -> None:
    """An administrator may run it by hand."""
    shown = run(with_roles.admin_url, *named(with_roles.roles), "--dry-run").stdout
    with_roles.admin(shown)


def test_names_are_quoted_where_they_need_to_be(
    url: str, postgresql: str, servers: dict[str, Server], backend: str
) -> None:
    roles = Roles(owner='Own "er%s', app="select", worker="träger; DROP TABLE users")
    try:
        assert run(url, *named(roles), "--yes").exit_code == 0
        with DatabaseManager(url) as manager:
            manager.install("tenancy", app=roles.app, worker=roles.worker)
            assert manager.features() == ["tenancy"]
    finally:
        database = url.rpartition("/")[2]
        servers[backend].execute(f"DROP DATABASE {database} WITH (FORCE)", f"CREATE DATABASE {database}")
        for name in ('"Own ""er%s"', '"select"', '"träger; DROP TABLE users"'):
            with suppress(Exception):
                servers[backend].execute(f"DROP ROLE {name}")


@pytest.mark.parametrize("names", [{"owner": ""}, {"app": "x" * 64}, {"worker": 5}, {"app": None}])
def test_what_is_no_name_is_refused(names: Any) -> None:
    with pytest.raises(ValidationError):
        Roles(**names)


def test_two_roles_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="three roles"):
        Roles(app="one", worker="one")


def test_sqlite_has_no_roles() -> None:
    result = run("sqlite:///:memory:", "--yes")
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: roles need PostgreSQL; on SQLite whoever can write to the file can do everything\n",
    )


def test_roles_need_the_newest_schema(empty_url: str, postgresql: str) -> None:
    with DatabaseManager(empty_url) as manager, pytest.raises(MigrationError, match="run: presgen migrate"):
        plan(manager.database, Roles())
