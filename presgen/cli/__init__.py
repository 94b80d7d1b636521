"""The command line: `presgen` and `python -m presgen`."""

from __future__ import annotations

import io
import logging
import sys
from functools import partial
from pathlib import Path

import click

from .. import __version__
from ..errors import MissingExtra
from .archive import archive_group
from .audit import audit_group
from .backup import backup_group
from .dead import dead_group
from .encryption import encryption_group
from .failures import CommandLine
from .features import features_command, install_command, uninstall_command
from .jobs import jobs_group
from .observe import health_command, metrics_command
from .partitions import partitions_group
from .replica import replica_group
from .roles import roles_group
from .schema import migrate_group, rollback_command, status_command
from .search import search_command
from .tenancy import tenancy_group
from .watch import watch_command


class _OneLine(logging.Formatter):
    """Leaves tracebacks out: they quote rows, and the error is told once, at the end."""

    def formatException(self, ei: object) -> str:
        return ""


@click.group(cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--database", metavar="URL", help="The database; default: DATABASE_URL, or POSTGRES_USER, POSTGRES_DB, …")
@click.option("--verbose", is_flag=True, help="Log changes of jobs, and slow statements, to stderr.")
@click.version_option(__version__, prog_name="presgen")
@click.pass_context
def cli(context: click.Context, database: str | None, verbose: bool) -> None:
    """The jobs of a Presentation Video Generator, and the database that holds them."""
    if database is not None and not database.strip():  # a variable of the shell that is not set
        raise click.BadParameter("the URL is empty", param_hint="--database")
    context.obj = database
    if verbose:
        _log_to_stderr(context)


def _log_to_stderr(context: click.Context) -> None:
    logger, handler = logging.getLogger("database"), logging.StreamHandler()
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(message)s"))
    context.call_on_close(partial(logger.setLevel, logger.level))
    context.call_on_close(partial(logger.removeHandler, handler))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


@click.command("demo")
@click.option("--jobs", default=4, show_default=True, type=click.IntRange(min=1), help="Videos to make.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(min=1), help="Processes that make them.")
@click.option("--database", metavar="URL", help="A server of your own in place of an embedded one.")
@click.option(
    "--folder",
    default="presgen-demo",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the database, the decks and the videos go.",
)
@click.option("--chaos", is_flag=True, help="Kill workers while they work; every video is made once all the same.")
@click.pass_context
def demo_command(
    context: click.Context, jobs: int, workers: int, database: str | None, folder: Path, chaos: bool
) -> None:
    """Make real videos of sample decks, from an empty folder."""
    try:
        from .demo import run_demo

        run_demo(folder, jobs, workers, database or context.obj, chaos=chaos)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("presgen"):
            raise
        raise MissingExtra(error.name.partition(".")[0], "demo") from None


for _command in (
    demo_command,
    migrate_group,
    rollback_command,
    status_command,
    features_command,
    install_command,
    uninstall_command,
    health_command,
    metrics_command,
    watch_command,
    jobs_group,
    dead_group,
    audit_group,
    roles_group,
    tenancy_group,
    encryption_group,
    replica_group,
    archive_group,
    search_command,
    backup_group,
    partitions_group,
):
    cli.add_command(_command)


def main() -> None:
    """Run the command of `sys.argv`, and exit."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name or a path of the database that the terminal's encoding lacks is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    cli.main(prog_name="presgen")
