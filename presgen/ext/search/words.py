"""What a word is: the same for both backends, and for what is looked for and where."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Final

# Punctuation, symbols, blanks and control characters separate words; letters, digits and marks are theirs.
_SEPARATORS: Final = frozenset("PSZC")
_NOT_EVEN_SEPARATORS: Final = frozenset(("Cn", "Co", "Cs"))
_LAST_CODE_POINT: Final = 0x1FFFF


@cache
def separator_ranges() -> tuple[tuple[int, int], ...]:
    """The code points that separate words, as (first, last); those that are not assigned belong to their neighbours."""
    ranges: list[tuple[int, int]] = []
    first: int | None = None
    for point in range(1, _LAST_CODE_POINT + 1):
        category = unicodedata.category(chr(point))
        if category in _NOT_EVEN_SEPARATORS:
            continue
        if category[0] in _SEPARATORS:
            first = point if first is None else first
        elif first is not None:
            ranges.append((first, point - 1))
            first = None
    if first is not None:
        ranges.append((first, _LAST_CODE_POINT))
    return tuple(ranges)


@cache
def word_pattern() -> re.Pattern[str]:
    """Matches a word."""
    return re.compile("[^" + "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in separator_ranges()) + "]+")


def separators_for_postgresql() -> str:
    """The regular expression of separators, for PostgreSQL, whatever the database's locale is."""
    return "[" + "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in separator_ranges()) + "]+"


def folded(text: str) -> str:
    """Lower case, character by character as databases do it: the length stays."""
    return "".join(low if len(low := char.lower()) == 1 else char for char in text)


def words_of(text: str) -> list[str]:
    """The words of a text, in their case: what is lower case, each database says by its own rules."""
    return word_pattern().findall(text)
