"""Password hashes: argon2id for new ones, werkzeug's still verified."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from .errors import MissingExtra, ValidationError

# Hashing time grows with the input, so an attacker could send megabytes.
PASSWORD_MAX_LENGTH: Final = 1024


def hash_password(password: str) -> str:
    """The argon2id hash, with OWASP's profile (19 MiB, 2 passes, 1 lane: the Password Storage Cheat Sheet)."""
    if not isinstance(password, str) or not 0 < len(password) <= PASSWORD_MAX_LENGTH:
        message = f"a password must be text of 1 to {PASSWORD_MAX_LENGTH} characters"
        raise ValidationError(message, field="password", rule="password")
    return str(_hasher().hash(_encoded(password)))


def verify_password(password_hash: str, password: str) -> bool:
    """Whether the password made the hash; False too for what cannot be a password or is no hash."""
    if not isinstance(password, str) or not 0 < len(password) <= PASSWORD_MAX_LENGTH:
        return False
    if password_hash.startswith("$argon2"):
        hasher = _hasher()
        from argon2.exceptions import InvalidHashError, VerificationError

        try:
            return bool(hasher.verify(password_hash, _encoded(password)))
        except (VerificationError, InvalidHashError):
            return False
    try:
        from werkzeug.security import check_password_hash
    except ImportError:
        raise MissingExtra("werkzeug", "passwords") from None
    try:
        return check_password_hash(password_hash, password)
    except ValueError:
        return False


def needs_rehash(password_hash: str) -> bool:
    """Whether the hash is of an older kind or a weaker profile than hash_password() makes."""
    return not password_hash.startswith("$argon2") or bool(_hasher().check_needs_rehash(password_hash))


def _encoded(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")


@cache
def _hasher() -> Any:
    try:
        from argon2 import PasswordHasher
    except ImportError:
        raise MissingExtra("argon2-cffi", "passwords") from None
    return PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
