"""What of a table's own constraints and indexes an adoption replaces, renames or leaves, and what it stops at."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from .catalog import Catalog
from .converting import Conversion

_PLAIN_INDEX: Final = re.compile(
    r"CREATE (?P<unique>UNIQUE )?INDEX \S+ ON \S+ USING btree \((?P<columns>\w+(?: DESC)?(?:, \w+(?: DESC)?)*)\)"
)
_INDEXED: Final = re.compile(r"USING btree \((?P<columns>[^()]*)\)")
_KEY: Final = re.compile(r"FOREIGN KEY \((?P<columns>[^()]*)\)")
_UNIQUE: Final = re.compile(r"UNIQUE \((?P<columns>[^()]*)\)")
_STATUS: Final = re.compile(r"\bstatus\b")
# What depends on columns that become others, and keeps PostgreSQL from changing them.
_DEPENDENTS: Final = """
SELECT DISTINCT pg_describe_object(classid, objid, 0)
FROM pg_depend JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid
    LEFT JOIN pg_attrdef ON classid = 'pg_attrdef'::regclass AND pg_attrdef.oid = objid
WHERE refclassid = 'pg_class'::regclass AND refobjid = to_regclass(%s) AND attname = ANY (%s)
    AND (classid::regclass::text IN ('pg_rewrite', 'pg_trigger', 'pg_policy', 'pg_proc', 'pg_publication_rel')
        OR adnum <> refobjsubid)
ORDER BY 1
"""
_STRANGERS: Final = """
SELECT format('%%s of %%s, which refers to another column than the id of %%s', conname, conrelid::regclass,
    confrelid::regclass)
FROM pg_constraint
WHERE contype = 'f' AND confrelid = to_regclass(%(table)s) AND NOT conrelid::regclass::text = ANY (%(tables)s)
    AND confkey <> ARRAY(SELECT attnum FROM pg_attribute WHERE attrelid = confrelid AND attname = 'id')
UNION ALL
SELECT format('the table %%s, which belongs to the role %%s', relname, pg_get_userbyid(relowner))
FROM pg_class WHERE oid = to_regclass(%(table)s) AND NOT pg_has_role(relowner, 'USAGE')
ORDER BY 1
"""


@dataclass(frozen=True)
class Replacing:
    """The constraints and indexes of tables that are converted, beside those that are declared."""

    declared: Catalog
    found: Catalog
    tables: Collection[str]

    def renamed(self) -> dict[tuple[str, str], str]:
        """The constraints that are declared under another name: by table and name, the declared name."""
        declared, found = self.declared["constraints"], self.found["constraints"]
        missing = {(table, text): name for table, name, text in declared - found}
        return {
            (table, name): missing[table, text]
            for table, name, text in sorted(found - declared)
            if table in self.tables and (table, text) in missing
        }

    def statements(self) -> Iterator[str]:
        """Drop what a declared one stands in for, and give what is declared its name."""
        renamed = self.renamed()
        for table, name, text in sorted(self.found["constraints"] - self.declared["constraints"]):
            if table in self.tables and (table, name) not in renamed and self._is_replaced(table, name, text):
                yield f"ALTER TABLE {table} DROP CONSTRAINT {quoted(name)}"
        for (table, name), new in renamed.items():
            yield f"ALTER TABLE {table} RENAME CONSTRAINT {quoted(name)} TO {new}"
        for table, name, text in self._own_indexes():
            if self._is_covered(table, name, text):
                yield f"DROP INDEX {name}"

    def in_the_way(self) -> Iterator[str]:
        """What refers to the old status beside other columns, and would mean nothing, or fail, with the new one."""
        renamed = self.renamed()
        for table, name, text in sorted(self.found["constraints"] - self.declared["constraints"]):
            is_kept = (table, name) not in renamed and not self._is_replaced(table, name, text)
            if table == "presentation_jobs" and is_kept and _STATUS.search(text):
                yield f"the constraint {name} of {table}, which refers to the old status: {text}"
        for table, name, text in self._own_indexes():
            if table == "presentation_jobs" and not self._is_covered(table, name, text) and _STATUS.search(text):
                yield f"the index {name} of {table}, which refers to the old status: {text}"

    def _own_indexes(self) -> Iterator[tuple[str, ...]]:
        """Those that are not declared, and no constraint's."""
        constraints = {name for _, name, _ in self.found["constraints"]}
        for table, name, text in sorted(self.found["indexes"] - self.declared["indexes"]):
            if table in self.tables and name not in constraints:
                yield table, name, text

    def _is_replaced(self, table: str, name: str, text: str) -> bool:
        declared = [(other, its) for of, other, its in self.declared["constraints"] if of == table]
        if any(other == name for other, _ in declared):
            return True
        if key := _KEY.match(text):
            columns = {match["columns"] for _, its in declared if (match := _KEY.match(its))}
            # The key of a job's voice is of its owner too.
            return key["columns"] in columns or (table, key["columns"]) == ("presentation_jobs", "voice_clone_id")
        if unique := _UNIQUE.fullmatch(text):
            return any(
                columns == _columns(unique["columns"]) for columns, is_unique, _ in self._indexes(table) if is_unique
            )
        named = {column for of, column, _ in self.found["columns"] if of == table and re.search(rf"\b{column}\b", text)}
        return table == "presentation_jobs" and text.startswith("CHECK") and named == {"status"}

    def _is_covered(self, table: str, name: str, text: str) -> bool:
        """Whether a declared index, or the primary key, finds all that an index finds, or has its name."""
        if any((table, name) == one[:2] for one in self.declared["indexes"]):
            return True
        plain = _PLAIN_INDEX.fullmatch(text)
        if plain is None:
            return False
        wanted = _columns(plain["columns"])
        for columns, is_unique, is_partial in self._indexes(table):
            if wanted == columns and is_unique:
                return True
            if not plain["unique"] and not is_partial and columns[: len(wanted)] == wanted:
                return True
        return False

    def _indexes(self, table: str) -> Iterator[tuple[list[str], bool, bool]]:
        """The declared indexes of a table: their columns, whether they are unique, and of some rows only."""
        for of, name, text in self.declared["indexes"]:
            if of == table and (match := _INDEXED.search(text)):
                # Of the address and the key of a job NULLs alone are left out, of which no search is.
                is_partial = " WHERE " in text and name != "idx_users_email"
                yield _columns(match["columns"]), text.startswith("CREATE UNIQUE") and not is_partial, is_partial


def obstacles(database: Any, replacing: Replacing, conversions: Mapping[str, Conversion]) -> list[str]:
    """What an adoption stops at, each as a few words."""
    found = list(replacing.in_the_way())
    for table, conversion in conversions.items():
        found += [text for (text,) in database.execute_sql(_DEPENDENTS, (table, conversion.changed)).fetchall()]
        facts = {"table": table, "tables": list(conversions)}
        found += [text for (text,) in database.execute_sql(_STRANGERS, facts).fetchall()]
        for column in conversion.found.values():
            is_own = column.name not in conversion.declared
            if is_own and column.is_required and column.default is None and column.identity is None:
                found.append(f"the column {column.name} of {table}, which presgen has no value for: give it a default")
    return found


def quoted(name: str) -> str:
    """A name as SQL takes it."""
    return '"{}"'.format(name.replace('"', '""'))


def _columns(text: str) -> list[str]:
    return [column.split()[0] for column in text.split(",")]
