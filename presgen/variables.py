"""Environment variables as values: each reader takes the variable's name, for its error, and the text."""

from __future__ import annotations

import re
from typing import Final

from .errors import ConfigurationError
from .keyring import Keyring

_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"", "0", "false", "no", "off"})


def flag(variable: str, raw: str) -> bool:
    lowered = raw.strip().lower()
    if lowered in _TRUE:
        return True
    if lowered in _FALSE:
        return False
    raise ConfigurationError(f"{variable} must be true or false")


def whole(variable: str, raw: str) -> int:
    try:
        return int(raw)
    except ValueError:
        raise ConfigurationError(f"{variable} must be a whole number") from None


def seconds(variable: str, raw: str) -> float:
    try:
        return float(raw)
    except ValueError:
        raise ConfigurationError(f"{variable} must be a number of seconds") from None


def text(variable: str, raw: str) -> str:
    return raw


def urls(variable: str, raw: str) -> tuple[str, ...]:
    """URLs with commas or blanks between them; a comma may also stand between the hosts of one."""
    return tuple(re.split(r"[\s,]+(?=\w+://)", raw))


def keyring(variable: str, raw: str) -> Keyring:
    return Keyring.from_text(raw, variable=variable)


READERS: Final = {
    "int": whole,
    "float": seconds,
    "float | None": seconds,
    "bool": flag,
    "Keyring | None": keyring,
    "tuple[str, ...]": urls,
}
