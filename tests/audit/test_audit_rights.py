"""The application's role cannot change, forge or switch off the audit log; its owner can prune it, and nothing more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg2
import pytest

from presgen import DatabaseManager, User
from presgen.errors import ConfigurationError, ConstraintViolation, StatementInvalid
from presgen.ext import audit

INSUFFICIENT_PRIVILEGE = "42501"
APPEND_ONLY = "23000"
ENTRY = "INSERT INTO audit_log (operation, action, actor) VALUES ('ACTION', 'login', 'ceo')"

ATTEMPTS = (
    ENTRY,
    "UPDATE audit_log SET actor = 'ceo'",
    "DELETE FROM audit_log",
    "TRUNCATE audit_log",
    "DROP TABLE audit_log",
    "SELECT * FROM audit_log",
    "CALL presgen_audit_action('login', '{}', 1)",
    "ALTER TABLE users DISABLE TRIGGER presgen_audit",
    "ALTER TABLE users DISABLE TRIGGER ALL",
    "DROP TRIGGER presgen_audit ON users",
    "ALTER TABLE audit_log DISABLE TRIGGER presgen_audit_guard",
    "SET session_replication_role = replica",
    "SET SESSION AUTHORIZATION postgres",
    "SET ROLE postgres",
    "TRUNCATE users CASCADE",
    "CREATE OR REPLACE FUNCTION presgen_audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    # A trigger of ours on a table of theirs would write whatever entry they like.
    "CREATE TEMP TABLE users (id BIGINT); "
    "CREATE TRIGGER mine AFTER INSERT ON pg_temp.users FOR EACH ROW EXECUTE FUNCTION public.presgen_audit()",
)


@pytest.fixture
def app(app_url: str) -> Iterator[Any]:
    """A cursor of the application's role."""
    with closing(psycopg2.connect(app_url)) as connection:
        connection.autocommit = True
        yield connection.cursor()


@contextmanager
def refused(code: str = INSUFFICIENT_PRIVILEGE) -> Iterator[None]:
    with pytest.raises(psycopg2.Error) as caught:
        yield
    assert caught.value.pgcode == code, caught.value


def owner_of(db: DatabaseManager) -> str:
    (owner,) = db.database.execute_sql("SELECT current_user").fetchone()
    return str(owner)


def role_of(app_url: str) -> str:
    return app_url.partition("//")[2].partition(":")[0]


def test_the_applications_role_can_neither_touch_the_log_nor_switch_it_off(app: Any) -> None:
    for attempt in ATTEMPTS:
        with refused():
            app.execute(attempt)
    app.execute("INSERT INTO users (name) VALUES ('Mallory')")
    assert [entry.operation for entry in audit.search()] == ["INSERT"]


def test_careless_grants_do_not_open_the_log(db: DatabaseManager, app: Any, app_url: str) -> None:
    role = role_of(app_url)
    db.database.execute_sql(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    app.execute("INSERT INTO users (name) VALUES ('Mallory')")
    app.execute("SET presgen.audit_upkeep = 'on'")
    for attempt in (ENTRY, "UPDATE audit_log SET actor = 'ceo'", "DELETE FROM audit_log"):
        with refused(APPEND_ONLY):
            app.execute(attempt)
    assert [entry.operation for entry in audit.search()] == ["INSERT"]


def test_installing_takes_back_what_was_given_away(db: DatabaseManager, app: Any, app_url: str) -> None:
    role = role_of(app_url)
    db.uninstall("audit")
    for right in ("ALL ON TABLES", "ALL ON FUNCTIONS"):
        db.database.execute_sql(f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT {right} TO {role}, PUBLIC")
    db.install("audit")
    for attempt in (ENTRY, "CREATE TRIGGER mine AFTER INSERT ON audit_log EXECUTE FUNCTION presgen_touch()"):
        with refused():
            app.execute(attempt)
    with refused():
        app.execute(
            "CREATE TEMP TABLE users (id BIGINT); "
            "CREATE TRIGGER mine AFTER INSERT ON pg_temp.users FOR EACH ROW EXECUTE FUNCTION public.presgen_audit()"
        )


def test_a_search_path_of_the_callers_changes_nothing(db: DatabaseManager, app: Any, app_url: str) -> None:
    role = role_of(app_url)
    db.database.execute_sql(f"CREATE SCHEMA theirs AUTHORIZATION {role}")
    app.execute(
        """
        CREATE FUNCTION theirs.to_jsonb(anyelement) RETURNS jsonb LANGUAGE sql AS $$ SELECT '{"id": 9}'::jsonb $$;
        CREATE FUNCTION theirs.current_setting(text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT '9'::text $$;
        CREATE TABLE theirs.audit_log (LIKE public.users);
        SET search_path = theirs, pg_catalog, public;
        INSERT INTO public.users (name) VALUES ('Mallory');
        """
    )
    (entry,) = audit.search()
    assert (entry.new["name"], entry.actor, entry.user_id) == ("Mallory", None, None)


def test_a_forged_actor_stands_beside_the_role_that_forged_it(app: Any, app_url: str) -> None:
    app.execute("SET presgen.actor = 'ceo'; SET presgen.user_id = '1'; INSERT INTO users (name) VALUES ('Mallory')")
    (entry,) = audit.search(actor="ceo")
    assert (entry.user_id, entry.database_user) == (1, role_of(app_url))


def test_a_role_that_may_add_actions_adds_them_in_its_own_name(db: DatabaseManager, app: Any, app_url: str) -> None:
    role = role_of(app_url)
    db.database.execute_sql(f"GRANT EXECUTE ON PROCEDURE presgen_audit_action TO {role}")
    app.execute("CALL presgen_audit_action('login', '{}', 1)")
    (entry,) = audit.search(action="login")
    assert (entry.database_user, entry.user_id) == (role, 1)
    db.install("audit")
    app.execute("CALL presgen_audit_action('login', '{}', NULL)")
    assert len(audit.search(action="login")) == 2


def test_only_the_owner_prunes_and_installs(db: DatabaseManager, app: Any, app_url: str) -> None:
    role = role_of(app_url)
    db.database.execute_sql(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    User.create(name="Ada")
    with DatabaseManager(app_url) as manager:
        message = rf"to prune the log, connect as {owner_of(db)}, who owns audit_log, or a member; not as {role}"
        with pytest.raises(ConfigurationError, match=message):
            audit.prune(before=datetime.now(timezone.utc))
        with pytest.raises(ConfigurationError, match="to install audit, connect as .*, who owns"):
            manager.install("audit", tables="users")
        with pytest.raises(ConfigurationError, match="to mask what was recorded, connect as "):
            audit.forget(manager.database, "users", "name")
        with pytest.raises(
            StatementInvalid, match="permission denied for procedure presgen_audit_action; grant the right"
        ):
            audit.action("login")
        with pytest.raises(ConfigurationError, match="to uninstall audit, connect as the role that owns presgen's tab"):
            manager.uninstall("audit")
    db.install("audit")
    assert db.features() == ["audit"]
    assert len(audit.search()) == 1


def test_a_role_that_may_not_even_look_is_told_whose_work_installing_is(app_url: str) -> None:
    with DatabaseManager(app_url) as manager:
        for change in (manager.install, manager.uninstall):
            with pytest.raises(ConfigurationError, match="audit, connect as the role that owns presgen's tables"):
                change("audit")


def test_a_member_of_the_owner_prunes(db: DatabaseManager, app_url: str) -> None:
    User.create(name="Ada")
    db.database.execute_sql(f"GRANT {owner_of(db)} TO {role_of(app_url)}")
    with DatabaseManager(app_url):
        assert audit.prune(before=datetime.now(timezone.utc)) == 1


def test_not_even_the_owner_changes_the_log_by_mistake(db: DatabaseManager, backend: str) -> None:
    User.create(name="Ada")
    attempts = ["UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log"]
    for attempt in attempts if backend == "sqlite" else [*attempts, "TRUNCATE audit_log"]:
        with pytest.raises(ConstraintViolation, match="audit_log is append-only; its owner may prune it"):
            db.database.execute_sql(attempt)
    audit.prune(before=datetime.now(timezone.utc) - timedelta(days=1))
    audit.forget(db.database, "users", "name")
    with pytest.raises(ConstraintViolation), db.transaction():
        audit.prune(before=datetime.now(timezone.utc) - timedelta(days=1))
        db.database.execute_sql("DELETE FROM audit_log")
    assert [entry.operation for entry in audit.search()] == ["INSERT"]


def test_what_is_given_away_is_no_whole_log_and_taken_back(db: DatabaseManager, app: Any, app_url: str) -> None:
    role = role_of(app_url)
    db.database.execute_sql(f"GRANT ALL ON audit_log TO {role}")
    assert "audit" not in db.features()
    db.install("audit")
    assert "audit" in db.features()
    db.database.execute_sql(f"GRANT ALL ON SEQUENCE audit_log_id_seq TO {role}")
    assert "audit" not in db.features()
    db.install("audit")
    with refused():
        app.execute("SELECT setval('audit_log_id_seq', 1, false)")
    db.database.execute_sql("CREATE FUNCTION keep_out() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    db.database.execute_sql(
        "CREATE TRIGGER evil BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION keep_out()"
    )  # fmt: skip
    assert "audit" not in db.features()
    db.install("audit")
    User.create(name="Ada")
    assert [entry.operation for entry in audit.search()] == ["INSERT"]


def test_a_log_that_somebody_else_made_before_is_refused(db: DatabaseManager, app: Any, app_url: str) -> None:
    db.uninstall("audit")
    db.database.execute_sql(f"GRANT CREATE ON SCHEMA public TO {role_of(app_url)}")
    app.execute("CREATE FUNCTION presgen_audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    with pytest.raises(ConfigurationError, match="presgen_audit belongs to app_.*drop it first"):
        db.install("audit")
    app.execute("DROP FUNCTION presgen_audit()")
    db.install("audit")
    assert "audit" in db.features()
