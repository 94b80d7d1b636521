"""presgen's Worker in a process of its own: drain() for one job at a time, else run()."""

from __future__ import annotations

import sys

sys.modules["psycopg"] = None  # type: ignore[assignment]

from presgen import DatabaseManager, PresentationJob, Worker

from ..bulk import rows
from .laps import Laps

_FINISHED = """
SELECT count(*), date_part('epoch', max(completed_at)) FROM presentation_jobs WHERE status = 'completed'
"""


def main(url: str, jobs: int, concurrency: int) -> None:
    laps = Laps(jobs)

    def finish(job: PresentationJob) -> None:
        laps.note()
        job.complete(s3_video_path="/videos/done.mp4")
        if laps.was_last:
            worker.stop()

    with DatabaseManager(url) as manager:
        manager.database.execute_sql("TRUNCATE presentation_jobs CASCADE")
        PresentationJob.enqueue_many(rows(jobs))
        manager.database.execute_sql("ANALYZE")  # as autovacuum would before long
        worker = Worker(manager, finish, concurrency=concurrency)
        if concurrency == 1:
            worker.drain()
        else:
            worker.run()
        laps.report(*manager.database.execute_sql(_FINISHED).fetchone())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
