"""What the database refuses is one typed error, the same on every backend, without the driver's and without values."""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import peewee as pw
import pytest

from presgen import DatabaseManager, DatabaseUnavailable, JobStatus, PresentationJob, User, ValidationError, VoiceClone
from presgen import errors as presgen_errors
from presgen.errors import (
    DiskFull,
    PresgenError,
    StatementFailed,
    StatementInvalid,
    TransactionAborted,
    ValueRefused,
)

Act = Callable[[], Any]


def sql(statement: str, *parameters: Any) -> Any:
    database = User._meta.database
    return database.execute_sql(statement.format(database.param), parameters).fetchall()


REFUSED: dict[str, tuple[type[StatementFailed], str | None, str, Act]] = {
    "column": (StatementInvalid, "42703", "nowhere", lambda: sql("SELECT nowhere FROM users")),
    "table": (StatementInvalid, "42P01", "run: presgen migrate", lambda: sql("SELECT 1 FROM nowhere")),
    "syntax": (StatementInvalid, "42601", "syntax error", lambda: sql("SELECT FROM FROM")),
    "type": (ValueRefused, "22P02", "a value", lambda: sql("INSERT INTO users (id, name) VALUES ({0}, {0})", "x", "x")),
    "json": (ValueRefused, "22P02", "a value", lambda: list(User.select(_json()).tuples())),
    "range": (ValueRefused, "22003", "a value", lambda: list(User.select(pw.fn.ABS(-(2**63))).tuples())),
    "limit": (ValueRefused, "22P02", "a value", lambda: list(User.select().limit("x"))),
}


def _json() -> Any:
    text = pw.Value("{x", converter=False)
    return pw.fn.json(text) if isinstance(User._meta.database, pw.SqliteDatabase) else text.cast("json")


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_statement_is_one_typed_error(backend: str, user: User, case: str) -> None:
    kind, state, says, act = REFUSED[case]
    with pytest.raises(kind) as caught:
        act()
    error = caught.value
    assert type(error) is kind
    assert isinstance(error, PresgenError)
    assert not error.retryable
    assert error.sqlstate == (None if backend == "sqlite" else state)
    assert says in str(error)
    assert len(str(error).splitlines()) == 1
    assert (error.__cause__, error.__context__, hasattr(error, "orig")) == (None, None, False)


def test_who_catches_peewees_errors_still_does() -> None:
    assert issubclass(StatementFailed, pw.DatabaseError)
    assert issubclass(StatementInvalid, pw.ProgrammingError)
    assert issubclass(ValueRefused, pw.DataError)
    assert issubclass(DiskFull, pw.OperationalError)


@pytest.mark.parametrize(
    ("state", "kind", "retryable"),
    [
        ("53100", DiskFull, False),
        ("53300", DatabaseUnavailable, True),
        ("53200", StatementFailed, False),
        ("54001", StatementFailed, False),
        ("58030", StatementFailed, False),
        ("XX000", StatementFailed, False),
        ("P0001", StatementFailed, False),
        ("ZZ999", StatementFailed, False),
        ("22021", ValueRefused, False),
        ("22001", ValueRefused, False),
        ("42501", StatementInvalid, False),
    ],
)
def test_a_server_in_trouble_is_told_by_its_code(
    postgresql: str, db: DatabaseManager, state: str, kind: type[PresgenError], retryable: bool
) -> None:
    with pytest.raises(kind) as caught:
        sql(f"DO $$ BEGIN RAISE 'said' USING errcode = '{state}', detail = 'canary', hint = 'canary'; END $$")
    assert type(caught.value) is kind
    assert caught.value.retryable is retryable
    assert "canary" not in str(caught.value)
    is_said = state.startswith(("42", "53", "54", "58"))
    assert ("said" in str(caught.value)) is is_said
    assert is_said or state in str(caught.value)


def test_a_statement_after_a_failed_one_tells_of_it(postgresql: str, db: DatabaseManager) -> None:
    with pytest.raises(TransactionAborted, match="put a statement that may fail into"), db.transaction():
        with pytest.raises(ValueRefused):
            sql("SELECT 1 / 0")
        sql("SELECT 1")


def test_what_fails_while_rows_are_fetched_is_typed_as_well(db: DatabaseManager, user: User) -> None:
    if not isinstance(db.database, pw.SqliteDatabase):
        with pytest.raises(ValueRefused):
            sql("SELECT 1 / (number - 2) FROM generate_series(1, 3) AS number")
        return
    # The second row is computed when it is fetched, and text is decoded then.
    numbers = "WITH n(i) AS (VALUES (1), (2)) SELECT abs(-9223372036854775807 - (i = 2)) FROM n"
    for fetch in (list, lambda cursor: cursor.fetchall(), lambda cursor: cursor.fetchmany(5), _one_by_one):
        with pytest.raises(ValueRefused, match="integer overflow"):
            fetch(db.database.execute_sql(numbers))
        with pytest.raises(StatementFailed, match="a stored text cannot be decoded") as caught:
            fetch(db.database.execute_sql("SELECT CAST(x'63616e617279ff' AS TEXT)"))
        assert "canary" not in repr(caught.value)
        assert caught.value.__context__ is None
    assert isinstance(db.database.cursor(), sqlite3.Cursor)


def _one_by_one(cursor: Any) -> None:
    while cursor.fetchone() is not None:
        pass


UNSENDABLE: dict[str, Any] = {
    "NUL": "a\0b",
    "a lone surrogate": "a\ud800",
    "a number of 71 bits": 2**70,
    "an object": object(),
    "a mapping": {"a": 1},
    "a class": int,
}


@pytest.mark.parametrize("what", UNSENDABLE)
def test_a_parameter_that_cannot_be_sent_is_refused(db: DatabaseManager, what: str) -> None:
    with pytest.raises(ValidationError) as caught:
        sql("SELECT {0}", UNSENDABLE[what])
    assert caught.value.rule == "unsendable"
    assert caught.value.__context__ is None
    with pytest.raises(ValidationError):
        list(User.select().where(User.id == UNSENDABLE[what]))
    assert sql("SELECT 1") == [(1,)]


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 1.5, Decimal("1.5"), Fraction(3, 2), "1.5", "canary", b"canary"]
)
def test_a_whole_number_is_compared_with_whole_numbers(db: DatabaseManager, user: User, value: Any) -> None:
    with pytest.raises(ValidationError, match="^id must be a whole number$"):
        User.get_by_id(value)
    with pytest.raises(ValidationError, match="^priority must be a whole number$"):
        list(PresentationJob.select().where(PresentationJob.priority < value))


@pytest.mark.parametrize("value", [1, 1.0, Decimal(1), "1", True])
def test_a_whole_number_may_be_written_in_many_ways(db: DatabaseManager, user: User, value: Any) -> None:
    assert User.get_by_id(value) == user
    assert list(PresentationJob.select().where(PresentationJob.priority > value)) == []


def test_a_flag_is_compared_with_true_and_false(db: DatabaseManager, user: User) -> None:
    assert list(User.select().where(User.is_active == 1)) == [user]
    assert list(User.select().where(User.is_active == False)) == []  # noqa: E712 (an expression of peewee's)
    for value in ("false", 2, NotImplemented, object()):
        with pytest.raises(ValidationError, match="^is_active must be True or False"):
            list(User.select().where(User.is_active == value))


def test_a_function_of_a_number_is_read_as_it_is(db: DatabaseManager, user: User) -> None:
    texts = pw.fn.REPLACE(User.id.cast("text"), "1", "one"), pw.fn.REPLACE(User.name, "A", "a")
    assert list(User.select(*texts).tuples()) == [("one", "ada")]


def test_a_percent_sign_in_a_statement_is_told(postgresql: str, db: DatabaseManager) -> None:
    with pytest.raises(StatementInvalid, match="written as %%"):
        sql("SELECT 'canary%y'", True)


def test_peewees_own_errors_stay_as_they_are(db: DatabaseManager) -> None:
    with db.session() as database, pytest.raises(pw.OperationalError, match=r"^Connection already opened\.$"):
        database.connect()


@pytest.mark.parametrize("kind", [StatementFailed, StatementInvalid, ValueRefused, DiskFull])
def test_a_refusal_survives_the_way_between_processes(kind: type[StatementFailed]) -> None:
    error = kind("said")
    error.sqlstate = "42703"
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.sqlstate) == (kind, "said", "42703")
    assert getattr(presgen_errors, kind.__name__) is kind


# Names and arguments

UNKNOWN: dict[str, Act] = {
    "Model()": lambda: User(name="Ada", unknown=1),
    "create": lambda: User.create(name="Ada", unknown=1),
    "insert": lambda: User.insert(name="Ada", unknown=1),
    "insert_many": lambda: User.insert_many([{"name": "Ada", "unknown": 1}]).execute(),
    "update": lambda: User.update(unknown=1),
    "get": lambda: User.get(unknown=1),
    "get_or_none": lambda: User.get_or_none(unknown=1),
    "filter": lambda: User.filter(unknown__gt=1),
    "filter of a select": lambda: User.select().filter(unknown=1),
    "get_or_create": lambda: User.get_or_create(unknown=1),
    "defaults": lambda: User.get_or_create(name="Ada", defaults={"unknown": 1}),
    "enqueue_many": lambda: PresentationJob.enqueue_many([{"unknown": 1}]),
    "save": lambda: User(name="Ada").save(only=["unknown"]),
}


@pytest.mark.parametrize("way", UNKNOWN)
def test_a_name_that_is_no_field_is_refused_by_name(db: DatabaseManager, user: User, way: str) -> None:
    with pytest.raises(ValidationError, match="has no field 'unknown'") as caught:
        UNKNOWN[way]()
    assert caught.value.rule == "unknown"


def test_names_that_are_fields_or_lead_to_them_are_taken(db: DatabaseManager, user: User, voice: VoiceClone) -> None:
    assert VoiceClone(owner_id=user.id, name="v").owner_id == user.id
    assert VoiceClone.get(owner__name="Ada", owner_id=user.id) == voice
    assert User.get(voice_clones__name=voice.name) == user
    assert User.filter(name__ilike="ADA").get() == user
    (named,) = User.select(User.name, pw.fn.COUNT(User.id).alias("people")).group_by(User.name).objects()
    assert (named.name, named.people) == ("Ada", 1)
    user.note = "mine"  # an attribute, as on any object of Python's
    assert User.get_or_create(name="Ada", defaults={"is_active": False}) == (user, False)


def job_in_hand() -> Any:
    (job,) = PresentationJob.claim("w1")
    return job


REFUSED_ARGUMENTS: dict[str, tuple[str, Act]] = {
    "claim(None)": ("worker", lambda: PresentationJob.claim(None)),  # type: ignore[arg-type]
    "complete(None)": ("s3_video_path", lambda: job_in_hand().complete(None)),
    "fail(retry)": ("retry", lambda: job_in_hand().fail("x", retry="no")),
    "retry_many(5)": ("ids", lambda: PresentationJob.retry_many(5)),  # type: ignore[arg-type]
    "retry_many(text)": ("ids", lambda: PresentationJob.retry_many("12")),  # type: ignore[arg-type]
    "retry_many(everything)": ("everything", lambda: PresentationJob.retry_many(everything="no")),  # type: ignore[arg-type]
    "retry_many(ids, everything)": ("everything", lambda: PresentationJob.retry_many([1], everything="no")),  # type: ignore[arg-type]
    "enqueue_many(5)": ("rows", lambda: PresentationJob.enqueue_many(5)),  # type: ignore[arg-type]
    "enqueue_many(progress)": ("progress", lambda: PresentationJob.enqueue_many([], progress=5)),  # type: ignore[arg-type]
    "insert_many(5)": ("rows", lambda: User.insert_many(5)),  # type: ignore[arg-type]
    "insert(5)": ("rows", lambda: User.insert(5)),
    "update(5)": ("row", lambda: User.update(5)),
    "on_conflict(update)": ("update", lambda: User.insert(name="Ada").on_conflict(update=5)),
    "bulk_update(5)": ("model_list", lambda: User.bulk_update(5, ["name"])),  # type: ignore[arg-type]
    "bulk_update(fields)": ("fields", lambda: User.bulk_update([], 5)),  # type: ignore[arg-type]
    "bulk_update(size)": ("batch_size", lambda: User.bulk_update([], ["name"], batch_size=0)),
    "bulk_create(5)": ("model_list", lambda: User.bulk_create(5)),  # type: ignore[arg-type]
    "save(only)": ("only", lambda: User(name="Ada").save(only=5)),  # type: ignore[arg-type]
    "in_hand(None)": ("id", lambda: PresentationJob.in_hand(None, worker="w1", attempt=1)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("call", REFUSED_ARGUMENTS)
def test_an_argument_of_the_wrong_kind_is_refused_by_name(db: DatabaseManager, job: PresentationJob, call: str) -> None:
    name, act = REFUSED_ARGUMENTS[call]
    with pytest.raises(ValidationError, match=f"^{name} must ") as caught:
        act()
    assert caught.value.field == name
    assert PresentationJob.get_by_id(job.id).status in (JobStatus.PENDING, JobStatus.PROCESSING_SLIDES)


def test_a_row_that_is_no_instance_is_refused(db: DatabaseManager) -> None:
    for write in (User.bulk_create, lambda rows: User.bulk_update(rows, ["name"])):
        for row in (5, None, VoiceClone(id=1)):
            with pytest.raises(ValidationError, match="row 2 must be a User, not "):
                write([User(id=1, name="Ada"), row])


def test_a_batch_may_be_larger_than_the_rows(db: DatabaseManager) -> None:
    users = [User(name=f"Ada {number}") for number in range(3)]
    User.bulk_create(iter(users), batch_size=2**31 - 1)
    assert [user.id for user in users] == [1, 2, 3]
    assert User.bulk_update(users, ["name"], batch_size=2**31 - 1) == 3
    User.bulk_create([])


def test_an_expression_is_no_value_for_copy(db: DatabaseManager, user: User, voice: VoiceClone) -> None:
    row = {"owner": user, "voice_clone": voice, "s3_pptx_path": "/x.pptx"}
    for name, expression in {
        "s3_pptx_path": pw.fn.LOWER("/X"),
        "priority": pw.SQL("1"),
        "run_at": User.created_at,
    }.items():
        with pytest.raises(ValidationError, match=f"^row 2: {name} must be a value, not an SQL expression$") as caught:
            PresentationJob.enqueue_many([row, {**row, name: expression}])
        assert caught.value.field == name
    assert PresentationJob.select().count() == 0
