"""Three roles, so that a program's login has the rights that it needs and no others: an owner, an app, a worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Final

from .clock import is_sqlite
from .context import session
from .errors import ConfigurationError, MigrationError
from .migrating.turns import LOCK_TIMEOUT
from .migrator import HISTORY_TABLE, Migrator
from .models import JobEvent, PresentationJob, User, VoiceClone
from .validation import argument, text

# PostgreSQL cuts longer names off.
_NAME_MAX_LENGTH: Final = 63
# ALTER TABLE waits for the transactions at work, and while it waits all others wait behind it.
_LOCK_TIMEOUT: Final = LOCK_TIMEOUT

_WRITTEN: Final = tuple(model._meta.table_name for model in (User, VoiceClone, PresentationJob))
_READ: Final = (JobEvent._meta.table_name, HISTORY_TABLE)
_OF_FEATURES: Final = ("audit_log", "audit_tables")
# What the worker role writes when it moves jobs into files.
_ARCHIVES: Final = "presgen_archives"


@dataclass(frozen=True)
class Roles:
    """The roles' names. Logins are members of them; the roles themselves cannot log in and have no passwords."""

    owner: str = "presgen_owner"
    """Owns tables and functions: migrates, installs features. A member of the worker role."""
    app: str = "presgen_app"
    """Serves users: reads and writes rows, under tenancy those of the user it acts for."""
    worker: str = "presgen_worker"
    """Runs workers and operations: reads and writes everybody's rows, and reads what features have stored."""

    def __post_init__(self) -> None:
        names = [getattr(self, role.name) for role in fields(self)]
        for role, name in zip(fields(self), names, strict=True):
            argument(partial(text, max_length=_NAME_MAX_LENGTH), name, role.name)
        if len(set(names)) < len(names):
            raise ConfigurationError(f"owner, app and worker must be three roles, not {', '.join(names)}")


@dataclass(frozen=True)
class _Table:
    name: str
    quoted: str
    owner: str
    sequence: str | None


# The tables, their partitions and the views beside `users` that are presgen's by their names, each with the sequence of
# its ids.
_TABLES: Final = r"""
SELECT c.relname::text, quote_ident(c.relname), pg_get_userbyid(c.relowner)::text, (
    SELECT quote_ident(s.relname)
    FROM pg_depend AS d JOIN pg_class AS s ON s.oid = d.objid AND s.relkind = 'S'
    WHERE d.classid = 'pg_class'::regclass AND d.refobjid = c.oid AND d.deptype IN ('a', 'i')
    LIMIT 1
)
FROM pg_class AS c
    LEFT JOIN pg_inherits ON inhrelid = c.oid AND c.relispartition
    LEFT JOIN pg_class AS whole ON whole.oid = inhparent
WHERE c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('users'))
  AND c.relkind IN ('r', 'p', 'v') AND (
      coalesce(whole.relname, c.relname) = ANY (%s) OR c.relname LIKE 'presgen\_%%')
ORDER BY c.oid
"""
# Functions of features may be the worker role's on purpose, as tenancy's is for good; nobody calls a trigger's.
_FUNCTIONS: Final = r"""
SELECT oid::regprocedure::text, pg_get_userbyid(proowner)::text, prorettype = 'trigger'::regtype
FROM pg_proc
WHERE pronamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('users'))
  AND proname LIKE 'presgen\_%%' AND proname <> 'presgen_find_user' AND pg_get_userbyid(proowner) <> %s
ORDER BY oid
"""
IS_ADMITTED_TO_ALL: Final = """
EXISTS (
    SELECT 1
    FROM pg_policy, unnest(polroles) AS role
    WHERE polrelid = to_regclass(%(table)s) AND polpermissive AND polcmd IN ('*', 'r')
        AND pg_get_expr(polqual, polrelid) = 'true' AND (role = 0 OR pg_has_role(role, 'USAGE')))
"""
"""The condition that a policy lets the login see all rows of the parameter `table`."""
_SEES_ALL: Final = """
SELECT current_user::text, coalesce(NOT row_security_active(to_regclass(%(table)s)), true) OR {is_admitted}
    AND NOT EXISTS (
        SELECT 1
        FROM pg_policy, unnest(polroles) AS role
        WHERE polrelid = to_regclass(%(table)s) AND NOT polpermissive AND polcmd IN ('*', 'r')
            AND (role = 0 OR pg_has_role(role, 'USAGE')))
"""
_UNBOUND: Final = """
SELECT rolname::text
FROM pg_roles
WHERE rolname = ANY (%s) AND (rolsuper OR rolbypassrls OR rolname ~ '^pg_')
"""
_ME: Final = """
SELECT rolname::text, rolsuper, rolsuper OR rolcreaterole, pg_has_role('pg_read_all_stats', 'USAGE WITH ADMIN OPTION')
FROM pg_roles
WHERE rolname = current_user
"""


# Of each role that is there, whether this login is a member, and whether the owner's role already has what it needs of
# it: membership in the worker role, and for itself the right to create, and to let others create, in the schema.
_ROLES: Final = """
SELECT role.rolname::text, pg_has_role(role.oid, 'MEMBER'), CASE role.rolname
    WHEN %(worker)s THEN pg_has_role(owner.oid, role.oid, 'USAGE')
    WHEN %(owner)s THEN has_schema_privilege(owner.oid, relnamespace, 'CREATE WITH GRANT OPTION')
END
FROM pg_roles AS role JOIN pg_class ON pg_class.oid = to_regclass('users')
    LEFT JOIN pg_roles AS owner ON owner.rolname = %(owner)s
WHERE role.rolname IN (%(owner)s, %(app)s, %(worker)s)
"""


def require_all_rows(database: Any, table: str) -> None:
    """Raise ConfigurationError for a login that policies let see some rows only of a table, named as in SQL."""
    if is_sqlite(database):
        return
    sql = _SEES_ALL.format(is_admitted=IS_ADMITTED_TO_ALL)
    user, sees_all = database.execute_sql(sql, {"table": table}).fetchone()
    if not sees_all:
        plain = table.replace('"', "")
        raise ConfigurationError(f"{user} does not see all rows of {plain}: use a login of the worker role")


def plan(database: Any, roles: Roles) -> list[str]:
    """The statements that make the roles, and give each its rights on what presgen and its features have made.

    Again it says what a later migration or feature has added. Raises ConfigurationError on SQLite, MigrationError when
    migrations are pending.
    """
    if is_sqlite(database):
        raise ConfigurationError("roles need PostgreSQL; on SQLite whoever can write to the file can do everything")
    with session(database):
        pending = Migrator(database).pending()
        if pending:
            raise MigrationError(f"roles need the newest schema and {pending[0]} is pending; run: presgen migrate")
        _require_harmless(database, roles)
        owner, app, worker = quoted(database, roles.owner, roles.app, roles.worker)
        schema = schema_of(database)
        return [
            *_roles(database, roles, schema),
            f"GRANT USAGE ON SCHEMA {schema} TO {app}, {worker}",
            *_rights_on_tables(database, roles, owner, app, worker),
            *_rights_on_functions(database, roles, owner, app, worker),
            # The trigger alone writes events: whoever changes a job's status needs no right to.
            f"ALTER FUNCTION presgen_record_transition() SECURITY DEFINER SET search_path = {schema}, pg_temp",
            # What is made later, a dump has to contain; who else may see it, `presgen roles create` says.
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT SELECT ON TABLES TO {worker}",
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT SELECT ON SEQUENCES TO {worker}",
        ]


def create(database: Any, statements: Sequence[str]) -> None:
    """Run what plan() gave, all of it or nothing.

    Raises ConfigurationError where the current role may not create roles, StatementInvalid where it does not own the
    tables, DatabaseBusy, which is safe to retry, when other transactions held the locks that are needed.
    """
    with session(database), database.atomic():
        name, _, may_create, _ = database.execute_sql(_ME).fetchone()
        if not may_create and any(statement.startswith("CREATE ROLE") for statement in statements):
            raise ConfigurationError(
                f"role {name} may not create roles: use one that has CREATEROLE, or let an administrator run "
                "the SQL of: presgen roles create --dry-run"
            )
        database.execute_sql("SELECT set_config('lock_timeout', %s, true)", (_LOCK_TIMEOUT,))
        for statement in statements:
            database.execute_verbatim(statement)


def _require_harmless(database: Any, roles: Roles) -> None:
    """Raise ConfigurationError for a role that is there and that no policy would bind."""
    names = [roles.owner, roles.app, roles.worker]
    for (name,) in database.execute_sql(_UNBOUND, (names,)).fetchall():
        raise ConfigurationError(f"role {name} is a superuser, has BYPASSRLS or is PostgreSQL's own: take another name")


def quoted(database: Any, *names: str) -> list[str]:
    """Names as SQL has to write them."""
    rows = database.execute_sql("SELECT quote_ident(name) FROM unnest(%s) AS name", (list(names),)).fetchall()
    return [name for (name,) in rows]


def schema_of(database: Any) -> str:
    """The schema of presgen's tables, as SQL has to write it."""
    sql = "SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass('users')"
    return str(database.execute_sql(sql).fetchone()[0])


def give_function(database: Any, function: str, role: str) -> None:
    """Let the role own a function, whose name and types are as in SQL; this login has to be a member of it."""
    schema, (owner,) = schema_of(database), quoted(database, role)
    # Whoever owns a function has to be able to make one.
    sql = "SELECT has_schema_privilege(%s, %s, 'CREATE')"
    (may_create,) = database.execute_sql(sql, (role, schema)).fetchone()
    if not may_create:
        database.execute_sql(f"GRANT CREATE ON SCHEMA {schema} TO {owner}")
    database.execute_sql(f"ALTER FUNCTION {function} OWNER TO {owner}")
    if not may_create:
        database.execute_sql(f"REVOKE CREATE ON SCHEMA {schema} FROM {owner}")


def _roles(database: Any, roles: Roles, schema: str) -> Iterator[str]:
    owner, app, worker = quoted(database, roles.owner, roles.app, roles.worker)
    values = {"owner": roles.owner, "app": roles.app, "worker": roles.worker}
    found = database.execute_sql(_ROLES, values).fetchall()
    is_member, has_enough = ({role: facts[fact] for role, *facts in found} for fact in (0, 1))
    for name, role in ((roles.owner, owner), (roles.app, app), (roles.worker, worker)):
        if name not in is_member:
            yield f"CREATE ROLE {role} NOLOGIN"
    _, is_superuser, _, may_share_statistics = database.execute_sql(_ME).fetchone()
    if not is_superuser and not is_member.get(roles.owner):
        yield f"GRANT {owner} TO CURRENT_USER"
    if may_share_statistics:  # without them metrics() does not see how old other logins' transactions are
        yield f"GRANT pg_read_all_stats TO {worker}"
    if not has_enough.get(roles.worker):  # migrations and features have to see every row that they change
        yield f"GRANT {worker} TO {owner}"
    if not has_enough.get(roles.owner):
        yield f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {owner} WITH GRANT OPTION"


def _rights_on_tables(database: Any, roles: Roles, owner: str, app: str, worker: str) -> Iterator[str]:
    rows = database.execute_sql(_TABLES, ([*_WRITTEN, *_READ, *_OF_FEATURES],)).fetchall()
    tables = [_Table(*row) for row in rows]
    written = [table for table in tables if table.name in _WRITTEN]
    read = [table for table in tables if table.name in _READ]
    others = [table for table in tables if table not in (*written, *read)]
    for table in tables:
        if table.owner != roles.owner:
            yield f"ALTER TABLE {table.quoted} OWNER TO {owner}"
    yield f"GRANT SELECT, INSERT, UPDATE, DELETE ON {_listed(written)} TO {app}, {worker}"
    yield f"GRANT SELECT ON {_listed(read)} TO {app}, {worker}"
    if others:
        yield f"GRANT SELECT ON {_listed(others)} TO {worker}"
    if any(table.name == _ARCHIVES for table in others):
        yield f"GRANT INSERT, UPDATE ON {_ARCHIVES} TO {worker}"
    used = ", ".join(table.sequence for table in written if table.sequence)
    dumped = ", ".join(table.sequence for table in tables if table.sequence)
    yield f"GRANT USAGE ON SEQUENCE {used} TO {app}, {worker}"
    yield f"GRANT SELECT ON SEQUENCE {dumped} TO {worker}"


def _rights_on_functions(database: Any, roles: Roles, owner: str, app: str, worker: str) -> Iterator[str]:
    for function, its_owner, is_for_a_trigger in database.execute_sql(_FUNCTIONS, (roles.worker,)).fetchall():
        if its_owner != roles.owner:
            yield f"ALTER ROUTINE {function} OWNER TO {owner}"
        if not is_for_a_trigger:
            yield f"GRANT EXECUTE ON ROUTINE {function} TO {app}, {worker}"


def _listed(tables: Sequence[_Table]) -> str:
    return ", ".join(table.quoted for table in tables)
