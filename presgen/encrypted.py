"""What peewee does with a column of envelopes: equality by digest, and no order or pattern that would mean nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import peewee as pw

from .errors import ConfigurationError, ValidationError
from .sealing import DIGEST_LENGTH, DIGEST_START, Place, Seal, Sealing, is_sealed

_IS_NULL: Final = (pw.OP.IS, pw.OP.IS_NOT)
_EQUALS: Final = {pw.OP.EQ: pw.OP.IN, pw.OP.NE: pw.OP.NOT_IN}
_AMONG: Final = (pw.OP.IN, pw.OP.NOT_IN)
_COMPARES: Final = (
    *("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__lshift__", "__rshift__", "__mod__", "__pow__"),
    *(
        "like",
        "ilike",
        "in_",
        "not_in",
        "regexp",
        "iregexp",
        "is_null",
        "contains",
        "startswith",
        "endswith",
        "between",
    ),
)


class Sealable:
    """A text field whose column holds envelopes, always or in some databases."""

    name: str
    model: Any
    column_name: str
    has_blind_index = True
    is_read_by_psycopg2 = False

    @property
    def place(self) -> Place:
        """Where its values are."""
        return Place(self.model._meta.table_name, self.column_name, self.model._meta.schema)

    @property
    def sealing(self) -> Sealing | None:
        """What has the keys of the database that the model is bound to; None for a database of another library."""
        return getattr(self.model._meta.database, "sealing", None)

    def seal(self, *, to_find: bool = False) -> Seal | None:
        """What its values are sealed with now; None where they are plain.

        Who writes is told by a CHECK when that has changed; who looks for a value has to know (`to_find`).
        """
        raise AssertionError(f"{type(self).__name__} does not say")

    def compared(self, value: Any) -> str:
        """The text that a value in a comparison means."""
        raise AssertionError(f"{type(self).__name__} does not say")

    def stored(self, text: str | None) -> str | None:
        """What is written for a text."""
        seal = None if text is None else self.seal()
        return text if text is None or seal is None else seal.envelope(text)

    def python_value(self, value: Any) -> Any:
        if not is_sealed(value):
            return self.opened_plain(value)
        if self.sealing is None:
            raise no_sealing(self.place)
        return self.sealing.open(value, self.place)

    def opened_plain(self, value: Any) -> Any:
        """What a stored value that is no envelope is read as."""
        return value

    def __sql__(self, ctx: Any) -> Any:
        is_operand = ctx.state.in_expr and not ctx.state.takes_envelopes
        if is_operand and self.seal(to_find=True) is not None:
            raise self.refusal()
        return super().__sql__(ctx)  # type: ignore[misc]

    def clean_expression(self, expression: Any) -> Any:
        """The SQL, if it is about this very column: the database cannot seal what another one gives."""
        if self.seal() is None or self.gives_envelopes(expression):
            return expression
        raise ValidationError("must be a value, not an SQL expression", field=self.name, rule="encrypted")

    def gives_envelopes(self, expression: Any) -> bool:
        """Whether an expression's values are sealed for this column already."""
        if isinstance(expression, pw.NamespaceAttribute):  # EXCLUDED
            return str(getattr(expression, "_attribute")) == self.column_name  # noqa: B009
        return field_behind(expression) is self

    def refusal(self) -> ValidationError:
        """The error for what an encrypted column cannot be asked."""
        can = "compare it with ==, !=, in_() and not_in()" if self.has_blind_index else "it has no blind index"
        return ValidationError(
            f"{self.name} is encrypted: the database can neither sort nor search it; {can}",
            field=self.name,
            rule="encrypted",
        )


def _comparing(name: str) -> Any:
    plain = getattr(pw.Field, name)

    def compare(self: Any, *values: Any) -> Comparison:
        return Comparison(plain(self, *values))

    compare.__name__ = name
    return compare


for _name in _COMPARES:
    setattr(Sealable, _name, _comparing(_name))


class Comparison(pw.Expression):
    """A comparison of a field that becomes one of digests if the field's column holds envelopes."""

    def __init__(self, plain: pw.Expression) -> None:
        super().__init__(plain.lhs, plain.op, plain.rhs, plain.flat)

    def __sql__(self, ctx: Any) -> Any:
        field = field_behind(self.lhs)
        seal = None if self.op in _IS_NULL else field.seal(to_find=True)
        if seal is None:
            with ctx(takes_envelopes=True):
                return super().__sql__(ctx)  # type: ignore[no-untyped-call]
        if not field.has_blind_index:
            raise field.refusal()
        if isinstance(self.rhs, Sealable) and field_behind(self.rhs) is field and self.op in _EQUALS:
            return ctx.sql(pw.Expression(Digest(self.lhs), self.op, Digest(self.rhs)))
        digests = [digest for text in self._texts(field) for digest in seal.digests(text)]
        return ctx.sql(pw.Expression(Digest(self.lhs), _EQUALS.get(self.op, self.op), digests))

    def _texts(self, field: Any) -> Iterable[str]:
        values = self.rhs.value if isinstance(self.rhs, pw.Value) else self.rhs
        values = list(values) if self.op in _AMONG and not isinstance(values, (str, pw.Node)) else [values]
        if self.op not in (*_EQUALS, *_AMONG) or any(isinstance(value, pw.Node) for value in values):
            raise field.refusal()
        return [field.compared(value) for value in values if value is not None]


class Digest(pw.ColumnBase):
    """The part of a column's envelopes by which they are found, as the index on it has it."""

    def __init__(self, field: Any) -> None:
        self.field = field

    def __sql__(self, ctx: Any) -> Any:
        with ctx(takes_envelopes=True):
            return ctx.literal("substr(").sql(self.field).literal(f", {DIGEST_START}, {DIGEST_LENGTH})")


class BlindIndex(pw.ModelIndex):
    """The index by which the values of an EncryptedText(blind_index=True) are found; for `Model.add_index()`."""

    def __init__(self, field: Any, *, unique: bool = False, name: str | None = None) -> None:
        if not isinstance(field, Sealable) or not field.has_blind_index:
            raise ConfigurationError("a BlindIndex needs a field with blind_index=True")
        name = name or f"idx_{field.place.table}_{field.column_name}"
        super().__init__(field.model, (Digest(field),), unique=unique, name=name)


def field_behind(node: Any) -> Any:
    """The field itself, for one that a model's alias gives."""
    return node.field if isinstance(node, pw.FieldAlias) else node


def refuse_order(nodes: Iterable[Any]) -> None:
    """Raise ValidationError for a sort or a group by an encrypted column."""
    for node in nodes:
        field = field_behind(node.unwrap() if isinstance(node, pw.Node) else node)
        if isinstance(field, Sealable) and field.seal(to_find=True) is not None:
            raise field.refusal()


def no_sealing(place: Place) -> ConfigurationError:
    """The error for a model with an encrypted column that is bound to a database without keys of its own."""
    return ConfigurationError(f"{place} is encrypted: bind its model to a manager's database, which has the keys")
