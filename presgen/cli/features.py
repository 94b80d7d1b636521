"""features, install, uninstall: what is opt-in, and whether the database has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import click

from ..features import FEATURES, find_feature
from .columns import print_table
from .connection import open_manager
from .progress import shown_progress


@click.command("features")
@click.pass_context
def features_command(context: click.Context) -> None:
    """List the opt-in features, and which of them the database has."""
    installed = open_manager(context).features()
    print_table(
        ("feature", "installed", "what it is", "what it costs"), [_row(name, name in installed) for name in FEATURES]
    )


@click.command("install")
@click.argument("feature", metavar="NAME")
@click.option("--set", "settings", multiple=True, metavar="OPTION=VALUE", help="An option of the feature's.")
@click.pass_context
def install_command(context: click.Context, feature: str, settings: tuple[str, ...]) -> None:
    """Install a feature, or bring it to its newest state."""
    options = dict(setting.partition("=")[::2] for setting in settings)
    manager = open_manager(context)
    with _progress_of(find_feature(feature).install, feature) as progress:
        manager.install(feature, **{**progress, **options})
    click.echo(f"{feature} is installed")


@click.command("uninstall")
@click.argument("feature", metavar="NAME")
@click.option("--yes", is_flag=True, help="Do not ask before what the feature has stored is lost.")
@click.pass_context
def uninstall_command(context: click.Context, feature: str, yes: bool) -> None:
    """Take a feature away, and what it has stored."""
    manager = open_manager(context)
    stored = getattr(find_feature(feature), "STORES", None)
    if stored is not None and not yes:
        click.confirm(f"{stored} will be lost. Go on?", abort=True)
    with _progress_of(find_feature(feature).uninstall, feature) as progress:
        manager.uninstall(feature, **progress)
    click.echo(f"{feature} is not installed")


@contextmanager
def _progress_of(function: Callable[..., None], feature: str) -> Iterator[dict[str, Any]]:
    """The option `progress` for a function that takes it, none for others."""
    if "progress" not in signature(function).parameters:
        yield {}
        return
    with shown_progress(feature) as progress:
        yield {"progress": progress}


def _row(name: str, is_installed: bool) -> tuple[str, ...]:
    feature = find_feature(name)
    said = (feature.__doc__ or "").partition("\n")[0].removeprefix(f"{name}: ")
    return name, "yes" if is_installed else "no", said, feature.COST
