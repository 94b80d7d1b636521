"""migrate, rollback, status: the schema and its migrations."""

from __future__ import annotations

import click

from ..errors import DatabaseUnavailable
from .columns import print_facts
from .connection import open_manager


@click.command("migrate")
@click.argument("target", required=False)
@click.pass_context
def migrate_command(context: click.Context, target: str | None) -> None:
    """Apply the pending migrations, all or up to TARGET."""
    applied = open_manager(context).migrate(target)
    click.echo("\n".join(applied) or "nothing to migrate")


@click.command("rollback")
@click.option("--count", default=1, show_default=True, type=click.IntRange(min=1), help="How many, latest first.")
@click.pass_context
def rollback_command(context: click.Context, count: int) -> None:
    """Undo the latest migrations. What their tables held is lost."""
    click.echo("\n".join(open_manager(context).rollback(count)))


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
