"""Aligned columns and JSON for the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import click


def print_facts(facts: Iterable[tuple[str, Any]]) -> None:
    """Print a line for each name and value; the further lines of a long text are indented below its first."""
    rows = [(name, _shown(value).splitlines() or [""]) for name, value in facts]
    width = max(len(name) for name, _ in rows)
    for name, lines in rows:
        for label, line in zip([name] + [""] * len(lines), lines, strict=False):
            click.echo(f"{label:<{width}}  {printable(line)}")


def print_table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows below their headings."""
    lines = [headings, *([printable(_shown(value)) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(map(str.ljust, line, widths)).rstrip())


def print_json(value: Any) -> None:
    """Print a document; times in ISO 8601, and ASCII, so that it is valid in every terminal's encoding."""
    click.echo(json.dumps(value, indent=2, default=_as_json))


def printable(text: str) -> str:
    """The text with control characters escaped: what people type into a name must not steer a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%SZ}"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _as_json(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)
