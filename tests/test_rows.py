"""Rows that are read at once are what Peewee would have made of them; and so are Peewee's insides, as far as we use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from typing import Any

import peewee as pw
import psycopg2
import pytest
from fixtures.rows import Enqueue
from playhouse import signals

from presgen import DatabaseManager, JobEvent, JobStatus, PresentationJob, User, VoiceClone, queries
from presgen.compiled import Statement
from presgen.models.base import BaseModel
from presgen.rows import Reader, Reading

MOMENT = datetime(2026, 7, 1, 12, 30, 15, 123456, tzinfo=timezone.utc)


def by_peewee(model: Any) -> list[Any]:
    """All rows, as Peewee's own cursors read them."""
    return list(pw.ModelSelect(model, model._meta.sorted_fields).order_by(model.id))


def everything_of(instance: Any) -> tuple[Any, ...]:
    values = {name: (type(value), value) for name, value in instance.__data__.items()}
    return type(instance), list(instance.__data__), values, instance.__rel__, instance._dirty


@pytest.fixture
def full(user: User, voice: VoiceClone, enqueue: Enqueue) -> None:
    """Rows with all that they can have, beside rows with the least."""
    User.create(name="Least")
    VoiceClone.create(name="v", s3_path="/2.wav", owner=user, file_size=2**40, sample_rate=44_100, is_active=False)
    enqueue()
    done = enqueue(priority=5, run_at=MOMENT - timedelta(days=400), idempotency_key="k")
    (held,) = PresentationJob.claim("w1")
    assert held == done
    held.heartbeat(progress=0.25, checkpoint={"slide": [1, None, "ä"]})
    held.advance(JobStatus.SYNTHESIZING_AUDIO, slides_count=3, error_message="late")
    held.complete(s3_video_path="/v.mp4", video_duration_seconds=1.5, file_size_bytes=2**33)
    held.soft_delete()


@pytest.mark.parametrize("model", [User, VoiceClone, PresentationJob, JobEvent])
def test_rows_are_what_peewee_makes_of_them(full: None, model: Any) -> None:
    expected = by_peewee(model)
    assert len(expected) > 1
    mine = Reading(model, model.select().order_by(model.id)).instances()
    assert [everything_of(one) for one in mine] == [everything_of(one) for one in expected]
    assert [everything_of(model.get_by_id(one.id)) for one in expected] == [everything_of(one) for one in expected]


@pytest.mark.parametrize("zone", ["Europe/London", "America/St_Johns", "UTC"])
def test_moments_are_in_utc_whatever_the_session_says(
    postgresql: str, db: DatabaseManager, user: User, zone: str
) -> None:
    summer, winter = (
        User.create(name=name, created_at=at) for name, at in (("s", MOMENT), ("w", MOMENT.replace(month=1)))
    )
    with db.session() as database:
        database.execute_sql(f"SET TIME ZONE '{zone}'")
        found = [User.get_by_id(one.id).created_at for one in (summer, winter)]
        database.execute_sql("RESET TIME ZONE")
    assert found == [MOMENT, MOMENT.replace(month=1)]
    assert [at.tzinfo for at in found] == [timezone.utc, timezone.utc]


MOMENTS = (
    *("2026-11-26 12:00:00.123456+00", "2026-07-01 00:00:00+02", "0001-01-01 00:00:00+00", "1890-01-01 00:00:00+00"),
    *("9999-12-31 23:59:59.999999+00", "infinity", "-infinity", "1969-12-31 23:59:59.9+00"),
)


@pytest.mark.parametrize("style", ["ISO", "SQL, DMY", "German", "Postgres"])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "Europe/Amsterdam", "America/St_Johns"])
def test_moments_are_read_as_psycopg2_reads_them(postgresql: str, db: DatabaseManager, zone: str, style: str) -> None:
    settings = f"SET TIME ZONE '{zone}'; SET datestyle = '{style}'"
    query = "SELECT %s::timestamptz"

    def outcome(cursor: Any, text: str) -> Any:
        cursor.execute(query, (text,))
        try:
            ((found,),) = cursor.fetchall()
        except (ValueError, psycopg2.Error) as error:
            return type(error)
        return found, found.utcoffset()

    with db.session() as database, closing(psycopg2.connect(database.config.url)) as plain:
        mine, theirs = database.connection().cursor(), plain.cursor()
        for cursor in (mine, theirs):
            cursor.execute(settings)
        assert [outcome(mine, text) for text in MOMENTS] == [outcome(theirs, text) for text in MOMENTS]
        mine.execute("RESET TIME ZONE; RESET datestyle")


def test_rows_of_other_programs_are_read_as_peewee_reads_them() -> None:
    """Columns of SQLite hold values of any type."""
    with DatabaseManager("sqlite:///:memory:") as manager:
        manager.migrate()
        user = User.create(name="Ada")
        manager.database.execute_sql("UPDATE users SET created_at = '2026-01-02 03:04:05', is_active = 5")
        assert everything_of(User.get_by_id(user.id)) == everything_of(by_peewee(User)[0])
        assert User.get_by_id(user.id).created_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


def test_what_is_read_is_clean_and_what_is_changed_alone_is_written(user: User, statements: list[str]) -> None:
    found = User.get_by_id(user.id)
    assert not found.is_dirty()
    found.name = "Grace"
    assert found.dirty_fields == [User.name]
    statements.clear()
    found.save()
    assert statements[0].count('"email"') == 0
    assert not found.is_dirty()


def test_two_instances_of_a_row_share_nothing(user: User) -> None:
    one, other = User.get_by_id(user.id), User.get_by_id(user.id)
    one.name = "Grace"
    assert (other.name, other.is_dirty()) == ("Ada", False)


def test_a_status_is_remembered_from_when_it_was_read(job: PresentationJob) -> None:
    found = PresentationJob.get_by_id(job.id)
    assert found.stored_status is None
    found.status = "cancelled"
    assert found.stored_status is JobStatus.PENDING
    found.save()
    assert PresentationJob.get_by_id(job.id).status is JobStatus.CANCELLED


def test_a_page_shares_one_owner_for_each_id(db: DatabaseManager, statements: list[str]) -> None:
    for number in range(3):
        owner = User.create(name=f"u{number}")
        voice = VoiceClone.create(name="v", s3_path=f"/{number}.wav", owner=owner)
        for _ in range(4):
            PresentationJob.enqueue(owner=owner, voice_clone=voice, s3_pptx_path="/x.pptx")
    statements.clear()
    jobs = queries.get_presentation_jobs()
    owners = {job.owner_id: job.owner for job in jobs}
    assert len(owners) == 3
    assert all(job.owner is owners[job.owner_id] for job in jobs)
    assert [job.owner.name for job in jobs] == [f"u{job.owner_id - 1}" for job in jobs]
    assert len(statements) == 1
    stock = PresentationJob.select(PresentationJob, User).join(User).order_by(PresentationJob.id.desc())
    assert [job.__data__ for job in stock] == [job.__data__ for job in jobs]
    assert [job.owner.__data__ for job in stock] == [job.owner.__data__ for job in jobs]


def test_voices_refer_to_their_user_and_a_users_voices_can_be_asked_for_again(user: User, voice: VoiceClone) -> None:
    (found,) = queries.get_users_with_voice_clones()
    assert found.voice_clones == [voice]
    assert found.voice_clones[0].owner is found
    assert list(User.get_by_id(user.id).voice_clones) == [voice]  # a query, as before


@pytest.fixture
def listening() -> Iterator[list[Any]]:
    """What listeners of pre_init have been told of."""
    told: list[Any] = []
    signals.pre_init.connect(lambda sender, instance: told.append(dict(instance.__data__)), name="told", sender=User)
    yield told
    signals.pre_init.disconnect(name="told", sender=User)


def test_listeners_of_pre_init_hear_of_rows_that_are_read(user: User, listening: list[Any]) -> None:
    by_peewee(User)
    User.get_by_id(user.id)
    assert len(listening) == 2
    assert listening[0] == listening[1]


class _Plain(pw.Model):
    """A model of Peewee's and nobody else's."""


class _Named(BaseModel):
    """A model whose instances begin with more than their row."""

    name = pw.TextField()
    made_of: dict[str, Any]

    def __init__(self, *arguments: Any, **values: Any) -> None:
        super().__init__(*arguments, **values)
        self.made_of = values


def test_a_models_own_init_is_called(db: DatabaseManager) -> None:
    with _Named.bind_ctx(db.database):
        reader = Reader(_Named)
    (found,) = reader([(7, "Ada", "more")])
    assert found.made_of == {"__no_default__": 1, "id": 7, "name": "Ada"}
    assert (found.id, found.name, found.is_dirty()) == (7, "Ada", False)


# What follows is what the compiled statements and the readers know of Peewee beyond its documentation. A release that
# changes one of these fails here, and the message says where to look.

PLACES: dict[str, Callable[[], bool]] = {
    "rows.py, Reader.__call__: an instance is its __data__, __rel__ and _dirty": lambda: (
        set(vars(_Plain())) == {"__data__", "__rel__", "_dirty"}
    ),
    "rows.py, Reader.__call__: __rel__ is a dict, _dirty a set of names": lambda: (
        (vars(_Plain())["__rel__"], vars(_Plain())["_dirty"]) == ({}, set())
    ),
    "rows.py, Reader.__call__: who listens to a signal is in its _receiver_list": lambda: (
        signals.Signal()._receiver_list == [] and len(_heard()._receiver_list) == 1
    ),
    "rows.py, _initialized: __no_default__ says that an instance is made of a row": lambda: (
        _Named(__no_default__=1, name="x").__data__ == {"name": "x"}
    ),
    "compiled.py, Statement: options of get_sql_context() are the context's state": lambda: (
        pw.SqliteDatabase(None).get_sql_context(is_compiled=True).state.is_compiled is True
    ),
    "compiled.py, Moment: what nobody has set is None": lambda: pw.Context().state.is_compiled is None,
    "compiled.py, _Slot: value(converter=False) takes an object as it is": lambda: (
        pw.Context().value(PLACES, converter=False).query() == ("?", [PLACES])
    ),
    "compiled.py, Parameter: a comparison's converter is its field's db_value": lambda: (
        _converters(User.email == _Probe()) == [User.email.db_value]
    ),
    "models/written.py, template: an UPDATE takes SQL as it is": lambda: (
        _converters(pw.ModelUpdate(User, {User.name: _Probe()})) == [None]
    ),
    "models/written.py, template: an INSERT takes SQL as it is": lambda: (
        _converters(pw.ModelInsert(User, {User.name: _Probe()})) == [None]
    ),
    "models/base.py, filled: what a row leaves out and has a default is in _meta.defaults": lambda: (
        User._meta.defaults == {User.is_active: True}
    ),
    "models/found.py, equalities: a comparison is an Expression of lhs, op and rhs": lambda: (
        ((User.name == "x").lhs, (User.name == "x").op, (User.name == "x").rhs) == (User.name, pw.OP.EQ, "x")
    ),
    "models/found.py, _is_unique: an index knows its expressions, and whether it is unique": lambda: (
        [[part.name for part in index._expressions] for index in VoiceClone._meta.fields_to_index() if index._unique]
        == [["s3_path"]]
    ),
    "context.py, Session: a connection in hand is a _ConnectionState": lambda: (
        set(vars(pw._ConnectionState())) == {"closed", "conn", "ctx", "transactions", "commit_callbacks"}
    ),
}


def _heard() -> Any:
    signal = signals.Signal()
    signal.connect(_heard)
    return signal


class _Probe(pw.ColumnBase):
    """Tells which converter would convert a value in its place."""

    def __sql__(self, ctx: Any) -> Any:
        return ctx.value(ctx.state.converter, converter=False)


def _converters(query: Any) -> list[Any]:
    return [value for value in pw.Context().sql(query).query()[1] if value is not True]


@pytest.mark.parametrize("place", PLACES)
def test_peewee_is_inside_as_we_know_it(place: str) -> None:
    assert PLACES[place](), f"Peewee {pw.__version__} has changed what presgen/{place}"


def test_a_statement_has_the_text_that_peewee_writes(db: DatabaseManager) -> None:
    query = User.select().where(User.name == "x", User.id > 5).order_by(User.id).limit(3)
    statement = Statement(User, query)
    assert (statement.sql, statement.parameters({})) == query.sql()
