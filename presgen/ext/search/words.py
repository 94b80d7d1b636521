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
WORD_MAX: Final = 255
"""Characters of a word that PostgreSQL compares; a tsvector's words have 2,046 bytes at most."""


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


def separators_for_sqlite() -> str:
    """The separators beyond ASCII, for FTS5's unicode61, which knows those of Unicode 6.1 alone."""
    points = (point for first, last in separator_ranges() for point in range(max(first, 128), last + 1))
    return "".join(
        char for char in map(chr, points) if unicodedata.category(char)[0] in _SEPARATORS and char.isprintable()
    )


def separators_for_postgresql() -> str:
    """The regular expression of separators, for PostgreSQL, whatever the database's locale is."""
    return "[" + "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in separator_ranges()) + "]+"


LOWER_VARIANTS: Final = (
    "\u00b5\u017f\u03c2\u03d0\u03d1\u03d5\u03d6\u03f0\u03f1\u03f5\u1e9b\u1fbe",
    "\u03bcs\u03c3\u03b2\u03b8\u03c6\u03c0\u03ba\u03c1\u03b5\u1e61\u03b9",
)
"""Lower-case letters that stand for another one, as the final sigma does, and those (Unicode's simple case folding)."""


def folded(text: str) -> str:
    """The text as databases compare it, in lower case, character by character: the length stays."""
    lower = "".join(low if len(low := char.lower()) == 1 else char for char in text)
    return lower.translate(str.maketrans(*LOWER_VARIANTS))


def words_of(text: str) -> list[str]:
    """The words of a text, in their case: what is lower case, each database says by its own rules."""
    return word_pattern().findall(text)
