"""DatabaseConfig: where the database is and how to reach it, as one frozen value."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from psycopg2 import ProgrammingError
from psycopg2.extensions import parse_dsn

from .database_url import DatabaseUrl, is_secret
from .errors import ConfigurationError
from .keyring import Keyring
from .variables import READERS, flag, text

# Control characters and surrogates.
_NOT_PLAIN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_WEAK_SSLMODES: Final = ("disable", "allow", "prefer")
# With `require` libpq checks the certificate's authority too, once there is a root certificate.
_SSLMODES_THAT_CHECK: Final = ("require", "verify-ca", "verify-full")
_SSLMODES: Final = _WEAK_SSLMODES + _SSLMODES_THAT_CHECK
# What a server's 32-bit milliseconds hold.
_SECONDS_MAX: Final = 2_000_000
# To a server less is 0, and that no limit.
_MILLISECOND: Final = 0.001
_COUNT_MAX: Final = 100_000
_NUMBERS: Final[dict[str, tuple[Any, float, float]]] = {
    "pool_size": (int, 1, _COUNT_MAX),
    "max_overflow": (int, 0, _COUNT_MAX),
    "pool_timeout": (int | float, 0, _SECONDS_MAX),
    "pool_recycle": (int | float, 1, 10**9),
    "pool_leak_seconds": (int | float | None, _MILLISECOND, _SECONDS_MAX),
    "connect_timeout": (int, 1, _SECONDS_MAX),
    "statement_timeout": (int | float | None, _MILLISECOND, _SECONDS_MAX),
    "slow_query_seconds": (int | float, 0, 10**9),
    "replica_max_lag": (int | float, _MILLISECOND, 10**9),
}
"""The types that an option may have, and its bounds."""

_NOTHING_SET: Final = (
    "no database is configured: set DATABASE_URL, or POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_HOST, POSTGRES_PORT "
    "and POSTGRES_DB; to try presgen without a server: DATABASE_URL=embedded:///presgen-data "
    "(pip install 'presgen[embedded]')"
)
_URL_FORMS: Final = (
    "expected postgresql://user:password@host:5432/name, sqlite:///file, sqlite:///:memory: or embedded:///folder"
)


@dataclass(frozen=True, repr=False)
class DatabaseConfig:
    """How to reach the database. Times are in seconds.

    `url` is `postgresql://…`, `sqlite:///file`, `sqlite:///:memory:` or `embedded:///folder`; as in
    SQLAlchemy, a fourth slash makes a path absolute. The field holds it without the passwords, which nothing
    that prints the configuration or its parts shows; connect_parameters() has them. With a root certificate
    the sslmode `require` checks the server's authority, as libpq does: it is `verify-ca` then. `replica_urls` are
    streaming replicas for manager.reading(), which leaves out those that are more than `replica_max_lag` behind.
    Raises ConfigurationError for a bad value.
    """

    url: str
    pool_size: int = 20
    max_overflow: int = 30
    pool_timeout: float = 10.0
    pool_recycle: float = 3600.0
    pool_reset: str | None = None
    pool_leak_seconds: float | None = None
    connect_timeout: int = 10
    statement_timeout: float | None = None
    slow_query_seconds: float = 1.0
    application_name: str = "presentation-generator"
    sslmode: str | None = None
    sslrootcert: str | None = None
    debug: bool = False
    pgbouncer: bool = False
    encryption_keys: Keyring | None = None
    index_keys: Keyring | None = None
    replica_urls: tuple[str, ...] = ()
    replica_max_lag: float = 10.0
    backend: str = field(init=False)
    path: str = field(init=False, default="")
    _parameters: Mapping[str, Any] = field(init=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.url, str):
            raise ConfigurationError(f"the database URL must be text, not {type(self.url).__name__}")
        scheme, separator, rest = self._whole_url().partition("://")
        if scheme in ("postgresql", "postgres") and separator:
            parameters = self._parse(f"postgresql://{rest}")
            shown = {name: value for name, value in parameters.items() if not is_secret(name)}
            self._set(backend="postgresql", _parameters=shown)
            if shown != parameters:
                self._set(url=DatabaseUrl(self._whole_url()))
        elif scheme in ("sqlite", "embedded") and rest.startswith("/") and len(rest) > 1 and _is_plain_text(rest):
            self._set(backend=scheme, path=rest[1:], pgbouncer=False)  # it stands in front of servers
        else:
            raise ConfigurationError(f"the database URL is malformed: {_URL_FORMS}")
        self._check_ranges()
        self._check_replicas()

    def _check_replicas(self) -> None:
        if isinstance(self.replica_urls, str) or not isinstance(self.replica_urls, (tuple, list)):
            raise ConfigurationError("replica_urls must be a tuple of URLs")
        if self.replica_urls and self.backend == "sqlite":
            raise ConfigurationError("replica_urls need PostgreSQL: SQLite has no replicas")
        try:
            configs = [self.of_replica(url) for url in self.replica_urls]
        except ConfigurationError as error:
            raise ConfigurationError(f"replica_urls: {error}") from None
        if any(config.backend == "sqlite" for config in configs):
            raise ConfigurationError("replica_urls must be of PostgreSQL")
        self._set(replica_urls=tuple(config.url for config in configs))  # without their passwords

    def of_replica(self, url: str) -> DatabaseConfig:
        """The configuration of one of the replicas, which is this one but for the address."""
        return replace(self, url=url, replica_urls=())

    def _whole_url(self) -> str:
        return self.url.whole() if isinstance(self.url, DatabaseUrl) else str.__str__(self.url)

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _parse(self, url: str) -> dict[str, str]:
        authority, _, name = url.partition("://")[2].partition("/")
        if authority.count("@") > 1 or "@" in name.partition("?")[0]:
            # libpq would take the rest of the password for the host or the name, which are shown.
            raise ConfigurationError("the database URL is malformed: write @ in a password as %40, and / as %2F")
        parameters: dict[str, str] | None = None
        with suppress(ProgrammingError, UnicodeError, ValueError):  # libpq quotes the URL, and with it the password
            parameters = parse_dsn(url)
        if parameters is None:
            raise ConfigurationError(f"the database URL is malformed: {_URL_FORMS}")
        for port in parameters.get("port", "").split(","):
            if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
                raise ConfigurationError("the port in the database URL must be a number from 1 to 65535")
        return parameters

    def _check_ranges(self) -> None:
        for name, (kinds, low, high) in _NUMBERS.items():
            value = getattr(self, name)
            number = "a whole number" if kinds is int else "a number"
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise ConfigurationError(f"{name} must be {number}")
            if value is not None and not low <= value <= high:
                raise ConfigurationError(f"{name} must be {number} of at least {low}, and at most {high}")
        for name in ("encryption_keys", "index_keys"):
            if not isinstance(getattr(self, name), Keyring | None):
                raise ConfigurationError(f"{name} must be a Keyring")
        for name in ("debug", "pgbouncer"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(f"{name} must be True or False")
        if not _is_plain_text(self.application_name):
            raise ConfigurationError("application_name must be text")
        if self.sslrootcert is not None and not _is_plain_text(self.sslrootcert):
            raise ConfigurationError("sslrootcert must be text")
        if self.pool_reset not in (None, "discard"):
            raise ConfigurationError("pool_reset must be discard, or None for no reset")
        if self.pool_reset and self.pgbouncer:
            raise ConfigurationError("pool_reset has no session to reset through PgBouncer: use its server_reset_query")
        for mode in (self.sslmode, self._parameters.get("sslmode")):
            if mode is not None and mode not in _SSLMODES:
                raise ConfigurationError(f"sslmode must be one of {', '.join(_SSLMODES)}")
        has_root = self.backend == "postgresql" and (self.sslrootcert or self._parameters.get("sslrootcert"))
        if has_root and self._strongest_sslmode() not in _SSLMODES_THAT_CHECK:
            # libpq would go on without TLS when the check fails.
            raise ConfigurationError("sslrootcert checks nothing by itself: set DATABASE_SSLMODE=verify-full as well")

    def __repr__(self) -> str:
        return f"<DatabaseConfig {self.safe_url}>"

    @property
    def database(self) -> str:
        """The database's name, or the file or folder."""
        return self.path or str(self._parameters.get("dbname") or self._parameters.get("user") or "postgres")

    @property
    def safe_url(self) -> str:
        """The URL without its password and options, for people and logs."""
        if self.path:
            return f"{self.backend}:///{self.path}"
        from urllib.parse import quote

        known = self._parameters
        user = f"{quote(known['user'], safe='')}@" if known.get("user") else ""
        port = f":{known['port']}" if known.get("port") else ""
        return f"postgresql://{user}{known.get('host', 'localhost')}{port}/{self.database}"

    def connect_parameters(self) -> dict[str, Any]:
        """The keyword arguments for psycopg2.connect, the password among them."""
        parameters: dict[str, Any] = {
            "host": "localhost",
            "connect_timeout": self.connect_timeout,
            "application_name": self.application_name,
            # Together these bound a silent network to about twice the connect timeout.
            "keepalives": 1,
            "keepalives_idle": 10,
            "keepalives_interval": 3,
            "keepalives_count": 3,
            "tcp_user_timeout": self.connect_timeout * 1000,
        }
        if not self.pgbouncer:
            # PgBouncer refuses `options`; there the pool's role or database must be set to UTC, and the watchdog
            # alone keeps the limit of statements.
            options = "-c timezone=UTC"
            if self.statement_timeout is not None:
                options += f" -c statement_timeout={round(self.statement_timeout * 1000)}"
            own = self._parameters.get("options")
            parameters["options"] = f"{own} {options}" if own else options
        given = self._parse(self._whole_url()) if isinstance(self.url, DatabaseUrl) else self._parameters
        parameters |= {name: value for name, value in given.items() if name != "options"}
        parameters.setdefault("dbname", self.database)
        if self.pgbouncer and "options" in self._parameters:
            parameters["options"] = self._parameters["options"]
        sslmode = self._strongest_sslmode()
        if sslmode:
            parameters["sslmode"] = sslmode
        if self.sslrootcert:
            parameters["sslrootcert"] = self.sslrootcert
        return parameters

    def _strongest_sslmode(self) -> str | None:
        # libpq's own variable counts too: what is given explicitly would silently take its place.
        asked = (self.sslmode, self._parameters.get("sslmode"), os.environ.get("PGSSLMODE"))
        return max((mode for mode in asked if mode in _SSLMODES), key=_SSLMODES.index, default=None)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> DatabaseConfig:
        """The configuration that DATABASE_* and POSTGRES_* variables describe; DATABASE_URL wins over POSTGRES_*."""
        given: dict[str, Any] = {"url": environ.get("DATABASE_URL") or _url_from_parts(environ)}
        for name, read in _VARIABLES.items():
            variable = f"DATABASE_{name.upper()}"
            raw = environ.get(variable, "").strip()
            if raw:
                given[name] = read(variable, raw)
        if flag("DATABASE_SSL", environ.get("DATABASE_SSL", "")) and given.get("sslmode") in (None, *_WEAK_SSLMODES):
            given["sslmode"] = "require"
        return cls(**given)


def _url_from_parts(environ: Mapping[str, str]) -> str:
    from urllib.parse import quote

    names = ("POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_HOST", "POSTGRES_PORT", "POSTGRES_DB")
    if not any(environ.get(name) for name in names):
        raise ConfigurationError(_NOTHING_SET)
    missing = [name for name in ("POSTGRES_USER", "POSTGRES_DB") if not environ.get(name)]
    if missing:
        raise ConfigurationError(f"{' and '.join(missing)} must be set as well, or DATABASE_URL instead")
    user, password, host, port, name = (quote(environ.get(part, ""), safe="") for part in names)
    login = f"{user}:{password}" if password else user
    return f"postgresql://{login}@{host or 'localhost'}:{port or '5432'}/{name}"


def _is_plain_text(value: Any) -> bool:
    """Whether it can be given to libpq and the file system: no control characters, no lone surrogates."""
    return isinstance(value, str) and _NOT_PLAIN.search(value) is None


_VARIABLES: Final = {
    option.name: READERS.get(str(option.type), text)
    for option in fields(DatabaseConfig)
    if option.init and option.name != "url"
}
