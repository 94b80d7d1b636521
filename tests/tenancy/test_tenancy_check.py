"""tenancy.check(): what would let a login see other users' rows."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from fixtures.tenants import Tenancy

from presgen import DatabaseManager
from presgen.cli import cli
from presgen.errors import ConfigurationError
from presgen.ext.tenancy import check, require

BYPASSES = {
    "sees all rows": ["GRANT {worker} TO {login}"],
    "has BYPASSRLS": ["ALTER ROLE {login} BYPASSRLS"],
    "is a superuser": ["ALTER ROLE {login} SUPERUSER"],
    "users has no row-level security": ["ALTER TABLE users DISABLE ROW LEVEL SECURITY"],
    "presentation_jobs does not bind its owner": [
        "ALTER TABLE presentation_jobs NO FORCE ROW LEVEL SECURITY",
        "GRANT {owner} TO {login}",
    ],
    "may TRUNCATE voice_clones": ["GRANT TRUNCATE ON voice_clones TO {app}"],
    "job_events lacks the policy": ["DROP POLICY presgen_own_rows ON job_events"],
    "the policy presgen_own_rows on users was changed": ["ALTER POLICY presgen_own_rows ON users USING (id > 0)"],
    "the policy presgen_all_rows on users admits everybody": ["ALTER POLICY presgen_all_rows ON users TO PUBLIC"],
    "the policy mine on users admits rows beside": ["CREATE POLICY mine ON users USING (name = 'Ada')"],
    "the view everybody shows": ["CREATE VIEW everybody AS SELECT * FROM users", "GRANT SELECT ON everybody TO {app}"],
    "the view copied shows": [
        "CREATE MATERIALIZED VIEW copied AS SELECT * FROM users",
        "GRANT SELECT ON copied TO {app}",
    ],
    "the view writable shows": ["CREATE VIEW writable AS SELECT * FROM users", "GRANT UPDATE ON writable TO {app}"],
    "may replicate": ["ALTER ROLE {login} REPLICATION"],
    "reads the files of the server": ["GRANT pg_read_server_files TO {login}"],
    "presgen.user_id is set for this login": ["ALTER ROLE {login} SET presgen.user_id = '1'"],
    "presgen_find_user() does not belong": ["GRANT EXECUTE ON FUNCTION presgen_find_user TO PUBLIC"],
    "the function upper_case() sees": [
        "CREATE FUNCTION upper_case() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM USERS'"
    ],
    "the function all_users() sees all rows": [
        "CREATE FUNCTION all_users() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM users'"
    ],
}


@pytest.mark.parametrize("finding", BYPASSES)
def test_what_bypasses_the_policies_is_found(tenancy: Tenancy, finding: str) -> None:
    names = {**vars(tenancy.roles), "login": tenancy.name("app")}
    with tenancy.open("app") as app:
        assert check(app) == []
        require(app)
    for statement in BYPASSES[finding]:
        tenancy.admin(statement.format(**names))
    with tenancy.open("app") as app:
        assert [line for line in check() if finding in line]
        with pytest.raises(ConfigurationError, match="tenancy would be bypassed"):
            require()


def test_a_database_without_the_feature_is_told_from_one_that_is_bypassed(with_roles: Tenancy) -> None:
    with with_roles.open("app") as app:
        assert "users has no row-level security; run: presgen install tenancy" in check(app)
        with pytest.raises(ConfigurationError, match="tenancy would be bypassed"):
            require(app)


def test_reading_the_audit_log_is_a_finding(tenancy: Tenancy) -> None:
    with DatabaseManager(tenancy.admin_url) as admin:
        admin.install("audit")
    tenancy.admin(f"GRANT SELECT ON audit_log TO {tenancy.roles.app}")
    with tenancy.open("app") as app:
        assert [line for line in check(app) if "may read audit_log, which has everybody's names" in line]


def test_what_binds_the_caller_is_no_finding(tenancy: Tenancy) -> None:
    for statement in (
        "CREATE VIEW own WITH (security_invoker) AS SELECT * FROM users",
        f"GRANT SELECT ON own TO {tenancy.roles.app}",
        "CREATE VIEW hidden AS SELECT * FROM users",
        "CREATE POLICY less ON users AS RESTRICTIVE USING (is_active)",
        "CREATE FUNCTION own_users() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM users'",
    ):
        tenancy.admin(statement)
    with tenancy.open("app") as app:
        assert check(app) == []


def test_the_command_exits_with_1_for_a_finding(tenancy: Tenancy) -> None:
    for login, code, said in (("app", 0, "nothing bypasses"), ("worker", 1, "sees all rows")):
        result = CliRunner().invoke(cli, ["--database", tenancy.urls[login], "tenancy", "check"])
        assert result.exit_code == code
        assert said in result.stdout


def test_sqlite_is_said_to_have_no_policies() -> None:
    with DatabaseManager("sqlite:///:memory:") as manager:
        assert "no row-level security" in check(manager)[0]
        with pytest.raises(ConfigurationError):
            require(manager)
