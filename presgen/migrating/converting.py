"""How the columns of a table that something else has made become those that are declared."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from ..errors import MigrationError
from .catalog import Catalog

_COLUMN: Final = re.compile(
    r"(?P<type>.+?)(?P<required> NOT NULL)?(?P<identity> IDENTITY)?(?: DEFAULT (?P<default>.*))?", re.DOTALL
)
_SEQUENCE: Final = re.compile(r"nextval\('(?P<name>.+)'::regclass\)")
_ROWS: Final = "(SELECT {values} FROM {table}) AS {table}"
_LAST: Final = "(SELECT last_value FROM presgen_adopted)"
_GO_ON: Final = """
SELECT setval(pg_get_serial_sequence('{table}', '{column}'), greatest({before}, (SELECT max({column}) FROM {table})))
"""
# What is not as its column says by its type alone: how presgen stores it, from what there is.
_VALUES: Final = {
    ("users", "email"): "lower(trim({column}))",
    ("presentation_jobs", "status"): "lower({column}::text)",
}
# What a column that is not there gets, when the row says more than the default does.
_FIRST_VALUES: Final = {
    ("users", "updated_at"): "{created_at}",
    ("voice_clones", "updated_at"): "{created_at}",
    ("presentation_jobs", "updated_at"): "{created_at}",
    ("presentation_jobs", "run_at"): "{created_at}",
    ("presentation_jobs", "progress"): "CASE {status} WHEN 'completed' THEN 1 ELSE 0 END",
}


@dataclass(frozen=True)
class Column:
    """A column as a catalog describes it."""

    name: str
    type: str
    is_required: bool
    is_identity: bool
    default: str | None

    @property
    def sequence(self) -> str | None:
        """The sequence that its default draws from."""
        match = _SEQUENCE.fullmatch(self.default or "")
        return match["name"] if match else None


def columns_of(catalog: Catalog, table: str) -> dict[str, Column]:
    """A table's columns by their names; none for a table that is not there."""
    return {name: _parsed(name, text) for of, name, text in sorted(catalog["columns"]) if of == table}


def _parsed(name: str, text: str) -> Column:
    match = _COLUMN.fullmatch(text)
    if match is None:
        raise MigrationError(f"the column {name} is described as {text}")
    return Column(name, match["type"], bool(match["required"]), bool(match["identity"]), match["default"])


@dataclass(frozen=True)
class Conversion:
    """One table on its way from what was found to what is declared."""

    table: str
    declared: Mapping[str, Column]
    found: Mapping[str, Column]
    timezone: str
    """In which the moments of columns without a time zone were written."""

    @property
    def is_needed(self) -> bool:
        return any(self.found.get(name) != column for name, column in self.declared.items())

    @property
    def missing(self) -> list[Column]:
        """The declared columns that the table lacks."""
        return [column for name, column in self.declared.items() if name not in self.found]

    def value(self, name: str) -> str:
        """The SQL expression of a declared column's value, over the columns that are there."""
        column, before = self.declared[name], self.found.get(name)
        if before is None:
            first = _FIRST_VALUES.get((self.table, name))
            if first is None:
                return column.default or f"NULL::{column.type}"
            return f"({first.format(created_at=self._moment('created_at'), status=self._status)})::{column.type}"
        if before.type == "timestamp without time zone":
            return self._moment(name)
        value = _VALUES.get((self.table, name), "{column}").format(column=name) if self.is_needed else name
        # A cast to a length would cut what is longer, where an assignment fails.
        is_assigned = before.type == column.type or column.type.startswith("character varying")
        return value if is_assigned else f"({value})::{column.type}"

    def _moment(self, name: str) -> str:
        if self.found[name].type == "timestamp without time zone":
            return f"{name} AT TIME ZONE '{self.timezone}'"
        return name

    @property
    def _status(self) -> str:
        return _VALUES["presentation_jobs", "status"].format(column="status")

    def rows(self) -> str:
        """The table's rows as they will be: a subquery with the declared columns, and no others."""
        values = ", ".join(f"{self.value(name)} AS {name}" for name in self.declared)
        return _ROWS.format(values=values, table=self.table)

    def statements(self) -> Iterator[str]:
        """What changes the columns: in one rewriting of the table, whatever there is to change."""
        if self.missing:
            yield f"ALTER TABLE {self.table} " + ", ".join(
                f"ADD COLUMN {column.name} {column.type}" + (f" DEFAULT {column.default}" if column.default else "")
                for column in self.missing
            )
        actions = [action for column in self.declared.values() for action in self._actions(column)]
        if actions:
            yield f"ALTER TABLE {self.table} " + ", ".join(actions)
        for column in self.declared.values():
            before = self.found.get(column.name)
            if column.is_identity and before is not None and not before.is_identity:
                yield from self._numbering(column.name, before.sequence)

    def _actions(self, column: Column) -> Iterator[str]:
        before, alter = self.found.get(column.name), f"ALTER COLUMN {column.name}"
        value = self.value(column.name)
        if before is None:
            if value not in (column.default, f"NULL::{column.type}"):
                yield f"{alter} TYPE {column.type} USING {value}"
        elif before.type != column.type or value != column.name:
            if before.default is not None:
                yield f"{alter} DROP DEFAULT"
            yield f"{alter} TYPE {column.type} USING {value}"
            if column.default is not None:
                yield f"{alter} SET DEFAULT {column.default}"
        elif before.default != column.default:
            yield f"{alter} DROP DEFAULT" if column.default is None else f"{alter} SET DEFAULT {column.default}"
        was_required = before is not None and before.is_required
        if column.is_required != was_required:
            yield f"{alter} {'SET' if column.is_required else 'DROP'} NOT NULL"

    def _numbering(self, name: str, sequence: str | None) -> Iterator[str]:
        """Identity in place of a sequence, which goes on where that one was, or after the highest number."""
        if sequence is not None:
            yield f"ALTER SEQUENCE {sequence} OWNED BY NONE"
            yield f"ALTER SEQUENCE {sequence} RENAME TO presgen_adopted"
        yield f"ALTER TABLE {self.table} ALTER COLUMN {name} ADD GENERATED BY DEFAULT AS IDENTITY"
        yield _GO_ON.format(table=self.table, column=name, before=_LAST if sequence is not None else "1")
        if sequence is not None:
            yield "DROP SEQUENCE presgen_adopted"
