"""encryption: make keys, see which of them are in use, rotate what older ones have sealed, and try every value."""

from __future__ import annotations

from typing import Any

import click

from ..keyring import new_entry
from .columns import print_table
from .connection import open_manager
from .progress import shown_progress


@click.group("encryption")
def encryption_group() -> None:
    """Make, list and rotate the keys of users' e-mail addresses."""


@encryption_group.command("new-key")
@click.option("--id", "key_id", metavar="ID", help="Up to 32 lower-case letters, digits and hyphens; default: today.")
def new_key(key_id: str | None) -> None:
    """Print a fresh entry for DATABASE_ENCRYPTION_KEYS or DATABASE_INDEX_KEYS, whose first entry is the current one."""
    click.echo(new_entry(key_id))


@encryption_group.command("status")
@click.pass_context
def status(context: click.Context) -> None:
    """List the keys, and how many addresses each has sealed; a key without any may be deleted everywhere."""
    from ..ext import encryption

    manager = open_manager(context)
    counts = encryption.key_ids(manager)
    keys = manager.database.sealing.encryption_keys
    names = [*keys.ids, *(key_id for key_id in counts if key_id not in keys.ids)]
    print_table(("key", "addresses", ""), [(name, counts.get(name, 0), _said(name, keys)) for name in names])


@encryption_group.command("rotate")
@click.option("--batch", default=500, show_default=True, type=click.IntRange(min=1), help="Rows a transaction.")
@click.pass_context
def rotate(context: click.Context, batch: int) -> None:
    """Seal with the current key what older ones have sealed, while the application works; again, what is left."""
    from ..ext import encryption

    with shown_progress("addresses") as progress:
        count = encryption.rotate(open_manager(context), batch=batch, progress=progress)
    click.echo(f"{count} addresses are sealed anew")


@encryption_group.command("verify")
@click.pass_context
def verify(context: click.Context) -> None:
    """Open every address, print the ids of the rows whose cannot be opened, and exit with 1 if there are any."""
    from ..ext import encryption

    with shown_progress("addresses") as progress:
        damage = encryption.verify(open_manager(context), progress=progress)
    for error in damage:
        click.echo(f"users {error.row_ids[0]}: {'no envelope' if error.key_id is None else f'key {error.key_id}'}")
    click.echo(f"{len(damage)} addresses cannot be decrypted" if damage else "every address can be decrypted")
    if damage:
        context.exit(1)


def _said(key_id: str, keys: Any) -> str:
    if key_id not in keys.ids:
        return "missing in DATABASE_ENCRYPTION_KEYS"
    return "current" if key_id == keys.current else ""
