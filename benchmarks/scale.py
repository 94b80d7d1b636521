"""What one server carries: statements timed one by one, then processes that claim and finish jobs as fast as they can.

Run `python -m benchmarks.scale`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from presgen import DatabaseManager, PresentationJob, User, VoiceClone, queries
from presgen.embedded import EmbeddedServer

JOBS, ROUNDS, SECONDS = 2_000_000, 101, 5.0
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
    }


def measure(url: str, jobs: int, rounds: int) -> None:
    """Time each statement, and print medians and minima."""
    print(f"{'ms':<28}{'median':>10}{'minimum':>10}")
    with DatabaseManager(url) as manager, manager.session():
        for name, work in statements(jobs).items():
            work()
            walls = []
            for _ in range(max(1, rounds if name not in ("metrics", "a user's jobs") else rounds // 5)):
                began = time.perf_counter()
                work()
                walls.append((time.perf_counter() - began) * 1e3)
            print(f"{name:<28}{median(walls):>10.2f}{min(walls):>10.2f}")


def work_off(url: str, seconds: float, counts: Any) -> None:
    """Claim ten jobs and finish them, again and again."""
    deadline, done = time.monotonic() + seconds, 0
    with DatabaseManager(url) as manager, manager.session():
        while time.monotonic() < deadline:
            for job in PresentationJob.claim("benchmark", 10):
                job.complete(s3_video_path="/x.mp4")
                done += 1
    counts.put(done)


def rates(url: str, seconds: float) -> None:
    """Print how many jobs a second some processes finish, all of them together."""
    print()
    for processes in (1, 2, 4, 8):
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
        print(f"{f'{processes} processes':<28}{done / seconds:>10.0f} jobs a second")
        with DatabaseManager(url):
            PresentationJob.delete().where(PresentationJob.status == "pending").execute()


def run(url: str, jobs: int, rounds: int, seconds: float) -> None:
    """Fill the database, and measure."""
    fill(url, jobs)
    with DatabaseManager(url) as manager:
        manager.database.execute_sql("VACUUM ANALYZE")
        sql = "SELECT pg_total_relation_size('presentation_jobs'), pg_total_relation_size('job_events')"
        of_jobs, of_events = manager.database.execute_sql(sql).fetchone()
    print(f"{jobs} jobs take {of_jobs >> 20} MiB, and their events {of_events >> 20} MiB\n")
    measure(url, jobs, rounds)
    rates(url, seconds)


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
