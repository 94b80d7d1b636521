"""Adoption: taking over, in place, a database that other models of the specification have made.

Whatever differs from what is declared is left to do: an adoption that was broken off goes on when it is begun again.
Each step is a transaction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..clock import is_sqlite
from ..errors import ConfigurationError, MigrationError
from ..models import MODELS
from ..validation import shown
from .broken_rows import BrokenRows, broken_rows
from .catalog import Catalog, catalog, parts_of
from .converting import Conversion, columns_of
from .drift import declared
from .recording import Recorder

Progress = Callable[[int, int], None]

_TABLES: Final = tuple(model._meta.table_name for model in MODELS)
_CREATES: Final = re.compile(
    r"CREATE\s+(?P<kind>TABLE|FUNCTION|TRIGGER)\s+(?P<name>\w+)(?:.*?\bON\s+(?P<table>\w+))?", re.DOTALL
)
_CREATES_INDEX: Final = re.compile(r"CREATE\s+(?:UNIQUE\s+)?INDEX\s+(?:CONCURRENTLY\s+)?(?P<name>\w+)")
_CHECK: Final = re.compile(r"CONSTRAINT\s+(?P<name>\w+)\s+(?P<text>CHECK\s*\(.*)", re.DOTALL)
_SETTINGS: Final = re.compile(r"\)\s*WITH\s*(?P<settings>\(.*\))\s*", re.DOTALL)
_COLUMNS: Final = re.compile(r"\((?P<columns>[^()]*)\)")
_UNUSED_TYPE: Final = r"""
SELECT format('DROP TYPE %%s', pg_type.oid::regtype)
FROM pg_type JOIN pg_enum ON enumtypid = pg_type.oid
WHERE typnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('users'))
    AND NOT EXISTS (
        SELECT 1 FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE atttypid IN (pg_type.oid, typarray) AND NOT attisdropped
            AND relkind <> 'i' AND attrelid IS DISTINCT FROM to_regclass('presentation_jobs'))
GROUP BY pg_type.oid
HAVING lower(string_agg(enumlabel, ',' ORDER BY enumsortorder)) LIKE 'pending,processing\_slides,%%'
"""


_HAS_TIMEZONE: Final = "SELECT 1 FROM pg_timezone_names WHERE name = %s"


@dataclass(frozen=True)
class Step:
    """What is done in one transaction."""

    title: str
    statements: tuple[str, ...]


@dataclass(frozen=True)
class AdoptionPlan:
    """What an adoption will do, and what keeps it from being done."""

    steps: tuple[Step, ...]
    broken: tuple[BrokenRows, ...]


class Adoption:
    """One database that is to be taken over. Raises ConfigurationError on SQLite."""

    def __init__(self, database: Any, folder: Path, known: Sequence[str], *, timezone: str = "UTC") -> None:
        if is_sqlite(database):
            raise ConfigurationError("adoption is for PostgreSQL; copy the rows of a SQLite file into a migrated one")
        self._database = database
        if database.execute_sql(_HAS_TIMEZONE, (timezone,)).fetchone() is None:
            raise ConfigurationError(f"the server knows no time zone {shown(timezone)}")
        recorder = Recorder(folder, database)
        self._made = [sql for name in known for sql in recorder.statements_of(name)]
        self._declared = declared(database, folder, known)
        self._timezone = timezone

    def plan(self) -> AdoptionPlan:
        """What is to be done, from what is there; raises MigrationError where that cannot be told."""
        found = catalog(self._database)
        conversions = self._conversions(found)
        steps = tuple(Step(title, tuple(sql)) for title, sql in self._steps(found, conversions) if sql)
        return AdoptionPlan(steps, tuple(broken_rows(self._database, self._declared, conversions)))

    def run(self, progress: Progress | None = None) -> None:
        """Do it, unless a row breaks a rule; `progress` gets how many steps are done, and of how many."""
        plan = self.plan()
        if plan.broken:
            raise MigrationError(f"{len(plan.broken)} rules are broken by rows; {plan.broken[0]}")
        for done, step in enumerate(plan.steps, start=1):
            with self._database.atomic():
                for sql in step.statements:
                    self._database.execute_sql(sql.replace("%", "%%"))
            if progress is not None:
                progress(done, len(plan.steps))

    def _conversions(self, found: Catalog) -> dict[str, Conversion]:
        conversions = {}
        for table in _TABLES:
            before = columns_of(found, table)
            if not before:
                continue
            conversion = Conversion(table, columns_of(self._declared, table), before, self._timezone)
            for column in conversion.missing:
                if column.is_required and column.default is None:
                    raise MigrationError(f"{table} has no column {column.name}, which nothing can stand in for")
            conversions[table] = conversion
        if "users" not in conversions:
            raise MigrationError("there is no table users to adopt; for a new database run: presgen migrate")
        return conversions

    def _steps(self, found: Catalog, conversions: Mapping[str, Conversion]) -> Iterator[tuple[str, list[str]]]:
        yield "drop what refers to the old columns", [*self._in_the_way(found, conversions)]
        for table in _TABLES:
            if table in conversions:
                yield f"convert {table}", [*self._settings(conversions[table]), *conversions[table].statements()]
            else:
                yield f"create {table}", [sql for sql in self._made if _is_about(sql, "TABLE", table)]
        for table in conversions:
            yield f"add the rules of {table}", [*self._constraints(table, found)]
        for table in _TABLES:
            yield f"build the indexes of {table}", [*self._indexes(table, found)]
        yield "create functions and triggers", [*self._triggers(found)]
        yield "drop the type of the old status", [sql for (sql,) in self._database.execute_sql(_UNUSED_TYPE).fetchall()]

    def _settings(self, conversion: Conversion) -> Iterator[str]:
        """How the table is stored, before it is written anew."""
        for sql in self._made:
            if _is_about(sql, "TABLE", conversion.table) and conversion.is_needed and (match := _SETTINGS.search(sql)):
                yield f"ALTER TABLE {conversion.table} SET {match['settings']}"

    def _in_the_way(self, found: Catalog, conversions: Mapping[str, Conversion]) -> Iterator[str]:
        """Constraints and indexes of which there will be another one, or which the new status breaks."""
        for table, name, text in sorted(found["constraints"] - self._declared["constraints"]):
            if table in conversions and self._is_replaced(table, name, text):
                yield f"ALTER TABLE {table} DROP CONSTRAINT {_quoted(name)}"
        constraints = {name for _, name, _ in found["constraints"]}
        for table, name, text in sorted(found["indexes"] - self._declared["indexes"]):
            if table in conversions and name not in constraints and self._is_covered(table, name, text):
                yield f"DROP INDEX {name}"

    def _is_replaced(self, table: str, name: str, text: str) -> bool:
        if any((table, name) == one[:2] for one in self._declared["constraints"]):
            return True
        if text.startswith("FOREIGN KEY"):
            return any(f"REFERENCES {other}(" in text for other in _TABLES)
        if text.startswith("UNIQUE"):
            return self._is_covered(table, name, text)
        return table == "presentation_jobs" and bool(re.search(r"\bstatus\b", text))

    def _is_covered(self, table: str, name: str, text: str) -> bool:
        """Whether a declared index or the primary key does what an index or a UNIQUE does, or has its name."""
        columns, is_unique = _columns_of(text), "UNIQUE" in text
        if columns == ["id"]:
            return True
        others = [(other, sql, _columns_of(sql)) for of, other, sql in self._declared["indexes"] if of == table]
        if is_unique:
            return any(other == name or ("UNIQUE" in sql and its == columns) for other, sql, its in others)
        return any(
            other == name or (its[: len(columns)] == columns and " WHERE " not in sql + text)
            for other, sql, its in others
        )

    def _constraints(self, table: str, found: Catalog) -> Iterator[str]:
        """In one statement, which reads the table once."""
        missing = [one for one in self._declared["constraints"] - found["constraints"] if one[0] == table]
        # As the migration says it: PostgreSQL's own text of a condition, run again, becomes another one.
        said = {name: text for sql in self._made if _is_about(sql, "TABLE", table) for name, text in _checks_of(sql)}
        actions = [f"ADD CONSTRAINT {name} {said.get(name, text)}" for _, name, text in sorted(missing, key=_keys_last)]
        if actions:
            yield f"ALTER TABLE {table} " + ", ".join(actions)

    def _indexes(self, table: str, found: Catalog) -> Iterator[str]:
        missing = {name for of, name, _ in self._declared["indexes"] - found["indexes"] if of == table}
        return (sql for sql in self._made if (match := _CREATES_INDEX.match(sql)) and match["name"] in missing)

    def _triggers(self, found: Catalog) -> Iterator[str]:
        functions = {name for _, name, _ in found["functions"]}
        triggers = {(table, name) for table, name, _ in found["triggers"]}
        for sql in self._made:
            match = _CREATES.match(sql)
            if match is None or match["kind"] == "TABLE":
                continue
            if match["kind"] == "FUNCTION":
                if match["name"] not in functions:
                    yield sql
            elif (match["table"], match["name"]) not in triggers:
                yield sql


def _is_about(sql: str, kind: str, name: str) -> bool:
    match = _CREATES.match(sql)
    return match is not None and match["kind"] == kind and match["name"] == name


def _checks_of(sql: str) -> Iterator[tuple[str, str]]:
    """The names and texts of the conditions in a CREATE TABLE."""
    for part in parts_of(_SETTINGS.sub(")", sql)):
        if match := _CHECK.fullmatch(part):
            yield match["name"], match["text"]


def _keys_last(constraint: tuple[str, ...]) -> tuple[bool, str]:
    return constraint[2].startswith("FOREIGN"), constraint[1]


def _columns_of(text: str) -> list[str]:
    """The columns of an index or key, without their order and conditions."""
    match = _COLUMNS.search(text)
    return [column.split()[0] for column in match["columns"].split(",")] if match else []


def _quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))
