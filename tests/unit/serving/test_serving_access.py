"""TLS, client certificates and bearer tokens of the agent's servers, with real ones."""

from __future__ import annotations

import logging
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from retina_otel.errors import ConfigError
from retina_otel.serving.access import ServerAccess, ServerAuthSettings, ServerTlsSettings
from retina_otel.serving.server import Handler, Server

LOGGER = logging.getLogger("serving")


class Hello(Handler):
    def respond(self) -> None:
        self.answer_text(200, "hello")


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def issue(authority: trustme.CA, folder: Path, name: str) -> tuple[Path, Path]:
    issued = authority.issue_cert(name)
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return cert, key


Serve = Callable[[ServerTlsSettings | None, ServerAuthSettings | None], int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers = []

    def started(tls: ServerTlsSettings | None, auth: ServerAuthSettings | None) -> int:
        access = ServerAccess(tls, auth, LOGGER)
        server = Server("127.0.0.1:0", Hello, timeout_s=2, logger=LOGGER, access=access)
        server.start("serving")
        servers.append(server)
        return server.port

    yield started
    for server in servers:
        server.stop()


def get(url: str, context: ssl.SSLContext | None = None, token: str = "") -> int | str:
    """The status, or the name of the error of a connection that did not come about."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5, context=context) as answer:
            assert answer.read() == b"hello\n"
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except (urllib.error.URLError, ConnectionError, ssl.SSLError):
        return "no connection"


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_only_the_token_of_the_file_opens_also_after_it_has_changed(
    serve: Serve, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    url = f"http://127.0.0.1:{serve(None, ServerAuthSettings(bearer_token_file=token))}/"
    assert [get(url, token=sent) for sent in ("", "wrong", "first")] == [401, 401, 200]
    token.write_text("second\n")
    assert [get(url, token=sent) for sent in ("first", "second")] == [401, 200]
    token.unlink()
    assert get(url, token="second") == 200


def test_a_client_needs_a_certificate_of_the_ca_where_one_is_asked_for(
    serve: Serve, authority: trustme.CA, tmp_path: Path
) -> None:
    cert, key = issue(authority, tmp_path, "127.0.0.1")
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    settings = ServerTlsSettings(cert_file=cert, key_file=key, client_ca_file=ca)
    url = f"https://127.0.0.1:{serve(settings, None)}/"
    with_certificate = trusting(authority)
    authority.issue_cert("prometheus").configure_cert(with_certificate)
    foreign = trusting(authority)
    trustme.CA().issue_cert("prometheus").configure_cert(foreign)
    contexts = (with_certificate, trusting(authority), foreign)
    assert [get(url, context) for context in contexts] == [200, "no connection", "no connection"]
    assert get(url.replace("https", "http")) == "no connection"


def test_a_rotated_certificate_is_used_and_a_broken_one_is_not(
    serve: Serve, authority: trustme.CA, tmp_path: Path
) -> None:
    cert, key = issue(authority, tmp_path, "127.0.0.1")
    url = f"https://127.0.0.1:{serve(ServerTlsSettings(cert_file=cert, key_file=key), None)}/"
    assert get(url, trusting(authority)) == 200
    cert.write_text("no certificate")
    assert get(url, trusting(authority)) == 200
    next_authority = trustme.CA()
    issue(next_authority, tmp_path, "127.0.0.1")
    assert get(url, trusting(authority)) == "no connection"
    assert get(url, trusting(next_authority)) == 200


def test_wrong_files_are_refused_at_the_start(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(ConfigError, match=r"missing can't be read: No such file.*under tls"):
        ServerAccess(ServerTlsSettings(cert_file=missing, key_file=missing), None, LOGGER)
    with pytest.raises(ConfigError, match="are no pair of certificate and unencrypted key"):
        ServerAccess(ServerTlsSettings(cert_file=empty, key_file=empty), None, LOGGER)
    with pytest.raises(ConfigError, match=r"empty is empty\. Write the token into it"):
        ServerAccess(None, ServerAuthSettings(bearer_token_file=empty), LOGGER)
