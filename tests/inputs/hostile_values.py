"""Values that callers pass by mistake or on purpose, and those that fit a field nearly or well."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from typing import Any

from hypothesis import strategies as st
from three_backends import FAILED, FIRST, SECOND

from presgen import JobEvent, JobStatus, PresentationJob, User, VoiceClone
from presgen.fields import (
    BigWholeField,
    DocumentField,
    EmailField,
    FlagField,
    IdField,
    LongTextField,
    MomentField,
    NumberField,
    StatusField,
    VarcharField,
    WholeField,
)
from presgen.references import ReferenceField


@dataclass(frozen=True)
class Given:
    """A value, made anew for every backend, and what to call it."""

    label: str
    make: Callable[[], Any]

    def __repr__(self) -> str:
        return self.label


class Word(str):
    """Text of a class of its own, which shows itself differently."""

    def __str__(self) -> str:
        return "something else"


class Count(int):
    """A number of a class of its own."""

    def __str__(self) -> str:
        return "something else"


class Colour(str, Enum):  # noqa: UP042 (a StrEnum shows its value)
    """str() of a member is `Colour.RED`, and its value `/red.wav`."""

    RED = "/red.wav"
    MAIL = "red@example.com"
    PENDING = "pending"


class Size(IntEnum):
    """A member is a number."""

    SMALL = 1


class Letter(StrEnum):
    """A member is text."""

    A = "/a.wav"


class LikeNumpy:
    """A whole number as numpy has them: no int, but with an index."""

    def __index__(self) -> int:
        return 7


class LikeNumpysFloat:
    """A number that only says which float it is."""

    def __float__(self) -> float:
        return 0.5


class OddZone(tzinfo):
    """Off from UTC by seconds and microseconds."""

    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta(hours=-23, minutes=59, seconds=58, microseconds=1)

    def dst(self, moment: datetime | None) -> None:
        return None

    def tzname(self, moment: datetime | None) -> str:
        return "Odd/Zone"


class NoOffset(OddZone):
    """A zone that does not know its offset."""

    def utcoffset(self, moment: datetime | None) -> None:  # type: ignore[override]
        return None


class BrokenZone(OddZone):
    """A zone whose offset is more than a day."""

    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta(days=3)


def nested(depth: int, *, key: str | None = None) -> Any:
    """A list in a list, or a mapping in a mapping, so many times."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if key is None else {key: value}
    return value


def circular() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


INFINITY = float("inf")
_PLAIN: Iterable[Any] = (
    None, True, False, 0, 1, -1, 2, 7, 300, 301, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**53 + 1, 2**63 - 1, 2**63, -(2**63),
    -(2**63) - 1, FAILED, 10**30, 10**400, FIRST, SECOND, Count(5), Size.SMALL, LikeNumpy(), LikeNumpysFloat(),
    0.0, -0.0, 0.1, 0.5, 1.0, 1.5, 5e-324, 2.2e-308, 1e16, 1e22, 1e23, 1e308, -1e308, INFINITY, -INFINITY, float("nan"),
    0.1 + 0.2, 299.999999999999, 300.0, 300.00000000000006, 1e9, 1e9 + 1e-6,
    Decimal(1), Decimal("0.5"), Decimal("NaN"), Decimal("Infinity"), Decimal("sNaN"), Fraction(1, 3), Fraction(10**400), 1j,
    "", " ", "\t\n", "\u3000", "\u200b", "\x1f", "a\0b", "\0", "\ud800", "a\udfffz", "\ufffe", "x", " x ", "x" * 255, "x" * 256,
    "x" * 1000, "x" * 1001, "😀" * 255, "😀" * 10_000, "y" * 10_001, "a" + "\u0301" * 300, "%", "%s", "%(x)s", "{}", "\\", "\\N", "\\.",
    "\\u0000", "\t", "a\tb", "a\nb", "a\r\nb", "a\\nb", "\x7f\x01", "'", '"', "';--", "$1", "?", ":x", "\u202eabc", "שלום", "e\u0301",
    "\u00e9", "\u2028", "NULL", "null", "None", "true", "now", "infinity", "1", "1.5", "1_000", "NaN", "pending", "Pending", "failed",
    "PENDING", "2026-01-01", "2026-01-01 00:00:00+00:00", "/", "/a.wav", "/e\u0301.wav", "/\\N\t%s.wav", "/" + "x" * 995 + ".wav",
    "/" + "x" * 996 + ".wav", "/.wav", "/a.WAV", Word("/word.wav"), Word("word@example.com"), Letter.A, Colour.RED, Colour.MAIL,
    Colour.PENDING, JobStatus.PENDING, JobStatus.FAILED, JobStatus.COMPLETED, JobStatus.CANCELLED, JobStatus.ASSEMBLING_VIDEO,
    b"", b"bytes", bytearray(b"bytes"), memoryview(b"bytes"), object(), int, User, len, Ellipsis, NotImplemented, range(3), uuid.UUID(int=5),
    datetime(2026, 1, 1), datetime.min, datetime.max, datetime.min.replace(tzinfo=timezone.utc), datetime.max.replace(tzinfo=timezone.utc),
    datetime.min.replace(tzinfo=OddZone()), datetime.max.replace(tzinfo=OddZone()), datetime(2026, 1, 1, tzinfo=OddZone()),
    datetime(2026, 1, 1, tzinfo=NoOffset()), datetime(2026, 1, 1, tzinfo=BrokenZone()), datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=timezone.utc),
    datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=timezone.utc), datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=timezone.utc),
    date(2026, 1, 1), timedelta(1), timedelta.max, timezone.utc,
    [], {}, (), [1], {"a": 1}, {"a": None}, (1, (2, 3)), {1: "a", "1": "b"}, {None: 1, True: 2, 1.5: 3}, {(1, 2): 3}, {b"k": 1}, {1, 2}, frozenset(),
    [float("nan")], {"a": INFINITY}, {"a": "\0"}, {"\0": 1}, {"a\\u0000": "\\u0000"}, {"a": "\ud800"}, {"\udfff": 1}, [10**4000],
    [1e16, 1e22, 1e23, 1e308, -1e23, 5e-324, -0.0, 1.0, 0.1, 2**70], [Decimal(1)], [datetime(2026, 1, 1)], {"a": b"x"}, {"": {"": []}}, ["\u2028\u00e9e\u0301😀\x7f"],
    {Colour.RED: Size.SMALL}, [Word("word"), Count(5)],
)  # fmt: skip
HOSTILE: list[Given] = [
    *(Given(f"{type(value).__name__} {ascii(value)[:60]}", lambda value=value: value) for value in _PLAIN),
    Given("an int of 5,000 digits", lambda: 10**5000),  # more than Python prints
    Given("a list with an int of 5,000 digits", lambda: [10**5000]),
    Given("10 MB of text", lambda: "x" * 10_000_000),
    Given("10 MB of blanks", lambda: " " * 10_000_000),
    Given("10 MB in a list", lambda: ["x" * 10_000_000]),
    Given("just below 1 MB in a list", lambda: ["x" * 999_990]),
    Given("a list 50 deep", lambda: nested(50)),
    Given("a mapping 100 deep", lambda: nested(100, key="a")),
    Given("a list 101 deep", lambda: nested(101)),
    Given("a list 300 deep", lambda: nested(300)),
    Given("a list 900 deep", lambda: nested(900)),
    Given("a list 1,000 deep", lambda: nested(1_000)),
    Given("a mapping 1,000 deep", lambda: nested(1_000, key="a")),
    Given("a list 100,000 deep", lambda: nested(100_000)),
    Given("a list in itself", circular),
    Given("a generator", lambda: (number for number in (1, 2))),
    Given("a list with a generator", lambda: [iter(())]),
    Given("a user", lambda: User(id=FIRST, name="Ada")),
    Given("an unsaved user", lambda: User(name="Ada")),
    Given("a user with text for an id", lambda: User(id="1", name="Ada")),
    Given("a voice", lambda: VoiceClone(id=FIRST)),
    Given("a job", lambda: PresentationJob(id=FIRST)),
    Given("an event", lambda: JobEvent(id=FIRST)),
]  # fmt: skip

_ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)
_OFFSETS = st.builds(timezone, st.timedeltas(timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59)))
_LOCAL = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="@"), min_size=1, max_size=12)
_DOMAINS = st.sampled_from(
    [
        "x.com",
        "X.Com",
        "bücher.de",
        "BÜCHER.de",
        "xn--bcher-kva.de",
        "faß.de",
        "straße.de",
        "ΑΣ.gr",
        "ex ample.com",
        "a..b",
    ]
)
_LETTERS = "aAzZéÉe\u0301E\u0301İißΣσςJ\u030cǰŉK\ufb01ΐ.+-_%'"  # fmt: skip
_DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_ANY_TEXT, inner, max_size=4),
    max_leaves=8,
)


def around(*bounds: int) -> st.SearchStrategy[int]:
    """Whole numbers at most 2 off."""
    return st.one_of(st.integers(bound - 2, bound + 2) for bound in bounds)


def _emails() -> st.SearchStrategy[str]:
    local = st.text(st.sampled_from(_LETTERS), min_size=1, max_size=6) | _LOCAL
    return st.builds(lambda name, domain: f"{name}@{domain}", local, _DOMAINS) | st.emails()


def _fitting(field: Any) -> st.SearchStrategy[Any]:
    match field:
        case EmailField():
            return _emails()
        case StatusField():
            return st.sampled_from([*JobStatus, *(status.value for status in JobStatus)])
        case VarcharField() if field.name == "s3_path":
            return _ANY_TEXT.map(lambda text: f"/{text}.wav")
        case VarcharField() | LongTextField():
            bound = field.max_length if isinstance(field, VarcharField) else 10_000
            long = st.builds(lambda letter, size: letter * size, st.characters(), around(bound))
            return _ANY_TEXT | _ANY_TEXT | long
        case ReferenceField():
            return around(FIRST, SECOND, 0)
        case FlagField():
            return st.booleans()
        case WholeField() | BigWholeField() | IdField():
            return around(0, 2**31, 2**63, -(2**31), -(2**63)) | st.integers(1, 10**6)
        case NumberField():
            return st.floats() | st.floats(0, 1) | st.floats(0, 301) | st.fractions(0, 1) | st.integers(0, 301)
        case MomentField():
            return st.datetimes(timezones=_OFFSETS | st.just(timezone.utc)) | st.datetimes()
        case DocumentField():
            return _DOCUMENTS
    raise AssertionError(field)


def values_for(field: Any) -> st.SearchStrategy[Given]:
    """Values for a field: hostile ones, and more that could be meant."""
    fitting = _fitting(field).map(lambda value: Given(ascii(value)[:200], lambda: value))
    return st.one_of(st.sampled_from(HOSTILE), fitting, fitting)
