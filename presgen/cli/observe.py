"""health, metrics: how the database is, and what is in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import click

from ..errors import DatabaseUnavailable
from ..health import Health
from .columns import print_facts, print_json
from .connection import open_manager


@click.command("health")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
@click.pass_context
def health_command(context: click.Context, as_json: bool) -> None:
    """Ask the database how it is.

    The exit code is 0 when it answers and 1 when not; pending migrations are shown, and do not count.
    """
    health = open_manager(context).health()
    if as_json:
        print_json(asdict(health))
    else:
        print_facts(_facts(health))
    if not health.ok:
        raise DatabaseUnavailable(str(health.error))


@click.command("metrics")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
@click.option("--prometheus", "as_exposition", is_flag=True, help="Print Prometheus' text format.")
@click.pass_context
def metrics_command(context: click.Context, as_json: bool, as_exposition: bool) -> None:
    """Count users, voices and jobs, and measure the queue.

    With --prometheus a database that does not answer is `presgen_up 0`, and no failure.
    """
    if as_json and as_exposition:
        raise click.UsageError("--json and --prometheus cannot be had together")
    if as_exposition:
        from ..ext.prometheus import exposition

        click.echo(exposition(open_manager(context)), nl=False)
        return
    metrics = open_manager(context).metrics()
    if as_json:
        print_json(metrics)
    else:
        print_metrics(metrics)


def print_metrics(metrics: Mapping[str, Any]) -> None:
    """Print what DatabaseManager.metrics() gives, one count a line, nested ones as `jobs_by_status.pending`."""
    print_facts(_flattened(metrics))


def _facts(health: Health) -> Iterator[tuple[str, Any]]:
    yield "ok", "yes" if health.ok else "no"
    if health.latency_seconds is not None:
        yield "latency", f"{health.latency_seconds * 1000:.1f} ms"
        yield "server", health.server_version
        yield "role", health.role
        yield "pending migrations", ", ".join(health.pending_migrations) or "none"
    yield from _flattened({"pool": health.pool})


def _flattened(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
