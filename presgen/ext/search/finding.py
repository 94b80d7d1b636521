"""Finds users, voice clones and jobs by their words, a page at a time."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypedDict, TypeVar, Unpack

from ...clock import is_sqlite
from ...context import session
from ...errors import ValidationError
from ...models import PresentationJob, User, VoiceClone
from ...queries import bounded
from ...validation import argument
from . import on_postgresql, on_sqlite
from .highlighting import snippet
from .page import Page
from .query import Query, parse
from .subjects import JOBS, USERS, VOICE_CLONES, Subject

ORDERS: Final = ("rank", "newest")
_CURSOR: Final = re.compile(r"((?P<rank>[0-9.e+-]{1,30})~)?(?P<id>[0-9]{1,19})")

Row = TypeVar("Row", User, VoiceClone, PresentationJob)


@dataclass(frozen=True)
class Hit(Generic[Row]):
    """A row that was found."""

    row: Row
    rank: float | None
    """How well it fits, to be compared within one result; None where the newest come first."""
    _query: Query = field(repr=False)
    _subject: Subject = field(repr=False)

    @property
    def cursor(self) -> str:
        """The row's place in the result: what `after` takes."""
        return str(self.row.id) if self.rank is None else f"{self.rank!r}~{self.row.id}"

    def snippet(self, before: str = "**", after: str = "**", *, escape: Callable[[str], str] | None = None) -> str:
        """About 160 characters of the row, with what was looked for between `before` and `after`.

        For HTML: `hit.snippet("<mark>", "</mark>", escape=html.escape)`.
        """
        texts = [getattr(self.row, column) or "" for column in self._subject.columns]
        return snippet(texts, self._query.terms, before=before, after=after, escape=escape)


class Options(TypedDict, total=False):
    """What users(), voice_clones() and jobs() take beside the query."""

    order: str
    """`rank`, the best first, which it is by default, or `newest`, by id."""
    owner: User | int | None
    """Whose rows alone are looked at."""
    limit: int
    """Rows a page, by default 20."""
    after: Hit[Any] | str | None
    """The last hit of the page before, or its `cursor`."""


def users(query: str, **options: Unpack[Options]) -> list[Hit[User]]:
    """Active users, by name and, unless addresses are encrypted, by e-mail; as jobs()."""
    return _search(USERS, query, **options)


def voice_clones(query: str, **options: Unpack[Options]) -> list[Hit[VoiceClone]]:
    """Active voice clones, by name and path; as jobs()."""
    return _search(VOICE_CLONES, query, **options)


def jobs(query: str, **options: Unpack[Options]) -> list[Hit[PresentationJob]]:
    """Jobs that are not soft-deleted, by the paths of deck and video and by the error; a page of them.

    `query` is what people type: `talk error`, `"slide 3"`, `-draft`, `a OR b`, `quart*` (query.py). PostgreSQL ranks
    the newest 1,000 rows that fit, and no others. Raises ValidationError, also for a query without a word to look for,
    and ConfigurationError where the feature is not installed.
    """
    return _search(JOBS, query, **options)


def _search(
    subject: Subject,
    query: str,
    *,
    order: str = "rank",
    owner: User | int | None = None,
    limit: int = 20,
    after: Hit[Any] | str | None = None,
) -> list[Any]:
    parsed = argument(parse, query, "query")
    if order not in ORDERS:
        raise ValidationError(f"order must be one of {', '.join(ORDERS)}", field="order", rule="one")
    is_ranked = order == "rank"
    owner_id = None if owner is None else User.id.clean_value(owner._pk if isinstance(owner, User) else owner)
    place = (None, None) if after is None else _place(subject, after, is_ranked=is_ranked)
    page = Page(bounded("limit", limit), is_ranked, owner_id, *place)
    with session(subject.model._meta.database) as database:
        backend: Any = on_sqlite if is_sqlite(database) else on_postgresql
        ranks = dict(backend.found_ids(database, subject, parsed, page))
        rows = {row.id: row for row in _rows(subject, list(ranks), owner_id)}
    return [Hit(rows[row_id], rank, parsed, subject) for row_id, rank in ranks.items() if row_id in rows]


def _rows(subject: Subject, ids: list[int], owner_id: int | None) -> Any:
    """The rows of these ids, with their owners; of an owner's alone also where somebody acts for another user."""
    model = subject.model
    if not ids:
        return ()
    query = (model.select() if model is User else model.select(model, User).join(User)).where(model.id.in_(ids))
    return query if owner_id is None else query.where(model._meta.columns[subject.owner] == owner_id)


def _place(subject: Subject, after: Any, *, is_ranked: bool) -> tuple[float | None, int]:
    """Where the page before ended: its last rank, if there are ranks, and its last id; raises ValidationError."""
    cursor = after.cursor if isinstance(after, Hit) else after
    match = _CURSOR.fullmatch(cursor) if isinstance(cursor, str) else None
    if match is not None and (match["rank"] is not None) == is_ranked:
        with suppress(ValueError):  # a ValidationError is one
            return float(match["rank"]) if is_ranked else None, subject.model.id.clean_value(int(match["id"]))
    raise ValidationError("after must be a hit of the same order, or its cursor", field="after", rule="cursor")
