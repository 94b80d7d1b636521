"""watch: a live view of the queue, the jobs in hand, the stages and the rates."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import click
import peewee as pw

from ..errors import ConfigurationError, MissingExtra, PresgenError
from ..manager import DatabaseManager
from ..queries import get_database_metrics
from ..queue_metrics import get_finished_per_minute, get_jobs_in_hand, get_queue_metrics
from .connection import open_manager
from .failures import explain

if TYPE_CHECKING:
    from .watch_frame import Look

EVERY_SECONDS: Final = (0.1, 3600.0)
JOBS_SHOWN: Final = 50
# A statement that waits for a lock would keep Ctrl-C waiting as well.
PATIENCE_SECONDS: Final = 30.0
# Counting every job takes long where there are millions: it gets at most this share of the time.
COUNTING_SHARE: Final = 0.05

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _seconds(_context: click.Context, _option: click.Parameter, value: float) -> float:
    least, most = EVERY_SECONDS
    if not least <= value <= most:  # nor is NaN
        raise click.BadParameter(f"{value:g} is not in the range {least:g}<=x<={most:g}.")
    return value


@click.command("watch")
@click.option(
    "--every", metavar="SECONDS", default=1.0, show_default=True, callback=_seconds, help="From look to look."
)
@click.option("--once", is_flag=True, help="Print one frame and end, as where stdout is no terminal.")
@click.pass_context
def watch_command(context: click.Context, every: float, once: bool) -> None:
    """Watch the queue, the jobs in hand, the stages and the rates.

    Outages of the database are shown and waited out. Ctrl-C ends it.
    """
    try:
        from . import watch_frame
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("rich"):
            raise
        raise MissingExtra("rich", "watch") from None

    manager = open_manager(context, patience_seconds=PATIENCE_SECONDS)
    if once or not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        watch_frame.print_frame(Lookout(manager).look())
        return
    with _ended_by_signals(), watch_frame.Screen(str(manager.config.safe_url), every_seconds=every) as screen:
        _show(manager, screen, every_seconds=every)


def _show(manager: DatabaseManager, screen: Any, *, every_seconds: float) -> None:
    lookout = Lookout(manager)
    look, trouble = None, None
    while True:
        try:
            look, trouble = lookout.look(), None
        except (ConfigurationError, MissingExtra):
            raise  # no waiting mends these
        except (PresgenError, pw.PeeweeException) as error:
            trouble = explain(error)
        screen.show(look, trouble)
        time.sleep(every_seconds)


class Lookout:
    """Looks at a database again and again; counts all jobs less often where that takes long."""

    def __init__(self, manager: DatabaseManager) -> None:
        self._manager = manager
        self._jobs_by_status: dict[str, int] = {}
        self._count_again_at = 0.0

    def look(self) -> Look:
        """What is to be seen now, in at most six statements; raises what they raise."""
        from .watch_frame import Look

        with self._manager.session():
            if time.monotonic() >= self._count_again_at:
                began = time.monotonic()
                self._jobs_by_status = get_database_metrics()["jobs_by_status"]
                now = time.monotonic()
                self._count_again_at = now + (now - began) / COUNTING_SHARE
            return Look(
                jobs_by_status=self._jobs_by_status,
                queue=get_queue_metrics(),
                rates=get_finished_per_minute(),
                in_hand=get_jobs_in_hand(JOBS_SHOWN),
            )


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """End the block with Ctrl-C, and with the signals that else would not let it put the terminal right."""

    def end(_number: int, _frame: FrameType | None) -> None:
        for number in _ENDING:  # an impatient second one must not come between
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    replaced = {number: signal.signal(number, end) for number in _ENDING}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)
