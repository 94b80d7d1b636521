"""The policies: which rows whoever acts for a user may see and write, and how they get into the database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ...clock import is_sqlite
from ...errors import ConfigurationError
from ...roles import Roles, give_function, quoted, schema_of

COST: Final = "another index on the jobs; enqueue_many() inserts rows, which takes longer than COPY"

TABLES: Final = ("users", "voice_clones", "presentation_jobs", "job_events")
ALL_ROWS: Final = "presgen_all_rows"
FIND_USER: Final = "presgen_find_user"

# As a subquery it is evaluated once for a statement and not for each row, so that indexes serve it.
_ME: Final = "(SELECT nullif(current_setting('presgen.user_id', true), '')::bigint)"
_OWNER_OF_THE_JOB: Final = "(SELECT job.owner_id FROM presentation_jobs job WHERE job.id = job_events.job_id)"


@dataclass(frozen=True)
class Policy:
    """A condition under which a command finds the rows of a table, or may write them."""

    table: str
    name: str
    condition: str
    command: str = "ALL"


OWN_ROWS: Final = "presgen_own_rows"
# For every role: one that also owns the tables sees no more than others.
POLICIES: Final = (
    Policy("users", OWN_ROWS, f"id = {_ME}"),
    Policy("voice_clones", OWN_ROWS, f"owner_id = {_ME}"),
    Policy("presentation_jobs", OWN_ROWS, f"owner_id = {_ME}"),
    Policy(
        "job_events",
        OWN_ROWS,
        # Not EXISTS, for which all of the user's jobs would be read first.
        f"{_OWNER_OF_THE_JOB} = {_ME}",
        command="SELECT",
    ),
    # Where the login owns the tables, the trigger that records transitions writes as that login.
    Policy("job_events", "presgen_recorded", "pg_trigger_depth() > 0", command="INSERT"),
)

PARTS_OF_TABLES: Final = """
SELECT oid::regclass::text
FROM pg_class
WHERE oid = to_regclass('presgen_idempotency_keys') OR oid IN (
    SELECT inhrelid FROM pg_inherits
    WHERE inhparent = ANY (ARRAY(SELECT to_regclass(name) FROM unnest(%(tables)s) AS name)))
ORDER BY 1
"""
"""The partitions, and the table of keys that they have."""

INDEX: Final = "idx_presentation_jobs_owner_created_at"
CHANGES: Final = (INDEX, "ROW LEVEL SECURITY")
_INDEX: Final = f"CREATE INDEX IF NOT EXISTS {INDEX} ON presentation_jobs (owner_id, created_at DESC, id DESC)"

# The id alone, to whoever may ask. An encrypted e-mail is found by its digest, which has no @: the first half then has
# nothing to find, and the second half is not looked at for an e-mail in plain text, so that each uses its own index.
_FIND_USER: Final = """
CREATE FUNCTION {schema}.presgen_find_user(key text) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
    SELECT id FROM users WHERE email = key
    UNION ALL
    SELECT id FROM users WHERE strpos(key, '@') = 0 AND email LIKE 'enc@@1:%%' AND substr(email, 8, 43) = key
    LIMIT 1
$$
"""
_OUR_POLICIES: Final = """
SELECT quote_ident(polname), polrelid::regclass::text
FROM pg_policy
WHERE polrelid = ANY (ARRAY(SELECT to_regclass(name) FROM unnest(%s) AS name)) AND polname LIKE %s
"""
# Whom the policies admit to all rows, and who else than the worker role may ask for a user.
_CHOSEN: Final = """
SELECT
    (SELECT rolname::text FROM pg_policy JOIN pg_roles ON pg_roles.oid = ANY (polroles)
        WHERE polrelid = to_regclass('users') AND polname = %s LIMIT 1),
    (SELECT rolname::text FROM pg_proc, aclexplode(proacl) JOIN pg_roles ON pg_roles.oid = grantee
        WHERE pg_proc.oid = to_regprocedure('presgen_find_user(text)') AND grantee <> proowner LIMIT 1)
"""
_MAY_INSTALL: Final = """
SELECT current_user::text, pg_get_userbyid(relowner)::text, pg_has_role(relowner, 'USAGE'),
    pg_has_role(%s, CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END)
FROM pg_class
WHERE oid = to_regclass('users')
"""
# What there has to be: forced tables, policies, the function and the index.
_PARTS: Final = """
SELECT
    (SELECT count(*) FROM pg_class
        WHERE oid = ANY (ARRAY(SELECT to_regclass(name) FROM unnest(%(tables)s) AS name))
          AND relrowsecurity AND relforcerowsecurity),
    (SELECT count(*) FROM pg_policy
        WHERE polrelid = ANY (ARRAY(SELECT to_regclass(name) FROM unnest(%(tables)s) AS name))
          AND polname = ANY (%(policies)s)),
    (SELECT count(*) FROM pg_proc WHERE oid = to_regprocedure('presgen_find_user(text)')),
    (SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass(%(index)s) AND indisvalid)
"""


def install(database: Any, *, app: str | None = None, worker: str | None = None) -> None:
    """Let every role see the rows of the user it acts for, and the worker role everybody's.

    `app` and `worker` are by default the roles that were chosen before, or those of `presgen roles create`. Raises
    ConfigurationError on SQLite, where a role is missing, and where the current role does not own the tables or may not
    hand a function to the worker role.
    """
    if is_sqlite(database):
        raise ConfigurationError("tenancy needs PostgreSQL; on SQLite scope what is read with queries.owned_by()")
    chosen_worker, chosen_app = database.execute_sql(_CHOSEN, (ALL_ROWS,)).fetchone()
    app = chosen_app or Roles.app if app is None else app
    worker = chosen_worker or Roles.worker if worker is None else worker
    if app == worker:
        raise ConfigurationError(f"app and worker must be two roles, not {app} twice")
    _require_roles(database, app, worker)
    _require_rights(database, worker)
    _drop_policies(database)
    its_app, its_worker = quoted(database, app, worker)
    for table in TABLES:
        database.execute_sql(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        database.execute_sql(f"CREATE POLICY {ALL_ROWS} ON {table} TO {its_worker} USING (true) WITH CHECK (true)")
    for policy in POLICIES:
        check = "WITH CHECK" if policy.command == "INSERT" else "USING"
        database.execute_sql(
            f"CREATE POLICY {policy.name} ON {policy.table} FOR {policy.command} {check} ({policy.condition})"
        )
    # What of the tables has no policies of its own, and shows everybody's rows to who may read it.
    for (part,) in database.execute_sql(PARTS_OF_TABLES, {"tables": list(TABLES)}).fetchall():
        database.execute_verbatim(f"REVOKE ALL ON {part} FROM {its_app}")
    _make_find_user(database, its_app, worker)
    database.execute_sql(_INDEX)


def uninstall(database: Any) -> None:
    """Let every role see all rows again that it has rights on; the roles stay."""
    if is_sqlite(database):
        return
    _drop_policies(database)
    for table in TABLES:
        database.execute_sql(f"ALTER TABLE IF EXISTS {table} NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY")
    database.execute_sql(f"DROP INDEX IF EXISTS {INDEX}")


def is_installed(database: Any) -> bool:
    """Whether all tables are forced, and all policies, the function and the index are there."""
    if is_sqlite(database):
        return False
    names = [ALL_ROWS, *{policy.name for policy in POLICIES}]
    values = {"tables": list(TABLES), "policies": names, "index": INDEX}
    parts = database.execute_sql(_PARTS, values).fetchone()
    return bool(parts == (len(TABLES), len(TABLES) + len(POLICIES), 1, 1))


def _drop_policies(database: Any) -> None:
    """Drop the policies and the function, also those that an older version has made; of this schema's tables alone."""
    for policy, table in database.execute_sql(_OUR_POLICIES, (list(TABLES), r"presgen\_%")).fetchall():
        database.execute_verbatim(f"DROP POLICY {policy} ON {table}")
    database.execute_sql(f"DROP FUNCTION IF EXISTS {FIND_USER}(text)")


def _require_roles(database: Any, app: str, worker: str) -> None:
    sql = "SELECT rolname::text FROM pg_roles WHERE rolname = ANY (%s)"
    there = database.execute_sql(sql, ([app, worker],)).fetchall()
    for name in (app, worker):
        if (name,) not in there:
            raise ConfigurationError(f"tenancy needs the role {name}; run: presgen roles create")


def _require_rights(database: Any, worker: str) -> None:
    me, owner, is_owner, may_become_worker = database.execute_sql(_MAY_INSTALL, (worker,)).fetchone()
    if not is_owner:
        raise ConfigurationError(f"role {me} does not own presgen's tables: install tenancy as a member of {owner}")
    if not may_become_worker:
        raise ConfigurationError(
            f"role {me} cannot hand a function to {worker}: GRANT {worker} TO {me} for as long as it installs tenancy"
        )


def _make_find_user(database: Any, app: str, worker: str) -> None:
    schema = schema_of(database)
    function = f"{schema}.{FIND_USER}(text)"
    database.execute_sql(_FIND_USER.format(schema=schema))
    database.execute_sql(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    database.execute_sql(f"GRANT EXECUTE ON FUNCTION {function} TO {app}")
    give_function(database, function, worker)  # who sees all users
