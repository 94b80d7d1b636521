"""Passwords, keys and the values of rows appear in no message, repr, log or traceback."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import peewee as pw
import pytest
from fixtures.canary import CANARY, DECK, MAIL, told

from presgen import DatabaseConfig, DatabaseManager, PresentationJob, PresgenError, User, VoiceClone
from presgen.errors import ConfigurationError, StatementInvalid


def job() -> Any:
    return PresentationJob.select().order_by(PresentationJob.id).get()


def sql(statement: str, *parameters: Any) -> None:
    database = User._meta.database
    database.execute_sql(statement.format(database.param), parameters).fetchall()


def again(**columns: Any) -> dict[str, Any]:
    return {"owner": 1, "voice_clone": 1, "s3_pptx_path": DECK, **columns}


def unreachable_end() -> None:
    mine = job()
    mine.s3_video_path, mine.completed_at = CANARY, datetime.max
    mine.save()


FAILURES: dict[str, Callable[[], Any]] = {
    "unique index": lambda: User.create(name=CANARY, email=MAIL),
    "unique index in bulk": lambda: User.insert_many([{"name": CANARY, "email": MAIL}] * 2).execute(),
    "primary key": lambda: User.create(id=1, name=CANARY),
    "unique key": lambda: PresentationJob.create(**again(idempotency_key=CANARY)),
    "unique key in COPY": lambda: PresentationJob.enqueue_many([again(idempotency_key=CANARY)]),
    "foreign key": lambda: VoiceClone.create(name=CANARY, s3_path=f"/{CANARY}2.wav", owner=404),
    "foreign key in COPY": lambda: PresentationJob.enqueue_many([again(voice_clone=404)]),
    "restrict": lambda: VoiceClone.delete().execute(),
    "check": lambda: User.update(email=pw.Value(CANARY, converter=False)).execute(),
    "check in an upsert": lambda: (
        User.insert(id=1, name=CANARY)
        .on_conflict(conflict_target=[User.id], update={"email": pw.Value(CANARY, converter=False)})
        .execute()
    ),
    "not null": lambda: User.update(name=pw.SQL("NULL")).execute(),
    "transition": lambda: PresentationJob.update(status="completed", error_message=CANARY).execute(),
    "transition by trigger": lambda: (
        PresentationJob.update(status="failed", error_message=CANARY).execute(),
        PresentationJob.update(status="completed", s3_video_path=CANARY).execute(),
    ),
    "lost lease": lambda: (PresentationJob.update(worker="other").execute(), job_of("w1").heartbeat(0.5, CANARY)),
    "wrong e-mail": lambda: User.create(name="Ada", email=CANARY),
    "wrong path": lambda: VoiceClone.create(name="v", s3_path=CANARY, owner=1),
    "wrong whole number": lambda: User.create(id=CANARY, name="Ada"),
    "wrong number": lambda: PresentationJob.create(**again(progress=CANARY)),
    "wrong flag": lambda: User.create(name="Ada", is_active=CANARY),
    "wrong moment": lambda: PresentationJob.create(**again(run_at=CANARY)),
    "wrong moment in COPY": lambda: PresentationJob.enqueue_many([again(run_at=CANARY)]),
    "wrong status": lambda: PresentationJob.update(status=CANARY).execute(),
    "wrong owner": lambda: PresentationJob.create(**again(owner=CANARY)),
    "wrong document": lambda: PresentationJob.update(checkpoint={CANARY: float("nan")}).execute(),
    "deep document": lambda: PresentationJob.update(checkpoint=[[CANARY]] + [[]] * 2 + [object()]).execute(),
    "NUL": lambda: User.create(name=f"{CANARY}\0"),
    "surrogate": lambda: User.create(name=f"{CANARY}\ud800"),
    "surrogate in COPY": lambda: PresentationJob.enqueue_many([again(idempotency_key=f"{CANARY}\ud800")]),
    "long text": lambda: User.create(name=CANARY * 100),
    "wrong row": lambda: PresentationJob.enqueue_many([CANARY]),  # type: ignore[list-item]
    "short row": lambda: User.insert_many([(CANARY,)]).execute(),
    "naive end": unreachable_end,
    "wrong error": lambda: job().fail(CANARY.encode()),
    "wrong worker": lambda: PresentationJob.claim(f"{CANARY}\0"),
    "wrong ids": lambda: PresentationJob.retry_many(CANARY),  # type: ignore[arg-type]
    "wrong cursor": lambda: PresentationJob.dead_letters(owner=CANARY),
    "wrong type": lambda: sql("INSERT INTO users (id, name) VALUES ({0}, {0})", CANARY, CANARY),
    "wrong type in a comparison": lambda: list(User.select().where(User.id == CANARY)),
    "wrong length": lambda: User.update(name=pw.Value(CANARY * 99, converter=False)).execute(),
    "wrong column": lambda: sql("SELECT nowhere FROM users WHERE name = {0}", CANARY),
    "wrong table": lambda: sql("SELECT {0} FROM nowhere", CANARY),
    "wrong number of parameters": lambda: sql("SELECT nowhere, {0}", CANARY),
    "object as a parameter": lambda: sql("SELECT {0}", {CANARY: object()}),
    "NUL as a parameter": lambda: sql("SELECT {0}", f"{CANARY}\0"),
    "surrogate as a parameter": lambda: sql("SELECT {0}", f"{CANARY}\ud800"),
    "expression in COPY": lambda: PresentationJob.enqueue_many([again(idempotency_key=pw.Value(CANARY))]),
    "wrong document in a comparison": lambda: list(
        PresentationJob.select().where(PresentationJob.checkpoint == {CANARY: object()})
    ),
    "unknown name": lambda: User(nothing=CANARY),
    "unknown filter": lambda: User.get(nothing=CANARY),
    "wrong rows": lambda: User.bulk_update([CANARY], ["name"]),
    "wrong password": lambda: User.get_by_id(1).set_password(CANARY * 1000),
}


def job_of(worker: str) -> Any:
    mine = job()
    mine.claim_token = (worker, 1)
    return mine


def test_no_refusal_shows_a_value(manager: DatabaseManager) -> None:
    for name, failure in FAILURES.items():
        with pytest.raises(PresgenError) as caught, manager.transaction():  # which undoes what came before
            failure()
        assert CANARY not in told(caught.value), name


def test_an_error_of_syntax_shows_nothing_of_the_statement(db: DatabaseManager) -> None:
    for statement in (
        f"SELECT '{CANARY}' FROM FROM",
        f"SELEC '{CANARY}",
        f"SELECT 1 1 '{CANARY}'",
        f"SELECT '{CANARY}\0",
    ):
        with pytest.raises(StatementInvalid) as caught:
            db.database.execute_sql(statement)
        assert CANARY not in repr(caught.value)
        assert caught.value.__context__ is None


NOWHERE: dict[str, Callable[[], Any]] = {
    "get": lambda: User.get(User.email == f"other-{MAIL}"),
    "get by name": lambda: User.get(email=f"other-{MAIL}"),
    "get_by_id": lambda: User.get_by_id(70_316_404),
    "index": lambda: User[70_316_404],
    "select": lambda: User.select(User.name).where(User.email == f"other-{MAIL}").get(),
    "filter": lambda: User.filter(email=f"other-{MAIL}").get(),
    "filter of a select": lambda: User.select().filter(email=f"other-{MAIL}").get(),
    "alive": lambda: User.alive().where(User.email == f"other-{MAIL}").get(),
    "relation": lambda: (
        User.get_by_id(1).presentations.where(PresentationJob.idempotency_key == f"other-{CANARY}").get()
    ),
}


@pytest.mark.parametrize("find", NOWHERE)
def test_a_row_that_is_not_found_shows_no_value(manager: DatabaseManager, find: str) -> None:
    with pytest.raises(pw.DoesNotExist, match="^there is no such (User|PresentationJob)$") as caught:
        NOWHERE[find]()
    assert CANARY not in told(caught.value)


def test_a_name_that_is_no_field_is_cut(manager: DatabaseManager) -> None:
    with pytest.raises(PresgenError) as caught:
        User.insert({"x" * 1_000_000 + CANARY * 100_000 + "x" * 1_000: 1})
    assert len(str(caught.value)) < 100
    assert CANARY not in told(caught.value)


BAD_URLS = ["postgresql://ada:{}@host:port/x", "postgresql://ada:{}@a@b/x", "mysql://ada:{}@host/x", "postgresql://ada:{}%zz@host/x",
            "postgresql://ada:{}@host/x?nonsense=1", "ada:{}@host", "postgresql://ada:{}@host:70000/x"]  # fmt: skip


@pytest.mark.parametrize("url", BAD_URLS)
def test_no_malformed_url_shows_the_password(url: str) -> None:
    for make in (DatabaseConfig, DatabaseManager, lambda url: DatabaseConfig.from_env({"DATABASE_URL": url})):
        with pytest.raises(ConfigurationError) as caught:
            make(url.format(CANARY))
        assert CANARY not in told(caught.value)


def test_the_canary_would_be_heard() -> None:
    """An error of the driver, and one in whose context it stands, do sing."""
    with pytest.raises(KeyError) as caught:
        try:
            raise ValueError(f"value {CANARY}")
        except ValueError:
            raise KeyError("x")  # noqa: B904 (its context is the point)
    assert CANARY in told(caught.value)
