"""A pytest plugin for those who test their own worker scripts; see docs/testing.md.

`pytest_plugins = ["presgen.testing"]`, in the conftest.py at the top of the tests, gives the fixtures, whose names
begin with `presgen_`. The functions may be imported as well, before pytest loads the plugin too: PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import peewee as pw
import psycopg2
import pytest

from .attempt import Handler
from .config import DatabaseConfig
from .context import session
from .embedded import EmbeddedServer
from .errors import ConfigurationError, InvalidTransition, MissingExtra
from .manager import DatabaseManager
from .models import PresentationJob, User, VoiceClone
from .passwords import cheap_hashes
from .status import RUNNING, JobStatus
from .worker import Worker

MakeUser = Callable[..., User]
MakeVoiceClone = Callable[..., VoiceClone]
MakeJob = Callable[..., PresentationJob]
Drain = Callable[..., list[PresentationJob]]

# A handler that releases its job each time would keep a test busy for ever.
CLAIMS_MAX: Final = 1_000
_TEMPLATE: Final = "presgen_template"
# The server's folder is thrown away, so nothing has to survive a crash of the machine.
_FAST: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


# Databases


@pytest.fixture
def presgen_db(_presgen_sqlite: sqlite3.Connection, _presgen_open: list[DatabaseManager]) -> Iterator[DatabaseManager]:
    """An open manager on a migrated database without rows, in memory."""
    with DatabaseManager("sqlite:///:memory:") as manager:
        with manager.session() as database:
            _presgen_sqlite.backup(database.connection())
        yield from _in_use(manager, _presgen_open)


@pytest.fixture
def presgen_postgresql(
    _presgen_server: EmbeddedServer, _presgen_open: list[DatabaseManager]
) -> Iterator[DatabaseManager]:
    """An open manager on a migrated database without rows, of an embedded PostgreSQL that the session shares.

    `presgen_postgresql.config.url` is for a worker in a process of its own. Needs `presgen[embedded]`.
    """
    name = f"presgen_{uuid.uuid4().hex}"
    _execute(_presgen_server, f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE} STRATEGY file_copy")
    with DatabaseManager(DatabaseConfig(_presgen_server.url_of(name))) as manager:
        yield from _in_use(manager, _presgen_open)
    _execute(_presgen_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def _presgen_sqlite() -> Iterator[sqlite3.Connection]:
    """A migrated database to copy."""
    template = sqlite3.connect(":memory:", check_same_thread=False)
    with DatabaseManager("sqlite:///:memory:") as manager, manager.session() as database:
        manager.migrate()
        database.connection().backup(template)
    yield template
    template.close()


@pytest.fixture(scope="session")
def _presgen_server() -> Iterator[EmbeddedServer]:
    """A server of this process's own, with a migrated database to copy."""
    # Not in pytest's own folder, which other runs of pytest prune.
    with TemporaryDirectory(prefix="presgen-testing-") as folder:
        server = EmbeddedServer(Path(folder), settings=_FAST)
        try:
            server.start()
        except MissingExtra as error:
            pytest.fail(str(error), pytrace=False)
        with server:
            _execute(server, f"CREATE DATABASE {_TEMPLATE}")
            with DatabaseManager(server.url_of(_TEMPLATE)) as manager:
                manager.migrate()
            yield server


@pytest.fixture(scope="session")
def _presgen_open() -> list[DatabaseManager]:
    """The managers that fixtures have opened; the last one has the models."""
    return []


def _in_use(manager: DatabaseManager, opened: list[DatabaseManager]) -> Iterator[DatabaseManager]:
    opened.append(manager)
    yield manager
    opened.remove(manager)


def _execute(server: EmbeddedServer, statement: str) -> None:
    connection = psycopg2.connect(server.url_of("postgres"))
    try:
        connection.autocommit = True  # databases are not created in a transaction
        connection.cursor().execute(statement)
    finally:
        connection.close()


# Rows


@pytest.fixture
def presgen_make_user() -> MakeUser:
    """make_user()."""
    return make_user


@pytest.fixture
def presgen_make_voice_clone() -> MakeVoiceClone:
    """make_voice_clone()."""
    return make_voice_clone


@pytest.fixture
def presgen_make_job() -> MakeJob:
    """make_job()."""
    return make_job


def make_user(**columns: Any) -> User:
    """Store a user with a name and an e-mail address of their own, or with the given columns."""
    name = f"user-{_unique()}"
    return User.create(**{"name": name, "email": f"{name}@example.com", **columns})  # type: ignore[no-any-return]


def make_voice_clone(*, owner: User | int | None = None, **columns: Any) -> VoiceClone:
    """Store a voice with a path of its own, of a new user unless the owner is given."""
    name = f"voice-{_unique()}"
    given = {"name": name, "s3_path": f"/voices/{name}.wav", "duration_seconds": 3.0, **columns}
    return VoiceClone.create(owner=make_user() if owner is None else owner, **given)  # type: ignore[no-any-return]


def make_job(
    *, owner: User | int | None = None, voice_clone: VoiceClone | None = None, **columns: Any
) -> PresentationJob:
    """Store a job that is due, with a deck's path of its own; any column may be given, `status` among them.

    Without a voice it gets a new one of the owner's, and without an owner the voice's.
    """
    if voice_clone is None:
        voice_clone = make_voice_clone(owner=owner)
    given = {"s3_pptx_path": f"/decks/deck-{_unique()}.pptx", **columns}
    given |= {"owner": voice_clone.owner_id if owner is None else owner, "voice_clone": voice_clone}
    return PresentationJob.create(**given)  # type: ignore[no-any-return]


def _unique() -> str:
    """What no other process makes either: some databases are shared."""
    return uuid.uuid4().hex[:12]


@pytest.fixture
def presgen_fast_passwords() -> Iterator[None]:
    """Password hashes that cost next to nothing, for as long as the test runs."""
    with cheap_hashes():
        yield


# The life of a job


@pytest.fixture
def presgen_drain(_presgen_open: list[DatabaseManager]) -> Drain:
    """drain() on the database that the test asked for."""

    def drain_in_use(handler: Handler, *, retries: bool = True) -> list[PresentationJob]:
        if not _presgen_open:
            raise ConfigurationError(
                "ask for presgen_db or presgen_postgresql as well, or call drain(manager, handler)"
            )
        return drain(_presgen_open[-1], handler, retries=retries)

    return drain_in_use


def drain(manager: DatabaseManager, handler: Handler, *, retries: bool = True) -> list[PresentationJob]:
    """Let a worker handle what is due in the queue; gives the jobs as they are stored then, in order of first claim.

    With `retries`, attempts that failed are due at once, so that each job comes to its end; jobs that are to run
    later are left alone. Raises AssertionError after CLAIMS_MAX claims.
    """
    handled: list[int] = []

    def handle(job: PresentationJob) -> None:
        handled.append(job.id)
        if len(handled) > CLAIMS_MAX:
            worker.stop()
        handler(job)

    worker = Worker(manager, handle, name="drain")
    _drain(worker)
    while retries and len(handled) <= CLAIMS_MAX and _make_retries_due():
        _drain(worker)
    if len(handled) > CLAIMS_MAX:
        raise AssertionError(f"the queue is not drained after {CLAIMS_MAX} claims; does the handler release its jobs?")
    jobs = {job.id: job for job in PresentationJob.select().where(PresentationJob.id.in_(set(handled)))}
    return [jobs[job_id] for job_id in dict.fromkeys(handled) if job_id in jobs]


def _drain(worker: Worker) -> None:
    """Drain as Worker.run() would: a handler that exits ends its job, not the worker."""
    while True:
        try:
            worker.drain()
            return
        except SystemExit:
            continue


def make_due(job: PresentationJob) -> None:
    """Let a waiting job be due now, whatever backoff or `run_at` it has."""
    if not _write({PresentationJob.run_at: PresentationJob.server_time()}, job, [JobStatus.PENDING]):
        raise InvalidTransition(f"job {job.id} is not pending; only a job that waits can be made due")


def expire_lease(job: PresentationJob) -> None:
    """Let the lease of a job in hand have run out, as if its worker had crashed or hung; the next claim takes it back.

    The instance is the crashed worker's: its verbs raise LeaseLost once the job was taken back.
    """
    model = PresentationJob
    if not _write(
        {model.lease_expires_at: model.server_time(plus_seconds=-1)}, job, RUNNING, model.worker.is_null(False)
    ):
        raise InvalidTransition(f"job {job.id} is in no worker's hand; claim it first")


def went_through(job: PresentationJob) -> list[JobStatus]:
    """The statuses that a job has entered, oldest first, without the one that it was stored with."""
    return [event.to_status for event in job.history()]


def _make_retries_due() -> int:
    model = PresentationJob
    row = {model.run_at: model.server_time()}
    has_failed = (model.attempt > 0) & model.error_message.is_null(False)
    waiting = has_failed & (model.run_at > model.server_time()) & model.deleted_at.is_null()
    with session(model._meta.database):
        return int(pw.ModelUpdate(model, row).where(model.status == JobStatus.PENDING, waiting).execute())


def _write(row: dict[Any, Any], job: PresentationJob, statuses: Sequence[JobStatus], *conditions: Any) -> int:
    model = PresentationJob
    with session(model._meta.database):
        update = pw.ModelUpdate(model, row).where(model.id == job.id, model.status.in_(statuses), *conditions)
        return int(update.execute())
