"""Checked: a peewee field that knows which values it may hold, and its column's default in the database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import peewee as pw

from . import validation
from .compiled import Parameter
from .errors import ValidationError


def is_for_postgresql(context: Any) -> bool:
    """Whether DDL is being written for PostgreSQL; its name for this type is all that the context tells of it."""
    return bool(context.state.field_types.get("BIGAUTO") == "BIGSERIAL")


def _is_expression(value: Any) -> bool:
    return isinstance(value, pw.Node) and not isinstance(value, pw.Model)


class Checked:
    """One validator per field: its type's rule, then `rules`, in `clean()`.

    A plain `default` is the column's default in the database too.
    """

    name: str
    null: bool
    default: Any
    db_value: Callable[[Any], Any]

    def __init__(self, *args: Any, rules: Sequence[validation.Rule] = (), **options: Any) -> None:
        self.rules = tuple(rules)
        super().__init__(*args, **options)

    is_read_by_psycopg2 = False
    """Whether psycopg2 gives the stored values as they are in Python."""
    is_filled_by_database = False
    """Whether None means, when a row is created, that the database gives the value."""

    @property
    def is_required(self) -> bool:
        """Whether a row cannot be created without a value."""
        return not (self.null or self.is_filled_by_database) and self.default is None

    def check_type(self, value: Any) -> Any:
        """The value in the field's Python type; raises ValidationError."""
        raise AssertionError(f"{type(self).__name__} has no type rule")

    def clean(self, value: Any) -> Any:
        """The value to store; raises ValidationError that names the field and the rule."""
        if _is_expression(value):  # the database is the judge
            return self.clean_expression(value)
        return self.clean_value(value, or_null=self.null)

    def clean_expression(self, expression: Any) -> Any:
        """The SQL to store the value of; raises ValidationError where only values will do."""
        return expression

    def clean_value(self, value: Any, *, or_null: bool = False) -> Any:
        """The value to store where SQL expressions are none, and NULL is one only with `or_null`."""
        return None if value is None and or_null else validation.argument(self._checked, value, self.name)

    def _checked(self, value: Any) -> Any:
        if value is None:
            raise ValidationError("must be set", rule="required")
        if _is_expression(value):
            raise ValidationError("must be a value, not an SQL expression", rule="type")
        value = self.check_type(value)
        for rule in self.rules:
            value = rule(value)
        return value

    def parameter(self, name: str) -> Any:
        """The SQL of a value that is written to the column, for a compiled statement."""
        return Parameter(name, self.db_value)

    def converted(self, value: Any) -> Any:
        """check_type() for a value in a query; raises ValidationError that names the field."""
        return validation.argument(self.check_type, value, self.name)

    def ddl(self, ctx: Any) -> Any:
        definition = super().ddl(ctx)  # type: ignore[misc]
        default = self.column_default(ctx)
        if default is not None:
            definition.nodes.append(pw.SQL(f"DEFAULT {default}"))
        return definition

    def column_default(self, context: Any) -> str | None:
        """The SQL of the column's DEFAULT, if it has one."""
        if self.default is None or callable(self.default):
            return None
        if isinstance(self.default, bool):
            return str(self.default).upper() if is_for_postgresql(context) else str(int(self.default))
        return f"'{self.default}'" if isinstance(self.default, str) else str(self.default)
