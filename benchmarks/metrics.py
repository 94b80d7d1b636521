"""Metrics: get_database_metrics() and the live counts beside the five counts of the specification.

Of the jobs the five count only those that are pending and those that failed today, which an index finds;
get_database_metrics() counts every status. So there is a second peer, which counts each status too, in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from presgen import DatabaseManager, queries

from .bench import Bench
from .filling import Databases
from .rounds import Contender, Mismatch, Race
from .rows import Row, at_least

FIVE = ("total_users", "active_users", "total_voice_clones", "pending_jobs", "failed_jobs_today")
_EVERY_STATUS = "SQLAlchemy, the five and every status"


def metrics(bench: Bench) -> Iterator[Row]:
    """Counts of everything and of what is live, at every size."""
    for jobs in bench.effort.sizes:
        done = _counts(bench, bench.databases(jobs))
        for name in done.timings:
            bench.report.grow("metrics", name, jobs, done.median(name))
    yield done.row(f"metrics at {jobs:,} jobs", "SQLAlchemy's five counts", at_least(2))
    yield done.row(f"metrics at {jobs:,} jobs", _EVERY_STATUS, at_least())
    yield done.row(f"live counts at {jobs:,} jobs", "SQLAlchemy's five counts", at_least(50), ours="live counts")


def _counts(bench: Bench, databases: Databases) -> Race:
    with ExitStack() as stack:
        manager = stack.enter_context(DatabaseManager(databases.presgen))
        contenders = [Contender("presgen", lambda _: queries.get_database_metrics(), _five, around=manager.session)]
        _require_same(queries.get_live_counts(), queries.get_database_metrics()["jobs_by_status"])
        live = Contender("live counts", lambda _: queries.get_live_counts(), dict, "live", around=manager.session)
        contenders.append(live)
        if bench.has("SQLAlchemy"):
            from .peers import sqlalchemy_peer

            db = stack.enter_context(stack.enter_context(sqlalchemy_peer.opened(databases.sqlalchemy))())
            theirs = sqlalchemy_peer.get_database_metrics
            contenders.append(Contender("SQLAlchemy's five counts", lambda _: theirs(db), _five))
            every = sqlalchemy_peer.get_jobs_by_status
            contenders.append(Contender(_EVERY_STATUS, lambda _: theirs(db) | every(db), _five))
            _require_same(every(db)["jobs_by_status"], queries.get_database_metrics()["jobs_by_status"])
        return bench.race("metrics", contenders, rows=databases.jobs, compared=1)


def _five(found: dict[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in FIVE}


def _require_same(some: dict[str, int], everything: dict[str, int]) -> None:
    """Raise Mismatch where some counts are not those of all statuses."""
    expected = {status: everything[status] for status in some}
    if some != expected:
        raise Mismatch(f"metrics: jobs by status are {some}, but presgen gives {expected}")
