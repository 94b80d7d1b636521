"""What COPY reads for a field's values, which go through the field's rule on the way.

A value that the rule certainly gives back as it is takes a short way; all others, and those of fields that are not
listed at the end, take the field's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import lru_cache, partial
from typing import Any, Final

from .errors import ValidationError
from .fields import BigWholeField, MomentField, VarcharField, WholeField
from .references import ReferenceField, SameOwnerField
from .validation import Rule

TextOf = Callable[[Any], str]

# Most rows have the numbers and the moment of some row before.
_REMEMBERED: Final = 1000
_NULL: Final = r"\N"
_SPECIAL: Final = re.compile(r"[\\\t\n\r]")
_ESCAPES: Final = {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"}


def text_of(field: Any) -> TextOf:
    """The function that gives COPY's text of a value; it raises what `field.clean_value()` does."""

    def by_the_rule(value: Any) -> str:
        # Not clean(): of an SQL expression COPY would store the text.
        return _escaped(field.db_value(field.clean_value(value, or_null=field.null)))

    shorten = _SHORT_WAYS.get(type(field))
    return by_the_rule if shorten is None else shorten(field, by_the_rule)


def _escaped(stored: Any) -> str:
    if stored is None:
        return _NULL
    text = str(stored)
    return _SPECIAL.sub(lambda match: _ESCAPES[match[0]], text) if _SPECIAL.search(text) else text


def _text(field: Any, by_the_rule: TextOf) -> TextOf:
    max_length, may_be_null, is_kept = field.max_length, field.null, _kept_by(field.rules)

    def text(value: Any) -> str:
        # Printable text has no surrogates, and of what COPY escapes only the backslash.
        if type(value) is str and value.isprintable() and "\\" not in value:
            if len(value) <= max_length and value.strip() and is_kept(value):
                return value
        elif value is None and may_be_null:
            return _NULL
        return by_the_rule(value)

    return text


def _whole(field: Any, by_the_rule: TextOf, *, bits: int) -> TextOf:
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    is_kept = _kept_by(field.rules)

    def text(value: Any) -> str:
        if type(value) is int and low <= value <= high and is_kept(value):
            return str(value)
        return by_the_rule(value)

    return text


def _reference(field: Any, by_the_rule: TextOf) -> TextOf:
    model, text_of_id = field.rel_model, _whole(field, by_the_rule, bits=64)

    def text(value: Any) -> str:
        if type(value) is model and type(number := value._pk) is int:
            value = number
        return text_of_id(value)

    return text


def _moment(field: Any, by_the_rule: TextOf) -> TextOf:
    is_kept, written = _kept_by(field.rules), lru_cache(maxsize=_REMEMBERED)(str)

    def text(value: Any) -> str:
        if type(value) is datetime and value.tzinfo is timezone.utc and is_kept(value):
            return written(value)
        return by_the_rule(value)

    return text


def _kept_by(rules: Sequence[Rule]) -> Callable[[Any], bool]:
    """Whether each of the rules gives a value back as it is."""

    @lru_cache(maxsize=_REMEMBERED)
    def is_kept(value: Any) -> bool:
        try:
            return all(rule(value) is value for rule in rules)
        except ValidationError:
            return False

    return is_kept if rules else lambda _: True


_SHORT_WAYS: Final[dict[type, Callable[[Any, TextOf], TextOf]]] = {
    VarcharField: _text,
    WholeField: partial(_whole, bits=32),
    BigWholeField: partial(_whole, bits=64),
    ReferenceField: _reference,
    SameOwnerField: _reference,
    MomentField: _moment,
}
