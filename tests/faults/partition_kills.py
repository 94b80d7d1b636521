"""Partitioning under SIGKILL, at every step: python -m partition_kills.

A step is a statement, a BEGIN or a COMMIT. Each time on a new database with jobs, a process is killed just before its k-th
step, until one comes through; jobs go on being added and finished, and another process installs again. Then rows and
catalogs are those of an undisturbed installation.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, Final

from killing import forked, in_child, own_server, require_same, steps_until, was_killed

from presgen import MODELS, DatabaseManager, PresentationJob, User, VoiceClone
from presgen.database import PostgresPool
from presgen.ext.partitions import conversion, ranges
from presgen.ext.partitions.conversion import left_behind
from presgen.migrating.catalog import catalog

_NUMBERS: Final = "SELECT sequencename::text, last_value FROM pg_sequences ORDER BY 1"
# Where the ranges end depends on when the first process was killed; that there are all kinds of them does not.
_KINDS: Final = """
SELECT DISTINCT inhparent::regclass::text, substring(child.relname FROM '_(first|from|rest)(?:_|$)')
FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
WHERE inhparent::regclass::text IN ('presentation_jobs', 'job_events')
ORDER BY 1, 2
"""
_MOMENTS: Final = ("at", "created_at", "updated_at", "started_at", "completed_at", "run_at", "processing_time_seconds")


def kill_everywhere(new_database: Callable[[], str], *, every: int = 1, mutant: str | None = None) -> int:
    """Kill an installation at each of its steps, or each `every`-th; gives the number of steps. Raises Violation."""
    url = new_database()
    in_child(lambda: _fill(url))
    in_child(lambda: _install(url))
    expected = in_child(lambda: _state(url))
    for step in count(1, every):
        url = new_database()
        in_child(lambda url=url: _fill(url))

        def install_or_die(url: str = url, step: int = step) -> None:
            MUTANTS.get(mutant or "", lambda: None)()
            ranges.ROOM = 100  # type: ignore[misc]
            stepping = steps_until(step)
            for name in ("execute_sql", "begin", "commit"):
                setattr(PostgresPool, name, stepping(getattr(PostgresPool, name)))
            with DatabaseManager(url) as manager:
                manager.install("partitions", size=100)

        is_killed = was_killed(forked(install_or_die))
        in_child(lambda url=url: _install(url))
        require_same(in_child(lambda url=url: _state(url)), expected, step)
        if not is_killed:
            return step - 1
    raise AssertionError


def _fill(url: str) -> None:
    with DatabaseManager(url) as manager:
        manager.migrate()
        user = User.create(name="Ada")
        VoiceClone.create(name="v", s3_path="/v.wav", owner=user)
        _work()


def _work() -> None:
    """Add five jobs, and finish two."""
    voice = VoiceClone.get()
    for number in range(5):
        PresentationJob.enqueue(owner=voice.owner_id, voice_clone=voice, s3_pptx_path=f"/{number}.pptx")
    for job in PresentationJob.claim("w", 2):
        job.complete(s3_video_path="/x.mp4")


def _install(url: str) -> None:
    ranges.ROOM = 100  # type: ignore[misc]
    with DatabaseManager(url) as manager:
        _work()  # as the application does, whatever is half done
        manager.install("partitions", size=100)


def _state(url: str) -> Any:
    with DatabaseManager(url) as manager, manager.session() as database:
        tables = {}
        for model in MODELS:
            fields = [field for field in model._meta.sorted_fields if field.name not in _MOMENTS]
            tables[model._meta.table_name] = repr(list(model.select(*fields).order_by(model.id).tuples()))
        schema = {
            kind: sorted(thing for thing in things if thing[0] in tables or not thing[0])
            for kind, things in catalog(database).items()
        }
        return {
            "features": manager.features(),
            "numbers": repr(database.execute_sql(_NUMBERS).fetchall()),
            "partitions": repr(database.execute_sql(_KINDS).fetchall()),
            "left": left_behind(database),
            **tables,
            **schema,
        }


def _commits_half_way() -> None:
    """The old table is put aside in a transaction of its own."""
    put_aside = conversion._put_aside

    def put_aside_and_commit(database: Any, own: Any, name: str, names: dict[str, str]) -> None:
        put_aside(database, own, name, names)
        database.commit()
        database.begin()

    conversion._put_aside = put_aside_and_commit


MUTANTS: Final[dict[str, Callable[[], None]]] = {"commits half-way": _commits_half_way}


def main() -> None:
    """Kill at every step on a server of its own; exits with 1 after a violation."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    with own_server() as (_, new_database):
        kills = kill_everywhere(new_database)
    print(json.dumps({"kills": kills}))


if __name__ == "__main__":
    main()
