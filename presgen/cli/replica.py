"""replica: make a streaming replica, and see how the replicas are."""

from __future__ import annotations

from pathlib import Path

import click

from .columns import print_table
from .connection import open_manager


@click.group("replica")
def replica_group() -> None:
    """Make a replica of the database's server, and see how the replicas are."""


@replica_group.command("create")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.pass_context
def create_replica(context: click.Context, folder: Path) -> None:
    """Copy the server into FOLDER, as a standby that follows it; it runs while somebody uses embedded:///FOLDER."""
    from ..ext.replicas import create_standby

    with create_standby(open_manager(context).database, folder):
        click.echo(f"export DATABASE_REPLICA_URLS=embedded:///{folder}")


@replica_group.command("status")
@click.pass_context
def replica_status(context: click.Context) -> None:
    """List the replicas of DATABASE_REPLICA_URLS; exit with 1 if none may be asked."""
    manager = open_manager(context)
    replicas = manager.database.replicas
    facts = {} if replicas is None else replicas.look()
    print_table(
        ("replica", "usable", "seconds behind"),
        [(name, "yes" if found["usable"] else "no", found["lag_seconds"]) for name, found in facts.items()],
    )
    if not any(found["usable"] for found in facts.values()):
        context.exit(1)
