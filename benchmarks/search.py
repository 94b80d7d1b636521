"""What a search takes, and what the index costs: on one server, with a million jobs.

Run `python -m benchmarks.search`. A table tells the milliseconds of each search, wall and CPU of this process, beside
those of ILIKE, which has no index; then what writes take with the index and without it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from presgen import DatabaseManager, PresentationJob, User, VoiceClone
from presgen.embedded import EmbeddedServer
from presgen.errors import StatementTimeout
from presgen.ext import search

JOBS, ROUNDS, OWNERS = 1_000_000, 15, 1_000
_FILL = """
INSERT INTO presentation_jobs (owner_id, voice_clone_id, s3_pptx_path, s3_video_path, error_message, status,
    started_at, completed_at, created_at)
SELECT v.owner_id, v.id, '/decks/' || md5(n::text) || '/quarterly-review-' || n %% 40000 || '.pptx',
    CASE WHEN n %% 10 > 0 THEN '/videos/' || md5(n::text || 'v') || '.mp4' END,
    CASE WHEN n %% 10 = 0 THEN 'RuntimeError: slide ' || n %% 60 || ' of deck ' || n || ' has no notes' END,
    CASE WHEN n %% 10 = 0 THEN 'failed' ELSE 'completed' END, now(), now(), now() - n * interval '1 second'
FROM generate_series(1, %s) AS n JOIN voice_clones AS v ON v.id = 1 + n %% %s
"""

QUERIES: dict[str, dict[str, Any]] = {
    "a word of 1 job": {"query": "827ccb0eea8a706c4c34a16891f84e7b"},
    "a word of 1 job, newest": {"query": "827ccb0eea8a706c4c34a16891f84e7b", "order": "newest"},
    "a word of 25 jobs": {"query": "31415"},
    "a word of 25 jobs, newest": {"query": "31415", "order": "newest"},
    "a phrase of 25 jobs": {"query": '"review 31415"'},
    "two words, of 25 and of all": {"query": "quarterly 31415 -notes"},
    "either of 50, newest": {"query": "31415 OR 27182", "order": "newest"},
    "the beginning of 2,750": {"query": "3141*", "limit": 20},
    "the beginning of 2,750, newest": {"query": "3141*", "order": "newest"},
    "an owner's word of 1,000": {"query": "quarterly", "owner": 77},
    "an owner's word of 1,000, newest": {"query": "quarterly", "owner": 77, "order": "newest"},
    "a word of all": {"query": "quarterly"},
    "a word of all, newest": {"query": "quarterly", "order": "newest"},
    "no job's word": {"query": "nosuchword"},
}


def timed(work: Callable[[], Any], rounds: int) -> tuple[float, float, float]:
    """Median and minimum of wall time and median of CPU time, in milliseconds."""
    walls, cpus = [], []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append((time.perf_counter() - wall) * 1e3)
        cpus.append((time.process_time() - cpu) * 1e3)
    return median(walls), min(walls), median(cpus)


def fill(manager: DatabaseManager, jobs: int) -> None:
    """Add the owners and the jobs."""
    for number in range(OWNERS):
        owner = User.create(name=f"Owner {number}")
        VoiceClone.create(name="v", s3_path=f"/voices/{number}.wav", owner=owner)
    manager.database.execute_sql("SET max_parallel_workers_per_gather = 0")
    manager.database.execute_sql(_FILL, (jobs, OWNERS))


def run(url: str, jobs: int, rounds: int) -> None:
    """Fill the database, install, measure and print."""
    with DatabaseManager(url) as manager:
        manager.migrate()
        fill(manager, jobs)
        manager.database.execute_sql("VACUUM ANALYZE presentation_jobs")
        plain = writes(rounds)
        began = time.perf_counter()
        manager.install("search")
        sizes = "SELECT pg_relation_size('idx_presentation_jobs_search'), pg_table_size('presentation_jobs')"
        index, table = manager.database.execute_sql(sizes).fetchone()
        seconds = time.perf_counter() - began
        print(f"{jobs} jobs; built in {seconds:.1f} s; index {index >> 20} MB, table {table >> 20} MB\n")
        print(f"{'search':<36}{'hits':>6}{'median':>10}{'minimum':>10}{'CPU':>8}   ms")
        with manager.session():
            for name, options in QUERIES.items():
                hits = len(search.jobs(**options))
                wall, least, cpu = timed(lambda options=options: search.jobs(**options), rounds)
                print(f"{name:<36}{hits:>6}{wall:>10.2f}{least:>10.2f}{cpu:>8.2f}")
            unindexed = PresentationJob.select().where(PresentationJob.s3_pptx_path.contains("31415")).limit(20)
            with suppress(StatementTimeout):
                wall, least, cpu = timed(lambda: list(unindexed.clone()), 3)
                print(f"{'ILIKE, of 25 jobs':<36}{20:>6}{wall:>10.2f}{least:>10.2f}{cpu:>8.2f}")
        indexed = writes(rounds)
        print()
        for name in plain:
            ratio = indexed[name] / plain[name]
            print(f"{name:<36}{plain[name]:>10.3f} ms without, {indexed[name]:.3f} with: {ratio:.2f}")


def writes(rounds: int) -> dict[str, float]:
    """Median milliseconds of single writes."""
    owner = User.get_by_id(1)
    voice = VoiceClone.get_by_id(1)

    def enqueue() -> PresentationJob:
        path = "/decks/0123456789abcdef/quarterly-review.pptx"
        return PresentationJob.enqueue(owner=owner, voice_clone=voice, s3_pptx_path=path)  # type: ignore[no-any-return]

    enqueue()
    (job,) = PresentationJob.claim("benchmark", lease=3600)
    found = {"enqueue": timed(enqueue, rounds * 20)[0], "heartbeat": timed(job.heartbeat, rounds * 20)[0]}
    PresentationJob.delete().where(PresentationJob.status.not_in(("completed", "failed"))).execute()
    return found


def main() -> None:
    """Run on an embedded server of its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="only see that it works")
    chosen = parser.parse_args()
    jobs, rounds = (50_000, 2) if chosen.quick else (chosen.jobs, chosen.rounds)
    settings = {"fsync": "off", "shared_buffers": "512MB", "max_wal_size": "4GB", "maintenance_work_mem": "256MB"}
    with TemporaryDirectory(prefix="presgen-search-") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedServer(Path(folder) / "server", settings=settings) as server:
            run(server.url, jobs, rounds)


if __name__ == "__main__":
    main()
