"""Which locks a statement takes on tables, by its text.

Source: PostgreSQL's documentation, "Explicit Locking" and the pages of the commands. A test runs each form on a server
and compares with what pg_locks shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple


class Mode(Enum):
    """A lock's mode, as pg_locks names it, and what it keeps others from."""

    ROW_EXCLUSIVE = "RowExclusiveLock"
    SHARE_UPDATE_EXCLUSIVE = "ShareUpdateExclusiveLock"
    SHARE = "ShareLock"
    SHARE_ROW_EXCLUSIVE = "ShareRowExclusiveLock"
    ACCESS_EXCLUSIVE = "AccessExclusiveLock"

    @property
    def consequence(self) -> str:
        """What it means for the programs at work."""
        return {
            Mode.SHARE: "writers wait",
            Mode.SHARE_ROW_EXCLUSIVE: "writers wait",
            Mode.ACCESS_EXCLUSIVE: "readers and writers wait",
        }.get(self, "nobody waits")


class Lock(NamedTuple):
    """A lock that is held until the migration ends."""

    table: str
    mode: Mode


# What may hold anything: comments, strings, and bodies of functions.
_OPAQUE: Final = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\$(\w*)\$.*?\$\1\$", re.DOTALL)
_NAME: Final = r'(?:"(?:[^"]|"")+"|\w+)'
_QUALIFIED: Final = rf"{_NAME}(?:\.{_NAME})?"
_TABLE: Final = rf"(?:IF\s+(?:NOT\s+)?EXISTS\s+)?(?:ONLY\s+)?(?P<table>{_QUALIFIED})"
_REFERENCES: Final = re.compile(rf"\bREFERENCES\s+(?P<table>{_QUALIFIED})", re.IGNORECASE)
_ATTACHES: Final = re.compile(rf"\b(?:AT|DE)TACH\s+PARTITION\s+(?P<table>{_QUALIFIED})", re.IGNORECASE)
_LIGHT: Final = (
    r"(?:VALIDATE\s+CONSTRAINT|SET\s*\(|RESET\s*\(|ALTER\s+(?:COLUMN\s+)?\w+\s+SET\s+STATISTICS|CLUSTER\s+ON)"
)


def _rules(*rules: tuple[str, Mode]) -> list[tuple[re.Pattern[str], Mode]]:
    return [
        (re.compile(text.replace(" ", r"\s+").replace("TABLENAME", _TABLE), re.IGNORECASE | re.DOTALL), mode)
        for text, mode in rules
    ]


# The first that matches counts. An action that is light takes the light lock only when there is no other one beside it.
_RULES: Final = _rules(
    (r"CREATE (?:UNIQUE )?INDEX CONCURRENTLY\b.*?\bON TABLENAME", Mode.SHARE_UPDATE_EXCLUSIVE),
    (r"CREATE (?:UNIQUE )?INDEX\b.*?\bON TABLENAME", Mode.SHARE),
    (r"CREATE (?:OR REPLACE )?(?:CONSTRAINT )?TRIGGER\b.*?\bON TABLENAME", Mode.SHARE_ROW_EXCLUSIVE),
    (r"DROP (?:TRIGGER|RULE|POLICY)\b.*?\bON TABLENAME", Mode.ACCESS_EXCLUSIVE),
    (r"CREATE (?:OR REPLACE )?RULE\b.*?\bTO TABLENAME", Mode.ACCESS_EXCLUSIVE),
    (r"(?:CREATE|ALTER) POLICY\b.*?\bON TABLENAME", Mode.ACCESS_EXCLUSIVE),
    (r"CREATE STATISTICS\b.*?\bFROM TABLENAME", Mode.SHARE_UPDATE_EXCLUSIVE),
    (rf"ALTER TABLE TABLENAME {_LIGHT}[^,]*$", Mode.SHARE_UPDATE_EXCLUSIVE),
    (r"ALTER TABLE TABLENAME ATTACH PARTITION\b", Mode.SHARE_UPDATE_EXCLUSIVE),
    (r"ALTER TABLE TABLENAME (?:ENABLE|DISABLE)(?: ALWAYS| REPLICA)? TRIGGER\b[^,]*$", Mode.SHARE_ROW_EXCLUSIVE),
    (
        r"ALTER TABLE TABLENAME ADD (?:CONSTRAINT \w+ )?FOREIGN KEY\b(?!.*,\s*(?:ADD|DROP|ALTER)\b)",
        Mode.SHARE_ROW_EXCLUSIVE,
    ),
    (r"ALTER TABLE TABLENAME", Mode.ACCESS_EXCLUSIVE),
    (r"CLUSTER TABLENAME", Mode.ACCESS_EXCLUSIVE),
    (r"COMMENT ON TABLE TABLENAME", Mode.SHARE_UPDATE_EXCLUSIVE),
    (rf"COMMENT ON COLUMN (?P<table>{_QUALIFIED}?)\.{_NAME} IS\b", Mode.SHARE_UPDATE_EXCLUSIVE),
    (r"ANALYZE TABLENAME", Mode.SHARE_UPDATE_EXCLUSIVE),
    (r"INSERT INTO TABLENAME", Mode.ROW_EXCLUSIVE),
    (r"UPDATE TABLENAME", Mode.ROW_EXCLUSIVE),
    (r"DELETE FROM TABLENAME", Mode.ROW_EXCLUSIVE),
)
_DROP_OR_EMPTY: Final = re.compile(
    rf"(?P<verb>DROP\s+TABLE|TRUNCATE(?:\s+TABLE)?)\s+{_TABLE}(?P<more>(?:\s*,\s*(?:ONLY\s+)?{_QUALIFIED})*)",
    re.IGNORECASE,
)
_CREATE_TABLE: Final = re.compile(
    rf"CREATE\s+(?:UNLOGGED\s+|TEMP(?:ORARY)?\s+)?TABLE\s+(?P<if_it_is_not_there>IF\s+NOT\s+EXISTS\s+)?{_TABLE}",
    re.IGNORECASE,
)
_CREATE_INDEX: Final = re.compile(
    rf"CREATE\s+(?:UNIQUE\s+)?INDEX\s+(?:CONCURRENTLY\s+)?(?:IF\s+NOT\s+EXISTS\s+)?(?P<index>{_NAME})\s+ON\s+{_TABLE}",
    re.IGNORECASE,
)
_INDEX: Final = re.compile(
    rf"DROP\s+INDEX\s+(?P<concurrently>CONCURRENTLY\s+)?(?:IF\s+EXISTS\s+)?(?P<index>{_QUALIFIED})", re.IGNORECASE
)
_EXECUTES: Final = re.compile(rf"\bEXECUTE\s+(?:FUNCTION|PROCEDURE)\s+(?P<function>{_QUALIFIED})", re.IGNORECASE)
_DROP_FUNCTION: Final = re.compile(
    rf"DROP\s+FUNCTION\s+(?:IF\s+EXISTS\s+)?(?P<function>{_QUALIFIED})\b.*\bCASCADE\b", re.IGNORECASE | re.DOTALL
)
_PARTITION_OF: Final = re.compile(rf"\bPARTITION\s+OF\s+(?P<table>{_QUALIFIED})", re.IGNORECASE)
_MORE_INDEXES: Final = re.compile(rf",\s*(?P<index>{_QUALIFIED})")
_CASCADES: Final = re.compile(r"(?:DROP|TRUNCATE|ALTER)\b.*\bCASCADE\b", re.IGNORECASE | re.DOTALL)
# What has no table, but for what depends on it.
_NO_TABLES: Final = re.compile(
    r"(?:(?:CREATE|ALTER|DROP|COMMENT\s+ON)\s+(?:OR\s+REPLACE\s+)?"
    r"(?:FUNCTION|PROCEDURE|ROUTINE|AGGREGATE|TYPE|DOMAIN|SEQUENCE|SCHEMA|EXTENSION|ROLE|USER|DATABASE|COLLATION|VIEW)"
    r"|GRANT|REVOKE|SELECT|SET|RESET)\b",
    re.IGNORECASE,
)
_SIMPLE: Final = re.compile(r'"([a-z_][a-z0-9_]*)"')


@dataclass
class Tables:
    """What earlier statements of the migrations say of tables, which later ones do not name."""

    of_index: dict[str, str] = field(default_factory=dict)
    of_function: dict[str, set[str]] = field(default_factory=dict)
    """The tables whose triggers execute a function."""
    of_keys: dict[str, set[str]] = field(default_factory=dict)
    """The tables that a table's foreign keys refer to."""
    created: set[str] = field(default_factory=set)
    """Tables that nobody else knows of before the migrations are applied."""

    def locks_of(self, sql: str) -> list[Lock]:
        """The locks that a statement takes on tables that are there before; in the order of the statement.

        What is not known to this file is taken for the worst.
        """
        found: dict[Lock, None] = {}
        for text in _SIMPLE.sub(r"\1", _OPAQUE.sub(" ", sql)).split(";"):
            locks = [lock._replace(table=lock.table.removeprefix("public.")) for lock in self._locks(text.strip())]
            found |= dict.fromkeys(lock for lock in locks if lock.table not in self.created)
            self._learn(text.strip())
        return list(found)

    def _locks(self, text: str) -> Iterator[Lock]:
        yield from self._own_locks(text)
        if _CASCADES.match(text):
            yield Lock("what depends on it", Mode.ACCESS_EXCLUSIVE)

    def _own_locks(self, text: str) -> Iterator[Lock]:
        if created := _CREATE_TABLE.match(text):
            yield from (Lock(match["table"], Mode.SHARE_ROW_EXCLUSIVE) for match in _REFERENCES.finditer(text))
            yield from (Lock(match["table"], Mode.ACCESS_EXCLUSIVE) for match in _PARTITION_OF.finditer(text))
            if not created["if_it_is_not_there"]:
                self.created.add(created["table"])
        elif dropped := _INDEX.match(text):
            mode = Mode.SHARE_UPDATE_EXCLUSIVE if dropped["concurrently"] else Mode.ACCESS_EXCLUSIVE
            more = (match["index"] for match in _MORE_INDEXES.finditer(text, dropped.end()))
            for index in (name.removeprefix("public.") for name in (dropped["index"], *more)):
                yield Lock(self.of_index.get(index, f"the table of {index}"), mode)
        elif emptied := _DROP_OR_EMPTY.match(text):
            for table in (emptied["table"], *re.findall(_QUALIFIED, re.sub(r"\bONLY\b", "", emptied["more"]))):
                yield Lock(table, Mode.ACCESS_EXCLUSIVE)
                if emptied["verb"].upper().startswith("DROP"):
                    yield from (Lock(other, Mode.ACCESS_EXCLUSIVE) for other in sorted(self.of_keys.get(table, ())))
        elif dropped := _DROP_FUNCTION.match(text):
            yield from (
                Lock(one, Mode.ACCESS_EXCLUSIVE) for one in sorted(self.of_function.get(dropped["function"], ()))
            )
        elif found := next(((match, mode) for rule, mode in _RULES if (match := rule.match(text))), None):
            match, mode = found
            yield Lock(match["table"], mode)
            yield from (Lock(other["table"], Mode.SHARE_ROW_EXCLUSIVE) for other in _REFERENCES.finditer(text))
            yield from (Lock(other["table"], Mode.ACCESS_EXCLUSIVE) for other in _ATTACHES.finditer(text))
        elif text and not _NO_TABLES.match(text):
            yield Lock("what it names", Mode.ACCESS_EXCLUSIVE)

    def _learn(self, text: str) -> None:
        if changed := _CREATE_TABLE.match(text) or re.match(rf"ALTER\s+TABLE\s+{_TABLE}", text, re.IGNORECASE):
            keys = {match["table"] for match in _REFERENCES.finditer(text)}
            self.of_keys.setdefault(changed["table"], set()).update(keys)
        if match := _CREATE_INDEX.match(text):
            self.of_index[match["index"]] = match["table"]
        if (executes := _EXECUTES.search(text)) and (on := re.search(rf"\bON\s+{_TABLE}", text, re.IGNORECASE)):
            self.of_function.setdefault(executes["function"], set()).add(on["table"])
