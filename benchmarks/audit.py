"""What the audit log costs: the same writes on two databases of one server, with the feature and without it.

Run `python -m benchmarks.audit`. Rounds alternate between the two; a table tells microseconds for each row.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import psycopg2

from presgen import DatabaseManager, PresentationJob, User, VoiceClone
from presgen.embedded import EmbeddedServer

PLAIN, AUDITED = "plain", "audited"
Work = Callable[[Any, int], None]
"""Gets a job that a worker has in hand, and the number of rows to write."""


def insert(job: Any, rows: int) -> None:
    for _ in range(rows):
        PresentationJob.enqueue(owner=job.owner_id, voice_clone=job.voice_clone_id, s3_pptx_path="/decks/talk.pptx")


def update(job: Any, rows: int) -> None:
    for number in range(rows):
        job.priority = number + 1
        job.save()


def heartbeat(job: Any, rows: int) -> None:
    for number in range(rows):
        job.heartbeat(progress=number / rows)


def copy(job: Any, rows: int) -> None:
    row = {"owner": job.owner_id, "voice_clone": job.voice_clone_id, "s3_pptx_path": "/decks/talk.pptx"}
    PresentationJob.enqueue_many(row for _ in range(rows))


CASES: dict[str, tuple[Work, int]] = {
    "single insert": (insert, 300),
    "single update": (update, 300),
    "heartbeat": (heartbeat, 300),
    "bulk (COPY)": (copy, 10_000),
}


def measure(url: str, work: Work, rows: int, *, is_audited: bool) -> float:
    """Microseconds for each row, on tables that are empty but for one job."""
    with DatabaseManager(url) as manager:
        manager.uninstall("audit")
        manager.database.execute_sql("TRUNCATE users RESTART IDENTITY CASCADE")
        if is_audited:
            manager.install("audit")
        user = User.create(name="Ada")
        voice = VoiceClone.create(name="Ada", s3_path="/ada.wav", owner=user)
        PresentationJob.enqueue(owner=user, voice_clone=voice, s3_pptx_path="/decks/talk.pptx")
        (job,) = PresentationJob.claim("benchmark", lease=3600)
        with manager.session(), manager.acting_as(user):
            began = time.perf_counter()
            work(job, rows)
            return (time.perf_counter() - began) / rows * 1e6


def run(server: EmbeddedServer, rounds: int, part: int) -> None:
    """Measure every case, with a `part`th of its rows, and print the table."""
    urls = {name: server.url_of(name) for name in (PLAIN, AUDITED)}
    connection = psycopg2.connect(server.url)
    connection.autocommit = True
    for name, url in urls.items():
        connection.cursor().execute(f"CREATE DATABASE {name}")
        with DatabaseManager(url) as manager:
            manager.migrate()
    connection.close()
    print(f"{'µs a row':<16}{'plain':>16}{'audited':>16}{'ratio':>16}")
    print(f"{'':<16}{'median     min':>16}{'median     min':>16}{'median     min':>16}")
    for case, (work, rows) in CASES.items():
        taken: dict[str, list[float]] = {name: [] for name in urls}
        for _ in range(rounds):
            for name, url in urls.items():
                taken[name].append(measure(url, work, rows // part, is_audited=name == AUDITED))
        plain, audited = ([median(taken[name]), min(taken[name])] for name in (PLAIN, AUDITED))
        cells = [f"{one:>8.0f}{other:>8.0f}" for one, other in (plain, audited)]
        ratios = "".join(f"{after / before:>8.2f}" for before, after in zip(plain, audited, strict=True))
        print(f"{case:<16}{''.join(cells)}{ratios}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="only see that it works")
    parser.add_argument("--postgresql", type=int, default=18, choices=(16, 18), help="the server's version")
    options = parser.parse_args()
    with (
        TemporaryDirectory(prefix="presgen-benchmark-") as folder,
        EmbeddedServer(Path(folder), version=options.postgresql) as server,
    ):
        run(server, *((1, 100) if options.quick else (9, 1)))


if __name__ == "__main__":
    main()
