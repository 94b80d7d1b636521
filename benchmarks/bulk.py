"""Bulk: a validated load beside COPY of a buffer that is ready, and SQLAlchemy's ways; and the memory of a long one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timezone
from io import StringIO
from typing import Any

from presgen import DatabaseManager, PresentationJob

from .bench import Bench
from .filling import USERS, cursor_on
from .rounds import Contender, Mismatch
from .rows import Measurement, Row, at_least, at_most

_COPY = """
COPY presentation_jobs (owner_id, voice_clone_id, s3_pptx_path, priority, run_at, max_attempts, idempotency_key)
FROM STDIN
"""
_STORED = """
SELECT count(*), md5(string_agg(concat_ws(' ', owner_id, voice_clone_id, s3_pptx_path, lower(status::text)), E'\\n'
    ORDER BY s3_pptx_path))
FROM presentation_jobs
"""
_SQLALCHEMY_WAYS = ("SQLAlchemy bulk_save_objects", "SQLAlchemy add_all", "SQLAlchemy insert()")


def rows(number: int) -> Iterator[dict[str, Any]]:
    """Jobs to load, as mappings."""
    for job in range(number):
        owner = 1 + job % USERS
        yield {"owner": owner, "voice_clone": owner, "s3_pptx_path": f"/decks/{job:08x}.pptx"}


def bulk(bench: Bench) -> Iterator[Row]:
    """A load of many jobs, and the peak of memory by their number."""
    number = bench.effort.bulk_rows
    databases = bench.databases(0)
    with ExitStack() as stack:
        stack.enter_context(DatabaseManager(databases.presgen))
        cursor = stack.enter_context(cursor_on(databases.presgen))
        moment = datetime.now(timezone.utc).isoformat()
        buffer = StringIO(
            "".join(
                f"{row['owner']}\t{row['voice_clone']}\t{row['s3_pptx_path']}\t0\t{moment}\t3\t\\N\n"
                for row in rows(number)
            )
        )

        def prebuilt(_number: int) -> None:
            buffer.seek(0)
            cursor.copy_expert(_COPY, buffer)

        once = {"operations": number, "calls_max": 1}
        contenders = [
            _contender("presgen", lambda _: PresentationJob.enqueue_many(rows(number)), cursor, **once),
            _contender("prebuilt COPY", prebuilt, cursor, **once),
        ]
        if bench.has("SQLAlchemy"):
            contenders += _sqlalchemy_ways(stack, databases.sqlalchemy, number)
        done = bench.race("bulk", contenders, rows=number, rounds=bench.effort.bulk_rounds, compared=1)
    what = f"validated bulk load of {number:,} jobs"
    yield done.row(what, "prebuilt COPY", at_most(1.2))
    ways = [way for way in _SQLALCHEMY_WAYS if way in done.timings]
    best = min(ways, key=done.median) if ways else "SQLAlchemy bulk"
    yield done.row(what, best, at_least(3.5), note="SQLAlchemy's fastest" if ways else "")
    yield _memory(bench, databases.presgen)


def _contender(name: str, work: Any, cursor: Any, **options: Any) -> Contender:
    def stored(_result: Any) -> Any:
        cursor.execute(_STORED)
        return cursor.fetchone()

    def empty() -> None:
        cursor.execute("TRUNCATE presentation_jobs CASCADE")

    return Contender(name, work, stored, reset=empty, **options)


def _sqlalchemy_ways(stack: ExitStack, url: str, number: int) -> list[Contender]:
    from sqlalchemy import insert

    from .peers import sqlalchemy_peer
    from .peers.sqlalchemy_models import PresentationJob as Peer

    sessions = stack.enter_context(sqlalchemy_peer.opened(url))
    cursor = stack.enter_context(cursor_on(url))

    def columns() -> Iterator[dict[str, Any]]:
        for row in rows(number):
            yield {
                "owner_id": row["owner"],
                "voice_clone_id": row["voice_clone"],
                "s3_pptx_path": row["s3_pptx_path"],
            }

    def by_objects(_number: int) -> None:
        with sessions() as db:
            db.bulk_save_objects([Peer(**row) for row in columns()])
            db.commit()

    def by_add_all(_number: int) -> None:
        with sessions() as db:
            db.add_all([Peer(**row) for row in columns()])
            db.commit()

    def by_insert(_number: int) -> None:
        with sessions() as db:
            db.execute(insert(Peer), list(columns()))
            db.commit()

    works = (by_objects, by_add_all, by_insert)
    return [
        _contender(name, work, cursor, operations=number, calls_max=1)
        for name, work in zip(_SQLALCHEMY_WAYS, works, strict=True)
    ]


def _memory(bench: Bench, url: str) -> Row:
    """The peak of a process that loads few jobs, and of one that loads many."""
    few, *_, many = bench.effort.memory_rows
    peaks = {}
    for number in bench.effort.memory_rows:
        with cursor_on(url) as cursor:
            cursor.execute("TRUNCATE presentation_jobs CASCADE")
        command = [sys.executable, "-m", "benchmarks.bulk_memory", url, str(number)]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        if found["added"] != number:
            raise Mismatch(f"bulk: presgen added {found['added']} of {number} jobs")
        peaks[number] = float(found["peak"])
        loaded = Measurement("bulk", "presgen, peak of memory", number, 1, peaks[number], peaks[number], unit="B")
        bench.report.measurements.append(loaded)
    limit, ratio = at_most(1.05), peaks[many] / peaks[few]
    what, against = f"peak of memory, loading {many:,} jobs", f"loading {few:,}"
    return Row("bulk", what, against, limit, measured=ratio, of_minima=ratio, note="constant memory")
