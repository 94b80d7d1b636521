"""tenancy: whether something would bypass it."""

from __future__ import annotations

import click

from ..ext.tenancy import check
from .connection import open_manager


@click.group("tenancy")
def tenancy_group() -> None:
    """Look at what keeps users' rows apart."""


@tenancy_group.command("check")
@click.pass_context
def check_tenancy(context: click.Context) -> None:
    """Print what would let this login see other users' rows, and exit with 1 if anything would."""
    findings = check(open_manager(context))
    click.echo("\n".join(findings) or "nothing bypasses the policies")
    if findings:
        context.exit(1)
