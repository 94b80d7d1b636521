"""What keeps a table from being partitioned: told before anything is done."""

from __future__ import annotations

from typing import Any, Final

from ...errors import ConfigurationError
from .ranges import EVENTS, JOBS, KEY

RANGE: Final = "presgen_range"
"""The name of the condition that is checked beside the writers."""

# What depends on the table, its row type or its sequence and is not its own part or made again, such as views,
# functions, publications, statistics, child tables and defaults of others; what sends its rows to others; and what
# PostgreSQL has for plain tables only. Keys that refer to jobs are checked on the way.
_OBSTACLES: Final = """
WITH wanted AS (
    SELECT oid, reltype, relname, relnamespace, pg_get_serial_sequence(%(table)s, 'id')::regclass AS sequence
    FROM pg_class WHERE oid = to_regclass(%(table)s))
SELECT pg_describe_object(depends.classid, depends.objid, depends.objsubid)
FROM wanted
    JOIN pg_depend AS depends ON refclassid = 'pg_class'::regclass AND refobjid = wanted.oid
        OR refclassid = 'pg_type'::regclass AND (refobjid = reltype OR refobjid IN (
            SELECT oid FROM pg_type WHERE typelem = reltype AND typcategory = 'A'))
WHERE NOT (classid = 'pg_class'::regclass AND objid IN (SELECT oid FROM pg_class WHERE relkind IN ('i', 'S', 't')))
    AND NOT (classid = 'pg_type'::regclass AND deptype = 'i')
    AND classid NOT IN (
        'pg_constraint'::regclass, 'pg_trigger'::regclass, 'pg_policy'::regclass, 'pg_attrdef'::regclass)
UNION
SELECT pg_describe_object(classid, objid, objsubid)
FROM wanted JOIN pg_depend ON refclassid = 'pg_class'::regclass AND refobjid = sequence
UNION
SELECT 'publication ' || pubname
FROM wanted JOIN pg_publication_tables ON schemaname::regnamespace = relnamespace AND tablename = relname
UNION
SELECT 'parent table ' || inhparent::regclass FROM pg_inherits JOIN wanted ON oid = inhrelid
UNION
SELECT CASE
    WHEN contype = 'f' AND confrelid = conrelid
    THEN format('foreign key %%s, by which the table refers to itself', conname)
    WHEN NOT convalidated THEN format('constraint %%s, which was not validated', conname)
    ELSE format('constraint %%s, which is NO INHERIT', conname) END
FROM pg_constraint JOIN wanted ON wanted.oid = conrelid
WHERE conname <> %(range)s AND conparentid = 0
    AND (contype <> 'f' OR confrelid = conrelid OR confrelid <> to_regclass(%(jobs)s))
    AND (contype = 'f' AND confrelid = conrelid OR NOT convalidated OR contype IN ('c', 'n') AND connoinherit)
UNION
SELECT format('foreign key %%s of %%s, ', conname, conrelid::regclass) || CASE confrelid
    WHEN to_regclass(%(events)s) THEN 'for an event''s id alone is no key any more'
    ELSE 'whose table is another role''s' END
FROM wanted JOIN pg_constraint ON confrelid = wanted.oid AND contype = 'f' AND conparentid = 0
    JOIN pg_class AS referring ON referring.oid = conrelid
WHERE conrelid <> confrelid AND (confrelid = to_regclass(%(events)s) OR NOT pg_has_role(referring.relowner, 'USAGE'))
UNION
SELECT format('unique index %%s, which has no %%s', indexrelid::regclass, attname)
FROM pg_index JOIN wanted ON wanted.oid = indrelid JOIN pg_class AS index ON index.oid = indexrelid
    JOIN pg_attribute ON attrelid = wanted.oid AND attname = %(key)s
WHERE indisunique AND NOT indisprimary AND attnum <> ALL ((indkey::int2[])[0:indnkeyatts - 1])
    AND index.relname <> ALL (%(but)s)
UNION
SELECT format('index %%s, which is not valid', indexrelid::regclass)
FROM pg_index JOIN wanted ON wanted.oid = indrelid JOIN pg_class AS index ON index.oid = indexrelid
WHERE NOT indisvalid AND index.relname <> ALL (%(but)s)
UNION
SELECT 'exclusion constraint ' || indexrelid::regclass FROM pg_index JOIN wanted ON oid = indrelid WHERE indisexclusion
UNION
SELECT 'relation ' || other.relname || ', whose name a partition or its index is to have'
FROM wanted JOIN pg_class AS other ON other.relnamespace = wanted.relnamespace
    AND other.relname ~ ('^' || wanted.relname || '_(first(_\\d+)?|from_\\d+|rest)$')
UNION
SELECT 'column id, whose values are no identity''s'
FROM wanted JOIN pg_attribute ON attrelid = wanted.oid AND attname = 'id' AND attidentity = ''
ORDER BY 1
"""


def require_none(database: Any, table: str, *, but: tuple[str, ...]) -> None:
    """Raise ConfigurationError with all that is in the way; `but` are unique indexes that are looked after."""
    words = {"jobs": JOBS, "events": EVENTS, "range": RANGE}
    facts = {"table": table, "key": KEY[table], "but": list(but), **words}
    found = [what for (what,) in database.execute_sql(_OBSTACLES, facts).fetchall()]
    if found:
        raise ConfigurationError(f"{table} cannot be partitioned while there is the {', the '.join(found)}")
