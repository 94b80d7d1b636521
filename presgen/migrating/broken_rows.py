"""Rows that break a declared rule, found before anything is changed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .catalog import Catalog, execute_text
from .converting import Conversion

_EXAMPLES: Final = 10
_CHECK: Final = re.compile(r"CHECK \((?P<condition>.*)\)", re.DOTALL)
_UNIQUE: Final = re.compile(r"(?:UNIQUE|PRIMARY KEY) \((?P<columns>[^()]*)\)")
_UNIQUE_INDEX: Final = re.compile(
    r"CREATE UNIQUE INDEX \S+ ON \S+ USING btree \((?P<columns>[^()]*)\)(?: WHERE (?P<condition>.*))?", re.DOTALL
)
_KEY: Final = re.compile(r"FOREIGN KEY \((?P<columns>[^()]*)\) REFERENCES (?P<table>\w+)\((?P<others>[^()]*)\).*")
_LENGTH: Final = re.compile(r"character varying\((?P<length>\d+)\)")
_FIND: Final = """
SELECT count(*), (array_agg(id ORDER BY id))[:{examples}] FROM {rows} WHERE {condition}
"""

_IS_TWICE: Final = """
{condition} AND ({columns}) IN (SELECT {columns} FROM {rows} WHERE {condition} GROUP BY {columns} HAVING count(*) > 1)
"""
_IS_ORPHAN: Final = "{given} AND NOT EXISTS (SELECT 1 FROM {rows} WHERE {same})"


@dataclass(frozen=True)
class BrokenRows:
    """The rows of a table that break one rule."""

    table: str
    rule: str
    """The constraint's or index's name, or the column that is not to be NULL."""
    reason: str
    count: int
    ids: tuple[int, ...]
    """The first ones of them."""

    @classmethod
    def of(cls, table: str, rule: str, reason: str, ids: Sequence[int]) -> BrokenRows:
        """The rows with these ids."""
        return cls(table, rule, reason, len(ids), tuple(ids[:_EXAMPLES]))

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.ids) else ""
        ids = ", ".join(map(str, self.ids))
        rows = "row breaks" if self.count == 1 else "rows break"
        return f"{self.table}: {self.count} {rows} {self.rule} ({self.reason}): id {ids}{more}"


def broken_rows(database: Any, declared: Catalog, conversions: Mapping[str, Conversion]) -> list[BrokenRows]:
    """What of the tables, as they will be, the declared rules refuse; numbers that do not fit come first, and alone."""
    return _unfitting(database, conversions) or [
        found
        for table, conversion in conversions.items()
        for rule, reason, condition in _rules(table, declared, conversions)
        if (found := _found(database, table, rule, reason, conversion.rows(), condition)) is not None
    ]


def _unfitting(database: Any, conversions: Mapping[str, Conversion]) -> list[BrokenRows]:
    return [
        found
        for table, conversion in conversions.items()
        for name, condition in conversion.narrowed()
        if (found := _found(database, table, name, "it does not fit", table, condition)) is not None
    ]


def _found(database: Any, table: str, rule: str, reason: str, rows: str, condition: str) -> BrokenRows | None:
    sql = _FIND.format(examples=_EXAMPLES, rows=rows, condition=condition)
    count, ids = execute_text(database, sql).fetchone()
    return BrokenRows(table, rule, reason, count, tuple(ids)) if count else None


def _rules(table: str, declared: Catalog, conversions: Mapping[str, Conversion]) -> Iterator[tuple[str, str, str]]:
    """Each rule's name, what it says, and the condition of the rows that break it."""
    conversion = conversions[table]
    for column in conversion.declared.values():
        if column.is_required and column.name != "id":
            yield column.name, "it is NULL", f"{column.name} IS NULL"
        if column.name == "password_hash" and (length := _LENGTH.fullmatch(column.type)):  # no rule tells of it
            yield column.name, f"longer than {length['length']}", f"length({column.name}::text) > {length['length']}"
    for _, name, text in sorted(one for one in declared["constraints"] if one[0] == table):
        if check := _CHECK.fullmatch(text):
            yield name, check["condition"], f"NOT ({check['condition']})"
        elif key := _KEY.fullmatch(text):
            yield name, text, _is_orphan(conversion, key, conversions)
        elif unique := _UNIQUE.fullmatch(text):
            yield name, text, _is_twice(conversion, unique["columns"], None)
    for _, name, text in sorted(one for one in declared["indexes"] if one[0] == table):
        if (index := _UNIQUE_INDEX.fullmatch(text)) and name not in {rule for _, rule, _ in declared["constraints"]}:
            columns = index["columns"]
            yield name, f"the same {columns} twice", _is_twice(conversion, columns, index["condition"])


def _is_twice(conversion: Conversion, columns: str, condition: str | None) -> str:
    return _IS_TWICE.format(columns=columns, rows=conversion.rows(), condition=condition or "true")


def _is_orphan(conversion: Conversion, key: re.Match[str], conversions: Mapping[str, Conversion]) -> str:
    parents = conversions.get(key["table"])
    if parents is None:  # the whole table is still to be made
        return "true"
    columns = key["columns"].split(", ")
    pairs = zip(columns, key["others"].split(", "), strict=True)
    same = " AND ".join(f"{conversion.table}.{column} = parents.{other}" for column, other in pairs)
    given = " AND ".join(f"{column} IS NOT NULL" for column in columns)
    rows = parents.rows().removesuffix(parents.table) + "parents"
    return _IS_ORPHAN.format(given=given, rows=rows, same=same)
