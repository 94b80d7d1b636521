"""Programs of this version go on while the next version's migrations expand the schema, and afterwards."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fixtures.later_migrations import LATER

from presgen import DatabaseManager, JobStatus, PresentationJob, User, VoiceClone, Worker, queries
from presgen.errors import MigrationError
from presgen.migrator import Migrator

EXPANDING = list(LATER)[:3]


def make_video(job: PresentationJob) -> None:
    job.advance(JobStatus.SYNTHESIZING_AUDIO, slides_count=3)
    job.heartbeat(progress=0.5)
    job.advance(JobStatus.ASSEMBLING_VIDEO)
    job.complete(s3_video_path="/x.mp4")


def test_expanding_stops_before_what_contracts(url: str, later: Path) -> None:
    with DatabaseManager(url) as manager:
        migrator = Migrator(manager.database, later)
        assert [step.name for step in migrator.plan(expand_only=True)] == EXPANDING
        assert migrator.migrate(expand_only=True) == EXPANDING
        assert migrator.migrate(expand_only=True) == []
        assert migrator.pending() == list(LATER)[3:]


def test_old_code_works_on_the_expanded_schema(url: str, later: Path) -> None:
    with DatabaseManager(url) as manager:
        Migrator(manager.database, later).migrate(expand_only=True)
        user = User.create(name="Ada", email="ada@example.com")
        voice = VoiceClone.create(name="voice", s3_path="/v.wav", owner=user)
        job = PresentationJob.enqueue(owner=user, voice_clone=voice, s3_pptx_path="/x.pptx")
        rows = [{"owner": user, "voice_clone": voice, "s3_pptx_path": f"/{n}.pptx"} for n in range(5)]
        PresentationJob.enqueue_many(rows)
        User.insert_many([{"name": "Grace"}]).execute()
        user.name = "Ada Lovelace"
        user.save()
        Worker(manager, make_video).drain()
        assert {one.status for one in queries.get_presentation_jobs()} == {JobStatus.COMPLETED}
        assert len(PresentationJob.get_by_id(job.id).history()) == 4
        assert {one.name for one in queries.get_users_with_voice_clones()} == {"Grace", "Ada Lovelace"}
        assert manager.metrics()["jobs_by_status"]["completed"] == 6
        assert manager.health().ok
        assert not [one for one in manager.schema_differences() if one.is_fault]
        with pytest.raises(MigrationError, match="does not know .*004_expand_nickname.*; upgrade presgen"):
            manager.migrate()
        user.delete_instance()
        assert not PresentationJob.select().exists()


def test_workers_go_on_while_the_schema_expands(postgresql: str, url: str, later: Path) -> None:
    """Jobs are added and worked off by threads from before the first migration until after the last."""
    has_ended = threading.Event()

    def add(user: User, voice: VoiceClone) -> int:
        added = 0
        while not has_ended.is_set() or added < 20:
            PresentationJob.enqueue(owner=user, voice_clone=voice, s3_pptx_path="/x.pptx")
            added += 1
        return added

    def work(manager: DatabaseManager) -> None:
        worker = Worker(manager, make_video)
        while worker.run_once() or not has_ended.is_set():
            pass

    with DatabaseManager(url) as manager, ThreadPoolExecutor(3) as pool:
        user = User.create(name="Ada")
        voice = VoiceClone.create(name="voice", s3_path="/v.wav", owner=user)
        adding = pool.submit(add, user, voice)
        working = [pool.submit(work, manager) for _ in range(2)]
        try:
            assert Migrator(manager.database, later).migrate(expand_only=True) == EXPANDING
        finally:
            has_ended.set()
        added = adding.result(timeout=60)
        for one in working:
            one.result(timeout=60)
        Worker(manager, make_video).drain()
        assert PresentationJob.select().where(PresentationJob.status == JobStatus.COMPLETED).count() == added
