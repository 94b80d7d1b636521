"""Every pair of states, through save(), through raw SQL, and in the drawing of the table."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from presgen import DatabaseManager, InvalidTransition, JobEvent, JobStatus, PresentationJob
from presgen.status import FINISHED, RUNNING, TRANSITIONS, UNFINISHED

PAIRS = list(itertools.product(JobStatus, JobStatus))


@pytest.fixture
def job_in(enqueue: Callable[..., PresentationJob]) -> Callable[[JobStatus], PresentationJob]:
    """Makes a job that is in a status from the start: the rules are about changes."""

    def job_in(status: JobStatus) -> PresentationJob:
        job = enqueue(s3_pptx_path="/x.pptx")
        row = {**{name: job.__data__[name] for name in ("owner", "voice_clone", "s3_pptx_path")}, "status": status}
        return PresentationJob.create(**row, s3_video_path="/x.mp4")  # type: ignore[no-any-return]

    return job_in


def test_every_pair_is_decided_alike_by_save_and_by_the_database(
    db: DatabaseManager, job_in: Callable[[JobStatus], PresentationJob]
) -> None:
    for before, after in PAIRS:
        legal = before is after or after in TRANSITIONS[before]
        assert before.can_become(after) is legal
        saved, updated = job_in(before), job_in(before)
        parameter = "?" if "sqlite" in db.config.backend else "%s"
        sql = f"UPDATE presentation_jobs SET status = {parameter} WHERE id = {parameter}"
        saved.status = after
        writes = (saved.save, lambda job=updated, status=after: db.database.execute_sql(sql, (status.value, job.id)))
        for write in writes:
            if legal:
                write()
            else:
                with pytest.raises(InvalidTransition) as caught:
                    write()
                assert caught.value.constraint == "valid_status_transition"
        for job in (saved, updated):
            assert PresentationJob.get_by_id(job.id).status is (after if legal else before)
            events = [(event.from_status, event.to_status) for event in job.history()]
            assert events == ([(before, after)] if legal and before is not after else [])


def test_bulk_updates_meet_the_same_table(job_in: Callable[[JobStatus], PresentationJob]) -> None:
    done, pending = job_in(JobStatus.COMPLETED), job_in(JobStatus.PENDING)
    with pytest.raises(InvalidTransition):
        PresentationJob.update(status=JobStatus.FAILED).execute()
    done.status = pending.status = JobStatus.CANCELLED
    with pytest.raises(InvalidTransition):
        PresentationJob.bulk_update([done, pending], ["status"])
    assert PresentationJob.get_by_id(pending.id).status is JobStatus.PENDING
    assert JobEvent.select().count() == 0


def test_the_groups_of_states_are_complete() -> None:
    assert {*UNFINISHED, *FINISHED} == set(JobStatus) == set(TRANSITIONS)
    assert all(status.is_running for status in RUNNING)
    assert all(status.is_finished for status in FINISHED)
    assert not JobStatus.PENDING.is_running
    assert not JobStatus.PENDING.is_finished
    assert JobStatus.COMPLETED == "completed"
    assert str(JobStatus.PENDING) == "pending"
