"""search: find users, voice clones and jobs by their words."""

from __future__ import annotations

from typing import Any, Final

import click

from ..ext import search
from .columns import print_json, print_table
from .connection import open_manager
from .options import page_options

_KINDS: Final = {"jobs": search.jobs, "users": search.users, "voice-clones": search.voice_clones}


# So that a query may begin with a word to leave out.
@click.command("search", context_settings={"ignore_unknown_options": True})
@click.argument("kind", type=click.Choice(list(_KINDS)))
@click.argument("query")
@click.option("--newest", is_flag=True, help="The newest first, and not the best.")
@click.option("--owner", type=int, metavar="ID", help="Only this user's rows.")
@page_options("Rows")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
@click.pass_context
def search_command(
    context: click.Context,
    kind: str,
    query: str,
    newest: bool,
    owner: int | None,
    limit: int,
    after: str | None,
    as_json: bool,
) -> None:
    """Find rows by the words of QUERY, in the shell's quotes: 'talk error', '"slide 3"', 'talk -draft', 'a OR qu*'."""
    open_manager(context)
    order = "newest" if newest else "rank"
    hits: list[Any] = _KINDS[kind](query, order=order, owner=owner, limit=limit, after=after)
    cursor = hits[-1].cursor if len(hits) == limit else None
    if as_json:
        print_json({"hits": [_document(hit) for hit in hits], "next": cursor})
        return
    print_table(("id", "created", "what was found"), ((hit.row.id, hit.row.created_at, hit.snippet()) for hit in hits))
    if cursor is not None:
        click.echo(f"next page: --after {cursor}")


def _document(hit: Any) -> dict[str, Any]:
    return {"id": hit.row.id, "created_at": hit.row.created_at, "rank": hit.rank, "snippet": hit.snippet()}
