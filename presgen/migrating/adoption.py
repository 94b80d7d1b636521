"""Adoption: taking over, in place, a database that other models of the specification have made.

All of it is one transaction, in which nobody else reads or writes the tables: what fails or is killed was not there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..clock import is_sqlite
from ..errors import ConfigurationError, MigrationError
from ..validation import shown
from .addresses import Addresses, addresses
from .broken_rows import BrokenRows, broken_rows
from .catalog import TABLES, Catalog, catalog, execute_text, parts_of
from .converting import Conversion, columns_of
from .drift import built_by, compared
from .obstacles import Replacing, obstacles
from .phases import FIRST_RELEASE
from .recording import Recorder

Progress = Callable[[int, int], None]

_CREATES: Final = re.compile(
    r"CREATE\s+(?P<kind>TABLE|FUNCTION|TRIGGER)\s+(?P<name>\w+)(?:.*?\bON\s+(?P<table>\w+))?", re.DOTALL
)
_CREATES_INDEX: Final = re.compile(r"CREATE\s+(?:UNIQUE\s+)?INDEX\s+(?:CONCURRENTLY\s+)?(?P<name>\w+)")
_CHECK: Final = re.compile(r"CONSTRAINT\s+(?P<name>\w+)\s+(?P<text>CHECK\s*\(.*)", re.DOTALL)
_SETTINGS: Final = re.compile(r"\)\s*WITH\s*(?P<settings>\(.*\))\s*", re.DOTALL)
# The type of the status, when nothing else is of it.
_UNUSED_TYPE: Final = r"""
SELECT format('DROP TYPE %%s', pg_type.oid::regtype)
FROM pg_type JOIN pg_enum ON enumtypid = pg_type.oid
WHERE typnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('users'))
    AND NOT EXISTS (
        SELECT 1 FROM pg_depend
        WHERE refclassid = 'pg_type'::regclass AND refobjid IN (pg_type.oid, typarray) AND deptype = 'n'
            AND NOT (classid = 'pg_class'::regclass AND (
                objid = to_regclass('presentation_jobs')
                OR objid IN (SELECT indexrelid FROM pg_index WHERE indrelid = to_regclass('presentation_jobs'))))
            AND NOT (classid = 'pg_attrdef'::regclass AND objid IN (
                SELECT oid FROM pg_attrdef WHERE adrelid = to_regclass('presentation_jobs')))
            AND NOT (classid = 'pg_constraint'::regclass AND objid IN (
                SELECT oid FROM pg_constraint WHERE conrelid = to_regclass('presentation_jobs'))))
GROUP BY pg_type.oid
HAVING lower(string_agg(enumlabel, ',' ORDER BY enumsortorder)) LIKE 'pending,processing\_slides,%%'
"""
_HAS_TIMEZONE: Final = "SELECT 1 FROM pg_timezone_names WHERE name = %s"
_SEQUENCE: Final = "SELECT to_regclass(%s)::text"
# Rows that a policy hides would be missing from what is looked at.
_SEE_ALL: Final = "SET LOCAL row_security = off"


@dataclass(frozen=True)
class Step:
    """Some statements, and what they are for."""

    title: str
    statements: tuple[str, ...]


@dataclass(frozen=True)
class AdoptionPlan:
    """What an adoption will do, and what keeps it from being done."""

    steps: tuple[Step, ...]
    broken: tuple[BrokenRows, ...]
    obstacles: tuple[str, ...]
    """What is the application's own, and to be dropped before (and made again afterwards) or changed."""

    @property
    def problems(self) -> list[str]:
        """What has to be mended first."""
        return [*(f"in the way is {text}" for text in self.obstacles), *map(str, self.broken)]


class Adoption:
    """One database that is to be taken over. Raises ConfigurationError on SQLite.

    It becomes what the first release's migrations make; later ones are applied afterwards.
    """

    def __init__(self, database: Any, folder: Path, known: Sequence[str], *, timezone: str) -> None:
        if is_sqlite(database):
            raise ConfigurationError("adoption is for PostgreSQL; copy the rows of a SQLite file into a migrated one")
        self._database = database
        if database.execute_sql(_HAS_TIMEZONE, (timezone,)).fetchone() is None:
            raise ConfigurationError(f"the server knows no time zone {shown(timezone)}")
        recorder = Recorder(folder, database)
        self.names = [name for name in known if name <= FIRST_RELEASE]
        """The migrations that an adopted database has."""
        self._made = [sql for name in self.names for sql in recorder.statements_of(name)]
        self._declared = built_by(database, self._made)
        self._timezone = timezone

    def plan(self) -> AdoptionPlan:
        """What is to be done, from what is there; raises MigrationError where that cannot be told."""
        with self._database.atomic() as transaction:
            self._database.execute_sql(_SEE_ALL)
            plan = self._plan()
            transaction.rollback()
            return plan

    def run(self, progress: Progress | None = None) -> None:
        """Do it inside a transaction; raises MigrationError when something is in the way, or a row breaks a rule.

        `progress` gets how many steps are done, and of how many.
        """
        database = self._database
        database.execute_sql(_SEE_ALL)
        tables = [table for table in TABLES if columns_of(catalog(database), table)]
        if tables:
            database.execute_sql(f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE")
        plan = self._plan()
        if plan.problems:
            raise MigrationError(f"{len(plan.problems)} things to mend first, such as: {plan.problems[0]}")
        for done, step in enumerate(plan.steps, start=1):
            for sql in step.statements:
                execute_text(database, sql)
            if progress is not None:
                progress(done, len(plan.steps))
        left = [one for one in compared(self._declared, catalog(database)) if one.declared is not None]
        if left:
            raise MigrationError(f"the adopted database is not as declared: {left[0]}")

    def _plan(self) -> AdoptionPlan:
        found = catalog(self._database)
        conversions = self._conversions(found)
        replacing = Replacing(self._declared, found, conversions)
        forms = addresses(self._database) if "email" in conversions["users"].found else Addresses({}, ())
        broken = {
            (one.table, one.rule): one
            for one in (*broken_rows(self._database, self._declared, conversions), *forms.broken)
        }
        steps = tuple(
            Step(title, tuple(sql)) for title, sql in self._steps(found, conversions, replacing, forms) if sql
        )
        in_the_way = obstacles(self._database, replacing, conversions)
        return AdoptionPlan(steps, tuple(broken.values()), tuple(in_the_way))

    def _conversions(self, found: Catalog) -> dict[str, Conversion]:
        conversions = {}
        for table in TABLES:
            before = columns_of(found, table)
            if before:
                sequence = before["id"].sequence if "id" in before else None
                if sequence is None:  # SQLAlchemy's own, which draws from it itself
                    (sequence,) = self._database.execute_sql(_SEQUENCE, (f"{table}_id_seq",)).fetchone()
                wanted = columns_of(self._declared, table)
                conversions[table] = Conversion(table, wanted, before, self._timezone, sequence)
        if not {"users", "voice_clones"} <= conversions.keys():
            raise MigrationError(
                "there are no tables users and voice_clones to adopt; for a new database: presgen migrate"
            )
        for conversion in conversions.values():
            conversion.require_possible()
        return conversions

    def _steps(
        self, found: Catalog, conversions: Mapping[str, Conversion], replacing: Replacing, forms: Addresses
    ) -> Iterator[tuple[str, list[str]]]:
        yield "drop what is replaced, and name what stays as it is declared", [*replacing.statements()]
        yield "bring addresses into their form", [*forms.statements()]
        for table, conversion in conversions.items():
            yield f"convert {table}", [*self._settings(conversion), *conversion.statements()]
        for table in conversions:
            yield f"add the rules of {table}", [*self._constraints(table, found, replacing)]
        for table in TABLES:
            if table not in conversions:
                yield f"create {table}", [sql for sql in self._made if _is_about(sql, "TABLE", table)]
        for table in TABLES:
            yield f"build the indexes of {table}", [*self._indexes(table, found)]
        yield "create functions and triggers", [*self._triggers(found)]
        yield "drop the type of the old status", [sql for (sql,) in self._database.execute_sql(_UNUSED_TYPE).fetchall()]
        yield "look at the rows, for the planner", [f"ANALYZE {table}" for table in conversions]

    def _settings(self, conversion: Conversion) -> Iterator[str]:
        """How the table is stored, before it is written anew."""
        for sql in self._made:
            if _is_about(sql, "TABLE", conversion.table) and (match := _SETTINGS.search(sql)):
                yield f"ALTER TABLE {conversion.table} SET {match['settings']}"

    def _constraints(self, table: str, found: Catalog, replacing: Replacing) -> Iterator[str]:
        """In one statement, which reads the table once."""
        there = {(of, new) for (of, _), new in replacing.renamed().items()}
        missing = [
            one
            for one in self._declared["constraints"] - found["constraints"]
            if one[0] == table and one[:2] not in there
        ]
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
