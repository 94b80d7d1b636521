"""What `pw_migrate` reads: the database that the variables of DatabaseConfig name, locked against a second run."""

import os
import sys

from peewee import PeeweeException

try:
    from presgen import DatabaseManager, PresgenError
except ModuleNotFoundError:  # a checkout that is not installed: pw_migrate does not look into the working folder
    sys.path.insert(0, os.getcwd())
    from presgen import DatabaseManager, PresgenError

try:
    DATABASE = DatabaseManager.from_env().locked_for_migrations()
except (PresgenError, PeeweeException) as error:
    raise SystemExit(f"Error: {error}") from None


def say_in_one_line(kind, error, traceback):
    """pw_migrate itself has no errors for people, such as for a rollback of more than there is."""
    print(f"Error: {error}", file=sys.stderr)


sys.excepthook = say_in_one_line
