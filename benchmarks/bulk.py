"""What validation costs a bulk load: enqueue_many() of ready rows beside a COPY of ready text.

Run `python -m benchmarks.bulk`. Both load the same jobs into the same empty table, in turns; a table tells seconds.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from presgen import DatabaseManager, PresentationJob, User, VoiceClone
from presgen.embedded import EmbeddedServer

READY, VALIDATED = "ready COPY", "enqueue_many"
JOBS, ROUNDS, OWNERS = 100_000, 7, 100
_COPY = """
COPY presentation_jobs (owner_id, voice_clone_id, s3_pptx_path, priority, run_at, max_attempts, idempotency_key)
FROM STDIN
"""
_SOME_DAY = datetime(2026, 1, 1, tzinfo=timezone.utc)

Row = dict[str, Any]


def rows_of(voices: list[VoiceClone], jobs: int, *, is_full: bool) -> Iterator[Row]:
    """Jobs that are due now, with instances; full ones have ids and a value for each column, a hundred one moment."""
    for number in range(jobs):
        voice = voices[number % len(voices)]
        row = {"s3_pptx_path": f"/decks/{number:08}/talk.pptx", "owner": voice.owner, "voice_clone": voice}
        if is_full:
            row |= {"owner": voice.owner_id, "voice_clone": voice.id, "priority": number % 10, "max_attempts": 5}
            row |= {"run_at": _SOME_DAY + timedelta(minutes=number // 100), "idempotency_key": f"upload-{number}"}
        yield row


def ready_text(rows: list[Row]) -> str:
    """The rows as COPY reads them."""
    return "".join("\t".join(map(str, values)) + "\n" for values in map(_values, rows))


def _values(row: Row) -> list[Any]:
    owner, voice = (getattr(row[name], "id", row[name]) for name in ("owner", "voice_clone"))
    defaults = {"priority": 0, "run_at": _SOME_DAY, "max_attempts": 3, "idempotency_key": r"\N"}
    return [owner, voice, row["s3_pptx_path"], *(row.get(name, default) for name, default in defaults.items())]


def copy(manager: DatabaseManager, text: str) -> None:
    with manager.session(), manager.transaction():
        manager.database.cursor().copy_expert(_COPY, io.StringIO(text))


def measure(manager: DatabaseManager, load: Callable[[], object], jobs: int) -> tuple[float, float]:
    """Seconds on the wall and of this process's CPU for a load into an empty table."""
    manager.database.execute_sql("TRUNCATE presentation_jobs, job_events")
    manager.database.execute_sql("CHECKPOINT")
    began, began_cpu = time.perf_counter(), time.process_time()
    load()
    taken = time.perf_counter() - began, time.process_time() - began_cpu
    assert PresentationJob.select().count() == jobs
    return taken


def run(manager: DatabaseManager, jobs: int, rounds: int) -> None:
    """Measure both on rows of each kind, and print the table."""
    manager.migrate()
    voices = []
    for number in range(OWNERS):
        owner = User.create(name=f"Owner {number}")
        voices.append(VoiceClone.create(name="v", s3_path=f"/voices/{number}.wav", owner=owner))
    print(f"{f'seconds for {jobs:,} jobs':<28}{'median':>10}{'minimum':>10}{'own CPU':>10}")
    for kind, is_full in (("due now", False), ("every column", True)):
        rows = list(rows_of(voices, jobs, is_full=is_full))
        loads = {
            READY: partial(copy, manager, ready_text(rows)),
            VALIDATED: partial(PresentationJob.enqueue_many, rows),
        }
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in loads}
        for number in range(rounds):
            for name in loads if number % 2 else reversed(loads):
                taken[name].append(measure(manager, loads[name], jobs))
        walls = {name: [wall for wall, _ in pairs] for name, pairs in taken.items()}
        for name, wall in walls.items():
            own = median(cpu for _, cpu in taken[name])
            print(f"{f'{kind}, {name}':<28}{median(wall):>10.3f}{min(wall):>10.3f}{own:>10.3f}")
        ratios = [measured(walls[VALIDATED]) / measured(walls[READY]) for measured in (median, min)]
        print(f"{'ratio':<28}{ratios[0]:>10.2f}{ratios[1]:>10.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bulk", description=__doc__)
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="only see that it works")
    chosen = parser.parse_args()
    settings = {"shared_buffers": "512MB", "max_wal_size": "4GB"}
    with TemporaryDirectory(prefix="presgen-bulk-") as folder:
        Path(folder).chmod(0o755)
        with (
            EmbeddedServer(Path(folder) / "server", settings=settings) as server,
            DatabaseManager(server.url) as manager,
        ):
            run(manager, *((1_000, 2) if chosen.quick else (chosen.jobs, chosen.rounds)))


if __name__ == "__main__":
    main()
