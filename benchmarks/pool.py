"""Pool: what it takes to get a connection and to give it back, from one thread and from sixteen.

Peewee's own pool asks the server with each checkout. "no ping at all" is that pool without the question; it would give
out connections that are dead.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from playhouse.pool import PooledPostgresqlDatabase
from psycopg2.extensions import parse_dsn

from presgen import DatabaseManager

from .bench import Bench
from .rounds import Contender
from .rows import Row, at_least, at_most

THREADS = (1, 16)
_NO_PING, _PING = "peewee's pool, no ping at all", "peewee's pool"


class Unasked(PooledPostgresqlDatabase):  # type: ignore[misc]
    """Peewee's pool without its liveness check."""

    def _is_closed(self, conn: Any) -> bool:
        return False


def pool(bench: Bench) -> Iterator[Row]:
    """Checkouts alone, and with a statement."""
    url = bench.empty_database("pool")
    login = {"max_connections": 50, "stale_timeout": 3600, "timeout": 10, **parse_dsn(url)}
    database = login.pop("dbname")
    unasked, stock = Unasked(database, **login), PooledPostgresqlDatabase(database, **login)
    with DatabaseManager(url) as manager:
        for threads in THREADS:
            for statement in ("", "SELECT 1"):
                contenders = [
                    _contender("presgen", manager.session, manager.database, threads, statement, bench),
                    _contender(_NO_PING, unasked.connection_context, unasked, threads, statement, bench),
                    _contender(_PING, stock.connection_context, stock, threads, statement, bench),
                ]
                kind = f"{statement or 'nothing'}, {threads} thread{'s' * (threads > 1)}"
                done = bench.race(f"pool: {kind}", contenders, compared=1)
                what = f"pool checkout for {kind}"
                yield done.row(what, _NO_PING, at_most(2))
                yield done.row(what, _PING, at_least())
    for opened in (unasked, stock):
        opened.close_all()


def _contender(
    name: str, session: Callable[[], Any], database: Any, threads: int, statement: str, bench: Bench
) -> Contender:
    each = bench.effort.checkouts // threads

    def use() -> int:
        done = 0
        for _ in range(each):
            with session():
                done += database.execute_sql(statement).fetchone()[0] if statement else not database.is_closed()
        return done

    def everybody(_number: int) -> int:
        done: list[int] = []
        running = [threading.Thread(target=lambda: done.append(use())) for _ in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        return sum(done)

    return Contender(name, everybody if threads > 1 else lambda _: use(), operations=each * threads, calls_max=1)
