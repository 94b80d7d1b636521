"""Any value as an argument of a verb or a query: refused before the driver, or the same answer on all backends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import peewee as pw
from fixtures.effort import settings_for
from hostile_values import HOSTILE, Given
from hypothesis import given
from hypothesis import strategies as st
from three_backends import SECOND, Backends

from presgen import (
    DatabaseManager,
    JobEvent,
    JobStatus,
    PresentationJob,
    User,
    ValidationError,
    VoiceClone,
    queries,
)
from presgen.models.base import BaseModel
from presgen.queue_metrics import get_jobs_in_hand

COMPARED = (
    *(
        User.id,
        User.name,
        User.email,
        User.is_active,
        JobEvent.at,
        JobEvent.attempt,
        JobEvent.job,
        JobEvent.from_status,
    ),
    *(PresentationJob.progress, PresentationJob.checkpoint, PresentationJob.error_message, VoiceClone.file_size),
)
Verb = Callable[[Any, Any], Any]
"""Gets a job that worker w1 has in hand, and the value."""


def keep_alive(job: Any, every: Any) -> None:
    with job.lease(every=every):
        pass


def found(row: Any) -> bool:
    return row is not None


def _upsert(row: Any) -> Any:
    return User.insert(id=SECOND, name="Grace").on_conflict(
        conflict_target=[User.id], update=[] if row is None else row
    )


VERBS: dict[str, Verb] = {
    "claim(worker)": lambda _, value: PresentationJob.claim(value),
    "claim(limit)": lambda _, value: PresentationJob.claim("w2", value),
    "claim(lease)": lambda _, value: PresentationJob.claim("w2", lease=value),
    "claim(fair)": lambda _, value: PresentationJob.claim("w2", fair=value),
    "claim(max_per_owner)": lambda _, value: PresentationJob.claim("w2", max_per_owner=value),
    "advance(status)": lambda job, value: job.advance(value),
    "complete(s3_video_path)": lambda job, value: job.complete(value),
    "heartbeat(progress)": lambda job, value: job.heartbeat(value),
    "heartbeat(checkpoint)": lambda job, value: job.heartbeat(checkpoint=value),
    "fail(error)": lambda job, value: job.fail(value),
    "fail(error, retry=False)": lambda job, value: job.fail(value, retry=False),
    "fail(retry)": lambda job, value: job.fail("x", retry=value),
    "release(reason)": lambda job, value: job.release(value),
    "lease(every)": keep_alive,
    "dead_letters(owner)": lambda _, value: PresentationJob.dead_letters(owner=value),
    "dead_letters(error)": lambda _, value: PresentationJob.dead_letters(error=value),
    "dead_letters(since)": lambda _, value: PresentationJob.dead_letters(since=value),
    "dead_letters(until)": lambda _, value: PresentationJob.dead_letters(until=value),
    "retry_many([id])": lambda _, value: PresentationJob.retry_many([value]),
    "retry_many(ids)": lambda _, value: PresentationJob.retry_many(value),
    "retry_many(everything)": lambda _, value: PresentationJob.retry_many(everything=value),
    "retry_many(owner)": lambda _, value: PresentationJob.retry_many(everything=True, owner=value),
    "retry_many(error)": lambda _, value: PresentationJob.retry_many(everything=True, error=value),
    "enqueue_many([row])": lambda _, value: PresentationJob.enqueue_many([value]),
    "enqueue_many(rows)": lambda _, value: PresentationJob.enqueue_many(value),
    "in_hand(id)": lambda _, value: found(PresentationJob.in_hand(value, worker="w1", attempt=1)),
    "in_hand(worker)": lambda _, value: found(PresentationJob.in_hand(SECOND, worker=value, attempt=1)),
    "in_hand(attempt)": lambda _, value: found(PresentationJob.in_hand(SECOND, worker="w1", attempt=value)),
    "server_time(plus_seconds)": lambda _, value: found(PresentationJob.server_time(plus_seconds=value)),
    "create(id)": lambda _, value: found(User.create(id=value, name="Ada")),
    "get_or_create(defaults)": lambda _, value: found(User.get_or_create(name="Grace", defaults=value)[0]),
    "save(only)": lambda job, value: job.save(only=value),
    "insert(row)": lambda _, value: len(User.insert(value).execute() or ()),
    "update(row)": lambda _, value: User.update(value).execute(),
    "upsert(row)": lambda _, value: found(_upsert(value).execute()),
    "bulk_create(rows)": lambda _, value: User.bulk_create(value),
    "bulk_create([row])": lambda _, value: User.bulk_create([value]),
    "bulk_create(batch_size)": lambda _, value: User.bulk_create([User(name="Grace")], batch_size=value),
    "bulk_update(rows)": lambda _, value: User.bulk_update(value, ["name"]),
    "bulk_update([row])": lambda _, value: User.bulk_update([value], ["name"]),
    "bulk_update(fields)": lambda job, value: PresentationJob.bulk_update([job], value),
    "bulk_update(batch_size)": lambda job, value: PresentationJob.bulk_update([job], ["priority"], batch_size=value),
    "insert_many(rows)": lambda _, value: len(User.insert_many(value).execute() or ()),
    "insert_many(fields)": lambda _, value: len(User.insert_many([("Grace",)], fields=value).execute()),
    "insert_many([row])": lambda _, value: len(User.insert_many([value]).execute()),
    "insert_many([row], fields)": lambda _, value: len(User.insert_many([value], fields=["name"]).execute()),
    "get_presentation_jobs(skip)": lambda _, value: queries.get_presentation_jobs(skip=value),
    "get_presentation_jobs(limit)": lambda _, value: queries.get_presentation_jobs(limit=value),
    "get_presentation_jobs(after)": lambda _, value: queries.get_presentation_jobs(after=value),
    "get_presentation_jobs(status)": lambda _, value: queries.get_presentation_jobs(status=value),
    "get_presentation_jobs(owner)": lambda _, value: queries.get_presentation_jobs(owner=value),
    "get_dead_letters(limit)": lambda _, value: queries.get_dead_letters(value),
    "get_dead_letters(after)": lambda _, value: queries.get_dead_letters(after=value),
    "get_dead_letter_errors(limit)": lambda _, value: queries.get_dead_letter_errors(value),
    "get_user_voice_clones(id)": lambda _, value: queries.get_user_voice_clones(value),
    "get_user_presentation_jobs(id)": lambda _, value: queries.get_user_presentation_jobs(value),
    "get_jobs_in_hand(limit)": lambda _, value: len(get_jobs_in_hand(value)),
}


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, Given]:
    name = draw(st.sampled_from(sorted(VERBS)))
    return name, draw(st.sampled_from(HOSTILE) | st.text(st.characters(exclude_categories=())).map(_given))


def _given(text: str) -> Given:
    return Given(ascii(text), lambda: text)


def answer_of(found: Any) -> Any:
    """What can be compared: ids of rows, numbers."""
    if found is None or isinstance(found, int):
        return found
    return [row.id if isinstance(row, BaseModel) else row[:2] for row in found]


def test_every_argument_is_refused_or_means_the_same_on_all_backends(backends: Backends) -> None:
    @settings_for(short=150, full=5_000)
    @given(calls())
    def check(call: tuple[str, Given]) -> None:
        name, value = call

        def prepare() -> Callable[[], Callable[[], Any]]:
            job, argument = PresentationJob.get_by_id(SECOND), value.make()

            def verb() -> Callable[[], Any]:
                answer = answer_of(VERBS[name](job, argument))
                return lambda: (answer, PresentationJob.get_by_id(SECOND).error_message)

            return verb

        outcome = backends.outcome(prepare)
        assert outcome.is_stored or outcome.is_refused, (call, outcome)

    check()


def test_waiting_refuses_what_is_no_time(db: DatabaseManager, job: PresentationJob, statements: list[str]) -> None:
    job.cancel()
    refused = []
    for value in HOSTILE:
        statements.clear()
        with suppress(ValidationError):
            assert job.wait(value.make()) is JobStatus.CANCELLED
            continue
        refused.append(value)
        assert statements == [], value
    assert 0 < len(refused) < len(HOSTILE)


@st.composite
def comparisons(draw: st.DrawFn) -> tuple[Any, Given]:
    return draw(st.sampled_from(COMPARED)), draw(st.sampled_from(HOSTILE))


def test_every_value_can_be_compared_or_is_refused(backends: Backends) -> None:
    @settings_for(short=100, full=3_000)
    @given(comparisons())
    def check(comparison: tuple[Any, Given]) -> None:
        field, value = comparison

        def find() -> Callable[[], Any]:
            found = [row.id for row in field.model.select().where(field == value.make()).order_by(field.model.id)]
            return lambda: found

        outcomes = backends.outcomes(lambda: find)
        errors = {name: outcome.error for name, outcome in outcomes.items()}
        assert set(errors.values()) <= {None, "ValidationError", "StatementInvalid", "ValueRefused"}, comparison
        assert errors["postgresql-16"] == errors["postgresql-18"], (comparison, errors)
        # To peewee these are SQL: a row, a table, an expression. The backends' parsers think differently of such.
        if not isinstance(value.make(), (list, tuple, set, frozenset, range, Iterator, type, pw.Node)):
            assert len(set(errors.values())) == 1, (comparison, errors)

    check()
