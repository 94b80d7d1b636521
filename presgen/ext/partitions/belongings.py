"""What a table has beside its columns and rows, as the statements that make it again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

_INDEXES: Final = """
SELECT index.relname::text, pg_get_indexdef(indexrelid), indisunique, indisprimary
FROM pg_index JOIN pg_class AS index ON index.oid = indexrelid
WHERE indrelid = to_regclass(%s)
ORDER BY 1
"""
_KEYS: Final = """
SELECT conname::text, pg_get_constraintdef(oid)
FROM pg_constraint
WHERE conrelid = to_regclass(%s) AND contype = 'f' AND conparentid = 0
ORDER BY 1
"""
_REFERRING: Final = """
SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid)
FROM pg_constraint
WHERE confrelid = to_regclass(%s) AND contype = 'f' AND conparentid = 0
ORDER BY 1, 2
"""
_TRIGGERS: Final = """
SELECT quote_ident(tgname), pg_get_triggerdef(oid)
FROM pg_trigger
WHERE tgrelid = to_regclass(%s) AND NOT tgisinternal
ORDER BY 1
"""
# Those of other tables that read this one, too.
_POLICIES: Final = """
SELECT quote_ident(polname), polrelid::regclass::text, format('CREATE POLICY %%I ON %%s AS %%s FOR %%s TO %%s', polname,
    polrelid::regclass, CASE WHEN polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
    CASE polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE'
        ELSE 'ALL' END,
    (SELECT string_agg(CASE role WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(role)) END, ', ')
     FROM unnest(polroles) AS role))
    || coalesce(' USING (' || pg_get_expr(polqual, polrelid) || ')', '')
    || coalesce(' WITH CHECK (' || pg_get_expr(polwithcheck, polrelid) || ')', '')
FROM pg_policy
WHERE polrelid = to_regclass(%s) OR oid IN (
    SELECT objid FROM pg_depend
    WHERE classid = 'pg_policy'::regclass AND refclassid = 'pg_class'::regclass AND refobjid = to_regclass(%s))
ORDER BY 2, 1
"""
_GRANTS: Final = """
SELECT format('GRANT %%s ON %%s TO %%s', privilege_type, %s::text,
    CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END)
    || CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
FROM pg_class, aclexplode(relacl)
WHERE pg_class.oid = to_regclass(%s) AND grantee <> relowner
ORDER BY 1
"""
_FACTS: Final = """
SELECT quote_ident(pg_get_userbyid(relowner)), relrowsecurity, relforcerowsecurity, reloptions,
    pg_get_serial_sequence(relname, 'id')
FROM pg_class
WHERE oid = to_regclass(%s)
"""


@dataclass(frozen=True)
class Belongings:
    """What is carried over to the table that takes another one's place."""

    table: str
    owner: str
    settings: str
    """How rows are stored, as `WITH (…)` takes it; empty for the server's own way."""
    sequence: str
    indexes: list[tuple[str, str, bool, bool]]
    """Each index's name and statement, and whether it is unique, and the primary key's."""
    keys: list[tuple[str, str]]
    """Foreign keys: their names and texts."""
    referring: list[tuple[str, str, str]]
    """Foreign keys of other tables to this one: table, name and text."""
    triggers: list[tuple[str, str]]
    policies: list[tuple[str, str, str]]
    """The policies on this table and those on others that read it: name, table, statement."""
    rights: list[str]

    def make_again(self, database: Any) -> None:
        """Give the new table its triggers, policies, rights and owner."""
        for _, statement in self.triggers:
            database.execute_sql(_plain(statement))
        for _, _, statement in self.policies:
            database.execute_sql(_plain(statement))
        for statement in self.rights:
            database.execute_sql(_plain(statement))


def belongings_of(database: Any, table: str) -> Belongings:
    """Look at a table, which may be partitioned or not."""

    def rows(sql: str, *values: str) -> Any:
        return database.execute_sql(sql, values or (table,)).fetchall()

    ((owner, is_secured, is_forced, options, sequence),) = rows(_FACTS)
    rights = [statement for (statement,) in rows(_GRANTS, table, table)]
    rights += [f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"] if is_secured else []
    rights += [f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY"] if is_forced else []
    return Belongings(
        table=table,
        owner=owner,
        settings=", ".join(options or ()),
        sequence=sequence,
        indexes=rows(_INDEXES),
        keys=rows(_KEYS),
        referring=[one for one in rows(_REFERRING) if one[0] != table],
        triggers=rows(_TRIGGERS),
        policies=rows(_POLICIES, table, table),
        rights=[*rights, f"ALTER TABLE {table} OWNER TO {owner}"],
    )


def _plain(statement: str) -> str:
    return statement.replace("%", "%%")
