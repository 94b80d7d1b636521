"""Options that several commands take."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from functools import reduce
from typing import Any, Final

import click

from ..queries import LIMIT_MAX

# What people type, and what the commands print.
_FORMATS: Final = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M:%SZ", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ")


def moment_option(name: str, **attributes: Any) -> Callable[..., Any]:
    """An option that takes a moment in UTC, as everything that the commands print."""
    return click.option(name, type=click.DateTime(_FORMATS), metavar="MOMENT", callback=_in_utc, **attributes)


def page_options(rows: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options of a list that comes in pages of so many `rows`."""
    return all_of(
        click.option(
            "--limit", default=20, show_default=True, type=click.IntRange(1, LIMIT_MAX), help=f"{rows} a page."
        ),
        click.option("--after", metavar="CURSOR", help="Where the page before ended."),
    )


def all_of(*options: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """What puts several options on a command, in the order in which its help shows them."""
    return lambda command: reduce(lambda function, option: option(function), reversed(options), command)


def _in_utc(_context: click.Context, _option: click.Parameter, moment: datetime | None) -> datetime | None:
    return moment and moment.replace(tzinfo=timezone.utc)
