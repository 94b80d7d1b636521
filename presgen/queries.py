"""The lists that applications show, each in a fixed number of statements."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

import peewee as pw

from .clock import is_sqlite
from .compiled import Parameter, compiled
from .context import session
from .counts import get_database_metrics, get_live_counts
from .errors import ValidationError
from .models import PresentationJob, User, VoiceClone
from .rows import Reading, reader_of, with_many
from .status import JobStatus

__all__ = [
    "DeadLetterError",
    "get_database_metrics",
    "get_dead_letter_errors",
    "get_dead_letters",
    "get_live_counts",
    "get_presentation_jobs",
    "get_user_presentation_jobs",
    "get_user_voice_clones",
    "get_users_with_voice_clones",
    "owned_by",
]

LIMIT_MAX: Final = 10_000
# An error's first line is shown in lists, and stands for all errors that begin with it.
ERROR_LINE_MAX: Final = 200
_CURSOR: Final = re.compile(r"(?P<moment>[^~]+)~(?P<id>[0-9]{1,19})")


def get_users_with_voice_clones() -> list[User]:
    """All users by id, each with its voice clones in `user.voice_clones`; two statements."""
    with session(User._meta.database):
        users: list[User] = _all_by_id(User).instances()
        clones = _all_by_id(VoiceClone).instances()
    return with_many(users, clones, VoiceClone.owner)


def get_presentation_jobs(
    skip: int = 0,
    limit: int = 100,
    *,
    after: PresentationJob | str | None = None,
    status: JobStatus | str | None = None,
    owner: User | int | None = None,
) -> list[PresentationJob]:
    """A page of jobs with their owners, newest first, without the soft-deleted; one statement.

    `after` is the last job of the page before, or its `cursor` as text: such a page costs the same wherever it
    is, while `skip` reads all that it skips. Raises ValidationError for bad bounds or a malformed cursor.
    """
    job = PresentationJob
    values: dict[str, Any] = {"limit": bounded("limit", limit)}
    if bounded("skip", skip, highest=2**63 - 1):
        values["skip"] = skip
    if status is not None:
        values["status"] = job.status.clean(status)
    if owner is not None:
        values["owner"] = job.owner.clean(owner)
    if after is not None:
        values["moment"], values["id"] = position(after)
    return _with_owners(_page(job, frozenset(values)), values)


@compiled
def _page(job: Any, given: Collection[str]) -> Reading:
    """A page by the values that are given, all of which shape the plan."""
    query = job.alive().order_by(job.created_at.desc(), job.id.desc()).limit(Parameter("limit"))
    if "skip" in given:
        query = query.offset(Parameter("skip"))
    if "status" in given:
        query = query.where(job.status == Parameter("status"))
    if "owner" in given:
        query = query.where(job.owner == Parameter("owner"))
    if "moment" in given:
        query = query.where(pw.Tuple(job.created_at, job.id) < pw.Tuple(Parameter("moment"), Parameter("id")))
    return _reading_owners(query)


def _reading_owners(query: Any) -> Reading:
    return Reading(PresentationJob, query.select(PresentationJob, User).join(User))


def _with_owners(reading: Reading, values: Mapping[str, Any]) -> list[PresentationJob]:
    rows, is_in_utc = reading.fetch(values)
    return reading.read.with_other(rows, "owner", reader_of(User), is_in_utc=is_in_utc)


@compiled
def _all_by_id(model: Any) -> Reading:
    return Reading(model, model.select().order_by(model.id))


class DeadLetterError(NamedTuple):
    """An error and the dead letters that have it, counted."""

    error: str | None
    """The first line, cut at ERROR_LINE_MAX characters; None for jobs that failed without a message."""
    jobs: int
    latest: datetime | None
    """When the last of them failed."""
    job_id: int
    """The newest of them, for a look at it."""


def get_dead_letters(
    limit: int = 100, *, after: PresentationJob | str | None = None, **conditions: Any
) -> list[PresentationJob]:
    """A page of dead letters with their owners, the last that was enqueued first; one statement.

    `after` is as in get_presentation_jobs(), `conditions` are those of PresentationJob.dead_letters(): `owner`,
    `error`, `since`, `until`. Raises ValidationError.
    """
    query = PresentationJob.dead_letters(**conditions)
    if after is not None:
        query = query.where(PresentationJob.id < position(after)[1])
    return _with_owners(_reading_owners(query.limit(bounded("limit", limit))), {})


def get_dead_letter_errors(limit: int = 20, **conditions: Any) -> list[DeadLetterError]:
    """The errors of dead letters, the commonest first; one statement, which reads every dead letter.

    `conditions` are those of PresentationJob.dead_letters().
    """
    job = PresentationJob
    count = pw.fn.COUNT(job.id)
    line = _first_line(job.error_message)
    chosen = (line.alias("error"), count.alias("jobs"), pw.fn.MAX(job.completed_at), pw.fn.MAX(job.id))
    query = job.dead_letters(**conditions).select(*chosen).group_by(line)
    query = query.order_by(count.desc(), pw.fn.MAX(job.id).desc()).limit(bounded("limit", limit))
    with session(job._meta.database):
        return [DeadLetterError(*row) for row in query.tuples()]


def get_user_voice_clones(user_id: int) -> list[VoiceClone]:
    """The voice clones that a user owns, and nobody else's, by id; one statement."""
    return _voice_clones_of(VoiceClone).instances({"owner": VoiceClone.owner.clean(user_id)})


@compiled
def _voice_clones_of(clone: Any) -> Reading:
    return Reading(clone, clone.select().where(clone.owner == Parameter("owner")).order_by(clone.id))


def get_user_presentation_jobs(user_id: int) -> list[PresentationJob]:
    """The jobs that a user owns, and nobody else's, newest first, without the soft-deleted; one statement."""
    job = PresentationJob
    return _jobs_of(job).instances({"owner": job.owner.clean(user_id)})


@compiled
def _jobs_of(job: Any) -> Reading:
    mine = job.alive().where(job.owner == Parameter("owner"))
    return Reading(job, mine.order_by(job.created_at.desc(), job.id.desc()))


@dataclass(frozen=True)
class OwnedBy:
    """The lists of one user's own rows, and their rows by id; others' are as if they were not there."""

    user_id: int

    def get_presentation_jobs(self, skip: int = 0, limit: int = 100, **choice: Any) -> list[PresentationJob]:
        """A page of the user's jobs; `choice` is `after` and `status`, as in queries.get_presentation_jobs()."""
        return get_presentation_jobs(skip, limit, owner=self.user_id, **choice)

    def get_dead_letters(self, limit: int = 100, **choice: Any) -> list[PresentationJob]:
        """A page of the user's dead letters, chosen as in queries.get_dead_letters()."""
        return get_dead_letters(limit, owner=self.user_id, **choice)

    def get_dead_letter_errors(self, limit: int = 20, **conditions: Any) -> list[DeadLetterError]:
        """The errors of the user's dead letters, chosen as in queries.get_dead_letter_errors()."""
        return get_dead_letter_errors(limit, owner=self.user_id, **conditions)

    def get_voice_clones(self) -> list[VoiceClone]:
        """The user's voice clones by id; one statement."""
        return get_user_voice_clones(self.user_id)

    def get_presentation_job(self, job_id: int) -> PresentationJob:
        """A job of the user's; raises DoesNotExist for anybody else's."""
        return _one(PresentationJob, self.user_id, job_id)  # type: ignore[no-any-return]

    def get_voice_clone(self, voice_clone_id: int) -> VoiceClone:
        """A voice clone of the user's; raises DoesNotExist for anybody else's."""
        return _one(VoiceClone, self.user_id, voice_clone_id)  # type: ignore[no-any-return]


def owned_by(user: User | int) -> OwnedBy:
    """The queries for a user's own rows; raises ValidationError for None and for an unsaved row."""
    return OwnedBy(User.id.clean_value(user._pk if isinstance(user, User) else user))


def _one(model: Any, user_id: int, row_id: int) -> Any:
    with session(model._meta.database):
        return model.owned_by(user_id).where(model.id == model.id.clean_value(row_id)).get()


def _first_line(message: Any) -> Any:
    find = pw.fn.INSTR if is_sqlite(PresentationJob._meta.database) else pw.fn.STRPOS
    newline = pw.Value("\n", converter=False)
    line = pw.fn.SUBSTR(message, 1, find(message.concat(newline), newline) - 1)
    return pw.fn.SUBSTR(line, 1, ERROR_LINE_MAX)


def bounded(name: str, value: int, *, highest: int = LIMIT_MAX) -> int:
    """A limit or an offset; raises ValidationError that names it."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= highest:
        raise ValidationError(f"{name} must be a whole number from 0 to {highest}", field=name, rule="range")
    return value


def position(after: Any, moment: Any = PresentationJob.created_at) -> tuple[str, int]:
    """Where a page ended: the stored moment and the id of its last row, given as an instance or as its `cursor`.

    `moment` is the field by which the rows are ordered, before their id. Raises ValidationError.
    """
    model = moment.model
    match = _CURSOR.fullmatch(after) if isinstance(after, str) else None
    found, number = None, None
    with suppress(ValueError):  # a ValidationError is one
        if isinstance(after, model):
            found, number = after.__data__[moment.name], after.id
        elif match is not None:
            found, number = datetime.fromisoformat(match["moment"]), int(match["id"])
        number = model.id.clean_value(number)
        # As stored: a Tuple knows no fields that would convert its values.
        return moment.db_value(moment.clean_value(found)), number
    row = "a job" if model is PresentationJob else f"an {model.__name__}"
    raise ValidationError(f"after must be {row} or its cursor", field="after", rule="cursor")
