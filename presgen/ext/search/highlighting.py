"""Where a row has what was looked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Final

from .query import Term
from .words import folded, word_pattern

WIDTH: Final = 160
"""Characters of a snippet, about."""


def snippet(
    texts: Sequence[str], terms: Sequence[Term], *, before: str, after: str, escape: Callable[[str], str] | None
) -> str:
    """The best part of the texts, with what was looked for between `before` and `after`.

    The text with most matches is taken, of equals the first. `escape` is applied to every piece, as html.escape.
    """
    text, spans = max(((text, _spans(text, terms)) for text in texts), key=lambda found: len(found[1]))
    start, end = _window(text, spans)
    marked = {place for first, last in spans for place in range(max(first, start), min(last, end))}
    pieces = ["…"] if start > 0 else []
    for is_match, places in groupby(range(start, end), marked.__contains__):
        piece = "".join(text[place] for place in places)
        piece = piece if escape is None else escape(piece)
        pieces.append(f"{before}{piece}{after}" if is_match else piece)
    return "".join([*pieces, "…"] if end < len(text) else pieces)


def _spans(text: str, terms: Sequence[Term]) -> list[tuple[int, int]]:
    """Where the terms are, as (start, end)."""
    words = [(found.group(), found.span()) for found in word_pattern().finditer(folded(text))]
    terms = [Term(tuple(map(folded, term.words)), term.is_prefix) for term in terms]
    spans = []
    for number in range(len(words)):
        for term in terms:
            found = words[number : number + len(term.words)]
            if _is_match(term, [word for word, _ in found]):
                spans.append((found[0][1][0], found[-1][1][1]))
    return spans


def _is_match(term: Term, words: Sequence[str]) -> bool:
    *first, last = term.words
    return (
        len(words) == len(term.words)
        and words[:-1] == first
        and (words[-1].startswith(last) if term.is_prefix else words[-1] == last)
    )


def _window(text: str, spans: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The part of the text to show: about WIDTH characters, with the first match not at its very edge."""
    if len(text) <= WIDTH:
        return 0, len(text)
    first = spans[0][0] if spans else 0
    start = max(0, min(first - WIDTH // 4, len(text) - WIDTH))
    return start, start + WIDTH
