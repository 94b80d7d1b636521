"""A word that nobody may ever be told, and what people and programs would see of an error."""

from __future__ import annotations

import traceback
from pathlib import Path

import presgen

CANARY = "canary-7f3a"
MAIL = f"{CANARY}@example.com"
DECK = f"/{CANARY}.pptx"
_OURS = str(Path(presgen.__file__).parent)


def told(error: BaseException) -> str:
    """The error as a person or a program that reports errors shows it, with all that it stands in the context of."""
    shown = "".join(traceback.format_exception(error))
    link: BaseException | None = error
    while link is not None:
        # An error of a driver may hide values where none of these look.
        assert not type(link).__module__.startswith(("psycopg2", "sqlite3")), link
        shown += str(link) + repr(link) + repr(link.args) + repr(link.__dict__)
        link = link.__cause__ or link.__context__
    return shown


def locals_of_ours(error: BaseException) -> str:
    """The local variables of presgen's own frames, as programs that report errors show them."""
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    shown, link = "", report
    while link is not None:
        shown += repr([frame.locals for frame in link.stack if frame.filename.startswith(_OURS)])
        link = link.__cause__ or link.__context__
    return shown
