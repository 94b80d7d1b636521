"""Password hashes: argon2id for new ones, werkzeug's still verified, all of a password's one normal form."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, Final, NamedTuple

from .errors import MissingExtra, ValidationError

# Hashing time grows with the input, so an attacker could send megabytes. Counted after normalisation, and before it
# more generously: accents that are characters of their own go into their letters.
PASSWORD_MAX_LENGTH: Final = 1024
_INPUT_MAX_LENGTH: Final = 4 * PASSWORD_MAX_LENGTH


class Profile(NamedTuple):
    """What a hash costs whoever makes or tries one: passes, KiB of memory, lanes."""

    time_cost: int
    memory_cost: int
    parallelism: int


# OWASP, Password Storage Cheat Sheet: 19 MiB, 2 passes, 1 lane.
_STRONG: Final = Profile(2, 19 * 1024, 1)
_CHEAP: Final = Profile(1, 8, 1)
_PROFILE: Final = ContextVar("presgen's cost of a password hash", default=_STRONG)


@contextmanager
def cheap_hashes() -> Iterator[None]:
    """Hash in less than a millisecond in this context, for tests; outside of it such hashes are outdated ones."""
    token = _PROFILE.set(_CHEAP)
    try:
        yield
    finally:
        _PROFILE.reset(token)


def hash_password(password: str) -> str:
    """The argon2id hash; raises ValidationError for what is empty, too long or no text.

    Of the password's NFKC form (NIST SP 800-63B, 5.1.1.2): keyboards and systems send the same letters as different
    code points, full-width or ligated ones included.
    """
    spellings = _spellings(password)
    if not spellings:
        message = f"a password must be text of 1 to {PASSWORD_MAX_LENGTH} characters"
        raise ValidationError(message, field="password", rule="password")
    return str(_hasher(_PROFILE.get()).hash(_encoded(spellings[0])))


def verify_password(password_hash: str, password: str) -> bool:
    """Whether the password made the hash; False too for what cannot be a password or is no hash."""
    return any(_matches(password_hash, spelling) for spelling in _spellings(password))


def verify_and_update(password_hash: str, password: str) -> tuple[bool, str | None]:
    """Whether the password made the hash, and if so the hash to store in its place, None for one that may stay."""
    spellings = _spellings(password)
    matching = next((spelling for spelling in spellings if _matches(password_hash, spelling)), None)
    if matching is None:
        return False, None
    is_outdated = matching != spellings[0] or needs_rehash(password_hash)
    return True, hash_password(password) if is_outdated else None


def verify_in_vain(password: str) -> None:
    """Do the work of a verification that fails, so that nobody learns from its time whether there is a user."""
    verify_password(_nobodys_hash(_PROFILE.get()), password)


def needs_rehash(password_hash: str) -> bool:
    """Whether the hash is of an older kind than hash_password() makes, or costs whoever guesses less."""
    if not password_hash.startswith("$argon2id$"):
        return True
    profile = _PROFILE.get()
    _hasher(profile)  # which raises MissingExtra
    from argon2 import extract_parameters
    from argon2.exceptions import InvalidHashError

    try:
        made_with = extract_parameters(password_hash)
    except InvalidHashError:
        return True
    return bool(made_with.time_cost * made_with.memory_cost < profile.time_cost * profile.memory_cost)


def _spellings(password: Any) -> list[str]:
    """The normal form, then the text as it was typed, of which older hashes were made; none for what is no password."""
    if not isinstance(password, str) or not 0 < len(password) <= _INPUT_MAX_LENGTH:
        return []
    import unicodedata  # here, as few processes see a password

    normal = unicodedata.normalize("NFKC", password)
    return list(dict.fromkeys((normal, password))) if len(normal) <= PASSWORD_MAX_LENGTH else []


def _matches(password_hash: str, spelling: str) -> bool:
    if password_hash.startswith("$argon2"):
        hasher = _hasher(_PROFILE.get())  # whose cost does not matter: the hash says its own
        from argon2.exceptions import InvalidHashError, VerificationError

        try:
            return bool(hasher.verify(password_hash, _encoded(spelling)))
        except (VerificationError, InvalidHashError):
            return False
    try:
        from werkzeug.security import check_password_hash
    except ImportError:
        raise MissingExtra("werkzeug", "passwords") from None
    try:
        return check_password_hash(password_hash, spelling)
    except ValueError:
        return False


def _encoded(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")


@cache
def _hasher(profile: Profile) -> Any:
    try:
        from argon2 import PasswordHasher
    except ImportError:
        raise MissingExtra("argon2-cffi", "passwords") from None
    return PasswordHasher(**profile._asdict())


@cache
def _nobodys_hash(profile: Profile) -> str:
    return str(_hasher(profile).hash(secrets.token_bytes()))
