"""Any value as an argument of a verb or a query: refused before the driver, or the same answer on all backends."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hostile_values import HOSTILE, UNSAVED_JOB, Given
from hypothesis import given
from hypothesis import strategies as st
from test_every_field import settings_for
from three_backends import SECOND, Backends

from presgen import DatabaseManager, JobStatus, PresentationJob, User, ValidationError, queries
from presgen.models.base import BaseModel

Verb = Callable[[Any, Any], Any]
"""Gets a job that worker w1 has in hand, and the value."""


def keep_alive(job: Any, every: Any) -> None:
    with job.lease(every=every):
        pass


# A wrong type of the whole argument, where Python itself wants an iterable, is TypeError as everywhere.
VERBS: dict[str, Verb] = {
    "claim(worker)": lambda _, value: PresentationJob.claim(value),
    "claim(limit)": lambda _, value: PresentationJob.claim("w2", value),
    "claim(lease)": lambda _, value: PresentationJob.claim("w2", lease=value),
    "claim(max_per_owner)": lambda _, value: PresentationJob.claim("w2", max_per_owner=value),
    "advance(status)": lambda job, value: job.advance(value),
    "complete(s3_video_path)": lambda job, value: job.complete(value),
    "heartbeat(progress)": lambda job, value: job.heartbeat(value),
    "heartbeat(checkpoint)": lambda job, value: job.heartbeat(checkpoint=value),
    "fail(error)": lambda job, value: job.fail(value),
    "fail(error, retry=False)": lambda job, value: job.fail(value, retry=False),
    "release(reason)": lambda job, value: job.release(value),
    "lease(every)": keep_alive,
    "dead_letters(owner)": lambda _, value: PresentationJob.dead_letters(owner=value),
    "dead_letters(error)": lambda _, value: PresentationJob.dead_letters(error=value),
    "dead_letters(since)": lambda _, value: PresentationJob.dead_letters(since=value),
    "dead_letters(until)": lambda _, value: PresentationJob.dead_letters(until=value),
    "retry_many([id])": lambda _, value: PresentationJob.retry_many([value]),
    "retry_many(owner)": lambda _, value: PresentationJob.retry_many(everything=True, owner=value),
    "retry_many(error)": lambda _, value: PresentationJob.retry_many(everything=True, error=value),
    "enqueue_many([row])": lambda _, value: PresentationJob.enqueue_many([value]),
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
}
ALLOWED = {"ValidationError", "ConstraintViolation", "InvalidTransition"}


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, Given]:
    name = draw(st.sampled_from(sorted(VERBS)))
    value = draw(st.sampled_from(HOSTILE) | st.text(st.characters(exclude_categories=())).map(_given))
    return name, _given("~") if value is UNSAVED_JOB and name.endswith("(after)") else value


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
        assert outcome.is_stored or outcome.error in ALLOWED, (call, outcome)

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
