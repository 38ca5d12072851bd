"""Who may ask a server of the agent: TLS, client certificates, a bearer token.

Files are looked at for each connection and read again when they have changed, so a rotated
certificate or token needs no restart. A file that is wrong later keeps the last good one in use.
"""

from __future__ import annotations

import hmac
import logging
import os
import ssl
import threading
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from retina_otel.delivery.tls.contexts import TlsVersion
from retina_otel.errors import ConfigError

_Signature = tuple[tuple[int, int, int], ...]


class ServerTlsSettings(BaseModel):
    """TLS of a server, named as in a Collector's configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    cert_file: Path
    """PEM file of the server's certificate, with those between it and its CA."""
    key_file: Path
    """PEM file of the certificate's key, unencrypted."""
    client_ca_file: Path | None = None
    """PEM file of the CAs that clients' certificates must come from. Not set: clients need none."""
    min_version: TlsVersion = TlsVersion.TLS_1_2
    """Oldest TLS version to speak: "1.2" or "1.3"."""


class ServerAuthSettings(BaseModel):
    """Who is answered."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    bearer_token_file: Path | None = None
    """File with the token that a client must send as `Authorization: Bearer ...`."""

    @model_validator(mode="after")
    def _something(self) -> ServerAuthSettings:
        if self.bearer_token_file is None:
            raise ValueError("name a bearer_token_file, or leave auth out")
        return self


class ServerAccess:
    """Made from settings before the server listens. Any thread."""

    def __init__(
        self,
        tls: ServerTlsSettings | None,
        auth: ServerAuthSettings | None,
        logger: logging.Logger,
    ) -> None:
        """Raises ConfigError if a file can't be used now."""
        self._tls = tls
        self._token_file = auth.bearer_token_file if auth else None
        self._logger = logger
        self._lock = threading.Lock()
        self._context = _context(tls) if tls else None
        self._context_of = _signature(_files(tls)) if tls else ()
        self._token = _token(self._token_file) if self._token_file else b""

    @property
    def scheme(self) -> str:
        return "https" if self._tls else "http"

    def wrap(self, connection: Any) -> Any:
        """The connection, behind TLS if there is any. Raises OSError if the handshake fails."""
        context = self._fresh_context()
        if context is None:
            return connection
        return context.wrap_socket(connection, server_side=True)

    def allows(self, authorization: str) -> bool:
        """Whether a request with this header is answered."""
        if self._token_file is None:
            return True
        scheme, _, sent = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(
            sent.strip().encode(), self._fresh_token(self._token_file)
        )

    def _fresh_context(self) -> ssl.SSLContext | None:
        if self._tls is None:
            return None
        with self._lock:
            signature = _signature(_files(self._tls))
            if signature != self._context_of:
                self._context_of = signature
                try:
                    self._context = _context(self._tls)
                    self._logger.info("read %s again", self._tls.cert_file)
                except ConfigError as error:
                    self._logger.warning("the certificate of before stays in use: %s", error)
            return self._context

    def _fresh_token(self, path: Path) -> bytes:
        try:
            token = _token(path)
        except ConfigError as error:
            self._logger.warning("the token of before stays in use: %s", error)
            token = self._token
        self._token = token
        return token


def _files(tls: ServerTlsSettings) -> tuple[Path, ...]:
    return tuple(path for path in (tls.cert_file, tls.key_file, tls.client_ca_file) if path)


def _signature(paths: tuple[Path, ...]) -> _Signature:
    found = []
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            found.append((0, 0, 0))
        else:
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)


def _context(tls: ServerTlsSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = (
        ssl.TLSVersion.TLSv1_3 if tls.min_version is TlsVersion.TLS_1_3 else ssl.TLSVersion.TLSv1_2
    )
    for path in _files(tls):
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            raise ConfigError(
                f"{path} can't be read: {error.strerror}",
                "Check the path under tls and that the agent may read the file",
            ) from error
    try:
        context.load_cert_chain(tls.cert_file, tls.key_file, password="")
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"{tls.cert_file} and {tls.key_file} are no pair of certificate and unencrypted key",
            "Set tls.cert_file and tls.key_file to PEM files that belong together",
        ) from error
    if tls.client_ca_file is not None:
        try:
            context.load_verify_locations(tls.client_ca_file)
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError(
                f"{tls.client_ca_file} holds no CA certificate",
                "Set tls.client_ca_file to a file with PEM certificates",
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _token(path: Path) -> bytes:
    try:
        token = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"{path} can't be read: {error.strerror}",
            "Check auth.bearer_token_file and that the agent may read the file",
        ) from error
    if not token:
        raise ConfigError(f"{path} is empty", "Write the token into it: auth.bearer_token_file")
    return token
