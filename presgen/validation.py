"""The pure rules: each takes a value and gives back the value to store, or raises ValidationError.

They know no model and no database. Fields put them together; the database repeats them as CHECKs.
"""

from __future__ import annotations

import json
import math
import operator
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from numbers import Real
from typing import Any, Final

from .errors import ValidationError

Rule = Callable[[Any], Any]

# Text and documents are bounded so that one bad caller cannot fill a table's disk.
LONG_TEXT_MAX: Final = 10_000
DOCUMENT_MAX_BYTES: Final = 1_000_000
# Far below the depth at which SQLite, PostgreSQL and Python's own parser give up, each at another one.
DOCUMENT_MAX_DEPTH: Final = 100
VOICE_CLONE_MAX_SECONDS: Final = 300

# An escape of NUL in JSON, and not the text of one behind an escaped backslash.
_ESCAPED_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def text(value: Any, *, max_length: int) -> str:
    """A non-blank string of at most `max_length` characters that every backend can store."""
    if not isinstance(value, str):
        raise ValidationError(f"must be text, not {type(value).__name__}", rule="type")
    value = str.__str__(value)  # what a subclass says of itself, as members of an Enum do, is not its text
    if not value.strip():
        raise ValidationError("must not be empty", rule="empty")
    if len(value) > max_length:
        raise ValidationError(f"must be at most {max_length} characters, not {len(value)}", rule="max_length")
    return storable(value)


def storable(value: str) -> str:
    """Text without NUL and without lone surrogates, which PostgreSQL and UTF-8 refuse."""
    if "\0" in value:
        raise ValidationError("must not contain the NUL character", rule="nul")
    with suppress(UnicodeEncodeError):  # it quotes the text, and would be the context of an error that is raised here
        value.encode()
        return value
    raise ValidationError("must be valid Unicode text", rule="unicode")


def whole_number(value: Any, *, bits: int) -> int:
    """An int of at most `bits` bits; no bool, no text, no fraction."""
    if isinstance(value, bool):
        raise ValidationError("must be a whole number, not bool", rule="type")
    try:
        number = operator.index(value)
    except TypeError:
        raise ValidationError(f"must be a whole number, not {type(value).__name__}", rule="type") from None
    if not -(1 << bits - 1) <= number < 1 << bits - 1:
        raise ValidationError("is out of range", rule="range")
    return number


def argument(rule: Rule, value: Any, name: str) -> Any:
    """What the rule makes of the argument `name`; raises ValidationError that names it."""
    try:
        return rule(value)
    except ValidationError as error:
        said = str(error)
        # The specification's own sentences stand as they are; the rest need their subject.
        message = f"{name} {said}" if said[:1].islower() else said
        raise ValidationError(message, field=name, rule=error.rule) from None


def at_least(low: int) -> Rule:
    """A rule: a whole number from `low` on, of at most 32 bits."""

    def rule(value: Any) -> int:
        count = whole_number(value, bits=32)
        if count < low:
            raise ValidationError(f"must be at least {low}", rule="range")
        return count

    return rule


def shown(name: Any) -> str:
    """A name that is none, for a message: text is cut, of anything else only the type is told."""
    return reprlib.repr(name) if isinstance(name, str) else f"of type {type(name).__name__}"


def several(values: Any) -> Iterable[Any]:
    """An iterable that is no text."""
    if isinstance(values, (str, bytes, type)) or not isinstance(values, Iterable):
        raise ValidationError(f"must be an iterable, not {type(values).__name__}", rule="type")
    return values


def mapping(value: Any) -> Mapping[Any, Any]:
    """Values by their names."""
    if not isinstance(value, Mapping):
        raise ValidationError(f"must be a mapping, not {type(value).__name__}", rule="type")
    return value


def function(value: Any) -> Any:
    """Something that can be called."""
    if not callable(value):
        raise ValidationError(f"must be a function, not {type(value).__name__}", rule="type")
    return value


def number(value: Any) -> float:
    """A finite float; no bool, no text, no Decimal."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValidationError(f"must be a number, not {type(value).__name__}", rule="type")
    try:
        result = float(value)
    except OverflowError:
        raise ValidationError("is out of range", rule="range") from None
    if not math.isfinite(result):
        raise ValidationError("must be finite", rule="finite")
    return result


def flag(value: Any) -> bool:
    """True or False and nothing that resembles them."""
    if not isinstance(value, bool):
        raise ValidationError(f"must be True or False, not {type(value).__name__}", rule="type")
    return value


def moment(value: Any) -> datetime:
    """An aware datetime, in UTC."""
    if not isinstance(value, datetime):
        raise ValidationError(f"must be a datetime, not {type(value).__name__}", rule="type")
    try:
        if value.utcoffset() is None:
            raise ValidationError("must be an aware datetime; use datetime.now(timezone.utc)", rule="aware")
        return value.astimezone(timezone.utc)
    except ValidationError:
        raise
    except (OverflowError, ValueError):  # past the years 1 to 9999, or a zone that is off by more than a day
        raise ValidationError("is out of range", rule="range") from None


def document(value: Any) -> Any:
    """A JSON value, as it will read back: tuples become lists, keys text, and floats from 1e16 on ints of equal value.

    PostgreSQL writes such floats without exponent or fraction, which is an int when it is read.
    """
    encoded = json_text(value)
    if len(encoded.encode()) > DOCUMENT_MAX_BYTES:
        raise ValidationError(f"must be at most {DOCUMENT_MAX_BYTES} bytes of JSON", rule="max_length")
    decoded = json.loads(encoded, parse_float=_float_or_int)
    if _is_deeper(decoded, DOCUMENT_MAX_DEPTH):
        raise ValidationError(f"must be nested at most {DOCUMENT_MAX_DEPTH} deep", rule="depth")
    return decoded


def json_text(value: Any) -> str:
    """JSON that every backend can store."""
    try:
        encoded = json.dumps(value, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise ValidationError("must be a finite JSON value", rule="json") from None
    storable(encoded)
    if _ESCAPED_NUL.search(encoded):
        raise ValidationError("must not contain the NUL character", rule="nul")
    return encoded


def _float_or_int(text: str) -> float | int:
    return int(float(text)) if "e+" in text else float(text)


def _is_deeper(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth + 1):
        inner = [part for part in level if isinstance(part, (dict, list))]
        level = [part for parts in inner for part in (parts.values() if isinstance(parts, dict) else parts)]
        if not inner:
            return False
    return True


def positive(message: str = "must be positive") -> Rule:
    """A rule: the number is greater than zero."""

    def rule(value: Any) -> Any:
        if value <= 0:
            raise ValidationError(message, rule="positive")
        return value

    return rule


def between(low: float, high: float, message: str | None = None) -> Rule:
    """A rule: low <= number <= high."""

    def rule(value: Any) -> Any:
        if not low <= value <= high:
            raise ValidationError(message or f"must be between {low} and {high}", rule="range")
        return value

    return rule


def email(value: str) -> str:
    """A deliverable-looking address in lower case and normal form, its domain in Unicode and not looked up."""
    from email_validator import EmailNotValidError, validate_email

    try:
        return lower(validate_email(value, check_deliverability=False).normalized)
    except EmailNotValidError:
        raise ValidationError("Invalid email format", rule="email") from None


def lower(value: str) -> str:
    """Text in lower case and normal form C, which lower case can break: J with a caron is two characters, ǰ is one."""
    import unicodedata  # here, as whoever writes no address needs none of its tables

    return unicodedata.normalize("NFC", value.lower())


def absolute_path(value: str) -> str:
    """An S3 key that starts with a slash."""
    if not value.startswith("/"):
        raise ValidationError("S3 path must start with '/'", rule="absolute")
    return value


def wav_file(value: str) -> str:
    """A path that ends in .wav."""
    if not value.endswith(".wav"):
        raise ValidationError("Voice clone must be a WAV file", rule="wav")
    return value
