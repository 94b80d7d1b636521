"""Compiled statements: they say what Peewee's own say, are written once, and are told apart by what shapes them."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import datetime, timedelta, timezone
from typing import Any

import peewee as pw
import pytest

from presgen import MODELS, DatabaseManager, JobStatus, PresentationJob, User, VoiceClone, compiled, queries
from presgen.compiled import Parameter, Statement
from presgen.errors import ConfigurationError, PresgenError
from presgen.models import fenced
from presgen.models import found as finding
from presgen.models import written as written_rows

MOMENT = datetime(2026, 7, 1, 12, 30, 15, 123456, tzinfo=timezone(timedelta(hours=2)))
VALUES: list[tuple[Any, str, Any]] = [
    (User, "name", "O'Brien \\ % %s ? \t\n 漢字"),
    (User, "email", "Zoë.O'Brien@Example.com"),
    (User, "password_hash", "a" * 255),
    (User, "is_active", False),
    (User, "created_at", MOMENT),
    (VoiceClone, "name", "%(name)s"),
    (VoiceClone, "s3_path", "/ä b.wav"),
    (VoiceClone, "file_size", 2**62),
    (VoiceClone, "duration_seconds", 0.1 + 0.2),
    (VoiceClone, "sample_rate", 44_100),
    (VoiceClone, "is_active", False),
    (PresentationJob, "s3_pptx_path", "/?.pptx"),
    (PresentationJob, "slides_count", 12),
    (PresentationJob, "video_duration_seconds", 1e-9),
    (PresentationJob, "file_size_bytes", 2**40),
    (PresentationJob, "processing_time_seconds", 3.5),
    (PresentationJob, "error_message", "x" * 10_000),
    (PresentationJob, "run_at", MOMENT),
    (PresentationJob, "priority", -(2**31)),
    (PresentationJob, "max_attempts", 7),
    (PresentationJob, "progress", 1.0),
    (PresentationJob, "checkpoint", {"slide": 3, "quote": "'\"\\ %s ?", "deep": [None, True, 1.5]}),
    (PresentationJob, "checkpoint", [1, 2]),
    (PresentationJob, "checkpoint", "text"),
    (PresentationJob, "checkpoint", 0),
    (PresentationJob, "checkpoint", False),
    (PresentationJob, "idempotency_key", "k"),
    (PresentationJob, "deleted_at", MOMENT),
    (PresentationJob, "owner", 1),
    (PresentationJob, "voice_clone", 1),
]


def raw(model: Any, number: int) -> tuple[Any, ...]:
    """The stored row but for its id and updated_at, as the driver gives it."""
    names = [field.column_name for field in model._meta.sorted_fields if field.name not in ("id", "updated_at")]
    table = model._meta.table_name
    sql = f"SELECT {', '.join(names)} FROM {table} WHERE id = {number}"
    return tuple(model._meta.database.execute_sql(sql).fetchone())


def one_of_each(user: User, voice: VoiceClone) -> dict[Any, dict[str, Any]]:
    """The least that a row of each model needs."""
    return {
        User: {"name": "u", "created_at": MOMENT},
        VoiceClone: {"name": "v", "s3_path": "/1.wav", "owner": user.id, "created_at": MOMENT},
        PresentationJob: {
            "owner": user.id,
            "voice_clone": voice.id,
            "s3_pptx_path": "/x.pptx",
            "created_at": MOMENT,
            "run_at": MOMENT,
        },
    }


@pytest.mark.parametrize(("model", "name", "value"), VALUES)
def test_a_saved_value_is_stored_as_peewee_stores_it(
    db: DatabaseManager, user: User, voice: VoiceClone, model: Any, name: str, value: Any
) -> None:
    field, row = model._meta.fields[name], model.create(**one_of_each(user, voice)[model])
    before = row.__data__[name]
    setattr(row, name, value)
    row.save()
    mine = raw(model, row.id)
    pw.ModelUpdate(model, {field: before}).where(model.id == row.id).execute()
    pw.ModelUpdate(model, {field: field.clean(value)}).where(model.id == row.id).execute()
    theirs = raw(model, row.id)
    assert mine == theirs
    assert [type(one) for one in mine] == [type(one) for one in theirs]


@pytest.mark.parametrize("model", [User, VoiceClone, PresentationJob])
def test_a_created_row_is_stored_as_peewee_stores_it(
    db: DatabaseManager, user: User, voice: VoiceClone, model: Any
) -> None:
    given = one_of_each(user, voice)[model] | {name: value for of, name, value in VALUES if of is model}
    given = {name: value for name, value in given.items() if name not in ("idempotency_key", "email")}
    created = model.create(**given)
    mine = raw(model, created.id)
    model.delete().where(model.id == created.id).execute()
    row = {field: field.clean(given[field.name]) for field in model._meta.sorted_fields if field.name in given}
    number = pw.ModelInsert(model, row).execute()
    assert raw(model, number) == mine


@pytest.mark.parametrize("name", [field.name for field in PresentationJob._meta.sorted_fields if field.null])
def test_a_value_can_be_taken_away_again(job: PresentationJob, name: str) -> None:
    setattr(job, name, None)
    job.save()
    assert PresentationJob.get_by_id(job.id).__data__[name] is None


def test_an_instance_shows_what_was_written(job: PresentationJob) -> None:
    job.checkpoint, job.progress, job.run_at = (1, {"a": 2}), 1, MOMENT
    job.save()
    assert job.__data__ == PresentationJob.get_by_id(job.id).__data__
    assert job._dirty == set()
    assert User.create(name="x").__data__ == User.get(User.name == "x").__data__


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, db: DatabaseManager) -> list[str]:
    """The statements that have been compiled."""
    texts: list[str] = []
    init = Statement.__init__

    def counted(self: Statement, model: Any, query: Any, **options: Any) -> None:
        init(self, model, query, **options)
        texts.append(self.sql)

    monkeypatch.setattr(Statement, "__init__", counted)
    return texts


def live(job: PresentationJob) -> None:
    """The whole life of a job, as workers and the web application live it."""
    (held,) = PresentationJob.claim("w1")
    held.heartbeat(progress=0.5, checkpoint={"slide": 1})
    held.advance(JobStatus.SYNTHESIZING_AUDIO, slides_count=3)
    held.complete(s3_video_path="/v.mp4")
    assert PresentationJob.get_by_id(job.id) == held
    queries.get_presentation_jobs(limit=5, owner=job.owner_id)
    queries.get_users_with_voice_clones()
    queries.get_user_presentation_jobs(job.owner_id)


def test_a_statement_is_compiled_once(enqueue: Any, written: list[str]) -> None:
    live(enqueue())
    first = len(written)
    for _ in range(3):
        live(enqueue())
    assert first > 5
    assert written[first:] == []


def test_what_shapes_a_statement_tells_it_apart(user: User, written: list[str]) -> None:
    for change in ({"name": "b"}, {"name": "c"}, {"is_active": False}, {"email": None}, {"email": "b@example.com"}):
        for name, value in change.items():
            setattr(user, name, value)
        user.save()
        assert User.get_by_id(user.id).__data__ == user.__data__
    updates = [text for text in written if text.startswith("UPDATE")]
    assert len(updates) == 4  # the name, the flag, no address, an address


def test_sql_of_the_callers_is_compiled_for_once(job: PresentationJob, written: list[str]) -> None:
    for expected in (5, 10):
        job.priority = PresentationJob.priority + 5
        job.save()
        assert job.priority == expected
    assert [text.startswith("UPDATE") for text in written].count(True) == 2


def test_a_worker_may_write_sql_too(claimed: PresentationJob) -> None:
    for expected in (1, 2):
        claimed.advance(
            JobStatus.SYNTHESIZING_AUDIO if expected == 1 else JobStatus.ASSEMBLING_VIDEO,
            slides_count=pw.fn.COALESCE(PresentationJob.slides_count, 0) + 1,
        )
        assert claimed.slides_count == expected


def test_sql_may_stand_for_what_guards_a_write(claimed: PresentationJob) -> None:
    claimed.attempt = PresentationJob.attempt + 0
    claimed.heartbeat(progress=0.5)
    claimed.attempt = PresentationJob.attempt + 0
    claimed.advance(JobStatus.SYNTHESIZING_AUDIO)
    assert PresentationJob.get_by_id(claimed.id).status is JobStatus.SYNTHESIZING_AUDIO


def test_claims_are_written_once_for_each_size_and_capped_ones_once_in_all(enqueue: Any, written: list[str]) -> None:
    for _ in range(6):
        enqueue()
    assert [len(PresentationJob.claim("w1", limit)) for limit in (1, 2, 1, 2)] == [1, 2, 1, 2]
    capped = [PresentationJob.claim("w1", limit, max_per_owner=limit) for limit in (7, 8)]
    assert capped == [[], []]
    assert sum("SKIP LOCKED" in text or "chosen" in text for text in written) <= 3


def test_no_moment_is_part_of_a_statement(enqueue: Any) -> None:
    live(enqueue())
    for kind in (written_rows._insert, written_rows._update, fenced._fenced_write):
        for built in kind._built.get(PresentationJob._meta.database, {}).values():
            constants = [value for value in built._statement._parameters if isinstance(value, (str, datetime))]
            assert not [value for value in constants if str(value).startswith("202")]


def test_statements_are_kept_up_to_a_bound(user: User, written: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "SHAPES_MAX", 2)
    for _ in range(2):
        for fields in ({"name": "a"}, {"is_active": False}, {"password_hash": "x"}, {"email": "c@example.com"}):
            for name, value in fields.items():
                setattr(user, name, value)
            user.save()
    assert User.get_by_id(user.id).email == "c@example.com"
    assert [text.startswith("UPDATE") for text in written].count(True) > 4


_TENANT: ContextVar[int] = ContextVar("a tenant of the test's", default=0)


class _TenantsClone(VoiceClone):
    """A model whose queries depend on who asks."""

    class Meta:
        table_name = "voice_clones"

    @classmethod
    def select(cls, *fields: Any) -> Any:
        return super().select(*fields).where(cls.owner == _TENANT.get())


def test_a_model_that_says_another_thing_each_time_is_compiled_each_time(user: User, voice: VoiceClone) -> None:
    with _TenantsClone.bind_ctx(User._meta.database):
        _TENANT.set(user.id)
        assert _TenantsClone.get_by_id(voice.id).name == voice.name
        _TENANT.set(user.id + 1)
        with pytest.raises(_TenantsClone.DoesNotExist):
            _TenantsClone.get_by_id(voice.id)
        _TENANT.set(user.id)
        assert _TenantsClone.get_or_none(name=voice.name) is not None


def test_an_overridden_get_is_asked_for_ids_too(user: User) -> None:
    class Careful(User):
        class Meta:
            table_name = "users"

        @classmethod
        def get(cls, *query: Any, **filters: Any) -> Any:
            return super().get(*query, cls.is_active, **filters)

    with Careful.bind_ctx(User._meta.database):
        assert Careful.get_by_id(user.id).name == user.name
        User.update(is_active=False).where(User.id == user.id).execute()
        with pytest.raises(Careful.DoesNotExist):
            Careful.get_by_id(user.id)


def test_a_table_that_is_renamed_is_another_one(db: DatabaseManager, user: User) -> None:
    assert User.get_by_id(user.id) == user
    User._meta.set_table_name("nobody")
    try:
        with pytest.raises(PresgenError, match="nobody"):
            User.get_by_id(user.id)
    finally:
        User._meta.set_table_name("users")
    assert User.get_by_id(user.id) == user


def test_the_columns_that_are_read_back_are_in_the_order_of_the_fields(user: User, written: list[str]) -> None:
    User.create(name="x")
    (insert,) = (text for text in written if text.startswith("INSERT"))
    back = re.findall(r'"(\w+)"', insert.partition(" RETURNING ")[2])
    names = [field.column_name for field in User._meta.sorted_fields]
    assert [name for name in names if name in back] == [name for name in back if name != "users"]


def test_a_start_that_follows_from_the_end_is_shown(user: User, voice: VoiceClone) -> None:
    job = PresentationJob.create(
        owner=user, voice_clone=voice, s3_pptx_path="/x", status="completed", s3_video_path="/v", completed_at=MOMENT
    )
    assert job.started_at == job.completed_at == MOMENT
    assert job.__data__ == PresentationJob.get_by_id(job.id).__data__


def test_each_database_has_its_own(db: DatabaseManager, user: User, tmp_path: Any) -> None:
    assert User.get_by_id(user.id).name == "Ada"
    with DatabaseManager(f"sqlite:///{tmp_path / 'other.db'}") as other:
        other.migrate()
        assert User.get_or_none(id=user.id) is None
        assert User.create(name="Grace").id == 1
    assert User.get(name="Ada") == user


@pytest.fixture
def stock() -> Iterator[pw.SqliteDatabase]:
    """A database of Peewee's own in memory, as tests swap it in; it forgets everything when it is closed."""
    database = pw.SqliteDatabase(f"file:stock-{uuid.uuid4()}?mode=memory&cache=shared", uri=True)
    keeper = database._connect()
    with database.bind_ctx(MODELS, bind_refs=False, bind_backrefs=False):
        with database.connection_context():
            database.create_tables(MODELS)
        yield database
    database.close()
    keeper.close()


def test_models_work_on_a_database_of_peewees_own(stock: pw.SqliteDatabase) -> None:
    user = User.create(name="Ada", email="ADA@example.com")
    user.name = "Grace"
    user.save()
    assert User.get(User.email == "ada@example.com").name == "Grace"
    assert User.get_by_id(user.id).__data__ == user.__data__
    assert [found.voice_clones for found in queries.get_users_with_voice_clones()] == [[]]


def test_a_stock_connection_that_is_open_serves_coroutines_and_stays_open(stock: pw.SqliteDatabase) -> None:
    async def read() -> str:
        return str(User.get_by_id(1).name)

    with stock.connection_context(), stock.atomic():
        User.create(name="Ada")
        assert asyncio.run(read()) == "Ada"
        User.create(name="Grace")
    assert User.select().count() == 2


def test_a_read_without_a_session_connects_as_peewees_do(stock: pw.SqliteDatabase) -> None:
    assert User.get_or_none(id=1) is None
    assert not stock.is_closed()


def test_models_without_a_database_say_so() -> None:
    for call in (lambda: User.get_by_id(1), lambda: User(name="x").save(), queries.get_presentation_jobs):
        with pytest.raises(ConfigurationError, match="DatabaseManager"):
            call()


def test_models_say_so_too_when_their_latest_database_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    with DatabaseManager("sqlite:///:memory:") as manager:
        manager.migrate()
        assert User.get_or_none(id=1) is None
    _, built = finding._having._latest
    assert built
    monkeypatch.setattr(finding._having, "_latest", (lambda: None, built))  # as a weak reference is to what is gone
    with pytest.raises(ConfigurationError, match="DatabaseManager"):
        User.get_by_id(1)


def test_rows_are_found_by_equal_values(user: User, statements: list[str]) -> None:
    User.get(email="ada@example.com")  # which learns that addresses are not encrypted
    statements.clear()
    for found in (
        User.get_by_id(user.id),
        User.get_by_id(str(user.id)),
        User.get(User.id == user.id),
        User.get(id=user.id),
        User.get(User.email == "ADA@Example.com"),
        User.get(email="ADA@example.com", name="Ada"),
        User.get_or_none(User.email == "ada@example.com", User.is_active == True),  # noqa: E712
        User.get(User.email == "ada@example.com", name="Ada"),
        User.get(User.name.contains("d")),
        User.get((User.name == "Ada") & (User.id == user.id)),
        User.get(User.name == pw.Value("Ada")),
        User.get(User.email.is_null(False)),
    ):
        assert found == user
    assert len(statements) == 12
    assert User.get_or_none(User.email == None) is None  # noqa: E711
    assert User.get_or_none(email=None) is None
    assert User.get_or_none(User.email == "nobody@example.com") is None
    for call in (lambda: User.get_by_id(0), lambda: User.get(email="nobody@example.com")):
        with pytest.raises(User.DoesNotExist, match="^there is no such User$"):
            call()


def test_the_values_of_one_field_twice_have_to_agree(user: User) -> None:
    assert User.get_or_none(User.name == "Ada", User.name == "Grace") is None
    assert User.get_or_none(User.name == "Grace", User.name == "Ada") is None
    assert User.get_or_none(User.name == "Grace", name="Ada") is None


def test_every_moment_of_a_statement_is_the_same(claimed: PresentationJob) -> None:
    claimed.complete(s3_video_path="/v.mp4")
    assert claimed.completed_at == claimed.updated_at
    first = claimed.updated_at
    claimed.priority += 1
    claimed.save()
    assert claimed.updated_at > first


def test_a_parameter_is_converted_by_the_field_that_it_is_compared_with(db: DatabaseManager) -> None:
    statement = Statement(
        User, User.select(User.id).where(User.email == Parameter("address"), User.id > Parameter("n"))
    )
    assert statement.parameters({"address": "ADA@Example.com", "n": "5"}) == ["ada@example.com", 5]
    with pytest.raises(KeyError):
        statement.parameters({"n": 5})
