"""procrastinate's worker in a process of its own, over psycopg v3, with its default settings."""

from __future__ import annotations

import asyncio
import sys

from procrastinate import App, PsycopgConnector

from .laps import Laps

_FINISHED = """
SELECT count(*) AS finished, date_part('epoch', max(at)) AS ended FROM procrastinate_events WHERE type = 'succeeded'
"""


async def main(url: str, jobs: int, concurrency: int) -> None:
    app, laps = App(connector=PsycopgConnector(conninfo=url)), Laps(jobs)

    @app.task(name="nothing")
    async def nothing() -> None:
        laps.note()

    async with app.open_async():
        connector = app.connector
        installed = await connector.execute_query_one_async("SELECT to_regclass('procrastinate_jobs') AS found")
        if installed["found"] is None:
            await app.schema_manager.apply_schema_async()
        await connector.execute_query_async("TRUNCATE procrastinate_jobs CASCADE")
        await nothing.batch_defer_async(*[{} for _ in range(jobs)])
        await connector.execute_query_async("ANALYZE")
        await app.run_worker_async(concurrency=concurrency, wait=False, install_signal_handlers=False)
        laps.report(**await connector.execute_query_one_async(_FINISHED))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
