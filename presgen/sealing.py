"""Sealing: values encrypted for one column, and the digests by which they are found.

A sealed value is one text, the envelope `enc@@1:<digest>:<key id>:<index key id>:<payload>`, in lower case as
valid_email asks for, and no e-mail address, which has one @. The payload is a nonce of 12 bytes and what AES-256-GCM
makes, in hex; what comes before it, the table and the column are authenticated with it. The digest is HMAC-SHA256 of
table, column and text (172 bits of it, in hex), empty where there is no blind index.
"""

from __future__ import annotations

import hmac
import os
import re
import time
from contextlib import suppress
from functools import cache
from typing import Any, Final, NamedTuple
from weakref import WeakSet

from .clock import is_sqlite
from .errors import ConfigurationError, ConstraintViolation, DecryptionError, EncryptionChanged, MissingExtra
from .keyring import Keyring

PREFIX: Final = "enc@@1:"
DIGEST_START: Final = len(PREFIX) + 1
"""Where SQL's substr() finds the digest."""
DIGEST_LENGTH: Final = 43
ENCRYPTION_KEYS: Final = "DATABASE_ENCRYPTION_KEYS"
INDEX_KEYS: Final = "DATABASE_INDEX_KEYS"

_NONCE_BYTES: Final = 12
_ENVELOPE: Final = re.compile(
    rf"(?P<header>enc@@1:(?:[0-9a-f]{{{DIGEST_LENGTH}}})?:(?P<key_id>[a-z0-9-]+):[a-z0-9-]*:)(?P<payload>[0-9a-f]+)"
)
# A process that has looked need not look again so soon. Who writes by what is no more the case is refused by a CHECK.
_REMEMBERED_SECONDS: Final = 1.0
_RULE_POSTGRESQL: Final = """
SELECT pg_get_constraintdef(oid)
FROM pg_constraint
WHERE conrelid = to_regclass(%s) AND conname = %s
"""
_RULE_SQLITE: Final = "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ? AND name = ? || '_insert'"
_INDEX_KEY_OF_RULE: Final = re.compile(r":%+:([a-z0-9-]+):%")
_CHECK_VALUE_OF_RULE: Final = re.compile(r"'key ([0-9a-f]{16})'")
_CHECKED_TEXT: Final = b"presgen: is it the same key?"


class Place(NamedTuple):
    """The column that a value is sealed for."""

    table: str
    column: str
    schema: str | None = None

    @property
    def quoted_table(self) -> str:
        """The table as SQL."""
        return ".".join('"' + name.replace('"', '""') + '"' for name in (self.schema, self.table) if name)

    @property
    def rule(self) -> str:
        """The name of the rule that the column holds sealed values alone."""
        return f"encrypted_{self.column}"

    @property
    def opposite_rule(self) -> str:
        """The name of the rule that it holds none."""
        return f"plain_{self.column}"

    def __str__(self) -> str:
        return ".".join(name for name in (self.schema, self.table, self.column) if name)


EMAIL: Final = Place("users", "email")
"""The column that the feature `encryption` seals."""


def envelope_pattern(*, key_id: str = "%", index_key_id: str = "%", is_indexed: bool = True) -> str:
    """What envelopes are LIKE in SQL, on either backend."""
    return f"{PREFIX}{'_' * DIGEST_LENGTH if is_indexed else ''}:{key_id}:{index_key_id}:%"


def is_sealed(stored: Any) -> bool:
    """Whether a stored value is an envelope."""
    return isinstance(stored, str) and stored.startswith(PREFIX)


class Sealing:
    """What one database's values are sealed with, and which of its columns are."""

    def __init__(self, database: Any, encryption_keys: Keyring | None, index_keys: Keyring | None) -> None:
        self._database = database
        self._encryption_keys = encryption_keys
        self._index_keys = index_keys
        self._cipher = cache(lambda key_id: _aes_gcm()(self.encryption_keys.key(key_id)))
        self._looked_at: dict[Place, tuple[float, str | None]] = {}
        self._changing: WeakSet[Any] = WeakSet()

    @property
    def has_keys(self) -> bool:
        """Whether the configuration has any."""
        return self._encryption_keys is not None

    @property
    def encryption_keys(self) -> Keyring:
        """The keys of the ciphertexts; raises ConfigurationError where there are none."""
        return _required(self._encryption_keys, ENCRYPTION_KEYS)

    @property
    def index_keys(self) -> Keyring:
        """The keys of the digests; raises ConfigurationError where there are none."""
        return _required(self._index_keys, INDEX_KEYS)

    def seal(self, text: str, place: Place, *, index_key_id: str | None) -> str:
        """The envelope of a text, with its digest by an index key, or with none."""
        key_id = self.encryption_keys.current
        digest = "" if index_key_id is None else self.digest(text, place, index_key_id)
        header = f"{PREFIX}{digest}:{key_id}:{index_key_id or ''}:"
        nonce = os.urandom(_NONCE_BYTES)
        ciphertext = self._cipher(key_id).encrypt(nonce, text.encode(), f"{place}:{header}".encode())
        return f"{header}{nonce.hex()}{ciphertext.hex()}"

    def open(self, stored: str, place: Place) -> str:
        """The text of an envelope; raises DecryptionError, ConfigurationError for a key that is not there."""
        match = _ENVELOPE.fullmatch(stored)
        if match is None:
            raise DecryptionError(str(place))
        key_id = match["key_id"]
        cipher = self._cipher(key_id)
        with suppress(Exception):  # InvalidTag, or a ValueError for what has been cut: neither says more
            sealed = bytes.fromhex(match["payload"])
            nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
            text: bytes = cipher.decrypt(nonce, ciphertext, f"{place}:{match['header']}".encode())
            return text.decode()
        raise DecryptionError(str(place), key_id=key_id)

    def digest(self, text: str, place: Place, index_key_id: str) -> str:
        """What a text is found by where that index key is in force."""
        code = hmac.digest(self.index_keys.key(index_key_id), f"{place}:{text}".encode(), "sha256")
        return code.hex()[:DIGEST_LENGTH]

    def check_value(self, index_key_id: str) -> str:
        """What tells, and nothing more, whether two keys of one id are the same: 64 bits of its HMAC."""
        return hmac.digest(self.index_keys.key(index_key_id), _CHECKED_TEXT, "sha256").hex()[:16]

    def index_key_in_force(self, place: Place, *, to_find: bool = False) -> str | None:
        """The id of the index key by which a column is sealed now; None for one that holds plain values.

        The database's catalog says so. It is asked at most once in _REMEMBERED_SECONDS, and after a write that was
        refused. A lookup (`to_find`) for plain values asks each time where there are keys: it would find nothing, and
        raise no error, when they have been sealed in the meantime.
        """
        if not self._changing.isdisjoint(self._database.transactions):
            return self._look(place)
        now = time.monotonic()
        at, index_key_id = self._looked_at.get(place, (now - _REMEMBERED_SECONDS, None))
        is_plain_for_now = to_find and self.has_keys and index_key_id is None
        if is_plain_for_now or now - at >= _REMEMBERED_SECONDS:
            index_key_id = self._look(place)
            self._looked_at[place] = now, index_key_id
        return index_key_id

    def _look(self, place: Place) -> str | None:
        sql = _RULE_SQLITE if is_sqlite(self._database) else _RULE_POSTGRESQL
        row = self._database.execute_sql(sql, (place.table, place.rule)).fetchone()
        match = _INDEX_KEY_OF_RULE.search(row[0]) if row else None
        if match is None:
            return None
        self._require_same_key(match[1], _CHECK_VALUE_OF_RULE.search(row[0]))
        return match[1]

    def _require_same_key(self, index_key_id: str, expected: re.Match[str] | None) -> None:
        """Raise ConfigurationError for an index key that has only its id in common with the one in force."""
        keys = self._index_keys
        if keys is None or expected is None or index_key_id not in keys.ids:
            return
        if self.check_value(index_key_id) != expected[1]:
            raise ConfigurationError(
                f"{keys.variable}: the key {index_key_id} is not the one of that id by which the database is sealed"
            )

    def change(self) -> None:
        """Remember nothing of what the open transaction sees: it changes the catalog, and may be undone."""
        self._changing.update(self._database.transactions[:1])
        self._database.after_commit(self._looked_at.clear)

    def explain(self, error: ConstraintViolation) -> None:
        """Raise what a broken rule of encryption means, if it is one; the next write asks the catalog again."""
        if error.constraint not in (EMAIL.rule, EMAIL.opposite_rule):
            return
        self._looked_at.clear()
        _required(self._encryption_keys, ENCRYPTION_KEYS)
        raise EncryptionChanged(error.constraint) from None


class Seal(NamedTuple):
    """What the values of one column are sealed with at the moment; `index_key_id` is None without a blind index."""

    sealing: Sealing
    place: Place
    index_key_id: str | None

    def envelope(self, text: str) -> str:
        """What is stored for a text."""
        return self.sealing.seal(text, self.place, index_key_id=self.index_key_id)

    def digest(self, text: str) -> str:
        """What a text is found by; of a column with a blind index."""
        assert self.index_key_id is not None
        return self.sealing.digest(text, self.place, self.index_key_id)

    def digests(self, text: str) -> list[str]:
        """What a text may be found by, also while the index key changes."""
        others = (key_id for key_id in self.sealing.index_keys.ids if key_id != self.index_key_id)
        return [self.digest(text), *(self.sealing.digest(text, self.place, key_id) for key_id in others)]

    @property
    def pattern(self) -> str:
        """What the envelopes are LIKE in SQL that it makes."""
        return envelope_pattern(
            key_id=self.sealing.encryption_keys.current,
            index_key_id=self.index_key_id or "",
            is_indexed=self.index_key_id is not None,
        )


def _required(keys: Keyring | None, variable: str) -> Keyring:
    if keys is None:
        raise ConfigurationError(
            f"{variable} is not set, and encrypted values need it: set {ENCRYPTION_KEYS} and {INDEX_KEYS} alike for "
            "all programs on the database; `presgen encryption new-key` makes an entry"
        )
    return keys


def _aes_gcm() -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ModuleNotFoundError:
        raise MissingExtra("cryptography", "crypto") from None
    return AESGCM
