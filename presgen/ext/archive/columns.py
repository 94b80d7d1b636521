"""What the database has beside presgen's own columns and tables, so that archiving loses nothing of it."""

from __future__ import annotations

from typing import Any, Final

from ...clock import is_sqlite
from ...errors import ConfigurationError
from ...models import JobEvent, PresentationJob

# Every column that is not generated, and whether its values are as exact in JSON as they are in the database.
_COLUMNS_POSTGRESQL: Final = """
SELECT attname::text, atttypid = ANY (ARRAY['int2', 'int4', 'int8', 'bool', 'float8', 'text', 'varchar']::regtype[])
FROM pg_attribute
WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
ORDER BY attnum
"""
_COLUMNS_SQLITE: Final = "SELECT name, 1 FROM pragma_table_xinfo(?) WHERE hidden = 0 ORDER BY cid"

# The tables whose rows are deleted, or changed, when jobs or events are.
_REFERRING_POSTGRESQL: Final = """
SELECT DISTINCT conrelid::regclass::text
FROM pg_constraint
WHERE contype = 'f' AND confdeltype NOT IN ('a', 'r') AND conparentid = 0
    AND confrelid IN (to_regclass(%s), to_regclass(%s)) AND conrelid <> to_regclass(%s)
ORDER BY 1
"""
_REFERRING_SQLITE: Final = """
SELECT DISTINCT child.name
FROM sqlite_master AS child, pragma_foreign_key_list(child.name) AS key
WHERE child.type = 'table' AND key.on_delete NOT IN ('NO ACTION', 'RESTRICT')
    AND key."table" IN (?, ?) AND child.name <> ?
ORDER BY 1
"""
_JOBS: Final = PresentationJob._meta.table_name
_EVENTS: Final = JobEvent._meta.table_name


def columns_of(database: Any, table: str) -> dict[str, bool]:
    """The table's columns but those that are generated, and whether JSON has their values as they are."""
    sql = _COLUMNS_SQLITE if is_sqlite(database) else _COLUMNS_POSTGRESQL
    return {name: bool(is_plain) for name, is_plain in database.execute_sql(sql, (table,)).fetchall()}


def require_alone(database: Any) -> None:
    """Raise ConfigurationError where rows of other tables would go with the jobs, and be in no archive."""
    sql = _REFERRING_SQLITE if is_sqlite(database) else _REFERRING_POSTGRESQL
    for (table,) in database.execute_sql(sql, (_JOBS, _EVENTS, _EVENTS)).fetchall():
        raise ConfigurationError(
            f"rows of {table} would be deleted with the jobs that they refer to, or changed: archive them first, and "
            "let the foreign key restrict"
        )
