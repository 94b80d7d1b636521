"""CommandLine: where every error of a command ends, as one line on stderr and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import Any, Final, NoReturn

import click
import peewee as pw

from ..errors import PresgenError
from .columns import printable

# Click before 8.2 prints the help itself.
_NO_COMMAND: Final = getattr(click.exceptions, "NoArgsIsHelpError", ())


class _Interrupted(click.ClickException):
    exit_code = 128 + signal.SIGINT


class CommandLine(click.Group):
    """A group whose commands show no traceback for what went wrong outside this program."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _Interrupted("interrupted; run the command again to go on") from None
        except (PresgenError, pw.PeeweeException) as error:
            raise click.ClickException(explain(error)) from None
        except OSError as error:
            _forget_stdout()
            raise click.ClickException(explain(error)) from None

    def main(self, *args: Any, **options: Any) -> NoReturn:
        """Run and exit; in click's own way, but for errors of usage, which take one line as well."""
        try:
            # Outside its standalone mode click returns the code that a command exits with.
            code = super().main(*args, **{**options, "standalone_mode": False})
        except click.Abort:
            click.echo("Error: aborted; nothing was done", err=True)
            code = 1
        except _NO_COMMAND as error:
            error.show()
            code = error.exit_code
        except click.ClickException as error:
            message = error.format_message()
            if isinstance(error, click.UsageError) and error.ctx is not None:
                message = f"{message.rstrip('.')}; see: {error.ctx.command_path} --help"
            click.echo(f"Error: {printable(' '.join(message.split()))}", err=True)
            code = error.exit_code
        sys.exit(code)


def explain(error: Exception) -> str:
    """What went wrong and how to mend it, without the values of a row."""
    if isinstance(error, PresgenError):
        return str(error)
    if isinstance(error, BrokenPipeError):
        return "whoever read the output went away before its end"
    if isinstance(error, OSError):
        return ": ".join(str(part) for part in (error.filename, error.strerror) if part) or str(error)
    if isinstance(error, pw.DoesNotExist):  # peewee's text is the statement and its parameters
        return "the row is gone: somebody has deleted it in the meantime"
    return str(error)  # of peewee itself, about how it is used


def _forget_stdout() -> None:
    """Keep the interpreter from flushing into a broken pipe when it exits (Python's `signal` documentation)."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError):  # a stdout that is no file needs no such care
        os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
