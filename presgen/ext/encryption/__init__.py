"""encryption: users' e-mail addresses are stored sealed, and found by equal ones.

AES-256-GCM, with a blind index (HMAC-SHA256) for equality. `EncryptedText` and `BlindIndex` give the same to columns of
any model of yours, for which nothing has to be installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ...clock import is_sqlite
from ...encrypted import BlindIndex
from ...errors import ConfigurationError
from ...fields import EncryptedText
from ...keyring import Keyring
from ...manager import DatabaseManager
from ...models import User
from ...sealing import EMAIL, is_sealed
from .conversion import BATCH, Progress, converted
from .inspection import key_ids, verify
from .rotation import rotate
from .rules import LOCK, USES_DIGESTS, columns_for, rules_for
from .stored import StoredColumn, in_row

__all__ = [
    "BlindIndex",
    "EncryptedText",
    "Keyring",
    "install",
    "is_installed",
    "key_ids",
    "require",
    "rotate",
    "uninstall",
    "verify",
]

COST: Final = "e-mail addresses compare, but neither sort nor match; a tenth of the time of save() and get()"
CHANGES: Final = ("users.email", "idx_users_email", "valid_email", "encrypted_email*", "plain_email*")
SECRETS: Final[tuple[tuple[str, str], ...]] = ((EMAIL.table, EMAIL.column),)
"""The columns whose values must appear nowhere in clear: a table and its column each."""


def install(database: Any, *, progress: Progress | None = None) -> None:
    """Seal every address, and let the database take no other; again, by the current index key if that is a new one.

    Readers go on until the end, writers wait. `progress(done, total)` is called for every batch of rows. Raises
    ConfigurationError without DATABASE_ENCRYPTION_KEYS and DATABASE_INDEX_KEYS.
    """
    if progress is not None and not callable(progress):
        raise ConfigurationError("progress must be a function of two numbers, which only manager.install() can pass")
    sealing = database.sealing
    for keys in (sealing.encryption_keys, sealing.index_keys):
        keys.require_all()
    _require_other_keys(sealing.encryption_keys, sealing.index_keys)
    index_key_id = sealing.index_keys.current
    sealing.seal("", EMAIL, index_key_id=index_key_id)  # which needs the extra, also without rows
    sealing.change()

    def opened(stored: str) -> str:
        return str(sealing.open(stored, EMAIL)) if is_sealed(stored) else stored

    if is_installed(database) and sealing.index_key_in_force(EMAIL) == index_key_id:
        for row_id, stored in next(StoredColumn(database, User.email).batches(BATCH), []):
            with in_row(row_id):  # which tells other keys of the same ids
                opened(stored)
        return

    def sealed(stored: str) -> str:
        return str(sealing.seal(opened(stored), EMAIL, index_key_id=index_key_id))

    _change(database, sealed, index_key_id, progress)


def uninstall(database: Any, *, progress: Progress | None = None) -> None:
    """Store every address in clear again; needs the keys.

    A CHECK `plain_email` stays, against envelopes of programs that have not noticed yet.
    """
    sealing = database.sealing
    sealing.change()
    if sealing.index_key_in_force(EMAIL) is None:
        return
    _change(database, lambda stored: str(sealing.open(stored, EMAIL)), None, progress)


def require(manager: DatabaseManager) -> None:
    """Raise ConfigurationError unless addresses are sealed, and by keys that the manager has; as a program starts."""
    sealing = manager.database.sealing
    for keys in (sealing.encryption_keys, sealing.index_keys):
        keys.require_all()
    with manager.session() as database:
        if not is_installed(database):
            raise ConfigurationError("users' addresses are not encrypted by rule; run: presgen install encryption")
        sealing.index_keys.key(sealing.index_key_in_force(EMAIL))


def is_installed(database: Any) -> bool:
    """Whether the rule and the index on digests are there."""
    if database.sealing.index_key_in_force(EMAIL, to_find=True) is None:
        return False
    return database.execute_sql(USES_DIGESTS[is_sqlite(database)]).fetchone() is not None


def _require_other_keys(encryption_keys: Keyring, index_keys: Keyring) -> None:
    """Raise ConfigurationError where one key does both: who tests guesses with it could open the values as well."""
    both = {encryption_keys.key(key_id) for key_id in encryption_keys.ids} & set(map(index_keys.key, index_keys.ids))
    if both:
        raise ConfigurationError("an encryption key and an index key are the same: make another one for either")


def _change(database: Any, change: Callable[[str], str], index_key_id: str | None, progress: Progress | None) -> None:
    if not is_sqlite(database):
        database.execute_sql(LOCK)
    with converted(database, User.email, change, progress) as store:
        for statement in columns_for(database, sealed=index_key_id is not None):
            database.execute_sql(statement)
        store()
        for statement in rules_for(database, index_key_id):
            database.execute_verbatim(statement)
