"""pgqueuer's worker in a process of its own, over asyncpg, taking as many jobs at a time as may run at once."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta

import asyncpg
from pgqueuer import AsyncpgDriver, PgQueuer, Queries
from pgqueuer.types import QueueExecutionMode

from .laps import Laps

_FINISHED = """
SELECT count(*) AS finished, date_part('epoch', max(created)) AS ended FROM pgqueuer_log WHERE status = 'successful'
"""


async def main(url: str, jobs: int, concurrency: int) -> None:
    connection = await asyncpg.connect(url)
    driver, laps = AsyncpgDriver(connection), Laps(jobs)
    queries = Queries(driver)
    if not await queries.has_table("pgqueuer"):
        await queries.install()
    await queries.clear_queue()
    await queries.clear_queue_log()
    queue = PgQueuer(driver)

    @queue.entrypoint("nothing")
    async def nothing(job: object) -> None:
        laps.note()

    await queries.enqueue(["nothing"] * jobs, [None] * jobs, [0] * jobs)
    await connection.execute("ANALYZE")
    await queue.run(dequeue_timeout=timedelta(seconds=1), batch_size=concurrency, mode=QueueExecutionMode.drain)
    laps.report(**await connection.fetchrow(_FINISHED))
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
