"""Random texts and queries, of what is hard about letters: both backends find the same rows."""

from __future__ import annotations

import random
from contextlib import suppress

from fixtures.effort import IS_FULL

from presgen import DatabaseManager, User, ValidationError
from presgen.ext import search

# Letters whose cases are special, marks, digits and numbers of other kinds, scripts without case, blanks and what has none.
ALPHABET = (
    "aAbBzZ09 _-.,:/'\"*()&|!<>\\"
    "\u00e4\u00c4\u00df\u1e9e\u0130\u0131\u017f\u212a\u212b\u03a3\u03c3\u03c2\u00b5\u00e9\u01c5\u01c6\u00bd\u00b2\u2460\u2167"
    "\u4e2d\u6587\U0001f680\u00a0\u2028\u200b\u00ad\u0301\ufb01\u094d\u0930\u093f\u092a"
)
KEYS = "0123456789abcdef-"
TEXTS, QUERIES = (2_000, 5_000) if IS_FULL else (100, 150)

Result = dict[tuple[str, str], list[int] | str]


def found_on(manager: DatabaseManager, texts: list[str], queries: list[str]) -> Result:
    """The ids that each query finds in each order, or why it is refused."""
    manager.migrate()
    for number, text in enumerate(texts, start=1):
        with suppress(ValidationError):  # a blank name
            User.create(id=number, name=text)
    manager.install("search")
    result: Result = {}
    for query in queries:
        for order in ("rank", "newest"):
            try:
                hits = search.users(query, order=order, limit=1_000)
                result[query, order] = sorted(hit.row.id for hit in hits)
            except ValidationError as error:
                result[query, order] = str(error)
    return result


def test_both_backends_find_the_same(postgresql: str, url: str) -> None:
    chance = random.Random() if IS_FULL else random.Random(11)

    def text(length: int) -> str:
        return "".join(chance.choice(ALPHABET) for _ in range(chance.randint(1, length)))

    texts, queries = [text(14) for _ in range(TEXTS)], [text(8) for _ in range(QUERIES)]
    keys = ["".join(chance.choice(KEYS) for _ in range(36)) for _ in range(TEXTS)]  # as those of S3 are
    texts, queries = texts + keys, queries + keys[: QUERIES // 2]
    with DatabaseManager("sqlite:///:memory:") as manager:
        on_sqlite = found_on(manager, texts, queries)
    with DatabaseManager(url) as manager:
        on_postgresql = found_on(manager, texts, queries)
    assert {
        query: (on_sqlite[query], found) for query, found in on_postgresql.items() if on_sqlite[query] != found
    } == {}
    assert sum(isinstance(found, list) and bool(found) for found in on_sqlite.values()) > QUERIES / 10
