"""The audit log on PostgreSQL: its table, the function behind every trigger, and what keeps both as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from ...errors import ConfigurationError
from .entry import ENCRYPTED, ENCRYPTED_PREFIX, MASKED, MASKED_COLUMNS
from .table import CHOICE, DROP_CHOICE, choice_of, chosen, filled, literal, quoted, table_with_indexes

_TABLE: Final = table_with_indexes(
    id="BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    now="clock_timestamp()",  # and no time of the statement, which may have waited for the row
    json="JSONB",
    user_id=" DEFAULT nullif(current_setting('presgen.user_id', true), '')::bigint",
    actor=" DEFAULT left(nullif(current_setting('presgen.actor', true), ''), 255)",
    database_user=" NOT NULL DEFAULT session_user",
    transaction_id=" NOT NULL DEFAULT pg_current_xact_id()::text::bigint",
)

# The functions run as their owner, so that whoever writes rows needs no right on the log. What they see of the caller's
# session is pinned: a search_path could put other functions before ours, and fewer digits would hide changes of floats.
_AS_OWNER: Final = """LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET extra_float_digits = 1
    SET bytea_output = hex SET intervalstyle = postgres"""
_WORDS: Final = {
    "as_owner": _AS_OWNER,
    "masked_columns": literal("{" + ",".join(MASKED_COLUMNS) + "}"),
    "masked": literal(MASKED),
    "encrypted": literal(ENCRYPTED),
    "encrypted_prefix": ENCRYPTED_PREFIX,
}
_FUNCTIONS: Final = (
    # Its arguments are the excluded columns. Rows are compared whole, so that a column that is added later counts too.
    """
    CREATE OR REPLACE FUNCTION presgen_audit() RETURNS trigger {as_owner} AS $$
    DECLARE
        excluded CONSTANT text[] := coalesce(TG_ARGV, '{}');
        before jsonb := to_jsonb(OLD) - excluded;
        after jsonb := to_jsonb(NEW) - excluded;
        row_id CONSTANT bigint := coalesce(before, after) ->> 'id';
        secret text;
        mask jsonb;
    BEGIN
        IF before = after THEN
            RETURN NULL;
        END IF;
        IF TG_OP = 'UPDATE' THEN
            SELECT jsonb_object_agg(key, was.value), jsonb_object_agg(key, became.value)
            INTO before, after
            FROM jsonb_each(before) AS was JOIN jsonb_each(after) AS became USING (key)
            WHERE was.value <> became.value;
        END IF;
        -- Most rows have no secret, and this is a fifth of what it costs to look for its column.
        IF before ?| {masked_columns} OR after ?| {masked_columns}
            OR jsonb_path_exists(before, '$.* ? (@ starts with "{encrypted_prefix}")')
            OR jsonb_path_exists(after, '$.* ? (@ starts with "{encrypted_prefix}")')
        THEN
            FOR secret, mask IN
                SELECT key, to_jsonb(CASE WHEN key = ANY ({masked_columns}) THEN {masked} ELSE {encrypted} END)
                FROM (SELECT * FROM jsonb_each_text(before) UNION ALL SELECT * FROM jsonb_each_text(after)) AS recorded
                WHERE key = ANY ({masked_columns}) OR starts_with(value, '{encrypted_prefix}')
            LOOP
                IF before ->> secret IS NOT NULL THEN
                    before := jsonb_set(before, ARRAY[secret], mask);
                END IF;
                IF after ->> secret IS NOT NULL THEN
                    after := jsonb_set(after, ARRAY[secret], mask);
                END IF;
            END LOOP;
        END IF;
        INSERT INTO {schema}.audit_log (operation, table_name, row_id, old, new)
        VALUES (
            TG_OP, coalesce((SELECT relname FROM pg_class WHERE oid = pg_partition_root(TG_RELID)), TG_TABLE_NAME),
            row_id, before, after);
        RETURN NULL;
    END $$
    """,
    """
    CREATE OR REPLACE PROCEDURE presgen_audit_action(name text, details jsonb, user_id bigint) {as_owner} AS $$
    BEGIN
        IF user_id IS NULL THEN
            INSERT INTO {schema}.audit_log (operation, action, details) VALUES ('ACTION', name, details);
        ELSE
            INSERT INTO {schema}.audit_log (operation, action, details, user_id)
            VALUES ('ACTION', name, details, user_id);
        END IF;
    END $$
    """,
    # Also for its owner, against mistakes, and whatever rights were granted: only the functions above run as the owner.
    """
    CREATE OR REPLACE FUNCTION presgen_audit_guard() RETURNS trigger LANGUAGE plpgsql
        SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        owner CONSTANT oid := (SELECT relowner FROM pg_class WHERE oid = TG_RELID);
    BEGIN
        IF pg_has_role(owner, 'USAGE')
            AND (TG_OP = 'INSERT' OR TG_OP <> 'TRUNCATE' AND current_setting('presgen.audit_upkeep', true) = 'on')
        THEN
            RETURN NULL;
        END IF;
        RAISE EXCEPTION USING
            ERRCODE = 'integrity_constraint_violation',
            CONSTRAINT = 'audit_log_append_only',
            TABLE = TG_TABLE_NAME,
            MESSAGE = 'audit_log is append-only; its owner may prune it';
    END $$
    """,
    """
    CREATE OR REPLACE TRIGGER presgen_audit_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON audit_log
        FOR EACH STATEMENT EXECUTE FUNCTION presgen_audit_guard()
    """,
)
# What default privileges and careless grants have given away, as statements that take it back. Who may run
# presgen_audit() can put it on a table of their own that is named as one of ours, and so forge entries; a trigger of
# others on the log would run as its owner, and could keep entries out; who may set the sequence can stop the log.
_GIVEN_AWAY: Final = """
SELECT format('REVOKE %%s ON audit_log FROM %%s', privilege_type,
    CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END)
FROM pg_class, aclexplode(relacl)
WHERE oid = to_regclass('audit_log') AND grantee <> relowner AND privilege_type <> 'SELECT'
UNION ALL
SELECT format('REVOKE ALL ON FUNCTION presgen_audit() FROM %%s',
    CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END)
FROM pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner)))
WHERE oid = to_regprocedure('presgen_audit()') AND grantee <> proowner
UNION ALL
SELECT format('REVOKE %%s ON SEQUENCE %%s FROM %%s', privilege_type, pg_class.oid::regclass,
    CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END)
FROM pg_class, aclexplode(relacl)
WHERE pg_class.oid = to_regclass(pg_get_serial_sequence('audit_log', 'id'))
    AND grantee <> relowner AND privilege_type <> 'SELECT'
UNION ALL
SELECT format('DROP TRIGGER %%I ON audit_log', tgname)
FROM pg_trigger
WHERE tgrelid = to_regclass('audit_log') AND NOT tgisinternal AND tgname <> 'presgen_audit_guard'
"""
# Whoever made them before us could change them after us.
_STRANGERS: Final = """
SELECT name, pg_get_userbyid(owner)
FROM (
    SELECT relname, relowner FROM pg_class WHERE oid IN (to_regclass('audit_log'), to_regclass('audit_tables'))
    UNION ALL
    SELECT proname, proowner FROM pg_proc
    WHERE pronamespace = current_schema()::regnamespace
        AND proname IN ('presgen_audit', 'presgen_audit_action', 'presgen_audit_guard')
) AS part (name, owner)
WHERE pg_get_userbyid(owner) <> current_user
    AND owner <> ALL (ARRAY(SELECT relowner FROM pg_class WHERE oid = ANY (
        ARRAY(SELECT to_regclass(quote_ident(name)) FROM unnest(%s) AS name))))
"""
_REVOKE_ACTION: Final = "REVOKE ALL ON PROCEDURE presgen_audit_action FROM PUBLIC"

_UNINSTALL: Final = (
    "DROP FUNCTION IF EXISTS presgen_audit() CASCADE",  # with the triggers, wherever they are
    "DROP PROCEDURE IF EXISTS presgen_audit_action",
    DROP_CHOICE,
    "DROP TABLE IF EXISTS audit_log",
    "DROP FUNCTION IF EXISTS presgen_audit_guard()",
)

# The audited tables with the arguments of their triggers, and whether they have both, at work.
_TRIGGERS: Final = """
SELECT relname, (array_agg(tgargs ORDER BY tgname))[1], count(*) FILTER (WHERE tgenabled IN ('O', 'A')) = 2
FROM pg_trigger
JOIN pg_class ON pg_class.oid = tgrelid
WHERE tgfoid = to_regprocedure('presgen_audit()') AND tgname IN ('presgen_audit', 'presgen_audit_truncate')
    AND tgparentid = 0
GROUP BY relname
ORDER BY relname
"""
_IS_GUARDED: Final = """
SELECT count(*)
FROM pg_trigger
WHERE tgrelid = to_regclass('audit_log') AND tgname = 'presgen_audit_guard' AND tgenabled IN ('O', 'A')
    AND to_regprocedure('presgen_audit_action(text, jsonb, bigint)') IS NOT NULL
"""
_COLUMNS: Final = """
SELECT attname, atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
WHERE attrelid = to_regclass(quote_ident(%s)) AND attnum > 0 AND NOT attisdropped
    AND NOT relispartition
    AND (relkind = 'p' OR relkind = 'r' AND NOT EXISTS (SELECT 1 FROM pg_inherits WHERE inhparent = attrelid))
"""
_OWNER: Final = """
SELECT rolname, pg_has_role(relowner, 'USAGE'), current_user
FROM pg_class JOIN pg_roles ON pg_roles.oid = relowner
WHERE pg_class.oid = to_regclass(quote_ident(%s))
"""
_FORGET: Final = """
UPDATE audit_log
SET old = CASE WHEN old ->> %(column)s IS NULL THEN old ELSE jsonb_set(old, ARRAY[%(column)s], %(mask)s) END,
    new = CASE WHEN new ->> %(column)s IS NULL THEN new ELSE jsonb_set(new, ARRAY[%(column)s], %(mask)s) END
WHERE table_name = %(table)s AND coalesce(old ->> %(column)s, new ->> %(column)s) IS NOT NULL
"""
_UPKEEP: Final = "SELECT set_config('presgen.audit_upkeep', %s, true)"
_ACTION: Final = "CALL presgen_audit_action(%s, %s, %s)"


def columns_of(database: Any, table: str) -> dict[str, bool]:
    """The table's columns, and of each whether it holds whole numbers; none where there is no such plain table.

    A partition's rows are recorded under the name of its table. Those of a child would not be recorded at all.
    """
    return dict(database.execute_sql(_COLUMNS, (table,)).fetchall())


def watched(database: Any) -> dict[str, tuple[str, ...]]:
    """The tables that were chosen, each with its excluded columns."""
    (found,) = database.execute_sql("SELECT to_regclass('audit_tables')").fetchone()
    return {} if found is None else chosen(database.execute_sql(CHOICE).fetchall())


def is_whole(database: Any) -> bool:
    """Whether the log, its guard and the chosen tables' triggers are there and at work, and nothing is given away."""
    tables = watched(database)
    at_work = {table: excluded for table, excluded, is_whole in _triggered(database) if is_whole}
    (guards,) = database.execute_sql(_IS_GUARDED).fetchone()
    return bool(tables and guards) and at_work == tables and not database.execute_sql(_GIVEN_AWAY).fetchall()


def create(database: Any, tables: Mapping[str, Sequence[str]]) -> None:
    """Bring everything to its newest state; raises ConfigurationError where the role may not."""
    for table in ("audit_log", *tables):
        require_owner(database, table, "to install audit")
    for name, owner in database.execute_sql(_STRANGERS, (list(tables),)).fetchall():
        raise ConfigurationError(f"{name} belongs to {owner}, who owns none of the audited tables: drop it first")
    (schema,) = database.execute_sql("SELECT quote_ident(current_schema())").fetchone()
    for statement in (*_TABLE, *_FUNCTIONS):
        database.execute_sql(filled(statement, {**_WORDS, "schema": schema}))
    for (revoke,) in database.execute_sql(_GIVEN_AWAY).fetchall():
        database.execute_verbatim(revoke)
    database.execute_sql(_REVOKE_ACTION)
    for table in {table for table, _, _ in _triggered(database)} - tables.keys():
        database.execute_verbatim(f"DROP TRIGGER IF EXISTS presgen_audit ON {quoted(table)}")
        database.execute_verbatim(f"DROP TRIGGER IF EXISTS presgen_audit_truncate ON {quoted(table)}")
    for table, excluded in tables.items():
        arguments = ", ".join(literal(column) for column in excluded)
        for name, when in (
            ("presgen_audit", f"AFTER INSERT OR UPDATE OR DELETE ON {quoted(table)} FOR EACH ROW"),
            ("presgen_audit_truncate", f"AFTER TRUNCATE ON {quoted(table)} FOR EACH STATEMENT"),
        ):
            database.execute_verbatim(
                f"CREATE OR REPLACE TRIGGER {name} {when} EXECUTE FUNCTION presgen_audit({arguments})"
            )
            # Somebody may have switched it off.
            database.execute_verbatim(f"ALTER TABLE {quoted(table)} ENABLE TRIGGER {name}")
    database.execute_sql("ALTER TABLE audit_log ENABLE TRIGGER presgen_audit_guard")
    database.execute_sql(DROP_CHOICE)
    database.execute_verbatim(choice_of(tables))


def drop(database: Any) -> None:
    """Take everything away, the log included."""
    for statement in _UNINSTALL:
        database.execute_sql(statement)


def has_log(database: Any) -> bool:
    """Whether there is a log, of whatever state."""
    (found,) = database.execute_sql("SELECT to_regclass('audit_log')").fetchone()
    return found is not None


def require_owner(database: Any, table: str, purpose: str) -> None:
    """Raise ConfigurationError unless the role owns the table, or is a member of the role that does."""
    found = database.execute_sql(_OWNER, (table,)).fetchone()
    if found is not None and not found[1]:
        raise ConfigurationError(f"{purpose}, connect as {found[0]}, who owns {table}, or a member; not as {found[2]}")


@contextmanager
def upkeep(database: Any) -> Iterator[None]:
    """A transaction in which the owner may change and delete entries."""
    with database.atomic():
        database.execute_sql(_UPKEEP, ("on",))
        yield
        database.execute_sql(_UPKEEP, ("",))  # the transaction may be part of another one


def forget(database: Any, table: str, column: str) -> None:
    """Mask a column's recorded values."""
    database.execute_sql(_FORGET, {"table": table, "column": column, "mask": json.dumps(ENCRYPTED)})


def record_action(database: Any, name: str, details: str, user_id: int | None) -> None:
    """Write an action; `details` is JSON."""
    database.execute_sql(_ACTION, (name, details, user_id))


def _triggered(database: Any) -> list[tuple[str, tuple[str, ...], bool]]:
    """The tables that have our triggers, with the excluded columns that these know, and whether all are at work."""
    rows = database.execute_sql(_TRIGGERS).fetchall()
    return [(table, _arguments(packed), is_whole) for table, packed, is_whole in rows]


def _arguments(packed: Any) -> tuple[str, ...]:
    """A trigger's arguments, each of which ends in a zero byte."""
    return tuple(argument.decode() for argument in bytes(packed or b"").split(b"\0")[:-1])
