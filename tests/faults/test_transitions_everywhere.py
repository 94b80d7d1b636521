"""Four tables of transitions, in Python, SQLite, PostgreSQL 16 and PostgreSQL 18, that have to be one."""

from __future__ import annotations

import itertools
from pathlib import Path

from fixtures.servers import VERSIONS, Server

from presgen import DatabaseManager, InvalidTransition, JobEvent, JobStatus, PresentationJob, User, VoiceClone
from presgen.status import TRANSITIONS

Pairs = set[tuple[JobStatus, JobStatus]]
ALL_PAIRS = list(itertools.product(JobStatus, JobStatus))


def let_through(manager: DatabaseManager) -> Pairs:
    """The changes that the database's own trigger permits to a program that knows nothing of presgen."""
    parameter = "?" if manager.config.backend == "sqlite" else "%s"
    change = f"UPDATE presentation_jobs SET status = {parameter} WHERE id = {parameter}"
    user = User.create(name="Ada")
    voice = VoiceClone.create(name="v", s3_path="/v.wav", owner=user)
    permitted: Pairs = set()
    for before, after in ALL_PAIRS:
        job = PresentationJob.create(
            owner=user, voice_clone=voice, s3_pptx_path="/x.pptx", s3_video_path="/x.mp4", status=before
        )
        try:
            manager.database.execute_sql(change, (after.value, job.id))
            permitted.add((before, after))
        except InvalidTransition:
            assert PresentationJob.get_by_id(job.id).status is before
    return permitted


def recorded() -> Pairs:
    """The changes that the database's other trigger has put on record."""
    return set(JobEvent.select(JobEvent.from_status, JobEvent.to_status).tuples())


def test_python_sqlite_and_every_postgresql_decide_all_pairs_alike(
    sqlite_template: Path, servers: dict[str, Server], tmp_path: Path
) -> None:
    path, urls = tmp_path / "presgen.db", {}
    path.write_bytes(sqlite_template.read_bytes())
    urls["sqlite"] = f"sqlite:///{path}"
    for backend in VERSIONS:
        servers[backend].execute("CREATE DATABASE presgen_transitions")
        servers[backend].created.append("presgen_transitions")
        urls[backend] = servers[backend].url_of("presgen_transitions")

    truths: dict[str, Pairs] = {"Python": {pair for pair in ALL_PAIRS if pair[0].can_become(pair[1])}}
    changes: dict[str, Pairs] = {"Python": {(before, after) for before in JobStatus for after in TRANSITIONS[before]}}
    for backend, url in urls.items():
        with DatabaseManager(url) as manager, manager.session():
            manager.migrate()
            truths[backend], changes[backend] = let_through(manager), recorded()
    assert len(truths) == 4
    for backend in truths:
        assert truths[backend] == truths["Python"], backend
        assert changes[backend] == changes["Python"], backend
