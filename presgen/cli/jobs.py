"""jobs: list, show, cancel and retry them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from ..errors import ConstraintViolation, PresgenError
from ..models import PresentationJob
from ..queries import get_presentation_jobs
from ..status import JobStatus
from .columns import print_facts, print_json, print_table
from .connection import open_manager
from .options import page_options


class _UnknownJob(PresgenError):
    """There is no job with that id."""


@click.group("jobs")
def jobs_group() -> None:
    """List, show, cancel and retry jobs."""


@jobs_group.command("list")
@click.option("--status", type=click.Choice([status.value for status in JobStatus]), help="Only jobs that stand there.")
@click.option("--owner", type=int, metavar="ID", help="Only this user's jobs.")
@page_options("Jobs")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document with all columns.")
@click.pass_context
def list_jobs(
    context: click.Context, status: str | None, owner: int | None, limit: int, after: str | None, as_json: bool
) -> None:
    """List jobs, newest first."""
    open_manager(context)
    jobs = get_presentation_jobs(limit=limit, after=after, status=status, owner=owner)
    print_page(jobs, limit, ("id", "status", "attempt", "owner", "created", "deck"), None if as_json else _row)


@jobs_group.command("show")
@click.argument("job_id", metavar="ID", type=int)
@click.pass_context
def show_job(context: click.Context, job_id: int) -> None:
    """Show all that is known of a job, and its history."""
    with open_manager(context).session():
        print_job(find_job(job_id))


@jobs_group.command("cancel")
@click.argument("job_ids", metavar="ID...", type=int, nargs=-1, required=True)
@click.pass_context
def cancel_jobs(context: click.Context, job_ids: tuple[int, ...]) -> None:
    """Cancel jobs; a worker that has one in hand is asked to stop."""
    _each(context, job_ids, _cancel, "cancelled")


@jobs_group.command("retry")
@click.argument("job_ids", metavar="ID...", type=int, nargs=-1, required=True)
@click.pass_context
def retry_jobs(context: click.Context, job_ids: tuple[int, ...]) -> None:
    """Put failed or cancelled jobs back into the queue."""
    _each(context, job_ids, _retry, "retried")


def print_page(
    jobs: Sequence[Any], limit: int, headings: Sequence[str], row: Callable[[Any], Sequence[Any]] | None
) -> None:
    """Print a page of jobs in rows, or without `row` as JSON, and the cursor of the next page if this one is full."""
    cursor = jobs[-1].cursor if len(jobs) == limit else None
    if row is None:
        print_json({"jobs": [_columns(job) for job in jobs], "next": cursor})
        return
    print_table(headings, map(row, jobs))
    if cursor is not None:
        click.echo(f"next page: --after {cursor}")


def print_job(job: Any) -> None:
    """Print what is set of a job, and its history."""
    history = job.history()
    print_facts((name, value) for name, value in _columns(job).items() if value is not None)
    click.echo("\nhistory" if history else "\nno history yet")
    if history:
        changes = [(event.at, f"{event.from_status} -> {event.to_status}", event) for event in history]
        rows = [(at, change, event.worker, event.attempt) for at, change, event in changes]
        print_table(("at", "from -> to", "worker", "attempt"), rows)


def _each(context: click.Context, job_ids: tuple[int, ...], act: Callable[[Any], str], verb: str) -> None:
    """Act on each job and print what was done; one that cannot be is told at the end, and stops no other."""
    refused: list[PresgenError] = []
    with open_manager(context).session():
        for job_id in job_ids:
            try:
                click.echo(f"job {job_id}: {act(find_job(job_id))}")
            except (_UnknownJob, ConstraintViolation) as error:
                refused.append(error)
    if refused:
        summary = f"{len(refused)} of {len(job_ids)} jobs were not {verb}: " if len(job_ids) > 1 else ""
        raise PresgenError(summary + "; ".join(map(str, refused)))


def _cancel(job: Any) -> str:
    before = job.status
    job.cancel()
    if job.status is not JobStatus.CANCELLED:
        return f"asked worker {job.worker} to stop"
    return "was cancelled already" if before is JobStatus.CANCELLED else "cancelled"


def _retry(job: Any) -> str:
    before = job.status
    job.retry()
    if before is JobStatus.PENDING:
        return "is pending already"
    return f"pending again, next is attempt {job.attempt + 1} of {job.max_attempts}"


def find_job(job_id: int) -> Any:
    """The job with that id; raises a PresgenError that names it."""
    model = PresentationJob
    job = model.get_or_none(model.id == model.id.clean(job_id))
    if job is None:
        raise _UnknownJob(f"there is no job {job_id}; see: presgen jobs list")
    return job


def _columns(job: Any) -> dict[str, Any]:
    return {field.column_name: job.__data__[field.name] for field in job._meta.sorted_fields}


def _row(job: Any) -> tuple[Any, ...]:
    owner = f"{job.owner_id} {job.owner.name}"
    return job.id, job.status, f"{job.attempt}/{job.max_attempts}", owner, job.created_at, job.s3_pptx_path
