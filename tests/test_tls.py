"""TLS as strict as asked for, or no connection; SCRAM; and no password in any error."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import psycopg2
import pytest
import trustme
from fixtures.tls_server import DATABASE, HOST, OTHER_HOST, PASSWORD, USER, TlsServer

from presgen import DatabaseConfig, DatabaseManager, DatabaseUnavailable
from presgen.errors import ConfigurationError

CHECKING = ("verify-ca", "verify-full")
DEMANDING = ("require", *CHECKING)


@pytest.fixture(autouse=True)
def _no_certificates_of_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """libpq takes a root certificate from the home folder, and a mode from PGSSLMODE."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PGSSLMODE", raising=False)
    monkeypatch.delenv("PGSSLROOTCERT", raising=False)


@pytest.fixture
def other_ca(tmp_path: Path) -> Path:
    path = tmp_path / "other-ca.pem"
    trustme.CA().cert_pem.write_to_path(path)
    return path


def environment(
    server: TlsServer, *, host: str = HOST, password: str = PASSWORD, query: str = "", **more: object
) -> Mapping[str, str]:
    url = f"postgresql://{USER}:{quote(password, safe='')}@{host}:{server.port}/{DATABASE}{query}"
    return {"DATABASE_URL": url, "DATABASE_CONNECT_TIMEOUT": "5", **{name: str(value) for name, value in more.items()}}


def cipher(environ: Mapping[str, str]) -> str | None:
    """The session's cipher as the server sees it, None without TLS."""
    with DatabaseManager(DatabaseConfig.from_env(environ)) as manager, manager.session() as database:
        (found,) = database.execute_sql("SELECT cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
        return found  # type: ignore[no-any-return]


def refusal(environ: Mapping[str, str]) -> str:
    """What is said when the connection is refused; checked for secrets."""
    with DatabaseManager(DatabaseConfig.from_env(environ)) as manager:
        with pytest.raises(DatabaseUnavailable) as caught:
            manager.database.connect()
        assert manager.pool_stats()["in_use"] == 0
        said = str(caught.value)
        assert manager.health().error == said
        assert "canary" not in f"{said} {caught.value!r} {caught.value.__cause__!r} {manager!r} {manager.health()!r}"
        assert caught.value.__context__ is None
        report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        assert not any("canary" in str(frame.locals) for frame in report.stack[1:])  # the first is this function's
        return said


@pytest.mark.parametrize("mode", DEMANDING)
def test_a_session_is_encrypted_as_the_server_sees_it(tls_server: TlsServer, mode: str) -> None:
    environ = environment(tls_server, DATABASE_SSLMODE=mode, DATABASE_SSLROOTCERT=tls_server.ca_file)
    assert str(cipher(environ)).startswith("TLS_")


def test_database_ssl_alone_encrypts(tls_server: TlsServer) -> None:
    assert cipher(environment(tls_server, DATABASE_SSL="true")) is not None


def test_the_url_may_ask_for_everything(tls_server: TlsServer) -> None:
    query = f"?sslmode=verify-full&sslrootcert={quote(str(tls_server.ca_file), safe='')}"
    assert cipher(environment(tls_server, query=query)) is not None


@pytest.mark.parametrize("mode", DEMANDING)
def test_another_authoritys_certificate_is_refused(tls_server: TlsServer, other_ca: Path, mode: str) -> None:
    """With `require` too, once there is a root certificate: libpq then checks as with verify-ca."""
    said = refusal(environment(tls_server, DATABASE_SSLMODE=mode, DATABASE_SSLROOTCERT=other_ca))
    assert "certificate verify failed" in said
    assert "check DATABASE_SSLROOTCERT and the host name in the server's certificate" in said


def test_a_certificate_for_another_name_is_refused_in_full_verification(tls_server: TlsServer) -> None:
    settings = {"host": OTHER_HOST, "DATABASE_SSLROOTCERT": tls_server.ca_file}
    said = refusal(environment(tls_server, DATABASE_SSLMODE="verify-full", **settings))
    assert f'does not match host name "{OTHER_HOST}"' in said
    assert cipher(environment(tls_server, DATABASE_SSLMODE="verify-ca", **settings)) is not None


@pytest.mark.parametrize("mode", CHECKING)
def test_checking_without_a_root_certificate_is_refused(tls_server: TlsServer, mode: str) -> None:
    said = refusal(environment(tls_server, DATABASE_SSLMODE=mode))
    assert "certificate" in said
    assert "check DATABASE_SSLROOTCERT" in said


def test_a_root_certificate_that_is_not_there_is_refused(tls_server: TlsServer, tmp_path: Path) -> None:
    said = refusal(environment(tls_server, DATABASE_SSLMODE="verify-full", DATABASE_SSLROOTCERT=tmp_path / "no.pem"))
    assert f'root certificate file "{tmp_path / "no.pem"}" does not exist' in said
    assert "check DATABASE_SSLROOTCERT" in said


@pytest.mark.parametrize(
    "settings",
    [{"DATABASE_SSL": "true"}, *({"DATABASE_SSLMODE": mode} for mode in DEMANDING), *({"query": f"?sslmode={mode}"} for mode in DEMANDING)],
)  # fmt: skip
def test_a_server_without_tls_is_refused(plain_server: TlsServer, settings: dict[str, str]) -> None:
    environ = environment(plain_server, **settings, DATABASE_SSLROOTCERT=plain_server.ca_file)
    said = refusal(environ)
    assert "server does not support SSL" in said
    assert "unset DATABASE_SSL, or turn TLS on at the server" in said


def test_a_server_without_tls_is_taken_when_nobody_asked(plain_server: TlsServer) -> None:
    assert cipher(environment(plain_server)) is None


@pytest.mark.parametrize("asked", ["url", "DATABASE_SSL", "DATABASE_SSLMODE", "PGSSLMODE"])
def test_the_strongest_of_all_that_asks_holds(
    plain_server: TlsServer, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    weak = {"query": "?sslmode=prefer", "DATABASE_SSL": "false", "DATABASE_SSLMODE": "allow"}
    strong = {"query": "?sslmode=require", "DATABASE_SSL": "true", "DATABASE_SSLMODE": "require"}
    assert cipher(environment(plain_server, **weak)) is None
    name = "query" if asked == "url" else asked
    if asked == "PGSSLMODE":
        monkeypatch.setenv("PGSSLMODE", "require")
        assert "does not support SSL" in refusal(environment(plain_server, **weak))
    else:
        monkeypatch.setenv("PGSSLMODE", "disable")
        assert "does not support SSL" in refusal(environment(plain_server, **{**weak, name: strong[name]}))


def test_database_ssl_does_not_weaken_what_the_environment_demands(
    tls_server: TlsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    environ = environment(tls_server, host=OTHER_HOST, DATABASE_SSL="true", DATABASE_SSLROOTCERT=tls_server.ca_file)
    assert "does not match host name" in refusal(environ)


@pytest.mark.parametrize("mode", [None, "disable", "allow", "prefer"])
def test_a_root_certificate_that_would_check_nothing_is_an_error(tls_server: TlsServer, mode: str | None) -> None:
    more = {"DATABASE_SSLMODE": mode} if mode else {}
    in_url = {"query": f"?sslrootcert={quote(str(tls_server.ca_file), safe='')}"}
    for settings in ({"DATABASE_SSLROOTCERT": str(tls_server.ca_file)}, in_url):
        with pytest.raises(ConfigurationError, match="DATABASE_SSLMODE=verify-full"):
            DatabaseConfig.from_env(environment(tls_server, **settings, **more))


def test_the_password_is_proved_by_scram_and_never_shown(tls_server: TlsServer) -> None:
    assert cipher(environment(tls_server, DATABASE_SSL="true")) is not None
    (stored,) = stored_password(tls_server)
    assert stored.startswith("SCRAM-SHA-256$")
    said = refusal(environment(tls_server, password="canary-wrong", DATABASE_SSL="true"))
    assert f'password authentication failed for user "{USER}"; check the user and the password' in said
    said = refusal(environment(tls_server, password="", DATABASE_SSL="true"))
    assert "no password supplied; set POSTGRES_PASSWORD" in said


def stored_password(server: TlsServer) -> tuple[str]:
    connection = psycopg2.connect(
        host=HOST, port=server.port, user=USER, password=PASSWORD, dbname=DATABASE, sslmode="require"
    )
    try:
        cursor = connection.cursor()
        cursor.execute("SELECT rolpassword FROM pg_authid WHERE rolname = current_user")
        return cursor.fetchone()  # type: ignore[return-value]
    finally:
        connection.close()
