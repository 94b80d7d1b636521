"""Two migrators at once, of which one is killed at every step in turn: python -m migration_kills.

A step is a statement, a BEGIN or a COMMIT. The first migrator has its turn when the second one starts, and is killed just
before its k-th step, until it comes through; the second one goes on. Then each migration is recorded once, and the
catalogs are those of an undisturbed run. All processes are forks of one that never opens a database.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

from killing import forked, in_child, own_server, require_same, steps_until, was_killed

from presgen import DatabaseManager, User
from presgen.context import session
from presgen.database import PostgresPool
from presgen.migrating import apart, concurrent
from presgen.migrating.catalog import catalog
from presgen.migrator import Migrator
from presgen.sqlite import SqliteFile

NewDatabase = Callable[[], str]


def kill_everywhere(new_database: NewDatabase, folder: Path, *, every: int = 1, mutant: str | None = None) -> int:
    """Kill the first of two migrators at each of its steps, or each `every`-th, each time on a new database.

    Gives the number of steps. Raises Violation.
    """
    url = new_database()
    expected = in_child(lambda: _undisturbed(url, folder))
    for step in count(1, every):
        url = new_database()
        in_child(lambda url=url: _fill(url))
        is_killed = _killed_at(step, url, folder, mutant)
        found = in_child(lambda url=url: _state(url, folder))
        require_same(found, expected, step)
        if not is_killed:
            return step - 1
    raise AssertionError


def _killed_at(step: int, url: str, folder: Path, mutant: str | None) -> bool:
    """Whether the first migrator is killed before its step of that number; the second one has come through."""
    has_turn, is_there = os.pipe(), os.pipe()

    def migrate(stepping: Callable[[Any], Any], turns: Callable[[Any], Any]) -> None:
        for owner in (PostgresPool, SqliteFile):
            for name in ("execute_sql", "begin", "commit"):
                setattr(owner, name, stepping(getattr(owner, name)))
        MUTANTS.get(mutant or "", lambda: None)()
        apart.exclusive = turns(apart.exclusive)  # type: ignore[attr-defined]
        _migrate(url, folder)

    def wait_in_turn(exclusive: Any) -> Any:
        @contextmanager
        def waiting(database: Any) -> Iterator[None]:
            with exclusive(database):
                os.write(has_turn[1], b"x")
                os.read(is_there[0], 1)
                yield

        return waiting

    def tell(exclusive: Any) -> Any:
        os.write(is_there[1], b"x")
        return exclusive

    first = forked(lambda: migrate(steps_until(step), wait_in_turn))
    os.close(has_turn[1])
    os.read(has_turn[0], 1)  # or its end, when it died before
    second = forked(lambda: migrate(lambda function: function, tell))
    try:
        is_killed = was_killed(first)
    finally:
        was_killed(second)
        for end in (has_turn[0], *is_there):
            os.close(end)
    return is_killed


def _migrate(url: str, folder: Path) -> None:
    with DatabaseManager(url) as manager:
        Migrator(manager.database, folder).migrate()


def _fill(url: str) -> None:
    with DatabaseManager(url) as manager:
        manager.migrate()
        User.insert_many([{"name": f"User {number}"} for number in range(100)]).execute()


def _undisturbed(url: str, folder: Path) -> Any:
    _fill(url)
    _migrate(url, folder)
    return _state(url, folder)


def _state(url: str, folder: Path) -> Any:
    with DatabaseManager(url) as manager, manager.session() as connected:
        rows = connected.execute_sql("SELECT id, name, nickname FROM users ORDER BY id").fetchall()
        schema = {kind: sorted(things) for kind, things in catalog(connected).items()}
        return {"applied": Migrator(connected, folder).applied(), "rows": rows, **schema}


# Deliberate bugs.


def _takes_no_turns() -> None:
    apart.exclusive = session  # type: ignore[attr-defined, assignment]


def _records_apart() -> None:
    """A migration's record is committed after its statements."""
    from peewee_migrate import Migrator as Queue

    run = Queue.__call__

    def run_and_commit(self: Any) -> None:
        run(self)
        self.__database__.commit()
        self.__database__.begin()

    Queue.__call__ = run_and_commit


def _builds_again() -> None:
    concurrent.Concurrent._is_built = lambda self, execute: False  # type: ignore[method-assign, assignment]


MUTANTS: Final[dict[str, Callable[[], None]]] = {
    "takes no turns": _takes_no_turns,
    "records apart": _records_apart,
    "builds again": _builds_again,
}


def main() -> None:
    """Kill at every step on a server of its own and on SQLite; exits with 1 after a violation."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from fixtures.later_migrations import write_later_migrations

    with own_server() as (root, new_database):
        folder = root / "migrations"
        folder.mkdir()
        write_later_migrations(folder)
        numbers = count(1)
        kills = {"sqlite": kill_everywhere(lambda: f"sqlite:///{root}/{next(numbers)}.db", folder)}
        kills["postgresql"] = kill_everywhere(new_database, folder)
    print(json.dumps({"kills": kills}))


if __name__ == "__main__":
    main()
