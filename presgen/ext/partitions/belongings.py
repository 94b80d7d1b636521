"""What a table has beside its columns and rows, as the statements that make it again, and as facts to compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ...errors import ConfigurationError

Facts = frozenset[tuple[str, str]]
"""The name of each thing that a table has, and all that the catalogs say of it."""

_INDEXES: Final = """
SELECT index.relname::text
FROM pg_index JOIN pg_class AS index ON index.oid = indexrelid
WHERE indrelid = to_regclass(%s)
ORDER BY 1
"""
_KEYS: Final = """
SELECT format('ADD CONSTRAINT %%I %%s', conname, pg_get_constraintdef(oid))
FROM pg_constraint
WHERE conrelid = to_regclass(%s) AND contype = 'f' AND conparentid = 0
ORDER BY conname
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
# The right to pass a right on is none that presgen's roles have: who has it keeps the conversion off.
_RIGHTS: Final = """
SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END, privilege_type
FROM pg_class, aclexplode(relacl)
WHERE pg_class.oid = to_regclass(%s) AND grantee <> relowner
ORDER BY 1, 2
"""
# Whom the owner lets read what it makes, if they see all rows of the whole table: who makes dumps, and no tenant.
_READERS: Final = """
SELECT DISTINCT quote_ident(rolname)
FROM pg_class AS whole
    JOIN pg_default_acl ON defaclrole = relowner AND defaclnamespace IN (0, relnamespace) AND defaclobjtype = 'r'
    CROSS JOIN aclexplode(defaclacl) AS granted
    JOIN pg_roles AS reader ON reader.oid = granted.grantee AND reader.oid <> relowner
WHERE whole.oid = to_regclass(%s) AND privilege_type = 'SELECT' AND (
    NOT relrowsecurity OR rolsuper OR rolbypassrls OR EXISTS (
        SELECT FROM pg_policy, unnest(polroles) AS admitted
        WHERE polrelid = whole.oid AND polpermissive AND polcmd IN ('*', 'r')
            AND pg_get_expr(polqual, polrelid) = 'true'
            AND (admitted = 0 OR pg_has_role(reader.oid, admitted, 'USAGE'))))
ORDER BY 1
"""
_OWNER: Final = "SELECT quote_ident(pg_get_userbyid(relowner)) FROM pg_class WHERE oid = to_regclass(%s)"
_SWITCHES: Final = """
SELECT relrowsecurity, relforcerowsecurity, quote_literal(obj_description(oid, 'pg_class'))
FROM pg_class WHERE oid = to_regclass(%s)
"""
_STORAGE: Final = """
SELECT coalesce(string_agg(option, ', '), '') FROM (
    SELECT unnest(reloptions) FROM pg_class WHERE oid = to_regclass(%(table)s)
    UNION ALL
    SELECT 'toast.' || unnest(toast.reloptions)
    FROM pg_class JOIN pg_class AS toast ON toast.oid = pg_class.reltoastrelid
    WHERE pg_class.oid = to_regclass(%(table)s)) AS options (option)
"""
_LAST_NUMBER: Final = "SELECT last_value, is_called FROM {sequence}"
_SEQUENCE: Final = """
SELECT seqrelid::regclass::text, format(
    'GENERATED %%s AS IDENTITY (SEQUENCE NAME %%s INCREMENT BY %%s MINVALUE %%s MAXVALUE %%s START %%s CACHE %%s %%s)',
    CASE attidentity WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END, seqrelid::regclass, seqincrement, seqmin, seqmax,
    seqstart, seqcache, CASE WHEN seqcycle THEN 'CYCLE' ELSE 'NO CYCLE' END)
FROM pg_sequence JOIN pg_attribute ON attrelid = to_regclass(%s) AND attname = 'id'
WHERE seqrelid = pg_get_serial_sequence(%s, 'id')::regclass
"""
_FACTS: Final = """
SELECT 'the column ' || attname, concat_ws(' ', place, format_type(atttypid, atttypmod), attcollation::regcollation,
    attnotnull, attidentity, attgenerated, pg_get_expr(adbin, adrelid), attstorage, attcompression,
    coalesce(attstattarget, -1), attoptions, attacl, col_description(attrelid, attnum))
FROM (SELECT *, row_number() OVER (ORDER BY attnum) AS place FROM pg_attribute
      WHERE attrelid = to_regclass(%(table)s) AND attnum > 0 AND NOT attisdropped) AS a
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
UNION ALL
SELECT 'the switches and words of the table', concat_ws(' ', relowner::regrole, relpersistence, relreplident,
    reltablespace, relrowsecurity, relforcerowsecurity, obj_description(oid, 'pg_class'))
FROM pg_class WHERE oid = to_regclass(%(table)s)
UNION ALL
SELECT 'a right of ' || grantee::regrole::text || ' on ' || pg_class.oid::regclass,
    privilege_type || ' ' || is_grantable
FROM pg_class, aclexplode(coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner)))
WHERE pg_class.oid IN (to_regclass(%(table)s), pg_get_serial_sequence(%(table)s, 'id')::regclass)
UNION ALL
SELECT 'the constraint ' || conname,
    concat_ws(' ', pg_get_constraintdef(oid), convalidated, obj_description(oid, 'pg_constraint'),
        (SELECT array_agg(DISTINCT tgenabled) FROM pg_trigger WHERE tgconstraint = pg_constraint.oid))
FROM pg_constraint WHERE conrelid = to_regclass(%(table)s) AND contype <> 'n' AND conparentid = 0
UNION ALL
SELECT format('the foreign key %%s of %%s', conname, conrelid::regclass),
    concat_ws(' ', replace(pg_get_constraintdef(oid), ' NOT VALID', ''), obj_description(oid, 'pg_constraint'),
        (SELECT array_agg(DISTINCT tgenabled) FROM pg_trigger WHERE tgconstraint = pg_constraint.oid))
FROM pg_constraint WHERE confrelid = to_regclass(%(table)s) AND contype = 'f' AND conparentid = 0
UNION ALL
SELECT 'the index ' || relname, concat_ws(' ', replace(pg_get_indexdef(indexrelid), ' ON ONLY ', ' ON '), indisvalid,
    indisclustered, indisreplident, reltablespace, obj_description(indexrelid, 'pg_class'),
    (SELECT array_agg(coalesce(attstattarget, -1) ORDER BY attnum) FROM pg_attribute WHERE attrelid = indexrelid))
FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE indrelid = to_regclass(%(table)s)
UNION ALL
SELECT 'the trigger ' || tgname,
    concat_ws(' ', pg_get_triggerdef(oid), tgenabled, obj_description(oid, 'pg_trigger'))
FROM pg_trigger WHERE tgrelid = to_regclass(%(table)s) AND NOT tgisinternal
UNION ALL
SELECT format('the policy %%s of %%s', polname, polrelid::regclass), concat_ws(' ', polcmd, polpermissive, polroles,
    pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid), obj_description(oid, 'pg_policy'))
FROM pg_policy
WHERE polrelid = to_regclass(%(table)s) OR oid IN (
    SELECT objid FROM pg_depend
    WHERE classid = 'pg_policy'::regclass AND refclassid = 'pg_class'::regclass AND refobjid = to_regclass(%(table)s))
UNION ALL
SELECT 'a security label', provider || ' ' || objsubid || ' ' || label
FROM pg_seclabel WHERE objoid = to_regclass(%(table)s) AND classoid = 'pg_class'::regclass
UNION ALL
SELECT 'the sequence of the ids', concat_ws(' ', seqrelid::regclass, seqtypid::regtype, seqstart, seqincrement, seqmax,
    seqmin, seqcache, seqcycle, obj_description(seqrelid, 'pg_class'))
FROM pg_sequence WHERE seqrelid = pg_get_serial_sequence(%(table)s, 'id')::regclass
"""


@dataclass(frozen=True)
class Belongings:
    """What is carried over to the table that takes another one's place."""

    table: str
    owner: str
    sequence: str
    identity: str
    """How ids are given, as ALTER COLUMN takes it."""
    last_number: tuple[int, bool]
    """The last one that was given, and whether one was."""
    indexes: list[str]
    keys: list[str]
    """Foreign keys, as ALTER TABLE takes them."""
    referring: list[tuple[str, str, str]]
    """Foreign keys of other tables to this one: table, name and text."""
    triggers: list[tuple[str, str]]
    policies: list[tuple[str, str, str]]
    """The policies on this table and those on others that read it: name, table, statement."""
    switches: list[str]
    rights: list[str]
    """The statements by which others than the owner have rights on the table and its sequence."""

    def drop_referring(self, database: Any) -> None:
        """Drop the foreign keys of other tables."""
        for table, key, _ in self.referring:
            database.execute_verbatim(f"ALTER TABLE {table} DROP CONSTRAINT {key}")

    def add_referring(self, database: Any) -> None:
        """Add them again, to be checked beside the writers."""
        for table, key, text in self.referring:
            unchecked = f"{text.removesuffix(' NOT VALID')} NOT VALID"
            database.execute_verbatim(f"ALTER TABLE {table} ADD CONSTRAINT {key} {unchecked}")

    def make_again(self, database: Any) -> None:
        """Give the new table its owner, triggers, policies, switches and rights."""
        database.execute_verbatim(f"ALTER TABLE {self.table} OWNER TO {self.owner}")
        revoke_all(database, f"TABLE {self.table}")
        revoke_all(database, f"SEQUENCE {self.sequence}")
        triggers, policies = [text for _, text in self.triggers], [text for *_, text in self.policies]
        for statement in (*triggers, *policies, *self.switches, *self.rights):
            database.execute_verbatim(statement)


def belongings_of(database: Any, table: str) -> Belongings:
    """Look at a table."""

    def rows(sql: str, *values: str) -> Any:
        return database.execute_sql(sql, values or (table,)).fetchall()

    ((owner,),) = rows(_OWNER)
    ((is_secured, is_forced, comment),) = rows(_SWITCHES)
    ((sequence, identity),) = rows(_SEQUENCE, table, table)
    switches = [
        *([f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"] if is_secured else []),
        *([f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY"] if is_forced else []),
        *([f"COMMENT ON TABLE {table} IS {comment}"] if comment else []),
    ]
    return Belongings(
        table=table,
        owner=owner,
        sequence=sequence,
        identity=identity,
        last_number=database.execute_sql(_LAST_NUMBER.format(sequence=sequence)).fetchone(),
        indexes=[index for (index,) in rows(_INDEXES)],
        keys=[key for (key,) in rows(_KEYS)],
        referring=[one for one in rows(_REFERRING) if one[0] != table],
        triggers=rows(_TRIGGERS),
        policies=rows(_POLICIES, table, table),
        switches=switches,
        rights=[*_grants(database, f"TABLE {table}"), *_grants(database, f"SEQUENCE {sequence}")],
    )


def storage_of(database: Any, table: str) -> str:
    """How a table's rows are stored, as WITH (…) takes it; empty for the server's own way."""
    return str(database.execute_sql(_STORAGE, {"table": table}).fetchone()[0])


def facts_of(database: Any, table: str) -> Facts:
    """Everything that the catalogs say of a table but where and how its rows are stored."""
    return frozenset(database.execute_sql(_FACTS, {"table": table}).fetchall())


def require_same(before: Facts, after: Facts, *, but: set[str]) -> None:
    """Raise ConfigurationError with what the new table has not, or has otherwise, if its name is not in `but`."""
    lost = sorted({name for name, _ in before ^ after if but.isdisjoint(name.split())})
    if lost:
        raise ConfigurationError(f"partitions cannot have {', '.join(lost)} as it is; change that first")


def revoke_all(database: Any, thing: str) -> None:
    """Leave a thing, named with its kind as GRANT takes it, to its owner alone."""
    for grantee, _ in _rights(database, thing):
        database.execute_verbatim(f"REVOKE ALL ON {thing} FROM {grantee}")


def give_to_owner_of(database: Any, whole: str, table: str) -> None:
    """Let the owner of the whole table own a part of it, which nobody else may use, but for who makes dumps of both.

    What a policy keeps from somebody who reads the whole would not be kept from who reads the part.
    """
    ((owner,),) = database.execute_sql(_OWNER, (whole,)).fetchall()
    database.execute_verbatim(f"ALTER TABLE {table} OWNER TO {owner}")
    revoke_all(database, f"TABLE {table}")
    for (reader,) in database.execute_sql(_READERS, (whole,)).fetchall():
        database.execute_verbatim(f"GRANT SELECT ON TABLE {table} TO {reader}")


def _grants(database: Any, thing: str) -> list[str]:
    return [f"GRANT {privilege} ON {thing} TO {grantee}" for grantee, privilege in _rights(database, thing)]


def _rights(database: Any, thing: str) -> list[tuple[str, str]]:
    """To whom what is granted, but for the owner."""
    _, _, name = thing.partition(" ")
    return database.execute_sql(_RIGHTS, (name,)).fetchall()  # type: ignore[no-any-return]
