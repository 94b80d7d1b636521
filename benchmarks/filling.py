"""Databases with the same rows in presgen's schema and in SQLAlchemy's, loaded by COPY.

Of the jobs 97 % are completed, 1 % failed and 1 % cancelled over the past 30 days; the newest 1 % are at work, in
the three stages alike, or still pending. They belong to 1,000 users, each with two voice clones.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import islice
from tempfile import TemporaryFile
from typing import Any

import psycopg2

from presgen import DatabaseManager
from presgen.embedded import EmbeddedServer

USERS, CLONES_EACH = 1_000, 2
_PERIOD = timedelta(days=30)
_STAGES = ("processing_slides", "synthesizing_audio", "assembling_video")
_LINES_AT_ONCE = 500
_MOMENT = "%Y-%m-%d %H:%M:%S.%f+00"

_COPY = {
    "users": "COPY users (id, name, email, created_at, updated_at) FROM STDIN",
    "voice_clones": """
        COPY voice_clones (id, name, s3_path, file_size, duration_seconds, sample_rate, created_at, updated_at,
            owner_id) FROM STDIN""",
    "presentation_jobs": """
        COPY presentation_jobs (id, status, s3_pptx_path, s3_video_path, slides_count, created_at, updated_at,
            started_at, completed_at, owner_id, voice_clone_id, worker, attempt, lease_expires_at) FROM STDIN""",
}
# SQLAlchemy's columns are naive, and its enum's labels are the members' names.
_OVER = {
    "users": (
        """COPY (SELECT id, name, email, is_active, created_at AT TIME ZONE 'UTC', updated_at AT TIME ZONE 'UTC'
            FROM users ORDER BY id) TO STDOUT""",
        "COPY users (id, name, email, is_active, created_at, updated_at) FROM STDIN",
    ),
    "voice_clones": (
        """COPY (SELECT id, name, s3_path, file_size, duration_seconds, sample_rate, is_active,
            created_at AT TIME ZONE 'UTC', updated_at AT TIME ZONE 'UTC', owner_id
            FROM voice_clones ORDER BY id) TO STDOUT""",
        """COPY voice_clones (id, name, s3_path, file_size, duration_seconds, sample_rate, is_active, created_at,
            updated_at, owner_id) FROM STDIN""",
    ),
    "presentation_jobs": (
        """COPY (SELECT id, upper(status), s3_pptx_path, s3_video_path, slides_count, created_at AT TIME ZONE 'UTC',
            updated_at AT TIME ZONE 'UTC', started_at AT TIME ZONE 'UTC', completed_at AT TIME ZONE 'UTC',
            owner_id, voice_clone_id
            FROM presentation_jobs ORDER BY id) TO STDOUT""",
        """COPY presentation_jobs (id, status, s3_pptx_path, s3_video_path, slides_count, created_at, updated_at,
            started_at, completed_at, owner_id, voice_clone_id) FROM STDIN""",
    ),
}
_VACUUMS_MAX = 50
_IS_SETTLED = """
SELECT coalesce(bool_and(relallvisible > 0.99 * relpages - 1), true) FROM pg_class
WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
"""
_NEXT_IDS = """
SELECT setval(pg_get_serial_sequence('users', 'id'), (SELECT max(id) FROM users)),
    setval(pg_get_serial_sequence('voice_clones', 'id'), (SELECT max(id) FROM voice_clones)),
    setval(pg_get_serial_sequence('presentation_jobs', 'id'), (SELECT 1 + coalesce(max(id), 0) FROM presentation_jobs))
"""


@dataclass(frozen=True)
class Databases:
    """The URLs of two databases with the same rows, and their number of jobs."""

    presgen: str
    sqlalchemy: str
    jobs: int


class _Lines:
    """What COPY reads: lines, some at a time."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)

    def read(self, _size: int = -1) -> str:
        return "".join(islice(self._lines, _LINES_AT_ONCE))


def create(server: EmbeddedServer, name: str) -> str:
    """The URL of a new database of the server."""
    connection = connected(server.url)
    connection.cursor().execute(f"CREATE DATABASE {name}")
    connection.close()
    return server.url_of(name)


def connected(url: str) -> Any:
    """A plain connection, with a transaction for each statement."""
    connection = psycopg2.connect(url)
    connection.autocommit = True
    return connection


@contextmanager
def cursor_on(url: str) -> Iterator[Any]:
    """A plain cursor for the block, with a transaction for each statement."""
    connection = connected(url)
    try:
        yield connection.cursor()
    finally:
        connection.close()


def fill(server: EmbeddedServer, name: str, jobs: int, *, with_sqlalchemy: bool) -> Databases:
    """Make both databases, and load them."""
    made = Databases(create(server, f"presgen_{name}"), create(server, f"sqlalchemy_{name}"), jobs)
    with DatabaseManager(made.presgen) as manager:
        manager.migrate()
    ours = connected(made.presgen)
    now = datetime.now(timezone.utc)
    for table, lines in (
        ("users", _users(now)),
        ("voice_clones", _clones(now)),
        ("presentation_jobs", _jobs(now, jobs)),
    ):
        ours.cursor().copy_expert(_COPY[table], _Lines(lines))
    _settle(ours)
    if with_sqlalchemy:
        from .peers import sqlalchemy_peer

        sqlalchemy_peer.create_tables(made.sqlalchemy)
        theirs = connected(made.sqlalchemy)
        for unload, load in _OVER.values():
            with TemporaryFile() as file:
                ours.cursor().copy_expert(unload, file)
                file.seek(0)
                theirs.cursor().copy_expert(load, file)
        _settle(theirs)
        theirs.close()
    ours.close()
    return made


def _settle(connection: Any) -> None:
    """Vacuum until the pages are marked as visible to all, which a snapshot, or a commit on its way, delays."""
    cursor = connection.cursor()
    cursor.execute(_NEXT_IDS)
    cursor.execute("CHECKPOINT")
    for _ in range(_VACUUMS_MAX):
        cursor.execute("VACUUM ANALYZE")
        cursor.execute(_IS_SETTLED)
        if cursor.fetchone()[0]:
            return
        time.sleep(0.2)
    raise RuntimeError("the tables do not settle: is there an old transaction?")


def _line(*values: object) -> str:
    return "\t".join("\\N" if value is None else str(value) for value in values) + "\n"


def _users(now: datetime) -> Iterator[str]:
    moment = (now - _PERIOD).strftime(_MOMENT)
    for number in range(1, USERS + 1):
        yield _line(number, f"User {number}", f"user{number}@example.com", moment, moment)


def _clones(now: datetime) -> Iterator[str]:
    moment = (now - _PERIOD).strftime(_MOMENT)
    for number in range(1, USERS * CLONES_EACH + 1):
        path, owner = f"/voices/{number}.wav", 1 + (number - 1) % USERS
        yield _line(number, f"Voice {number}", path, 480_000 + number, 30.5, 16_000, moment, moment, owner)


def _jobs(now: datetime, jobs: int) -> Iterator[str]:
    step, lease = _PERIOD / max(jobs, 1), (now + timedelta(days=30)).strftime(_MOMENT)
    for number in range(1, jobs + 1):
        status = _status(number, jobs)
        created = now - (jobs + 1 - number) * step
        moment, finished = created.strftime(_MOMENT), (created + timedelta(minutes=7)).strftime(_MOMENT)
        is_done, is_running = status in ("completed", "failed", "cancelled"), status in _STAGES
        clone = 1 + (number * 7) % (USERS * CLONES_EACH)
        yield _line(
            number,
            status,
            f"/decks/{number:08x}.pptx",
            f"/videos/{number:08x}.mp4" if status == "completed" else None,
            10 + number % 40 if is_done else None,
            moment,
            moment,
            None if status == "pending" else moment,
            finished if is_done else None,
            1 + (clone - 1) % USERS,
            clone,
            f"render-{number % 12}" if is_done or is_running else None,
            int(status != "pending"),
            lease if is_running else None,
        )


def _status(number: int, jobs: int) -> str:
    left = jobs - number
    if left < jobs // 200:
        return "pending"
    if left < jobs // 100:
        return _STAGES[number % len(_STAGES)]
    return {7: "failed", 57: "cancelled"}.get(number % 100, "completed")
