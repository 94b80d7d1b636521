"""Heartbeats rewrite a job's row every few seconds: they must be HOT updates, which touch no index."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from presgen import DatabaseManager, PresentationJob, User, VoiceClone

OTHERS, IN_HAND, ROUNDS = 3000, 20, 18
HEARTBEATS = IN_HAND * ROUNDS * 3

_FINISH_OTHERS = """
UPDATE presentation_jobs SET status = 'completed', s3_video_path = '/v.mp4', worker = 'w0', attempt = 1,
       started_at = now(), completed_at = now()
"""
_UPDATES = "SELECT n_tup_hot_upd, n_tup_upd FROM pg_stat_user_tables WHERE relname = 'presentation_jobs'"


@pytest.fixture
def in_hand(postgresql: str, db: DatabaseManager, user: User, voice: VoiceClone) -> Iterator[list[PresentationJob]]:
    """Twenty running jobs among thousands of finished ones, in a table that vacuum has been through."""
    row = {"owner": user, "voice_clone": voice, "s3_pptx_path": "/decks/talk.pptx"}
    with db.session() as database:
        PresentationJob.enqueue_many([row] * OTHERS)
        database.execute_sql(_FINISH_OTHERS)
        PresentationJob.enqueue_many([row] * IN_HAND)
        claimed = PresentationJob.claim("w1", IN_HAND)
        database.execute_sql("VACUUM ANALYZE presentation_jobs")
        yield claimed


def hot_share(db: DatabaseManager, jobs: list[PresentationJob]) -> float:
    """The share of HOT updates among those that a working day of these jobs does, as the server counts them."""
    hot_before, all_before = updates(db)
    for number in range(ROUNDS):
        for job in jobs:
            job.heartbeat(progress=number / ROUNDS)
            job.heartbeat(progress=number / ROUNDS, checkpoint={"slide": number, "done": list(range(number))})
            job.keep_alive()
    hot, total = updates(db)
    assert total - all_before == HEARTBEATS
    return (hot - hot_before) / (total - all_before)


def updates(db: DatabaseManager) -> tuple[int, int]:
    db.database.execute_sql("SELECT pg_stat_force_next_flush()")
    db.database.execute_sql("SELECT pg_stat_clear_snapshot()")
    hot, total = db.database.execute_sql(_UPDATES).fetchone()
    return int(hot), int(total)


def test_heartbeats_are_hot_updates(db: DatabaseManager, in_hand: list[PresentationJob]) -> None:
    assert hot_share(db, in_hand) >= 0.95


def test_an_index_on_the_lease_would_end_them(db: DatabaseManager, in_hand: list[PresentationJob]) -> None:
    db.database.execute_sql("CREATE INDEX no_good_idea ON presentation_jobs (lease_expires_at)")
    try:
        assert hot_share(db, in_hand) < 0.95
    finally:
        db.database.execute_sql("DROP INDEX no_good_idea")
