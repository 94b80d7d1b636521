"""roles: the roles that programs' logins are members of, and their rights."""

from __future__ import annotations

import click

from ..roles import Roles, create, plan
from .connection import open_manager


@click.group("roles")
def roles_group() -> None:
    """Create the roles that programs' logins are members of."""


@roles_group.command("create")
@click.option("--owner", metavar="NAME", default=Roles.owner, show_default=True, help="Owns tables, and migrates them.")
@click.option("--app", metavar="NAME", default=Roles.app, show_default=True, help="Serves users.")
@click.option("--worker", metavar="NAME", default=Roles.worker, show_default=True, help="Runs workers and operations.")
@click.option("--dry-run", is_flag=True, help="Print the SQL, and do nothing.")
@click.option("--yes", is_flag=True, help="Run the SQL without asking.")
@click.pass_context
def create_roles(context: click.Context, owner: str, app: str, worker: str, dry_run: bool, yes: bool) -> None:
    """Create the roles, and give them their rights; the SQL is printed first.

    Run it again after migrations and after installing a feature, for the rights on what is new. A login gets its role
    by: GRANT presgen_app TO my_login
    """
    database = open_manager(context).database
    statements = plan(database, Roles(owner=owner, app=app, worker=worker))
    click.echo("\n".join(f"{statement};" for statement in statements))
    if dry_run:
        return
    if not yes:
        click.confirm("Run this?", abort=True, err=True)
    create(database, statements)
