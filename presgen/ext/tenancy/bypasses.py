"""What would let a login see other users' rows, whatever the policies say: asked of the catalog as a program starts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from ...acting import NOBODY, acting_on
from ...clock import is_sqlite
from ...context import session
from ...errors import ConfigurationError
from ...manager import DatabaseManager
from ...models import User
from .policies import ALL_ROWS, FIND_USER, PARTS_OF_TABLES, POLICIES, TABLES

_INSTALL: Final = "run: presgen install tenancy"

# The roles that this login has the rights of, or may take on, and that no policy binds or the one for all rows admits.
_ROLES: Final = """
SELECT rolname::text, rolname IN (session_user, current_user), CASE
    WHEN rolsuper THEN 'is a superuser' WHEN rolbypassrls THEN 'has BYPASSRLS' WHEN rolreplication THEN 'may replicate'
    WHEN rolname = ANY (%(readers_of_files)s) THEN 'reads the files of the server' ELSE 'sees all rows' END
FROM pg_roles AS role
WHERE (rolsuper OR rolbypassrls OR rolreplication OR rolname = ANY (%(readers_of_files)s)
    OR oid = ANY (%(workers)s::oid[]))
  AND (pg_has_role(session_user, oid, 'MEMBER') OR pg_has_role(current_user, oid, 'MEMBER'))
ORDER BY rolname
"""
_IS_SUPERUSER: Final = "SELECT rolname::text FROM pg_roles WHERE rolname IN (session_user, current_user) AND rolsuper"
_TABLES: Final = """
SELECT relname::text, relrowsecurity, relforcerowsecurity, pg_has_role(relowner, 'MEMBER'),
    has_table_privilege(oid, 'TRUNCATE')
FROM pg_class
WHERE oid = ANY (%(tables)s)
ORDER BY oid
"""
# Policies are asked of the table that a statement names.
_MAY_USE: Final = """
SELECT has_any_column_privilege(%(part)s, 'SELECT, INSERT, UPDATE') OR has_table_privilege(%(part)s, 'DELETE, TRUNCATE')
"""
_POLICIES: Final = """
SELECT relname::text, polname::text, polpermissive, polcmd::text, polroles, pg_get_expr(polqual, polrelid),
    pg_get_expr(polwithcheck, polrelid)
FROM pg_policy JOIN pg_class ON pg_class.oid = polrelid
WHERE polrelid = ANY (%(tables)s)
ORDER BY relname, polname
"""
# Views over the tables, over views over them, and so on, that this login may use and whose owner sees more.
_VIEWS: Final = """
WITH RECURSIVE view AS (
    SELECT unnest(%(tables)s::oid[]) AS oid
    UNION
    SELECT ev_class
    FROM view
    JOIN pg_depend ON refclassid = 'pg_class'::regclass AND refobjid = view.oid AND classid = 'pg_rewrite'::regclass
    JOIN pg_rewrite ON pg_rewrite.oid = objid
)
SELECT oid::regclass::text, relkind = 'm'
FROM view JOIN pg_class USING (oid)
WHERE relkind IN ('v', 'm')
  AND (has_any_column_privilege(oid, 'SELECT, INSERT, UPDATE') OR has_table_privilege(oid, 'DELETE'))
  AND relowner <> (SELECT oid FROM pg_roles WHERE rolname = current_user)
  AND (relkind = 'm' OR NOT EXISTS (
      SELECT 1 FROM pg_options_to_table(reloptions) WHERE option_name = 'security_invoker' AND option_value::boolean))
ORDER BY 1
"""
# Functions that run as a role that sees all rows, and that depend on a table or name one in their text.
_FUNCTIONS: Final = r"""
SELECT p.oid::regprocedure::text
FROM pg_proc AS p JOIN pg_roles AS owner ON owner.oid = p.proowner
WHERE p.prosecdef AND p.prorettype <> 'trigger'::regtype AND has_function_privilege(p.oid, 'EXECUTE')
  AND p.oid IS DISTINCT FROM to_regprocedure(%(find_user)s)
  AND (owner.rolsuper OR owner.rolbypassrls
      OR EXISTS (SELECT 1 FROM unnest(%(workers)s::oid[]) AS worker WHERE pg_has_role(owner.oid, worker, 'USAGE')))
  AND (p.prosrc ~* %(names)s OR EXISTS (
      SELECT 1 FROM pg_depend
      WHERE classid = 'pg_proc'::regclass AND objid = p.oid AND refclassid = 'pg_class'::regclass
        AND refobjid = ANY (%(tables)s)))
ORDER BY 1
"""
_FEATURES: Final = """
SELECT
    EXISTS (SELECT 1 FROM pg_class WHERE oid = to_regclass('audit_log') AND has_any_column_privilege(oid, 'SELECT')),
    EXISTS (
        SELECT 1 FROM pg_proc
        WHERE oid = to_regprocedure(%s) AND (NOT prosecdef OR has_function_privilege('public', oid, 'EXECUTE')))
"""
_COMMANDS: Final = {"ALL": "*", "SELECT": "r", "INSERT": "a"}
_EVERYBODY: Final = [0]
# What PostgreSQL adds to an expression when it shows it.
_ADDED: Final = re.compile(r'::\w+|\bas "nullif"|[\s()]')


def check(manager: DatabaseManager | None = None) -> list[str]:
    """What would bypass the policies, a line for each finding with its remedy; none when this login is bound by them.

    Findings are a login that is a superuser, has BYPASSRLS or may act as the worker role; tables without forced
    row-level security; policies that are missing, changed or not presgen's; views and functions that show what their
    owner sees; and the right to TRUNCATE, which no policy filters. A function's text is searched for the tables'
    names: one that builds its statements at run time is not found. Without a manager, of the models' database.
    """
    database = User._meta.database if manager is None else manager.database
    if is_sqlite(database):
        return ["SQLite has no row-level security: scope what is read with queries.owned_by()"]
    with session(database):
        return list(_findings(database))


def require(manager: DatabaseManager | None = None) -> None:
    """Raise ConfigurationError with what check() finds, if it finds anything; for the start of a program."""
    findings = check(manager)
    if findings:
        raise ConfigurationError(f"tenancy would be bypassed: {'; '.join(findings)}")


def _findings(database: Any) -> Iterator[str]:
    sql = "SELECT array_agg(to_regclass(name)::oid) FROM unnest(%s) AS name"
    (tables,) = database.execute_sql(sql, (list(TABLES),)).fetchone()
    sql = "SELECT polroles FROM pg_policy WHERE polname = %s AND polrelid = ANY (%s)"
    rows = database.execute_sql(sql, (ALL_ROWS, tables)).fetchall()
    found = {
        "tables": tables,
        "workers": sorted({role for (roles,) in rows for role in roles}),
        "find_user": f"{FIND_USER}(text)",
        "names": rf"\m({'|'.join(TABLES)})\M",
        "readers_of_files": ["pg_read_server_files", "pg_write_server_files", "pg_execute_server_program"],
    }
    (setting,) = database.execute_sql("SELECT current_setting('presgen.user_id', true)").fetchone()
    if setting and acting_on(database) is NOBODY:
        yield "presgen.user_id is set for this login or in its URL: RESET it, for whoever acts for nobody is that user"
    superusers = database.execute_sql(_IS_SUPERUSER).fetchall()
    yield from _about_roles(database, found, superusers)
    yield from _about_tables(database, found, may_everything=bool(superusers))
    yield from _about_policies(database, found)
    yield from _about_features(database, may_everything=bool(superusers))
    for view, is_materialized in database.execute_sql(_VIEWS, found).fetchall():
        remedy = "revoke SELECT on it" if is_materialized else "set its option security_invoker, or revoke SELECT on it"
        yield f"the view {view} shows what its owner sees: {remedy}"
    for (function,) in database.execute_sql(_FUNCTIONS, found).fetchall():
        yield f"the function {function} sees all rows, as its owner does: revoke EXECUTE on it, also from PUBLIC"


def _about_roles(database: Any, found: dict[str, Any], superusers: list[tuple[str]]) -> Iterator[str]:
    for (name,) in superusers:
        yield f"role {name} is a superuser, whom no policy binds: log in as a member of the app's role"
    if superusers:
        return  # who is a member of every role
    for name, is_this, can in database.execute_sql(_ROLES, found).fetchall():
        if is_this:
            yield f"role {name} {can}: log in as a member of the app's role"
        else:
            yield f"this login may act as {name}, which {can}: REVOKE {name} from it, or log in as another"


def _about_tables(database: Any, found: dict[str, Any], *, may_everything: bool) -> Iterator[str]:
    for table, is_enabled, is_forced, is_owner, may_truncate in database.execute_sql(_TABLES, found).fetchall():
        if not is_enabled:
            yield f"{table} has no row-level security; {_INSTALL}"
        elif not is_forced and is_owner:
            yield f"{table} does not bind its owner, as whom this login may act; {_INSTALL}"
        if may_truncate and not may_everything:
            yield f"this login may TRUNCATE {table}, which no policy filters: REVOKE TRUNCATE ON {table} from it"
    if not may_everything:
        for (part,) in database.execute_sql(PARTS_OF_TABLES, {"tables": list(TABLES)}).fetchall():
            if database.execute_sql(_MAY_USE, {"part": part}).fetchone()[0]:
                yield (
                    f"this login may use {part}, a part of the jobs or events that no policy filters: "
                    f"REVOKE ALL ON {part} from it, or log in as a role that does not own it"
                )


def _about_features(database: Any, *, may_everything: bool) -> Iterator[str]:
    reads_log, has_own_find_user = database.execute_sql(_FEATURES, (f"{FIND_USER}(text)",)).fetchone()
    if reads_log and not may_everything:
        yield "this login may read audit_log, which has everybody's names: REVOKE SELECT ON audit_log from it"
    if has_own_find_user:
        yield f"{FIND_USER}() does not belong to a role that sees all rows, or PUBLIC may call it; {_INSTALL}"


def _about_policies(database: Any, found: dict[str, Any]) -> Iterator[str]:
    expected = {(policy.table, policy.name): policy for policy in POLICIES}
    all_rows = {(table, ALL_ROWS) for table in TABLES}
    rows = database.execute_sql(_POLICIES, found).fetchall()
    for table, name in sorted((expected.keys() | all_rows) - {row[:2] for row in rows}):
        yield f"{table} lacks the policy {name}; {_INSTALL}"
    for table, name, is_permissive, command, roles, condition, check in rows:
        policy = expected.get((table, name))
        if policy is not None:
            given = check if policy.command == "INSERT" else condition
            is_as_made = (command, roles, _plain(given)) == (
                _COMMANDS[policy.command],
                _EVERYBODY,
                _plain(policy.condition),
            )
            # A second condition would stand for the first where rows are written.
            if not is_as_made or (policy.command != "INSERT" and check is not None):
                yield f"the policy {name} on {table} was changed; {_INSTALL}"
        elif (table, name) in all_rows:
            if roles == _EVERYBODY:
                yield f"the policy {name} on {table} admits everybody; {_INSTALL}"
        elif is_permissive:
            yield f"the policy {name} on {table} admits rows beside presgen's own: drop it, or make it RESTRICTIVE"


def _plain(expression: str | None) -> str:
    return _ADDED.sub("", (expression or "").lower())
