"""audit: read, export and prune the audit log."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import click

from ..ext import audit
from ..ext.audit.entry import OPERATIONS
from .columns import print_json, print_table
from .connection import open_manager
from .options import all_of, moment_option, page_options

_narrowing = all_of(
    click.option("--actor", metavar="NAME", help="Only what this actor did."),
    click.option("--user", type=int, metavar="ID", help="Only what was done on behalf of this user."),
    click.option("--table", metavar="NAME", help="Only writes to this table."),
    click.option("--row", "row_id", type=int, metavar="ID", help="Only writes to rows of this id."),
    click.option("--operation", type=click.Choice(OPERATIONS, case_sensitive=False), help="Only such entries."),
    click.option("--action", metavar="NAME", help="Only actions of this name."),
    click.option("--database-user", metavar="NAME", help="Only what this role of the database did."),
    click.option("--transaction", "transaction_id", type=int, metavar="ID", help="Only this transaction."),
    moment_option("--since", help='Only entries of then or later, as "2026-01-31 14:00:00" in UTC.'),
    moment_option("--until", help="Only entries from before then."),
)
"""The options that choose among the entries, as keywords of audit.search()."""


@click.group("audit")
def audit_group() -> None:
    """Read, export and prune the log of the feature audit."""


@audit_group.command("history")
@click.argument("table", metavar="TABLE")
@click.argument("row_id", metavar="ID", type=int)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
@click.pass_context
def audit_history(context: click.Context, table: str, row_id: int, as_json: bool) -> None:
    """Show what happened to a row, oldest first."""
    open_manager(context)
    _print(audit.history(table, row_id), as_json=as_json)


@audit_group.command("search")
@_narrowing
@page_options("Entries")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
@click.pass_context
def audit_search(context: click.Context, /, limit: int, after: str | None, as_json: bool, **narrowing: Any) -> None:
    """List entries, newest first."""
    open_manager(context)
    entries = audit.search(limit=limit, after=after, **narrowing)
    _print(entries, as_json=as_json, cursor=entries[-1].cursor if len(entries) == limit else None)


@audit_group.command("export")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@_narrowing
@click.pass_context
def audit_export(context: click.Context, /, file: str, **narrowing: Any) -> None:
    """Write entries to FILE, or to stdout for -, as lines of JSON, newest first."""
    open_manager(context)
    exported = audit.export(sys.stdout if file == "-" else file, **narrowing)
    click.echo(f"entries exported: {exported}", err=True)


@audit_group.command("prune")
@moment_option("--before", required=True, help='Delete what is older, as "2026-01-31" in UTC.')
@click.pass_context
def audit_prune(context: click.Context, before: datetime) -> None:
    """Delete old entries; only the role that owns the log may."""
    open_manager(context)
    click.echo(f"entries pruned: {audit.prune(before=before)}")


def _print(entries: Iterable[audit.AuditEntry], *, as_json: bool, cursor: str | None = None) -> None:
    if as_json:
        print_json({"entries": [entry.as_dict() for entry in entries], "next": cursor})
        return
    print_table(("at", "operation", "about", "actor", "changes"), map(_row, entries))
    if cursor is not None:
        click.echo(f"next page: --after {cursor}")


def _row(entry: audit.AuditEntry) -> tuple[Any, ...]:
    about = entry.action or " ".join(str(part) for part in (entry.table_name, entry.row_id) if part is not None)
    who = entry.actor or (entry.database_user if entry.user_id is None else f"user {entry.user_id}")
    return entry.at, entry.operation, about, who, _changes(entry)


def _changes(entry: audit.AuditEntry) -> Any:
    """What is new of a row, what was there of one that is gone, or an action's details."""
    if entry.operation == "UPDATE":
        return {column: [entry.old[column], entry.new[column]] for column in entry.new}
    return entry.details or entry.new or entry.old
