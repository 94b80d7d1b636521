"""Single rows: save() of a new user and of a changed job, and a job by its id.

"presgen" and "raw psycopg2" hold a connection; presgen prepares on it what it runs often. "SQLAlchemy" has a session
for each request, as the specification's get_session() gives one, and stands against "presgen, by request", which takes
a connection from its pool each time. "SQLAlchemy, held" keeps its session and does not expire what it commits.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from presgen import DatabaseManager, PresentationJob, User

from . import plain
from .bench import Bench
from .filling import cursor_on
from .peers import raw
from .rounds import Contender, Race
from .rows import Row, at_least, at_most

PREPARED = "raw psycopg2, prepared"
_STORED_USER = "SELECT name, split_part(email, '@', 1), password_hash, is_active FROM users WHERE id = %s"
_STORED_JOB = "SELECT slides_count, updated_at > created_at FROM presentation_jobs WHERE id = %s"


def save(bench: Bench) -> Iterator[Row]:
    """New users, and changed jobs."""
    yield from _inserts(bench)
    yield from _updates(bench)


def _inserts(bench: Bench) -> Iterator[Row]:
    databases = bench.databases(1_000, "writes")
    with ExitStack() as stack:
        manager = stack.enter_context(DatabaseManager(databases.presgen))
        ours = stack.enter_context(cursor_on(databases.presgen))
        stored = _reader(ours, _STORED_USER)

        def insert(number: int, domain: str = "held.example.com") -> int:
            user = User(name=f"User {number}", email=f"new{number}@{domain}")
            user.save()
            return user.id  # type: ignore[no-any-return]

        def insert_by_request(number: int) -> int:
            with manager.session():
                return insert(number, "each.example.com")

        def insert_raw(number: int) -> int:
            return raw.insert_user(ours, f"User {number}", f"new{number}@bare.example.com")  # type: ignore[no-any-return]

        contenders = [
            Contender("presgen", insert, stored, around=manager.session),
            Contender("presgen, by request", insert_by_request, stored),
            Contender("raw psycopg2", insert_raw, stored),
        ]
        if bench.has("SQLAlchemy"):
            contenders += _sqlalchemy_inserts(stack, databases.sqlalchemy)
        if bench.has("Django"):
            from .peers import django_peer

            django_peer.connect(databases.presgen)
            stack.callback(django_peer.close)

            def insert_django(number: int) -> int:
                user = django_peer.create_user(f"User {number}", f"new{number}@djan.example.com")
                return user.id  # type: ignore[no-any-return]

            contenders.append(Contender("Django", insert_django, stored))
        done = bench.race("save: a new user", contenders)
    what, each = "save() of a new user", "presgen, by request"
    yield done.row(what, "raw psycopg2", at_most(1.6))
    yield done.row(what, "SQLAlchemy", at_least(4), ours=each)
    yield done.row(what, "SQLAlchemy, held", at_least())
    yield done.row(what, "Django", at_least())


def _sqlalchemy_inserts(stack: ExitStack, url: str) -> list[Contender]:
    from .peers import sqlalchemy_peer
    from .peers.sqlalchemy_models import User as Peer

    stored = _reader(stack.enter_context(cursor_on(url)), _STORED_USER)
    sessions = stack.enter_context(sqlalchemy_peer.opened(url))
    held = stack.enter_context(stack.enter_context(sqlalchemy_peer.opened(url, expire_on_commit=False))())

    def insert(db: Any, number: int, domain: str) -> int:
        user = Peer(name=f"User {number}", email=f"new{number}@{domain}")
        db.add(user)
        db.commit()
        return user.id  # type: ignore[no-any-return]

    def by_request(number: int) -> int:
        with sessions() as db:
            return insert(db, number, "each.example.com")

    return [
        Contender("SQLAlchemy", by_request, stored),
        Contender("SQLAlchemy, held", lambda number: insert(held, number, "held.example.com"), stored),
    ]


def _updates(bench: Bench) -> Iterator[Row]:
    databases = bench.databases(1_000, "writes")
    with ExitStack() as stack:
        manager = stack.enter_context(DatabaseManager(databases.presgen))
        ours = stack.enter_context(cursor_on(databases.presgen))
        stored = _reader(ours, _STORED_JOB)
        job = PresentationJob.get_by_id(1)

        def update(number: int) -> int:
            job.slides_count = number + 1
            job.save()
            return 1

        def update_raw(number: int) -> int:
            return raw.update_job(ours, 2, number + 1)  # type: ignore[no-any-return]

        contenders = [
            Contender("presgen", update, stored, around=manager.session),
            Contender("raw psycopg2", update_raw, stored),
        ]
        if bench.has("SQLAlchemy"):
            contenders += [
                _sqlalchemy_update(stack, databases.sqlalchemy, 1, "SQLAlchemy"),
                _sqlalchemy_update(stack, databases.sqlalchemy, 2, "SQLAlchemy, held", expire_on_commit=False),
            ]
        done = bench.race("save: a changed job", contenders)
    what = "save() of a changed job"
    yield done.row(what, "raw psycopg2", at_most(1.6))
    yield done.row(what, "SQLAlchemy", at_least(4))
    yield done.row(what, "SQLAlchemy, held", at_least())


def _sqlalchemy_update(stack: ExitStack, url: str, job_id: int, name: str, **options: Any) -> Contender:
    from .peers import sqlalchemy_peer
    from .peers.sqlalchemy_models import PresentationJob as Peer

    sessions = stack.enter_context(sqlalchemy_peer.opened(url, **options))
    db = stack.enter_context(sessions())
    job = db.get(Peer, job_id)

    def update(number: int) -> int:
        job.slides_count = number + 1
        db.commit()
        return job.id  # type: ignore[no-any-return]

    return Contender(name, update, _reader(stack.enter_context(cursor_on(url)), _STORED_JOB))


def get(bench: Bench) -> Iterator[Row]:
    """A job by id, at every size."""
    for jobs in bench.effort.sizes:
        done = _gets(bench, jobs)
        for name in done.timings:
            bench.report.grow("get by id", name, jobs, done.median(name))
    what = f"get by id, of {jobs:,} jobs"
    yield done.row(what, "raw psycopg2", at_most(1.3))
    yield done.row(what, PREPARED, at_most())
    yield done.row(what, "SQLAlchemy", at_least(8), ours="presgen, by request")
    yield done.row(what, "SQLAlchemy, held", at_least())
    yield done.row(what, "Django", at_least())


def _gets(bench: Bench, jobs: int) -> Race:
    databases = bench.databases(jobs)
    ids = random.Random(jobs).choices(range(1, jobs + 1), k=1_000)
    with ExitStack() as stack:
        manager = stack.enter_context(DatabaseManager(databases.presgen))

        def by_id(number: int) -> Any:
            return PresentationJob.get_by_id(ids[number % len(ids)])

        def by_request(number: int) -> Any:
            with manager.session():
                return by_id(number)

        captured = raw.Captured(databases.presgen, manager.database, lambda: by_id(0))
        stack.callback(captured.close)
        captured.fetch_one()
        shown, shown_bare = _of_job(plain.of_object), _of_job(plain.of_tuple(captured.names()))
        captured.prepare()
        contenders = [
            Contender("presgen", by_id, shown, around=manager.session),
            Contender("presgen, by request", by_request, shown),
            Contender("raw psycopg2", lambda number: captured.fetch_one(ids[number % len(ids)]), shown_bare),
            Contender(PREPARED, lambda number: captured.fetch_prepared(ids[number % len(ids)]), shown_bare),
        ]
        if bench.has("SQLAlchemy"):
            contenders += _sqlalchemy_gets(stack, databases.sqlalchemy, ids)
        if bench.has("Django"):
            contenders.append(_django_get(stack, databases.presgen, ids))
        return bench.race("get", contenders, rows=jobs)


def _sqlalchemy_gets(stack: ExitStack, url: str, ids: list[int]) -> list[Contender]:
    from .peers import sqlalchemy_peer
    from .peers.sqlalchemy_models import PresentationJob as Peer

    sessions = stack.enter_context(sqlalchemy_peer.opened(url))
    held = stack.enter_context(sessions())

    def by_request(number: int) -> Any:
        with sessions() as db:
            return db.query(Peer).filter(Peer.id == ids[number % len(ids)]).first()

    def by_id(number: int) -> Any:
        held.expunge_all()  # or else it is not asked for
        return held.get(Peer, ids[number % len(ids)])

    shown = _of_job(plain.of_object)
    return [Contender("SQLAlchemy", by_request, shown), Contender("SQLAlchemy, held", by_id, shown)]


def _django_get(stack: ExitStack, url: str, ids: list[int]) -> Contender:
    from .peers import django_peer

    django_peer.connect(url)
    stack.callback(django_peer.close)
    return Contender("Django", lambda number: django_peer.get_job(ids[number % len(ids)]), _of_job(plain.of_object))


def _of_job(reader: Callable[[Any, tuple[str, ...]], Any]) -> Callable[[Any], Any]:
    return lambda row: reader(row, plain.JOB)


def _reader(cursor: Any, sql: str) -> Callable[[int], Any]:
    """What is stored under an id."""

    def stored(row_id: int) -> Any:
        cursor.execute(sql, (row_id,))
        return cursor.fetchone()

    return stored
