"""Jobs by the thousand: what enqueue() would store, all or none, in constant memory."""

from __future__ import annotations

import sys
import tracemalloc
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from fixtures.effort import settings_for
from hypothesis import given
from hypothesis import strategies as st

from presgen import DatabaseManager, JobEvent, PresentationJob, User, ValidationError, VoiceClone
from presgen.copy_text import text_of
from presgen.models import queueable

DECK = "/decks/talk.pptx"
BERLIN = ZoneInfo("Europe/Berlin")


class Count(int):
    """A number of a class of its own, which shows itself differently."""

    def __str__(self) -> str:
        return "something else"


class Word(str):
    """Text of such a class."""

    def __str__(self) -> str:
        return "something else"


@pytest.fixture
def row(user: User, voice: VoiceClone) -> dict[str, Any]:
    """A row that may be loaded."""
    return {"owner": user, "voice_clone": voice.id, "s3_pptx_path": DECK}


def loaded() -> tuple[int, int]:
    """How many jobs and events there are."""
    return PresentationJob.select().count(), JobEvent.select().count()


# Errors

NUMBERS = [("1", "type"), (True, "type"), (1.0, "type"), (None, "required"), (2**31, "range"), (-(2**31) - 1, "range")]
REFERENCES = [("1", "type"), (True, "type"), (1.0, "type"), (None, "required"), (2**63, "range"), (User(), "unsaved")]
TEXTS = [
    (5, "type"),
    (b"/x.pptx", "type"),
    ("", "empty"),
    (" \t\u3000", "empty"),
    ("   ", "empty"),
    ("x\0", "nul"),
    ("x\ud800", "unicode"),
]
BAD = {
    "owner": REFERENCES,
    "voice_clone": [*REFERENCES[:-1], (VoiceClone(), "unsaved"), (User(id=1), "type")],
    "s3_pptx_path": [*TEXTS, (None, "required"), ("x" * 1001, "max_length")],
    "priority": NUMBERS,
    "run_at": [("now", "type"), (datetime(2030, 1, 1), "aware"), (datetime.max.replace(tzinfo=ZoneInfo("America/New_York")), "range")],
    "max_attempts": [*NUMBERS, (0, "positive"), (-1, "positive")],
    "idempotency_key": [*TEXTS, ("é" * 256, "max_length")],
    "status": [("pending", "unknown")],
    "nmae": [("Ada", "unknown")],
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_is_told_by_row_field_and_rule_and_nothing_is_loaded(row: dict[str, Any], name: str) -> None:
    for value, rule in BAD[name]:
        rows = [*[row] * 450, {**row, name: value}, {**row, "owner": "and another one"}]
        with pytest.raises(ValidationError, match=r"^row 451: ") as caught:
            PresentationJob.enqueue_many(iter(rows))
        field = None if name == "nmae" else name
        assert (caught.value.row, caught.value.field, caught.value.rule) == (451, field, rule)
        assert loaded() == (0, 0)


def test_of_two_bad_values_in_a_row_the_first_field_is_told(row: dict[str, Any]) -> None:
    for bad in ({"priority": "high", "owner": "Ada"}, {"owner": "Ada", "s3_pptx_path": None}):
        with pytest.raises(ValidationError, match="^row 1: owner must be a whole number, not str$"):
            PresentationJob.enqueue_many([{**row, **bad}])
    with pytest.raises(ValidationError, match="^row 1: status cannot be set"):
        PresentationJob.enqueue_many([{**row, "owner": "Ada", "status": "pending"}])
    with pytest.raises(ValidationError, match="^row 2: owner must be set$"):
        PresentationJob.enqueue_many([row, {"s3_pptx_path": None}])


def test_a_row_that_is_no_mapping_is_told_by_its_number(row: dict[str, Any]) -> None:
    for bad in (5, None, "owner", list(row.items())):
        with pytest.raises(ValidationError, match="^row 2: must be a mapping, not ") as caught:
            PresentationJob.enqueue_many([row, bad])  # type: ignore[list-item]
        assert caught.value.row == 2
    assert loaded() == (0, 0)


def test_only_errors_of_enqueue_many_have_a_row(row: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        PresentationJob.enqueue(**{**row, "priority": "high"})
    assert caught.value.row is None


@pytest.mark.parametrize("error", [ZeroDivisionError("mine"), ValidationError("mine"), KeyboardInterrupt()])
def test_an_error_of_the_iterable_is_raised_as_it_is(row: dict[str, Any], error: BaseException) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield from [row] * 1001
        raise error

    with pytest.raises(type(error)) as caught:
        PresentationJob.enqueue_many(rows())
    assert caught.value is error
    assert loaded() == (0, 0)
    assert PresentationJob.enqueue_many([row]) == 1


# Progress


def test_progress_is_called_every_so_many_rows_and_at_the_end(
    row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert queueable._ROWS_PER_REPORT == 10_000
    monkeypatch.setattr(queueable, "_ROWS_PER_REPORT", 100)
    for count, told in {0: [0], 1: [1], 99: [99], 100: [100], 101: [100, 101], 1000: [*range(100, 1001, 100)]}.items():
        heard: list[int] = []
        assert PresentationJob.enqueue_many((row for _ in range(count)), progress=heard.append) == count
        assert heard == told


@pytest.mark.parametrize("last", [100, 1000, 1050])
@pytest.mark.parametrize("error", [ZeroDivisionError("mine"), ValidationError("mine"), KeyboardInterrupt()])
def test_an_error_of_progress_ends_the_load(
    row: dict[str, Any], monkeypatch: pytest.MonkeyPatch, last: int, error: BaseException
) -> None:
    monkeypatch.setattr(queueable, "_ROWS_PER_REPORT", 100)

    def stop(count: int) -> None:
        if count == last:
            raise error

    with pytest.raises(type(error)) as caught:
        PresentationJob.enqueue_many([row] * 1050, progress=stop)
    assert caught.value is error
    assert loaded() == (0, 0)
    assert PresentationJob.enqueue_many([row], progress=stop) == 1


# Values

SPECIAL = [
    "\\N",
    "\\.",
    "\\",
    "\t",
    "a\tb",
    "a\nb",
    "a\r\nb",
    "\\n",
    "\\\\N",
    "N",
    " x ",
    "é",
    "e\u0301",
    "😀",
    "\u2028",
    "\x7f",
    "x" * 255,
    "x" * 1000,
]
TEXT = st.sampled_from(SPECIAL) | st.text(st.characters(exclude_categories=()), max_size=5) | st.text("\\N\t\n\r.x", max_size=5)  # fmt: skip
WHOLE = st.sampled_from([1, 3, 2**31 - 1, Count(7)]) | st.integers(-(2**31), 2**31 - 1)
ZONES = st.sampled_from([timezone.utc, timezone(timedelta(hours=-9, minutes=-30)), BERLIN])
MOMENTS = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=ZONES) | st.sampled_from(
    [datetime(2025, 10, 26, 2, 30, tzinfo=BERLIN, fold=fold) for fold in (0, 1)]
)
NOW_AND_THEN_BAD = st.sampled_from([5, 5.0, True, "", " ", "5", None, b"x", "x" * 1001, 2**31, 2**63, datetime.max])


def columns(*, is_good: bool) -> st.SearchStrategy[dict[str, Any]]:
    bad = st.nothing() if is_good else NOW_AND_THEN_BAD
    # Of an id that there may be, the database is the judge, and of all rows at once.
    no_id = bad.filter(lambda value: type(value) is not int or value >= 2**63)
    text = TEXT.filter(lambda text: bool(text.strip()) and "\0" not in text and not _has_surrogates(text))
    return st.fixed_dictionaries(
        {"s3_pptx_path": (text | text.map(Word) if is_good else TEXT) | bad},
        optional={
            "owner": st.sampled_from(["row", "id", "count"]) | no_id,
            "voice_clone_id": st.sampled_from(["row", "id", "count"]) | no_id,
            "priority": WHOLE | bad,
            "run_at": MOMENTS | st.none() | bad,
            "max_attempts": WHOLE.filter(lambda number: number > 0) | bad,
            "idempotency_key": st.none() | text.filter(lambda key: len(key) <= 255) | bad,
        },
    )


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def completed(columns: dict[str, Any], rows: dict[str, Any]) -> dict[str, Any]:
    """The columns with the rows, or their ids, that the words in `owner` and `voice_clone_id` stand for."""
    columns = {"owner": "id", "voice_clone_id": "id", **columns}
    for name, found in rows.items():
        makes = {"row": found, "id": found.id, "count": Count(found.id)}
        columns[name] = makes.get(columns[name], columns[name]) if isinstance(columns[name], str) else columns[name]
    return columns


def stored(given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the database has of jobs in the order of their ids, but for what it chooses by itself."""
    jobs = list(PresentationJob.select().order_by(PresentationJob.id))
    own = {"id", "created_at", "updated_at"}
    return [
        {name: value for name, value in job.__data__.items() if name not in own and (name != "run_at" or row.get(name))}
        for job, row in zip(jobs, given, strict=True)
    ]


class _Undo(Exception):
    """Rolls a transaction back."""


def outcome(db: DatabaseManager, given: list[dict[str, Any]], *, at_once: bool) -> Any:
    """The jobs that were stored, or what was wrong with which row."""
    result: Any = None
    with suppress(_Undo), db.transaction():
        try:
            if at_once:
                assert PresentationJob.enqueue_many(iter(given)) == len(given)
            else:
                enqueue_each(given)
            result = stored(given)
        except ValidationError as error:
            result = str(error), error.field, error.rule, error.row
        raise _Undo
    return result


def enqueue_each(given: list[dict[str, Any]]) -> None:
    for number, row in enumerate(given, start=1):
        arguments = {name.removesuffix("_id"): value for name, value in row.items()}
        try:
            PresentationJob.enqueue(**arguments)
        except ValidationError as error:
            raise ValidationError(f"row {number}: {error}", field=error.field, rule=error.rule, row=number) from None


def test_what_is_loaded_is_what_enqueue_stores(db: DatabaseManager, user: User, voice: VoiceClone) -> None:
    rows = {"owner": user, "voice_clone_id": voice}

    @settings_for(short=200, full=3000)
    @given(st.lists(columns(is_good=True), min_size=1, max_size=6) | st.lists(columns(is_good=False), max_size=4))
    def check(drawn: list[dict[str, Any]]) -> None:
        given = [completed(columns, rows) for columns in drawn]
        keys = [row["idempotency_key"] for row in given if row.get("idempotency_key") is not None]
        if len(set(map(str, keys))) == len(keys):
            assert outcome(db, given, at_once=True) == outcome(db, given, at_once=False)

    check()


def test_a_row_may_be_any_mapping_and_name_its_columns_in_any_way(row: dict[str, Any], voice: VoiceClone) -> None:
    by_field = {PresentationJob.owner: row["owner"], PresentationJob._meta.fields["voice_clone"]: voice}
    rows: list[Any] = [
        OrderedDict(reversed(row.items())),
        MappingProxyType(row),
        {**by_field, "s3_pptx_path": DECK},
        {"voice_clone_id": "is overruled", "s3_pptx_path": DECK, "owner_id": row["owner"].id, "voice_clone": voice},
    ]
    assert PresentationJob.enqueue_many(rows) == 4
    jobs = list(PresentationJob.select())
    assert {(job.owner_id, job.voice_clone_id, job.s3_pptx_path) for job in jobs} == {(row["owner"].id, voice.id, DECK)}


def test_one_instance_may_stand_for_one_row_after_the_other(user: User, voice: VoiceClone) -> None:
    other = User.create(name="Eve")
    voices = {user.id: voice.id, other.id: VoiceClone.create(name="v", s3_path="/eve.wav", owner=other).id}

    def rows() -> Iterator[dict[str, Any]]:
        owner = User()
        for owner.id, number in voices.items():
            yield {"owner": owner, "voice_clone": number, "s3_pptx_path": DECK}

    PresentationJob.enqueue_many(rows())
    assert {job.owner_id: job.voice_clone_id for job in PresentationJob.select()} == voices


def test_every_character_takes_the_way_that_its_rule_allows() -> None:
    field = PresentationJob.s3_pptx_path
    short, printable = text_of(field), [chr(code) for code in range(sys.maxunicode + 1) if chr(code).isprintable()]
    for text in ["".join(printable[start : start + 999]) for start in range(0, len(printable), 999)]:
        assert short(text) == field.clean_value(text).replace("\\", "\\\\")
    for blank in filter(str.isspace, printable):
        with pytest.raises(ValidationError):
            short(blank)


# Memory


def test_memory_does_not_grow_with_the_rows(backend: str, user: User, voice: VoiceClone) -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        PresentationJob.enqueue_many(
            {"owner": user, "voice_clone": voice.id, "s3_pptx_path": f"/{number}.pptx", "priority": number}
            for number in range(count)
        )
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(2_000)
    assert peak(10_000 if backend == "sqlite" else 40_000) < peak(2_000) + 200_000


# Time
