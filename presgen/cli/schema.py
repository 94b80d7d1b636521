"""migrate, rollback, status: the schema and its migrations."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from ..errors import DatabaseUnavailable
from ..migrator import Migrator
from .columns import print_facts, printable
from .connection import open_manager
from .progress import shown_progress

if TYPE_CHECKING:
    from ..migrating.plan import PlannedStep


class _MigrateGroup(click.Group):
    """A group that takes whatever is none of its commands for those of the command that migrates."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args.insert(0, "up")
        return super().parse_args(ctx, args)


@click.group("migrate", cls=_MigrateGroup, subcommand_metavar="[--plan] [--expand-only] [TARGET] | COMMAND [ARGS]...")
def migrate_group() -> None:
    """Apply the pending migrations, all or up to TARGET; or look at them.

    TARGET is the name of a migration. With --plan nothing is applied, but shown: the statements, and the locks that
    they take. With --expand-only it stops before the first migration that takes away what programs of the version
    before still use (NNN_contract_…).
    """


@migrate_group.command("up")
@click.argument("target", required=False)
@click.option("--plan", is_flag=True, help="Show what it would execute, and which locks that takes; change nothing.")
@click.option("--expand-only", is_flag=True, help="Stop before what programs of the version before cannot work with.")
@click.pass_context
def up_command(context: click.Context, target: str | None, plan: bool, expand_only: bool) -> None:
    """Apply the pending migrations, all or up to TARGET; what `presgen migrate` does."""
    manager = open_manager(context)
    if plan:
        _print_plan(manager.migrations.plan(target, expand_only=expand_only))
        return
    with _telling_what_it_waits_for():
        applied = manager.migrate(target, expand_only=expand_only)
    click.echo("\n".join(applied) or "nothing to migrate")


@migrate_group.command("check")
@click.pass_context
def check_command(context: click.Context) -> None:
    """Compare the database with what the models declare, and exit with 1 if something is missing or another.

    What is there beside it, an index of your own for instance, is listed too, and no fault.
    """
    manager = open_manager(context)
    for name in manager.pending_migrations():
        click.echo(f"migration {name} is pending")
    differences = manager.schema_differences()
    for difference in differences:
        click.echo(printable(str(difference)))
    if any(difference.is_fault for difference in differences):
        context.exit(1)
    click.echo("the database has all that the models declare")


@migrate_group.command("lint")
@click.pass_context
def lint_command(context: click.Context) -> None:
    """Look for what hurts a database at work in the migrations (squawk), and exit with 1 if something does.

    No database is needed.
    """
    findings = Migrator(None).lint()
    for finding in findings:
        statement = " ".join(finding.statement.split())
        click.echo(f"{finding.migration}: {finding.rule}: {finding.message}")
        if statement:
            click.echo(f"    {statement[:100]}")
    if findings:
        context.exit(1)
    click.echo("nothing to complain of")


@migrate_group.command("adopt")
@click.option("--plan", is_flag=True, help="Show what it would do, and which rows break a rule; change nothing.")
@click.option("--timezone", default="UTC", show_default=True, help="In which moments without a time zone were written.")
@click.option("--yes", is_flag=True, help="Do not show the plan and ask.")
@click.pass_context
def adopt_command(context: click.Context, plan: bool, timezone: str, yes: bool) -> None:
    """Take over, in place, a PostgreSQL database that the specification's SQLAlchemy models have made.

    It shows what it is to do first, and asks. Stop the programs that use the database before, and make a backup.
    Nothing is changed while a row breaks a rule, or when it is broken off.
    """
    migrations = open_manager(context).migrations
    wanted = migrations.adoption_plan(timezone=timezone)
    for step in wanted.steps if plan or not yes else ():
        click.echo(f"-- {step.title}")
        for sql in step.statements:
            click.echo(_in_a_script(sql.strip()))
    for problem in wanted.problems:
        click.echo(printable(problem))
    if wanted.problems:
        click.echo("mend this first, then run the command again; nothing was changed")
        context.exit(1)
    if plan:
        return
    if not yes:
        click.confirm("Do this now?", abort=True)
    with _telling_what_it_waits_for(), shown_progress("adopting") as progress:
        migrations.adopt(timezone=timezone, progress=progress)
    click.echo("adopted")


@click.command("rollback")
@click.option("--count", default=1, show_default=True, type=click.IntRange(min=1), help="How many, latest first.")
@click.option("--plan", is_flag=True, help="Show what it would execute, and which locks that takes; change nothing.")
@click.pass_context
def rollback_command(context: click.Context, count: int, plan: bool) -> None:
    """Undo the latest migrations. What their tables held is lost."""
    manager = open_manager(context)
    if plan:
        _print_plan(manager.migrations.rollback_plan(count))
        return
    with _telling_what_it_waits_for():
        undone = manager.rollback(count)
    click.echo("\n".join(undone))


@click.command("status")
@click.pass_context
def status_command(context: click.Context) -> None:
    """Show the database, and which migrations it has and lacks."""
    manager = open_manager(context)
    health = manager.health()
    if not health.ok:
        raise DatabaseUnavailable(str(health.error))
    known = manager.migrations.known()
    applied = [
        name if name in known else f"{name} (newer than this presgen: upgrade it)"
        for name in manager.migrations.applied()
    ]
    print_facts(
        [
            ("database", manager.config.safe_url),
            ("server", health.server_version),
            ("applied", "\n".join(applied) or "none"),
            ("pending", "\n".join(health.pending_migrations) or "none"),
        ]
    )


@contextmanager
def _telling_what_it_waits_for() -> Iterator[None]:
    """Print the migrator's warnings to stderr: of waiting, of trying again, of what a broken-off run has left."""
    logger, handler = logging.getLogger("database.migrations"), logging.StreamHandler()
    # Errors are told at the end, once.
    handler.addFilter(lambda record: record.levelno == logging.WARNING and record.name == logger.name)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _in_a_script(sql: str) -> str:
    """The statement with its end, which a comment must not swallow."""
    return sql + ("\n;\n" if "--" in sql else ";\n")


def _print_plan(steps: list[PlannedStep]) -> None:
    """Print statements as a script that psql takes, with the locks as comments above them."""
    click.echo("-- to read; `presgen migrate` applies it, and records it" if steps else "nothing to migrate")
    for step in steps:
        click.echo(f"-- {step.name}")
        for statement in step.statements:
            for lock in statement.locks:
                click.echo(f"-- {lock.mode.value} on {lock.table}: {lock.mode.consequence}")
            click.echo(_in_a_script(statement.sql))
        if step.problem is not None:
            click.echo(f"-- from here on it cannot be told: {printable(step.problem)}")
