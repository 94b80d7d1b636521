"""Two migrators at once, of which one is killed at every step in turn: python -m migration_kills.

A step is a statement, a BEGIN or a COMMIT. The first migrator has its turn when the second one starts, and is killed just
before its k-th step, until it comes through; the second one goes on. Then each migration is recorded once, and the
catalogs are those of an undisturbed run. All processes are forks of one that never opens a database.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from presgen import DatabaseManager, User, migrator
from presgen.database import PostgresPool
from presgen.embedded import EmbeddedServer
from presgen.migrating import concurrent
from presgen.migrating.catalog import catalog
from presgen.migrator import Migrator
from presgen.sqlite import SqliteFile

NewDatabase = Callable[[], str]


class Violation(Exception):
    """A migration was applied twice, in part or not at all."""


def kill_everywhere(new_database: NewDatabase, folder: Path, *, every: int = 1, mutant: str | None = None) -> int:
    """Kill the first of two migrators at each of its steps, or each `every`-th, each time on a new database.

    Gives the number of steps. Raises Violation.
    """
    url = new_database()
    expected = _in_child(lambda: _undisturbed(url, folder))
    for step in count(1, every):
        url = new_database()
        _in_child(lambda url=url: _fill(url))
        was_killed = _killed_at(step, url, folder, mutant)
        found = _in_child(lambda url=url: _state(url, folder))
        if found != expected:
            raise Violation(f"after a kill at step {step}: {_what_differs(found, expected)}")
        if not was_killed:
            return step - 1
    raise AssertionError


def _killed_at(step: int, url: str, folder: Path, mutant: str | None) -> bool:
    """Whether the first migrator is killed before its step of that number; the second one has come through."""
    reading, writing = os.pipe()
    first = _forked(lambda: _migrate_and_die(url, folder, step, writing, mutant))
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        pipe.read(1)  # or its end, when it died before
    second = _forked(lambda: _migrate(url, folder, mutant))
    _, status = os.waitpid(first, 0)
    _, other = os.waitpid(second, 0)
    if os.waitstatus_to_exitcode(other):
        raise Violation(f"the second migrator failed when the first was killed at step {step}")
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if os.waitstatus_to_exitcode(status):
        raise Violation(f"the migrator that was to be killed at step {step} failed")
    return False


def _migrate_and_die(url: str, folder: Path, last: int, pipe: int, mutant: str | None) -> None:
    steps = count(1)

    def step() -> None:
        number = next(steps)
        if number == 1:
            os.write(pipe, b"x")
        if number == last:
            os.kill(os.getpid(), signal.SIGKILL)

    def stepping(method: Any) -> Any:
        def stepped(*arguments: Any, **options: Any) -> Any:
            step()
            return method(*arguments, **options)

        return stepped

    for owner in (PostgresPool, SqliteFile):
        for name in ("execute_sql", "begin", "commit"):
            setattr(owner, name, stepping(getattr(owner, name)))
    _migrate(url, folder, mutant)


def _migrate(url: str, folder: Path, mutant: str | None = None) -> None:
    MUTANTS.get(mutant or "", lambda: None)()
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


def _what_differs(found: Any, expected: Any) -> str:
    return next(f"{key}: {found[key]}" for key in expected if found[key] != expected[key])


def _forked(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    return child


def _in_child(work: Callable[[], Any]) -> Any:
    """What the work gives, in a process of its own."""
    reading, writing = os.pipe()

    def told() -> None:
        with os.fdopen(writing, "w") as pipe:
            json.dump(work(), pipe)

    child = _forked(told)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    if not answer:
        raise Violation("the database cannot be read")
    return json.loads(answer)


# Deliberate bugs.


def _takes_no_turns() -> None:
    migrator.exclusive = migrator.session  # type: ignore[attr-defined, assignment]


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

    with TemporaryDirectory(prefix="presgen-kills-") as name:
        root = Path(name)
        root.chmod(0o755)
        folder = root / "migrations"
        folder.mkdir()
        write_later_migrations(folder)
        numbers = count(1)
        kills = {"sqlite": kill_everywhere(lambda: f"sqlite:///{root}/{next(numbers)}.db", folder)}
        with EmbeddedServer(root / "server") as server:
            kills["postgresql"] = kill_everywhere(lambda: _created(server.url, next(numbers)), folder)
    print(json.dumps({"kills": kills}))


def _created(url: str, number: int) -> str:
    def create() -> str:
        with DatabaseManager(url) as manager:
            manager.database.execute_sql(f"CREATE DATABASE kill_{number}")
        return url.rpartition("/")[0] + f"/kill_{number}"

    return str(_in_child(create))


if __name__ == "__main__":
    main()
