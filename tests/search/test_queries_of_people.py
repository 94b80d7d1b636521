"""What people type: one table of queries, with the same results on every backend."""

from __future__ import annotations

import string
from typing import Any

import pytest
from fixtures.effort import settings_for
from hypothesis import given
from hypothesis import strategies as st

from presgen import DatabaseManager, PresentationJob, User, ValidationError, VoiceClone
from presgen.ext import search
from presgen.ext.search.query import LENGTH_MAX, parse

DECKS = {
    "report": "/decks/quarterly-report_2026.pptx",
    "review": "/decks/Quarterly/Review (final).PPTX",
    "umlaut": "/decks/\u00c4rger \u00fcber Stra\u00dfe.pptx",
    "greek": "/decks/\u03a3\u039f\u03a6\u039f\u03a3 \u039f\u0394\u039f\u03a3.pptx",
    "cjk": "/decks/\u5b63\u5ea6\u62a5\u544a.pptx",
    "hindi": "/decks/\u0930\u093f\u092a\u094b\u0930\u094d\u091f.pptx",
    "emoji": "/decks/launch\U0001f680party.pptx",
    "dashes": "/decks/one\u2014two\u2013three \u201cfour\u201d\u00a0five\u2028six.pptx",
    "sql": "/decks/'; DROP TABLE users; --.pptx",
    "syntax": "/decks/NEAR(a b) AND NOT {c} ^d col:e | & ! <-> :*.pptx",
    "numbers": "/decks/3.14 1e5 0007 v2 12:30 -5 1_000.pptx",
    "mail": "/decks/ada.lovelace@example.co.uk.pptx",
    "stop": "/decks/the and of or not.pptx",
    "long": f"/decks/{'x' * 300}.pptx",
    "hex": "/decks/3e8d2c71-12e5ab-9e5a/0x1E10.pptx",
    "new": "/decks/launch\U0001f973party\U0001fae0.pptx",
    "repeated": "/decks/" + "line text " * 60 + "line of text.pptx",
}

TABLE: list[tuple[str, str]] = [
    ("quarterly", "report review"),
    ("QUARTERLY", "report review"),
    ("quarterly report", "report"),
    ("report quarterly", "report"),
    ('"quarterly report"', "report"),
    ('"report quarterly"', ""),
    ("quarterly-report", "report"),
    ("report_2026.pptx", "report"),
    ("/decks/quarterly-report_2026.pptx", "report"),
    ("quarterly -review", "report"),
    ("quarterly -2026 final", "review"),
    ('quarterly -"quarterly report"', "review"),
    ("quarter", ""),
    ("quarter*", "report review"),
    ("quart* fin*", "review"),
    ('"quarterly rev"*', "review"),
    ("quarterly-rep*", "report"),
    ("report OR review", "report review"),
    ("report or review", "report review"),
    ("OR report OR OR review OR", "report review"),
    ("quarterly report OR final", "report review"),
    ("final -quarterly OR report", "report"),
    ("\u00e4rger", "umlaut"),
    ("\u00c4RGER", "umlaut"),
    ("\u00dcBER stra\u00dfe", "umlaut"),
    ("arger", ""),
    ("strasse", ""),
    ("\u03c3\u03bf\u03c6\u03bf\u03c3", "greek"),
    ("\u03a3\u039f\u03a6\u039f\u03a3", "greek"),
    ("\u03c3\u03bf\u03c6\u03bf\u03c2", "greek"),  # with the final sigma
    ("\u5b63\u5ea6\u62a5\u544a", "cjk"),
    ("\u5b63\u5ea6*", "cjk"),
    ("\u0930\u093f\u092a\u094b\u0930\u094d\u091f", "hindi"),
    ("launch", "emoji new"),
    ("launch\U0001f973party", "emoji new"),
    ('"launch party"', "emoji new"),
    ("3e8d2c71", "hex"),
    ("3E8D2C71-12E5AB", "hex"),
    ("9e5a", "hex"),
    ("12e5*", "hex"),
    ("e", "syntax"),
    ("0x1e10", "hex"),
    ('"line of text"', "repeated"),
    ('line -"line of text"', ""),
    ("launch\U0001f680party", "emoji new"),
    ("party\U0001f680", "emoji new"),
    ("two", "dashes"),
    ('"one two three four five six"', "dashes"),
    ("drop table", "sql"),
    ("'; DROP TABLE users; --", "sql"),
    ("near a b", "syntax"),
    ("NEAR(a b)", "syntax"),
    ("AND NOT", "stop syntax"),
    ("col:e", "syntax"),
    ("{c} ^d", "syntax"),
    ("a & b", "syntax"),
    ("a <-> b", "syntax"),
    ("a:*", "mail stop syntax"),
    ("3.14", "numbers"),
    ("14", "numbers"),
    ("1e5", "numbers"),
    ("0007", "numbers"),
    ("7", ""),
    ("v2", "numbers"),
    ("12:30", "numbers"),
    ("1000", ""),
    ("1_000", "numbers"),
    ("ada.lovelace@example.co.uk", "mail"),
    ("lovelace", "mail"),
    ("example.co", "mail"),
    ("the", "stop"),
    ("the and", "stop"),
    ('"of or not"', "stop"),
    ("x" * 300, "long"),
    (f"{'x' * 50}*", "long"),
    ('"final quarterly', "review"),
    ('quarterly"', "report review"),
    ('""quarterly', "report review"),
    ("--quarterly final -", ""),
    ("quarterly !", "report review"),
    ("quarterly - final", "review"),
    ("\tquarterly\n\u00a0final ", "review"),
    ("'quarterly'", "report review"),
    ("quarterly \\", "report review"),
    ("%quarterly%", "report review"),
    ("decks -pptx", ""),
    ("nothing", ""),
]


@pytest.fixture
def decks(db: DatabaseManager, owner: User, voice: VoiceClone) -> dict[int, str]:
    """The names of the decks by their jobs' ids."""
    return {
        PresentationJob.enqueue(owner=owner, voice_clone=voice, s3_pptx_path=path).id: name
        for name, path in DECKS.items()
    }


def test_the_same_queries_find_the_same_everywhere(decks: dict[int, str]) -> None:
    wrong = []
    for query, expected in TABLE:
        for order in ("rank", "newest"):
            found = {decks[hit.row.id] for hit in search.jobs(query, order=order)}
            if found != set(expected.split()):
                wrong.append((query, order, found))
    assert wrong == []


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "query must not be empty"),
        ("  \n", "query must not be empty"),
        ("!?*", "query has no word to look for"),
        ("OR", "query has no word to look for"),
        ("-draft", "query has no word to look for, but only some to leave out"),
        ("talk OR -draft", "query has no word to look for, but only some to leave out"),
        ("\U0001f680", "query has no word to look for"),
        ("x" * (LENGTH_MAX + 1), f"query .*{LENGTH_MAX}"),
        ("a\0b", "query .*NUL"),
        ("\ud800", "query "),
        (None, "query "),
        (7, "query "),
    ],
)
def test_a_query_that_asks_for_nothing_is_refused(db: DatabaseManager, query: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        search.jobs(query)


anything = st.text(
    st.sampled_from(
        string.ascii_letters + string.digits + string.punctuation + " \t\u00e4\u00df\u03a3\u0130\u5b63\u0301\U0001f680"
    ),
    max_size=30,
)


@settings_for(short=60, full=3000)
@given(text=anything, query=anything)
def test_whatever_is_typed_finds_a_row_or_nothing_and_no_error(shared: DatabaseManager, text: str, query: str) -> None:
    """What it finds, test_parity.py compares."""
    try:
        User.update(name=text or "x").where(User.id == 1).execute()
        parse(query)
    except ValidationError:
        return
    by_rank, by_age = search.users(query), search.users(query, order="newest")
    assert [hit.row.id for hit in by_rank] == [hit.row.id for hit in by_age]
    assert all(isinstance(hit.snippet(), str) for hit in by_rank)


@pytest.fixture
def shared(db: DatabaseManager) -> DatabaseManager:
    """The database of all examples, with one user."""
    User.create(id=1, name="x")
    return db


@settings_for(short=60, full=3000)
@given(
    words=st.lists(
        st.text(st.characters(categories=["Lu", "Ll", "Lo", "Nd"], max_codepoint=0x5FF), min_size=1, max_size=8),
        min_size=1,
        max_size=5,
    )
)
def test_a_row_is_found_by_its_own_words(shared: DatabaseManager, words: list[str]) -> None:
    name = "-".join(words)
    User.update(name=name).where(User.id == 1).execute()
    for query in (name, f'"{name}"', " ".join(words), f"{words[-1]}*", f"{words[0]} OR zzz"):
        if query.lower().split()[0] in ("or", "-"):
            continue
        assert [hit.row.id for hit in search.users(query)] == [1], query
