"""What a database says of its own schema, as comparable values."""

from __future__ import annotations

import re
from typing import Any, Final

from ..clock import is_sqlite
from ..models import MODELS

Catalog = dict[str, set[tuple[str, ...]]]
"""For each kind what there is of it, as its table (a function has none), its name, and what it is.

The kinds are columns, constraints, indexes, triggers (and rules), functions, and switches (row-level security).
"""

TABLES: Final = tuple(model._meta.table_name for model in MODELS)
"""presgen's tables, each after those that it refers to."""

# Where presgen's tables are, or would be made.
_SCHEMA: Final = """
SELECT coalesce((SELECT relnamespace FROM pg_class WHERE oid = to_regclass('users')), current_schema()::regnamespace)
"""
_COLUMNS: Final = """
SELECT relname::text, attname::text,
    concat_ws(' ', format_type(atttypid, atttypmod),
        'COLLATE ' || (SELECT collname FROM pg_collation WHERE oid = nullif(attcollation, typcollation)),
        CASE WHEN attnotnull THEN 'NOT NULL' END,
        CASE attidentity WHEN 'd' THEN 'IDENTITY' WHEN 'a' THEN 'IDENTITY ALWAYS' END,
        CASE WHEN attgenerated <> '' THEN 'GENERATED AS ' ELSE 'DEFAULT ' END || pg_get_expr(adbin, adrelid))
FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid JOIN pg_type ON pg_type.oid = atttypid
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE relnamespace = %(schema)s AND relkind IN ('r', 'p') AND attnum > 0 AND NOT attisdropped
    AND relname <> 'migratehistory'
"""
_CONSTRAINTS: Final = """
SELECT relname::text, conname::text, pg_get_constraintdef(pg_constraint.oid, true)
FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
WHERE connamespace = %(schema)s AND relname <> 'migratehistory' AND contype <> 'n'
    AND (conparentid = 0 OR conrelid <> (SELECT conrelid FROM pg_constraint AS parent WHERE parent.oid = conparentid))
"""
_INDEXES: Final = """
SELECT relname::text, indexrelid::regclass::text,
    concat_ws(' ', replace(pg_get_indexdef(indexrelid, 0, true), ' ON ONLY ', ' ON '),
        CASE WHEN NOT indisvalid THEN 'INVALID' END)
FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
WHERE relnamespace = %(schema)s AND relname <> 'migratehistory'
"""
_TRIGGERS: Final = """
SELECT relname::text, tgname::text,
    concat_ws(' ', pg_get_triggerdef(pg_trigger.oid, true), CASE tgenabled WHEN 'O' THEN NULL ELSE 'DISABLED' END)
FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
WHERE relnamespace = %(schema)s AND NOT tgisinternal
UNION ALL
SELECT relname::text, rulename::text, pg_get_ruledef(pg_rewrite.oid, true)
FROM pg_rewrite JOIN pg_class ON pg_class.oid = ev_class
WHERE relnamespace = %(schema)s AND relkind IN ('r', 'p')
"""
# Not whose rights they have: roles.create() changes that.
_FUNCTIONS: Final = r"""
SELECT '', proname::text, trim(regexp_replace(prosrc, '\s+', ' ', 'g'))
FROM pg_proc
WHERE pronamespace = %(schema)s
"""
_SECURITY: Final = """
SELECT relname::text, 'ROW LEVEL SECURITY', CASE WHEN relforcerowsecurity THEN 'forced' ELSE 'enabled' END
FROM pg_class
WHERE relnamespace = %(schema)s AND relkind IN ('r', 'p') AND relrowsecurity
"""
_POSTGRESQL: Final = {
    "columns": _COLUMNS,
    "constraints": _CONSTRAINTS,
    "indexes": _INDEXES,
    "triggers": _TRIGGERS,
    "functions": _FUNCTIONS,
    "switches": _SECURITY,
}


def execute_text(database: Any, sql: str) -> Any:
    """Execute a statement that has no parameters, and whose % are its own."""
    return database.execute_sql(sql if is_sqlite(database) else sql.replace("%", "%%"))


def catalog(database: Any) -> Catalog:
    """Columns, constraints, indexes, triggers and functions of the schema that presgen's tables are in."""
    if is_sqlite(database):
        return _sqlite(database)
    (schema,) = database.execute_sql(_SCHEMA).fetchone()
    facts = {"schema": schema}
    return {kind: set(database.execute_sql(sql, facts).fetchall()) for kind, sql in _POSTGRESQL.items()}


def _sqlite(database: Any) -> Catalog:
    rows = database.execute_sql(
        "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL "
        "AND name NOT IN ('migratehistory', 'sqlite_sequence')"
    ).fetchall()
    found: Catalog = {"columns": set(), "constraints": set(), "indexes": set(), "triggers": set()}
    for kind, name, table, sql in rows:
        if kind == "table":
            for part in parts_of(_plain(sql)):
                found["constraints" if _is_constraint(part) else "columns"].add((table, *_named(part)))
        elif kind == "index":
            found["indexes"].add((table, name, _without_parentheses_in_where(_plain(sql))))
        elif kind == "trigger":
            found["triggers"].add((table, name, _plain(sql)))
    return found


def _named(part: str) -> tuple[str, str]:
    """A part of CREATE TABLE by its name; a key without one is named by what it says."""
    first, _, rest = part.removeprefix("constraint ").partition(" ")
    return (part, part) if part.startswith("foreign key") else (first, rest)


def _plain(sql: str) -> str:
    """SQL without quotes of names, with single blanks, in lower case."""
    text = re.sub(r"\s+", " ", sql.replace('"', "").replace("IF NOT EXISTS ", "")).strip().lower()
    return re.sub(r"\(\s+|\s+\)", lambda match: match[0].strip(), text)


def _without_parentheses_in_where(sql: str) -> str:
    """Peewee writes more of them than a person does."""
    head, where, condition = sql.partition(" where ")
    return head + where + condition.replace("(", "").replace(")", "")


def _is_constraint(part: str) -> bool:
    return part.startswith(("constraint ", "foreign key "))


def parts_of(sql: str) -> list[str]:
    """The comma-separated parts between a CREATE TABLE's parentheses."""
    body = sql[sql.index("(") + 1 : sql.rindex(")")]
    parts, depth, start = [], 0, 0
    for position, character in enumerate(body):
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append(body[start:position].strip())
            start = position + 1
    return [*parts, body[start:].strip()]
