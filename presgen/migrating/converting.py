"""How the columns of a table that something else has made become those that are declared."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from ..errors import MigrationError
from ..status import RUNNING
from .catalog import Catalog

_COLUMN: Final = re.compile(
    r"(?P<type>.+?)(?P<required> NOT NULL)?(?P<identity> IDENTITY(?: ALWAYS)?)?"
    r"(?: (?:DEFAULT|GENERATED AS) (?P<default>.*))?",
    re.DOTALL,
)
_SEQUENCE: Final = re.compile(r"nextval\('(?P<name>.+)'::regclass\)")
_NAIVE: Final = re.compile(r"timestamp(\(\d\))? without time zone|date")
_WHOLE: Final = ("smallint", "integer", "bigint")
_ROWS: Final = "(SELECT {values} FROM {table}) AS {table}"
_GO_ON: Final = """
SELECT setval(pg_get_serial_sequence('{table}', 'id'),
    greatest(last_value, (SELECT max(id) FROM {table})), is_called OR EXISTS (SELECT 1 FROM {table}))
FROM presgen_adopted
"""
_GO_ON_AFTER_ROWS: Final = """
SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table} HAVING max(id) IS NOT NULL
"""
_IS_RUNNING: Final = "{{status}} IN ({})".format(", ".join(f"'{status.value}'" for status in RUNNING))
# What is not as its column says by its type alone: how presgen stores it, from what there is.
_VALUES: Final = {
    ("users", "email"): "lower(trim({column}))",
    ("presentation_jobs", "status"): "lower({column}::text)",
}
# What a column that is not there gets, when the row says more than the default does. Whoever ran a job is stopped by
# now, so that a running one has a lease that has expired, and is taken back.
_FIRST_VALUES: Final = {
    ("users", "updated_at"): "{created_at}",
    ("voice_clones", "updated_at"): "{created_at}",
    ("presentation_jobs", "updated_at"): "{created_at}",
    ("presentation_jobs", "run_at"): "{created_at}",
    ("presentation_jobs", "progress"): "CASE {status} WHEN 'completed' THEN 1 ELSE 0 END",
    ("presentation_jobs", "worker"): f"CASE WHEN {_IS_RUNNING} THEN 'adopted' END",
    ("presentation_jobs", "lease_expires_at"): f"CASE WHEN {_IS_RUNNING} THEN now() END",
    ("presentation_jobs", "attempt"): f"CASE WHEN {_IS_RUNNING} THEN 1 ELSE 0 END",
}


@dataclass(frozen=True)
class Column:
    """A column as a catalog describes it."""

    name: str
    type: str
    is_required: bool
    identity: str | None
    """IDENTITY, or IDENTITY ALWAYS."""
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
    return Column(
        name, match["type"], bool(match["required"]), (match["identity"] or "").strip() or None, match["default"]
    )


@dataclass(frozen=True)
class Conversion:
    """One table on its way from what was found to what is declared."""

    table: str
    declared: Mapping[str, Column]
    found: Mapping[str, Column]
    timezone: str
    """In which the moments of columns without a time zone were written."""
    sequence: str | None
    """What has given the ids so far, if that is known and no identity."""

    def require_possible(self) -> None:
        """Raise MigrationError for a table that is none of the specification's."""
        for column in self.missing:
            if (column.is_required and column.default is None) or column.name == "status":
                raise MigrationError(f"{self.table} has no column {column.name}, which nothing can stand in for")
        if self.found["id"].type not in _WHOLE:
            raise MigrationError(f"the ids of {self.table} are {self.found['id'].type}, and have to be whole numbers")

    @property
    def missing(self) -> list[Column]:
        """The declared columns that the table lacks."""
        return [column for name, column in self.declared.items() if name not in self.found]

    @property
    def changed(self) -> list[str]:
        """The columns that are there, and become others."""
        return [name for name in self.declared if name in self.found and self._becomes_another(name)]

    def value(self, name: str) -> str:
        """The SQL expression of a declared column's value, over the columns that are there."""
        column, before = self.declared[name], self.found.get(name)
        if before is None:
            first = _FIRST_VALUES.get((self.table, name))
            if first is None:
                return column.default or f"NULL::{column.type}"
            status = _VALUES["presentation_jobs", "status"].format(column="status")
            return f"({first.format(created_at=self._moment('created_at'), status=status)})::{column.type}"
        if _NAIVE.fullmatch(before.type):
            return self._moment(name)
        value = _VALUES.get((self.table, name), "{column}").format(column=name)
        # A cast to a length would cut what is longer, where an assignment fails.
        if before.type == column.type or column.type.startswith("character varying"):
            return value
        # By its text, a number keeps the digits that it is shown with.
        return f"({value})::text::{column.type}" if before.type == "real" else f"({value})::{column.type}"

    def _moment(self, name: str) -> str:
        if name not in self.found:
            return "now()"
        return f"{name}::timestamp AT TIME ZONE '{self.timezone}'" if _NAIVE.fullmatch(self.found[name].type) else name

    def rows(self) -> str:
        """The table's rows as they will be: a subquery with the declared columns, and no others."""
        values = ", ".join(f"{self.value(name)} AS {name}" for name in self.declared)
        return _ROWS.format(values=values, table=self.table)

    def narrowed(self) -> Iterator[tuple[str, str]]:
        """The columns whose numbers may not fit, each with the condition of those that do not."""
        for name in self.changed:
            before, after = self.found[name].type, self.declared[name].type
            is_exact = before in _WHOLE
            if after in ("integer", "bigint") and before != "smallint":
                bits = 31 if after == "integer" else 63
                rest = "" if is_exact else f" OR {name} <> trunc({name}::numeric)"
                yield name, f"{name} < -(2::numeric ^ {bits}) OR {name} >= 2::numeric ^ {bits}{rest}"
            elif after == "double precision" and before.startswith("numeric"):
                yield name, f"{name}::double precision::numeric <> {name}"

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
        if self.found["id"].identity is None:
            yield from self._numbering()

    def _becomes_another(self, name: str) -> bool:
        return self.found[name].type != self.declared[name].type or self.value(name) != name

    def _actions(self, column: Column) -> Iterator[str]:
        before, alter = self.found.get(column.name), f"ALTER COLUMN {column.name}"
        value = self.value(column.name)
        if before is None:
            if value not in (column.default, f"NULL::{column.type}"):
                yield f"{alter} TYPE {column.type} USING {value}"
        elif self._becomes_another(column.name):
            if before.default is not None:
                yield f"{alter} DROP DEFAULT"
            yield f"{alter} TYPE {column.type} USING {value}"
            if column.default is not None:
                yield f"{alter} SET DEFAULT {column.default}"
        elif before.default != column.default:
            yield f"{alter} DROP DEFAULT" if column.default is None else f"{alter} SET DEFAULT {column.default}"
        if before is not None and before.identity == "IDENTITY ALWAYS":
            yield f"{alter} SET GENERATED BY DEFAULT"
        if column.is_required != (before is not None and before.is_required):
            yield f"{alter} {'SET' if column.is_required else 'DROP'} NOT NULL"

    def _numbering(self) -> Iterator[str]:
        """Identity in place of a sequence, which goes on where that one was."""
        if self.sequence is not None:
            yield f"ALTER SEQUENCE {self.sequence} OWNED BY NONE"
            yield f"ALTER SEQUENCE {self.sequence} RENAME TO presgen_adopted"
        yield f"ALTER TABLE {self.table} ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY"
        yield (_GO_ON if self.sequence is not None else _GO_ON_AFTER_ROWS).format(table=self.table)
        if self.sequence is not None:
            yield "DROP SEQUENCE presgen_adopted"
