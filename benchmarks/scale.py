"""What one server carries, with the jobs in one table and in partitions.

Run `python -m benchmarks.scale`. Both databases are on one server and have the same rows, of which one divides the
second half among its partitions; each statement is timed in turns on the one and the other. Then processes claim and
finish jobs, ten at a time, as fast as they can.
"""

from __future__ import annotations

import argparse
import multiprocessing
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from presgen import DatabaseManager, PresentationJob, User, VoiceClone, queries
from presgen.embedded import EmbeddedServer
from presgen.ext import partitions

JOBS, ROUNDS, PARTITIONS, SECONDS = 1_000_000, 101, 12, 5.0
_FILL = """
WITH added AS (
    INSERT INTO presentation_jobs (owner_id, voice_clone_id, s3_pptx_path, s3_video_path, status, started_at,
        completed_at, created_at, attempt, worker)
    SELECT owner_id, id, '/decks/' || md5(n::text) || '.pptx', '/videos/' || md5(n::text || 'v') || '.mp4', 'completed',
        now(), now(), now() - (10000000 - n) * interval '1 second', 1, 'render-' || n %% 12
    FROM generate_series(%s, %s) AS n JOIN voice_clones ON id = 1 + n %% 1000
    RETURNING id, completed_at, worker)
INSERT INTO job_events (job_id, from_status, to_status, at, worker, attempt)
SELECT id, before, after, completed_at, worker, 1
FROM added, (VALUES ('pending', 'processing_slides'), ('processing_slides', 'synthesizing_audio'),
    ('synthesizing_audio', 'assembling_video'), ('assembling_video', 'completed')) AS steps (before, after)
"""


def fill(url: str, jobs: int) -> None:
    """Migrate, and add users, their voice clones, finished jobs and their events."""
    with DatabaseManager(url) as manager:
        manager.migrate()
        for number in range(1000):
            owner = User.create(name=f"Owner {number}")
            VoiceClone.create(name="v", s3_path=f"/voices/{number}.wav", owner=owner)
        manager.database.execute_sql(_FILL, (1, jobs))


def go_on(url: str, jobs: int) -> None:
    """Add as many jobs again, with new partitions ahead of them where there are any."""
    step = jobs // PARTITIONS
    with DatabaseManager(url) as manager:
        for first in range(jobs + 1, 2 * jobs, step):
            if manager.features():
                partitions.advance(manager, size=step)
            manager.database.execute_sql(_FILL, (first, first + step - 1))


def divide(url: str, jobs: int) -> None:
    """Partition the tables, and tell how long that takes and how long a writer waits meanwhile."""
    waits, has_ended = [0.0], threading.Event()
    with DatabaseManager(url) as manager:
        voice = VoiceClone.get()

        def write() -> None:
            while not has_ended.is_set():
                began = time.perf_counter()
                PresentationJob.enqueue(owner=voice.owner_id, voice_clone=voice, s3_pptx_path="/x.pptx").cancel()
                waits.append(time.perf_counter() - began)

        writer = threading.Thread(target=write)
        writer.start()
        began = time.perf_counter()
        manager.install("partitions", size=jobs // PARTITIONS)
        seconds = time.perf_counter() - began
        has_ended.set()
        writer.join()
    print(f"partitioned in {seconds:.1f} s, while a writer waited {max(waits) * 1e3:.0f} ms at most")


def statements(jobs: int) -> dict[str, Callable[[], Any]]:
    """What an application and its workers do all day."""
    voice, middle = VoiceClone.get(), PresentationJob.get_by_id(jobs // 2)

    def enqueue() -> Any:
        return PresentationJob.enqueue(owner=voice.owner_id, voice_clone=voice, s3_pptx_path="/x.pptx")

    def claim_and_complete() -> None:
        for job in PresentationJob.claim("benchmark"):
            job.complete(s3_video_path="/x.mp4")

    return {
        "get by id": lambda: PresentationJob.get_by_id(jobs // 3),
        "history of a job": lambda: PresentationJob(id=jobs // 3).history(),
        "enqueue": enqueue,
        "claim and complete": claim_and_complete,
        "newest 100 jobs": lambda: queries.get_presentation_jobs(limit=100),
        "100 jobs from the middle": lambda: queries.get_presentation_jobs(limit=100, after=middle),
        "a user's jobs": lambda: queries.get_user_presentation_jobs(voice.owner_id),
        "metrics": queries.get_database_metrics,
        "live counts": queries.get_live_counts,
    }


def compare(urls: dict[str, str], jobs: int, rounds: int) -> None:
    """Time each statement on the one and the other database in turns, and print medians and minima."""
    walls: dict[tuple[str, str], list[float]] = {}
    for _ in range(5):
        for kind, url in urls.items():
            with DatabaseManager(url) as manager, manager.session():
                for name, work in statements(jobs).items():
                    work()
                    for _round in range(
                        max(1, rounds // 5 if name not in ("metrics", "a user's jobs") else rounds // 25)
                    ):
                        began = time.perf_counter()
                        work()
                        walls.setdefault((name, kind), []).append((time.perf_counter() - began) * 1e3)
    print(f"{'ms, median (minimum)':<28}{'one table':>20}{'partitions':>20}{'ratio':>8}")
    for name in dict.fromkeys(name for name, _ in walls):
        one, many = walls[name, "one table"], walls[name, "partitions"]
        cells = [f"{median(values):.2f} ({min(values):.2f})" for values in (one, many)]
        print(f"{name:<28}{cells[0]:>20}{cells[1]:>20}{median(many) / median(one):>8.2f}")


def work_off(url: str, seconds: float, counts: Any) -> None:
    """Claim ten jobs and finish them, again and again."""
    deadline, done = time.monotonic() + seconds, 0
    with DatabaseManager(url) as manager, manager.session():
        while time.monotonic() < deadline:
            for job in PresentationJob.claim("benchmark", 10):
                job.complete(s3_video_path="/x.mp4")
                done += 1
    counts.put(done)


def rates(urls: dict[str, str], seconds: float) -> None:
    """Print how many jobs a second some processes finish, all of them together."""
    print(f"\n{'jobs a second':<28}{'one table':>20}{'partitions':>20}")
    for processes in (1, 2, 4, 8):
        cells = []
        for url in urls.values():
            with DatabaseManager(url):
                voice = VoiceClone.get()
                row = {"owner": voice.owner_id, "voice_clone": voice.id, "s3_pptx_path": "/x.pptx"}
                PresentationJob.enqueue_many([row] * int(seconds * 3000))
            context = multiprocessing.get_context("spawn")
            counts = context.Queue()
            running = [context.Process(target=work_off, args=(url, seconds, counts)) for _ in range(processes)]
            for process in running:
                process.start()
            done = sum(counts.get() for _ in running)
            for process in running:
                process.join()
            cells.append(f"{done / seconds:.0f}")
            with DatabaseManager(url):
                PresentationJob.delete().where(PresentationJob.status == "pending").execute()
        print(f"{f'{processes} processes':<28}{cells[0]:>20}{cells[1]:>20}")


def run(server_url: str, jobs: int, rounds: int, seconds: float) -> None:
    """Fill two databases, divide one, and measure."""
    urls = {}
    for kind, name in (("one table", "plain"), ("partitions", "divided")):
        with DatabaseManager(server_url) as manager:
            manager.database.execute_sql(f"CREATE DATABASE {name}")
        urls[kind] = server_url.rpartition("/")[0] + f"/{name}"
        fill(urls[kind], jobs)
    with DatabaseManager(urls["one table"]) as manager:
        sql = "SELECT pg_total_relation_size('presentation_jobs'), pg_total_relation_size('job_events')"
        of_jobs, of_events = manager.database.execute_sql(sql).fetchone()
    print(f"{jobs} jobs take {of_jobs >> 20} MiB, and their events {of_events >> 20} MiB")
    divide(urls["partitions"], jobs)
    for url in urls.values():
        go_on(url, jobs)
        with DatabaseManager(url) as manager:
            manager.database.execute_sql("VACUUM ANALYZE")
    with DatabaseManager(urls["partitions"]) as manager:
        print(f"{2 * jobs} jobs, in {len(partitions.status(manager))} partitions\n")
    compare(urls, jobs, rounds)
    rates(urls, seconds)


def main() -> None:
    """Run on an embedded server of its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="only see that it works")
    chosen = parser.parse_args()
    jobs, rounds, seconds = (20_000, 5, 0.5) if chosen.quick else (chosen.jobs, chosen.rounds, SECONDS)
    settings = {"shared_buffers": "1GB", "max_wal_size": "4GB", "maintenance_work_mem": "256MB"}
    with TemporaryDirectory(prefix="presgen-scale-") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedServer(Path(folder) / "server", settings=settings) as server:
            run(server.url, jobs, rounds, seconds)


if __name__ == "__main__":
    main()
