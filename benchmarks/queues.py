"""Queues: claim and finish, beside pgbench with the very same statements, and beside other queues on its server."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from presgen import DatabaseManager, PresentationJob

from .bench import Bench
from .bulk import rows
from .filling import cursor_on
from .peers.pgbench import Script
from .rounds import Contender, Mismatch, Race, Timing
from .rows import Row, at_least

VIDEO = "/videos/done.mp4"
PREPARED = "pgbench, prepared"
_PEER_MODULES = {"presgen": "presgen_worker", "procrastinate": "procrastinate_worker", "pgqueuer": "pgqueuer_worker"}
_COMPARED, _GROWTH_JOBS = 40, 100
_FINISHED = """
SELECT job.id, job.status, job.s3_video_path, job.attempt, job.worker, array_agg(event.to_status ORDER BY event.id)
FROM presentation_jobs AS job LEFT JOIN job_events AS event ON event.job_id = job.id
GROUP BY job.id ORDER BY job.id
"""
Lap = Callable[[int], float]
"""Claims and finishes so many jobs, and gives the seconds that it took."""


def claim(bench: Bench) -> Iterator[Row]:
    """One process and pgbench's one client, a job or ten at a time; two of each; then by the size of the table."""
    databases = bench.databases(0)
    with DatabaseManager(databases.presgen) as manager, manager.session():
        for batch in (1, 10):
            script = _recorded(manager, batch)

            def ours(jobs: int, batch: int = batch) -> float:
                return _work_off(jobs, batch)

            what = f"claim + finish, batch {batch}"
            done = _laps(
                bench, what, databases.presgen, {"presgen": ours, **_pgbench(bench, script, databases.presgen)}
            )
            yield done.row(what, PREPARED, at_least(0.65))
            yield done.row(what, "pgbench", at_least())
        script = _recorded(manager, 1)

        def ours_twice(_jobs: int) -> float:
            return _two_processes(databases.presgen)

        what = "claim + finish, batch 1, two processes"
        laps = {"presgen": ours_twice, **_pgbench(bench, script, databases.presgen, clients=2)}
        done = _laps(bench, what, databases.presgen, laps)
        yield done.row(what, PREPARED, at_least())
        yield done.row(what, "pgbench", at_least())
    for jobs in bench.effort.sizes:
        _grown(bench, jobs)


def _pgbench(bench: Bench, script: Script, url: str, *, clients: int = 1) -> dict[str, Lap]:
    """pgbench with the statements prepared, as presgen's connections keep them, and with each sent as it is."""
    run = partial(script.run, bench.server, url, bench.server.folder.parent, clients=clients)
    return {PREPARED: partial(run, "prepared"), "pgbench": partial(run, "simple")}


def _work_off(jobs: int, batch: int) -> float:
    began = time.perf_counter()
    while jobs > 0:
        claimed = PresentationJob.claim("benchmark", batch)
        if not claimed:
            raise Mismatch(f"claim: presgen finds none of {jobs} jobs that are due")
        for job in claimed:
            job.complete(s3_video_path=VIDEO)
        jobs -= len(claimed)
    return time.perf_counter() - began


def _recorded(manager: DatabaseManager, batch: int) -> Script:
    """The statement of a claim and the one that finishes a job, as presgen sends them."""
    events: list[Any] = []
    _refill(manager.config.url, 2 * batch)
    for job in PresentationJob.claim("benchmark", batch):  # the first may do more
        job.complete(s3_video_path=VIDEO)
    manager.database.query_hooks.append(events.append)
    jobs = PresentationJob.claim("benchmark", batch)
    jobs[0].complete(s3_video_path=VIDEO)
    manager.database.query_hooks.remove(events.append)
    with cursor_on(manager.config.url) as cursor:
        claim, finish = events
        return Script.of(claim, finish, jobs[0].id, batch, cursor)


def _laps(bench: Bench, subject: str, url: str, laps: dict[str, Lap]) -> Race:
    """Let all work off the same queue, first to compare what they leave, then in turns."""
    order, chance = list(laps), random.Random(subject)
    timings = {name: Timing() for name in laps}
    for number in range(bench.effort.queue_rounds + 1):
        jobs = bench.effort.queue_jobs if number else _COMPARED
        left: dict[str, Any] = {}
        for name in order:
            _refill(url, jobs)
            seconds = laps[name](jobs)
            with cursor_on(url) as cursor:
                cursor.execute(_FINISHED)
                left[name] = cursor.fetchall()
            if number:
                timings[name].wall.append(seconds / jobs)
        for name, rest in left.items():
            if rest != left["presgen"]:
                raise Mismatch(f"{subject}: {name} leaves {rest[:2]}…, but presgen leaves {left['presgen'][:2]}…")
        chance.shuffle(order)
    return Race(subject, bench.effort.queue_jobs, timings, bench.absent).noted_in(bench.report)


def _refill(url: str, jobs: int) -> None:
    with cursor_on(url) as cursor:
        cursor.execute("TRUNCATE presentation_jobs, job_events RESTART IDENTITY")
        # An id that no other value of a statement equals.
        cursor.execute("ALTER TABLE presentation_jobs ALTER COLUMN id RESTART WITH 1000000")
        PresentationJob.enqueue_many(rows(jobs))
        cursor.execute("ANALYZE presentation_jobs")


def _two_processes(url: str) -> float:
    """Seconds from when both processes are ready until both have found the queue empty."""
    command = [sys.executable, "-m", "benchmarks.claiming", url]
    running = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    began = time.perf_counter()
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    took = time.perf_counter() - began
    for process in running:
        process.communicate()
    return took


def _grown(bench: Bench, jobs: int) -> None:
    """Claim and finish where many jobs are finished already."""
    databases = bench.databases(jobs)
    with DatabaseManager(databases.presgen) as manager:
        PresentationJob.enqueue_many(rows(4 * _GROWTH_JOBS))

        def once(_number: int) -> int:
            (job,) = PresentationJob.claim("benchmark")
            job.complete(s3_video_path=VIDEO)
            return 1

        contender = Contender("presgen", once, around=manager.session, calls_max=max(1, 300 // bench.effort.rounds))
        done = bench.race("claim + finish", [contender], rows=jobs)
        bench.report.grow("claim + finish", "presgen", jobs, done.median("presgen"))


def worker(bench: Bench) -> Iterator[Row]:
    """Worker and the loops of other queues with a task that does nothing, each in a process and a database of its own.

    What is timed is from the first call of the task until the last finish that the server has stored, for enough jobs
    that connections which are new, and jobs that were fetched ahead, count little.
    """
    urls = {"presgen": bench.databases(0).presgen}
    for peer in ("procrastinate", "pgqueuer"):
        if bench.has(peer):
            urls[peer] = bench.empty_database(peer)
    for concurrency in (1, 10):
        subject, jobs = f"worker, concurrency {concurrency}", bench.effort.worker_jobs
        timings = {name: Timing() for name in urls}
        order, chance = list(urls), random.Random(concurrency)
        for number in range(bench.effort.queue_rounds + 1):
            for name in order:
                count = jobs if number else 20
                found = _run_worker(name, urls[name], count, concurrency)
                if found["finished"] != count:
                    raise Mismatch(f"{subject}: {name} finished {found['finished']} of {count} jobs")
                if number:
                    timings[name].wall.append(found["seconds"] / count)
                    timings[name].cpu.append(found["cpu"] / count)
            chance.shuffle(order)
        done = Race("worker", jobs, timings, bench.absent)
        Race(subject, jobs, timings, {}).noted_in(bench.report)
        for peer in ("procrastinate", "pgqueuer"):
            what = f"claim + finish by Worker, concurrency {concurrency}"
            yield done.row(what, peer, at_least(1.5), note=_rates(done, peer))


def _rates(done: Race, peer: str) -> str:
    if peer not in done.timings:
        return ""
    return f"{1 / done.median('presgen'):,.0f} and {1 / done.median(peer):,.0f} jobs/s"


def _run_worker(name: str, url: str, jobs: int, concurrency: int) -> Any:
    command = [sys.executable, "-m", f"benchmarks.peers.{_PEER_MODULES[name]}", url, str(jobs), str(concurrency)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Mismatch(f"worker: {name} ended with {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])
