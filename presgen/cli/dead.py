"""dead: look at dead letters, the jobs that failed for good, and put them back into the queue."""

from __future__ import annotations

from typing import Any, Final

import click

from ..errors import InvalidTransition, PresgenError
from ..models import PresentationJob
from ..queries import LIMIT_MAX, get_dead_letter_errors, get_dead_letters
from .columns import print_facts, print_json, print_table
from .connection import open_manager
from .jobs import find_job, print_job, print_page
from .options import all_of, moment_option, page_options

_ERROR_WIDTH: Final = 80


_narrowing = all_of(
    click.option("--owner", type=int, metavar="ID", help="Only this user's jobs."),
    click.option("--error", metavar="TEXT", help="Only jobs whose message has this text, in any case."),
    moment_option("--since", help='Only jobs that failed then or later, as "2026-01-31 14:00:00" in UTC.'),
    moment_option("--until", help="Only jobs that failed before then."),
)
"""The options that choose among the dead letters, as keywords of PresentationJob.dead_letters()."""


@click.group("dead")
def dead_group() -> None:
    """List, show, count and retry dead letters: jobs that failed for good."""


@dead_group.command("list")
@_narrowing
@page_options("Jobs")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document with all columns.")
@click.pass_context
def list_dead(context: click.Context, /, limit: int, after: str | None, as_json: bool, **narrowing: Any) -> None:
    """List dead letters, newest first."""
    open_manager(context)
    jobs = get_dead_letters(limit, after=after, **narrowing)
    print_page(jobs, limit, ("id", "failed", "attempt", "owner", "error"), None if as_json else _row)


@dead_group.command("show")
@click.argument("job_id", metavar="ID", type=int)
@click.pass_context
def show_dead(context: click.Context, job_id: int) -> None:
    """Show all that is known of a dead letter: its error in full, its history, the time that each stage took."""
    with open_manager(context).session():
        job = find_job(job_id)
        if not job.is_dead_letter:
            state = job.status if job.deleted_at is None else f"{job.status} and deleted"
            raise InvalidTransition(f"job {job_id} is {state}, no dead letter; see: presgen jobs show {job_id}")
        print_job(job)
        seconds = job.stage_seconds()
    if seconds:
        click.echo("\nseconds in each stage")
        print_facts((str(stage), taken) for stage, taken in seconds.items())


@dead_group.command("errors")
@_narrowing
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, LIMIT_MAX), help="Errors to show.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
@click.pass_context
def list_errors(context: click.Context, /, limit: int, as_json: bool, **narrowing: Any) -> None:
    """Count dead letters by the first line of their error, the commonest first."""
    open_manager(context)
    errors = get_dead_letter_errors(limit, **narrowing)
    if as_json:
        print_json({"errors": [error._asdict() for error in errors]})
        return
    rows = ((error.jobs, error.latest, error.job_id, _cut(error.error)) for error in errors)
    print_table(("jobs", "latest", "example", "error"), rows)


@dead_group.command("retry")
@click.argument("job_ids", metavar="[ID]...", type=int, nargs=-1)
@click.option("--all", "every", is_flag=True, help="All dead letters, or those that the other options choose.")
@_narrowing
@click.pass_context
def retry_dead(context: click.Context, /, job_ids: tuple[int, ...], every: bool, **narrowing: Any) -> None:
    """Put dead letters back into the queue, each with at least one more attempt."""
    is_narrowed = any(value is not None for value in narrowing.values())
    if every == bool(job_ids) or (is_narrowed and not every):
        raise click.UsageError("name the jobs by their ids, or say --all, which the other options may narrow")
    open_manager(context)
    retried = PresentationJob.retry_many(None if every else job_ids, everything=every, **narrowing)
    click.echo(f"jobs put back into the queue: {retried}")
    left = len(set(job_ids)) - retried
    if left > 0:
        raise PresgenError(
            f"{left} of {len(set(job_ids))} jobs were not retried: they are no dead letters, or a newer job has their "
            "idempotency key; see: presgen jobs show ID"
        )


def _row(job: Any) -> tuple[Any, ...]:
    owner = f"{job.owner_id} {job.owner.name}"
    return job.id, job.completed_at, f"{job.attempt}/{job.max_attempts}", owner, _cut(job.error_message)


def _cut(message: str | None) -> str | None:
    """The first line of an error, for a table."""
    line = (message or "").partition("\n")[0].rstrip()
    return None if message is None else line if len(line) <= _ERROR_WIDTH else line[: _ERROR_WIDTH - 1] + "…"
