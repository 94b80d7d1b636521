"""encryption: make keys, see which are in use, rotate what older ones have sealed, and try every value."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import click

from ..keyring import new_entry
from ..manager import DatabaseManager
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


_fields_option = click.option(
    "--field",
    "names",
    multiple=True,
    metavar="MODULE:MODEL.FIELD",
    help="An EncryptedText of your own; again for each. Default: the addresses alone.",
)


@encryption_group.command("status")
@_fields_option
@click.pass_context
def status(context: click.Context, names: tuple[str, ...]) -> None:
    """List the keys, and how many values each has sealed: of the addresses, or of the fields that you name.

    A key that has sealed nothing in any column, yours included, may be deleted everywhere.
    """
    from ..ext import encryption

    manager = open_manager(context)
    keys = manager.database.sealing.encryption_keys
    keys.require_all()
    counts = encryption.key_ids(manager, fields=_fields(manager, names))
    key_ids = [*keys.ids, *(key_id for key_id in counts if key_id not in keys.ids)]
    print_table(("key", "values", ""), [(key_id, counts.get(key_id, 0), _said(key_id, keys)) for key_id in key_ids])


@encryption_group.command("rotate")
@_fields_option
@click.option("--batch", default=500, show_default=True, type=click.IntRange(min=1), help="Rows a transaction.")
@click.pass_context
def rotate(context: click.Context, names: tuple[str, ...], batch: int) -> None:
    """Seal with the current key what older ones have sealed, while the application works; again, what is left."""
    from ..ext import encryption

    manager = open_manager(context)
    with shown_progress("values") as progress:
        count = encryption.rotate(manager, fields=_fields(manager, names), batch=batch, progress=progress)
    click.echo(f"{count} values are sealed anew")


@encryption_group.command("verify")
@_fields_option
@click.pass_context
def verify(context: click.Context, names: tuple[str, ...]) -> None:
    """Open every value, print the ids of the rows whose cannot be opened, and exit with 1 if there are any."""
    from ..ext import encryption

    manager = open_manager(context)
    with shown_progress("values") as progress:
        damage = encryption.verify(manager, fields=_fields(manager, names), progress=progress)
    for error in damage:
        found = "no envelope" if error.key_id is None else f"key {error.key_id}"
        click.echo(f"{error.column} {error.row_ids[0]}: {found}")
    click.echo(f"{len(damage)} values cannot be decrypted" if damage else "every value can be decrypted")
    if damage:
        context.exit(1)


def _fields(manager: DatabaseManager, names: tuple[str, ...]) -> list[Any] | None:
    """The fields that were named, their models bound to the manager's database; None for none."""
    return [_field(manager, name) for name in names] or None


def _field(manager: DatabaseManager, name: str) -> Any:
    module, _, path = name.partition(":")
    model_name, _, field_name = path.rpartition(".")
    sys.path.insert(0, os.getcwd())  # as `python -m` does
    try:
        model = getattr(import_module(module), model_name)
        field = model._meta.fields[field_name]
    except (ImportError, AttributeError, KeyError, ValueError) as error:
        raise click.BadParameter(f"{name} names no field: {type(error).__name__}", param_hint="--field") from None
    finally:
        sys.path.pop(0)
    model.bind(manager.database)
    return field


def _said(key_id: str, keys: Any) -> str:
    if key_id not in keys.ids:
        return "missing in DATABASE_ENCRYPTION_KEYS"
    return "current" if key_id == keys.current else ""
