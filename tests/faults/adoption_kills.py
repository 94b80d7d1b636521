"""Adoption under SIGKILL, at every step: python -m adoption_kills.

A step is a statement, a BEGIN or a COMMIT. Each time on a new database that SQLAlchemy has made and filled, a process is
killed just before its k-th step, until one comes through; another one then adopts what it left, and rows, catalogs, numbers
and settings are those of an undisturbed adoption. All processes are forks of one that never opens a database.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, Final

from killing import forked, in_child, own_server, require_same, steps_until, was_killed

from presgen import DatabaseManager, models
from presgen.database import PostgresPool
from presgen.migrating import adoption
from presgen.migrating.catalog import catalog
from presgen.migrator import Migrator

_NUMBERS: Final = "SELECT sequencename::text, last_value FROM pg_sequences ORDER BY 1"
_STORED: Final = "SELECT relname::text, reloptions FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
Fill = Callable[[str], None]


def kill_everywhere(new_database: Callable[[], str], fill: Fill, *, every: int = 1, mutant: str | None = None) -> int:
    """Kill an adoption at each of its steps, or each `every`-th; gives the number of steps. Raises Violation."""
    url = new_database()
    in_child(lambda: fill(url))
    in_child(lambda: _adopt(url))
    expected = in_child(lambda: _state(url))
    for step in count(1, every):
        url = new_database()
        in_child(lambda url=url: fill(url))

        def adopt_or_die(url: str = url, step: int = step) -> None:
            stepping = steps_until(step)
            for name in ("execute_sql", "begin", "commit"):
                setattr(PostgresPool, name, stepping(getattr(PostgresPool, name)))
            MUTANTS.get(mutant or "", lambda: None)()
            _adopt(url)

        is_killed = was_killed(forked(adopt_or_die))
        if is_killed:
            in_child(lambda url=url: _adopt(url))
        found = in_child(lambda url=url: _state(url))
        require_same(found, expected, step)
        if not is_killed:
            return step - 1
    raise AssertionError


def _adopt(url: str) -> None:
    with DatabaseManager(url) as manager:
        if not manager.migrations.applied():
            manager.migrations.adopt()


def _state(url: str) -> Any:
    with DatabaseManager(url) as manager, manager.session() as database:
        tables = {model._meta.table_name: repr(list(_rows(model))) for model in models.MODELS}
        more = {
            name: repr(database.execute_sql(sql).fetchall())
            for name, sql in (("numbers", _NUMBERS), ("stored", _STORED))
        }
        schema = {kind: sorted(things) for kind, things in catalog(database).items()}
        return {"applied": Migrator(database).applied(), **tables, **more, **schema}


def _rows(model: Any) -> Any:
    """All but when the lease of what was running ends, which is when it was adopted."""
    fields = [field for field in model._meta.sorted_fields if field.name != "lease_expires_at"]
    return model.select(*fields).order_by(model.id).tuples()


# Deliberate bugs.


def _commits_each_step() -> None:
    """What is done is committed step by step, as if an adoption could go on in the middle."""
    run = adoption.Adoption.run

    def run_in_steps(self: Any, progress: Any = None) -> None:
        def commit(*_: int) -> None:
            self._database.commit()
            self._database.begin()

        run(self, commit)

    adoption.Adoption.run = run_in_steps  # type: ignore[method-assign]


MUTANTS: Final[dict[str, Callable[[], None]]] = {"commits each step": _commits_each_step}


def main() -> None:
    """Kill at every step on a server of its own; exits with 1 after a violation."""
    import sys

    sys.path.insert(0, str(Path(__file__).parent.parent))
    from fixtures.sqlalchemy_rows import fill_database

    with own_server() as (_, new_database):
        kills = kill_everywhere(new_database, fill_database)
    print(json.dumps({"kills": kills}))


if __name__ == "__main__":
    main()
