"""Keyring: named keys of 32 bytes, which nothing that prints it shows."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date
from functools import cache
from typing import Any, Final

from .errors import ConfigurationError, KeyUnavailable

KEY_BYTES: Final = 32
_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_NEW_KEY: Final = "`presgen encryption new-key` makes an entry"


class Keyring:
    """Keys by their ids, the current one first: it seals what is written, the others open what they have sealed.

    `fetch(key_id)` gives a key's 32 bytes, from a KMS for instance; it is asked once for each id, by no more than the
    threads that need the key at that moment, and while nothing is locked. `variable` is where people set the keys.
    Raises ConfigurationError, which names ids and never keys; so does key(). A pickle carries the keys.
    """

    def __init__(self, ids: Sequence[str], fetch: Callable[[str], bytes], *, variable: str = "the keyring") -> None:
        self.ids = tuple(ids)
        self.variable = variable
        for position, key_id in enumerate(self.ids, start=1):
            if not isinstance(key_id, str) or not _ID.fullmatch(key_id):
                raise ConfigurationError(
                    f"{variable}: the id of entry {position} must be up to 32 lower-case letters, digits and hyphens"
                )
        if len(set(self.ids)) < len(self.ids):
            twice = next(key_id for key_id in self.ids if self.ids.count(key_id) > 1)
            raise ConfigurationError(f"{variable} names the key {twice} twice")
        if not self.ids:
            raise ConfigurationError(f"{variable} has no key; {_NEW_KEY}")
        self._fetch = fetch
        self.key = cache(self._checked)  # what prints an object's attributes shows a function

    @classmethod
    def from_text(cls, text: str, *, variable: str) -> Keyring:
        """The keyring that `id:base64,id:base64` describes."""
        entries = [entry.strip().partition(":") for entry in text.split(",") if entry.strip()]
        keys = {key_id: encoded for key_id, _, encoded in entries}
        keyring = cls([key_id for key_id, _, _ in entries], _Decoded(keys, variable), variable=variable)
        keyring.require_all()
        return keyring

    @property
    def current(self) -> str:
        """The id of the key that seals."""
        return self.ids[0]

    def _checked(self, key_id: str) -> bytes:
        if key_id not in self.ids:
            raise ConfigurationError(
                f"{self.variable} has no key {_shown(key_id)}, with which a value is sealed; "
                f"it has {', '.join(self.ids)}: put that key back, behind the current one"
            )
        key, failure = None, ""
        try:
            key = self._fetch(key_id)
        except Exception as error:  # whose message may say anything
            failure = type(error).__name__
        if failure:
            raise KeyUnavailable(f"{self.variable}: the key {key_id} cannot be had: its source raised {failure}")
        if isinstance(key, bytes) and len(key) == KEY_BYTES:
            return key
        found = f"{len(key)} bytes" if isinstance(key, bytes) else f"of type {type(key).__name__}"
        key = None  # for whoever prints the variables of this call
        raise ConfigurationError(f"{self.variable}: the key {key_id} is {found}, and has to be {KEY_BYTES} bytes")

    def require_all(self) -> None:
        """Raise ConfigurationError when one of the keys cannot be had."""
        for key_id in self.ids:
            self.key(key_id)

    def __repr__(self) -> str:
        return f"<Keyring {', '.join(self.ids)}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Keyring) and (self.ids, self._fetch) == (other.ids, other._fetch)

    def __hash__(self) -> int:
        return hash(self.ids)

    def __copy__(self) -> Keyring:
        return self

    def __deepcopy__(self, _: Any) -> Keyring:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self.ids, self._fetch, self.variable)


class _Decoded:
    """Gives the keys of a text."""

    def __init__(self, keys: dict[str, str], variable: str) -> None:
        self._given: Callable[[], tuple[dict[str, str], str]] = lambda: (keys, variable)

    def __call__(self, key_id: str) -> bytes:
        with suppress(binascii.Error, ValueError):
            return base64.b64decode(self._given()[0][key_id].encode(), validate=True)
        return b""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Decoded) and self._given() == other._given()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Decoded, self._given()


def _unpickled(ids: Sequence[str], fetch: Callable[[str], bytes], variable: str) -> Keyring:
    return Keyring(ids, fetch, variable=variable)


def new_entry(key_id: str | None = None) -> str:
    """An entry for a keyring's text with a fresh key; its id is today's date."""
    key_id = date.today().isoformat() if key_id is None else key_id
    if not _ID.fullmatch(key_id):
        raise ConfigurationError("a key's id must be up to 32 lower-case letters, digits and hyphens")
    return f"{key_id}:{base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}"


def _shown(key_id: str) -> str:
    """An id that is stored in the database, if it is one."""
    return key_id if _ID.fullmatch(key_id) else "of a malformed id"
