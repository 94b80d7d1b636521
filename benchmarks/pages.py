"""Pages of jobs with their owners: the first one, and the last one by keyset and by OFFSET; users with their voices.

A contender reads each job's owner's name. Pages need one statement, so everybody holds a connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from presgen import DatabaseManager, PresentationJob, User, queries

from . import plain
from .bench import Bench
from .filling import USERS, Databases
from .peers import raw
from .rounds import Contender, Race
from .rows import Row, at_least, at_most

PAGE = 100


def page(bench: Bench) -> Iterator[Row]:
    """The newest jobs, at every size."""
    for jobs in bench.effort.sizes:
        done = _first_page(bench, bench.databases(jobs))
        for name in done.timings:
            bench.report.grow("page 1", name, jobs, done.median(name))
    what = f"page of {PAGE} jobs with owner, of {jobs:,}"
    yield done.row(what, "raw psycopg2", at_most(1.5))
    yield done.row(what, "raw psycopg2, dicts", at_most())
    yield done.row(what, "SQLAlchemy", at_least(1.8))
    yield done.row(what, "Django", at_least())


def _first_page(bench: Bench, databases: Databases) -> Race:
    with ExitStack() as stack:
        manager = stack.enter_context(DatabaseManager(databases.presgen))

        def ours(_number: int) -> Any:
            return _with_names(queries.get_presentation_jobs(limit=PAGE))

        captured = raw.Captured(databases.presgen, manager.database, lambda: ours(0))
        stack.callback(captured.close)
        captured.fetch_all()
        names = captured.names()
        contenders = [
            Contender("presgen", ours, _shown, around=manager.session),
            Contender(
                "raw psycopg2",
                lambda _: _having_read(names.index("name"), captured.fetch_all()),
                lambda rows: _shown_tuples(rows, names),
            ),
            Contender("raw psycopg2, dicts", lambda _: _having_read("name", captured.fetch_dicts()), _shown_dicts),
        ]
        if bench.has("SQLAlchemy"):
            contenders.append(_sqlalchemy_page(stack, databases.sqlalchemy, "SQLAlchemy", skip=0))
        if bench.has("Django"):
            from .peers import django_peer

            django_peer.connect(databases.presgen)
            stack.callback(django_peer.close)
            contenders.append(
                Contender("Django", lambda _: _with_names(django_peer.get_presentation_jobs(PAGE)), _shown)
            )
        return bench.race("page", contenders, rows=databases.jobs)


def deep(bench: Bench) -> Iterator[Row]:
    """The last page, at every size."""
    for jobs in bench.effort.sizes:
        done = _last_page(bench, bench.databases(jobs))
        bench.report.grow("last page, keyset", "presgen", jobs, done.median("presgen"))
        if bench.has("SQLAlchemy"):
            bench.report.grow("last page, OFFSET", "SQLAlchemy OFFSET", jobs, done.median("SQLAlchemy OFFSET"))
    what = f"page {jobs // PAGE:,} of {jobs:,} jobs"
    yield done.row(what, "page 1", at_most(1.5))
    yield done.row(what, "SQLAlchemy OFFSET", at_least(25))


def _last_page(bench: Bench, databases: Databases) -> Race:
    skip = databases.jobs - PAGE
    with ExitStack() as stack:
        manager = stack.enter_context(DatabaseManager(databases.presgen))
        last_before = PresentationJob.get_by_id(PAGE + 1)  # ids follow the time of creation

        def ours(_number: int) -> Any:
            return _with_names(queries.get_presentation_jobs(limit=PAGE, after=last_before))

        def first(_number: int) -> Any:
            return _with_names(queries.get_presentation_jobs(limit=PAGE))

        contenders = [
            Contender("presgen", ours, _shown, around=manager.session),
            Contender("page 1", first, _shown, question="page 1", around=manager.session),
        ]
        if bench.has("SQLAlchemy"):
            contenders.append(_sqlalchemy_page(stack, databases.sqlalchemy, "SQLAlchemy OFFSET", skip=skip))
        return bench.race("deep", contenders, rows=databases.jobs)


def _sqlalchemy_page(stack: ExitStack, url: str, name: str, *, skip: int) -> Contender:
    from .peers import sqlalchemy_peer

    db = stack.enter_context(stack.enter_context(sqlalchemy_peer.opened(url))())

    def theirs(_number: int) -> Any:
        db.expunge_all()  # or else rows are not built again
        return _with_names(sqlalchemy_peer.get_presentation_jobs(db, skip, PAGE))

    return Contender(name, theirs, _shown)


def voices(bench: Bench) -> Iterator[Row]:
    """All users with their voice clones."""
    databases = bench.databases(bench.effort.sizes[0])
    with ExitStack() as stack:
        manager = stack.enter_context(DatabaseManager(databases.presgen))

        def ours(_number: int) -> Any:
            return [(user, list(user.voice_clones)) for user in queries.get_users_with_voice_clones()]

        contenders = [Contender("presgen", ours, _shown_users, around=manager.session)]
        if bench.has("SQLAlchemy"):
            contenders.append(_sqlalchemy_voices(stack, databases.sqlalchemy))
        if bench.has("Django"):
            from .peers import django_peer

            django_peer.connect(databases.presgen)
            stack.callback(django_peer.close)

            def django(_number: int) -> Any:
                return [(user, list(user.voice_clones.all())) for user in django_peer.get_users_with_voice_clones()]

            contenders.append(Contender("Django prefetch_related", django, _shown_users))
        assert User.select().count() == USERS
        done = bench.race("voices", contenders, compared=1)
    what = f"{USERS:,} users with their voice clones"
    yield done.row(what, "SQLAlchemy selectinload", at_least(1.6))
    yield done.row(what, "Django prefetch_related", at_least())


def _sqlalchemy_voices(stack: ExitStack, url: str) -> Contender:
    from .peers import sqlalchemy_peer

    db = stack.enter_context(stack.enter_context(sqlalchemy_peer.opened(url))())

    def theirs(_number: int) -> Any:
        db.expunge_all()
        return [(user, list(user.voice_clones)) for user in sqlalchemy_peer.get_users_with_voice_clones(db)]

    return Contender("SQLAlchemy selectinload", theirs, _shown_users)


def _with_names(jobs: list[Any]) -> list[tuple[Any, str]]:
    return [(job, job.owner.name) for job in jobs]


def _having_read(name: Any, rows: list[Any]) -> list[Any]:
    for row in rows:
        row[name]
    return rows


def _shown(rows: list[tuple[Any, str]]) -> list[Any]:
    assert all(job.owner.id == job.owner_id for job, _ in rows)
    return [(plain.of_object(job, plain.JOB), name) for job, name in rows]


def _shown_tuples(rows: list[Any], names: tuple[str, ...]) -> list[Any]:
    owner = names.index("name")
    return [(plain.of_tuple(names[: owner - 1])(row[: owner - 1], plain.JOB), row[owner]) for row in rows]


def _shown_dicts(rows: list[dict[str, Any]]) -> list[Any]:
    return [({name: plain.value(row[name]) for name in plain.JOB}, row["name"]) for row in rows]


def _shown_users(users: list[tuple[Any, list[Any]]]) -> list[Any]:
    return [
        (
            plain.of_object(user, plain.USER),
            sorted((plain.of_object(clone, plain.VOICE_CLONE) for clone in clones), key=_id),
        )
        for user, clones in users
    ]


def _id(row: dict[str, Any]) -> int:
    return row["id"]  # type: ignore[no-any-return]
