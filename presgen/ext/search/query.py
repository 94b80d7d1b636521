"""Query: what somebody types into a search box, understood; and the same in the words of both backends.

`talk error` finds what has both words, `"slide 3"` the words one after the other, `-draft` what does not have it,
`a OR b` either, `quart*` words that begin so. What has punctuation inside, such as a path or an address, is its words
in that order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ...errors import ValidationError
from ...validation import text as valid_text
from .words import WORD_MAX, words_of

LENGTH_MAX: Final = 1_000
_TOKEN: Final = re.compile(r'(?P<excluded>-?)"(?P<phrase>[^"]*)"(?P<open>\*?)|(?P<bare>\S+)')
_OR: Final = "or"


@dataclass(frozen=True)
class Term:
    """Words that follow each other; the last one may be the beginning of one only."""

    words: tuple[str, ...]
    is_prefix: bool = False

    def for_postgresql(self) -> str:
        """The term as a part of a tsquery."""
        quoted = [f"'{word[:WORD_MAX]}'" for word in self.words]
        return f"({' <-> '.join(quoted)}{':*' if self.is_prefix else ''})"

    def for_sqlite(self) -> str:
        """The term as a part of an FTS5 query."""
        return f'"{" ".join(self.words)}"{" *" if self.is_prefix else ""}'


@dataclass(frozen=True)
class Alternative:
    """What a text has to have, and must not have."""

    required: tuple[Term, ...]
    excluded: tuple[Term, ...] = ()

    def for_postgresql(self) -> str:
        """The alternative as a part of a tsquery."""
        required = [term.for_postgresql() for term in self.required]
        return " & ".join([*required, *(f"!{term.for_postgresql()}" for term in self.excluded)])

    def for_sqlite(self) -> str:
        """The alternative as a part of an FTS5 query."""
        required = " AND ".join(term.for_sqlite() for term in self.required)
        return f"({required})" + "".join(f" NOT {term.for_sqlite()}" for term in self.excluded)


@dataclass(frozen=True)
class Query:
    """Texts that meet one of the alternatives are found."""

    alternatives: tuple[Alternative, ...]

    def for_postgresql(self) -> str:
        """A tsquery."""
        return " | ".join(f"({alternative.for_postgresql()})" for alternative in self.alternatives)

    def ranking_for_postgresql(self) -> str:
        """A tsquery without what is left out, which PostgreSQL's rank would take for nearly nothing."""
        return Query(tuple(Alternative(alternative.required) for alternative in self.alternatives)).for_postgresql()

    def for_sqlite(self) -> str:
        """An FTS5 query."""
        return " OR ".join(f"({alternative.for_sqlite()})" for alternative in self.alternatives)

    @property
    def terms(self) -> list[Term]:
        """What may be highlighted."""
        return [term for alternative in self.alternatives for term in alternative.required]


def parse(text: str) -> Query:
    """Understand a query; raises ValidationError for one that has no word to look for, also behind an OR."""
    typed = valid_text(text, max_length=LENGTH_MAX)
    alternatives = [_alternative(tokens) for tokens in _alternatives(typed)]
    if not alternatives:
        raise ValidationError("has no word to look for", rule="empty")
    return Query(tuple(alternatives))


def _alternatives(typed: str) -> Iterator[list[re.Match[str]]]:
    """The tokens between the ORs; what has none is no alternative."""
    tokens: list[re.Match[str]] = []
    for token in _TOKEN.finditer(typed):
        if (token["bare"] or "").lower() == _OR:
            if tokens:
                yield tokens
            tokens = []
        elif _term(token).words:
            tokens.append(token)
    if tokens:
        yield tokens


def _alternative(tokens: list[re.Match[str]]) -> Alternative:
    required = tuple(_term(token) for token in tokens if not _is_excluded(token))
    excluded = tuple(_term(token) for token in tokens if _is_excluded(token))
    if not required:
        raise ValidationError("has no word to look for, but only some to leave out", rule="empty")
    return Alternative(required, excluded)


def _is_excluded(token: re.Match[str]) -> bool:
    return bool(token["excluded"]) or (token["bare"] or "").startswith("-")


def _term(token: re.Match[str]) -> Term:
    if token["bare"] is None:
        return Term(tuple(words_of(token["phrase"])), bool(token["open"]))
    return Term(tuple(words_of(token["bare"])), token["bare"].endswith("*"))
