"""TLS of both sides, from PEM files that are read again when they change."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc

from retina_otel.errors import ConfigError

_LARGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """PEM files of the service. With `client_ca_file` only clients with a certificate of that CA
    get past the handshake."""

    cert_file: str
    key_file: str
    client_ca_file: str = ""

    def stamps(self) -> tuple[tuple[int, int], ...]:
        stats = [
            os.stat(path) for path in (self.cert_file, self.key_file, self.client_ca_file) if path
        ]
        return tuple((one.st_mtime_ns, one.st_ino) for one in stats)


def server_credentials(files: ServerFiles, logger: logging.Logger) -> grpc.ServerCredentials:
    """Asks for changed files at each handshake; those that can't be used leave the old ones in
    force. Raises ConfigError if the first ones can't."""
    stamps = files.stamps() if _readable(files.cert_file) and _readable(files.key_file) else ()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal stamps
        try:
            now = files.stamps()
            if now == stamps:
                return None
            configuration = _configuration(files)
        except (OSError, ConfigError) as error:
            logger.warning("the old certificate stays in use: %s", error)
            return None
        stamps = now
        logger.info("the certificate was read again")
        return configuration

    return grpc.dynamic_ssl_server_credentials(
        # None means that nothing has changed, whatever the stubs say.
        _configuration(files),
        cast("Callable[[], grpc.ServerCertificateConfiguration]", fetch),
        require_client_authentication=bool(files.client_ca_file),
    )


def _configuration(files: ServerFiles) -> grpc.ServerCertificateConfiguration:
    _check_pair(files.cert_file, files.key_file)
    pair = (_read(files.key_file), _read(files.cert_file))
    roots = _read(files.client_ca_file) if files.client_ca_file else None
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)


def channel_credentials(
    ca_file: str, cert_file: str = "", key_file: str = ""
) -> grpc.ChannelCredentials:
    """Files read now. Raises ConfigError."""
    if cert_file:
        _check_pair(cert_file, key_file)
    return grpc.ssl_channel_credentials(
        _read(ca_file) if ca_file else None,
        _read(key_file) if key_file else None,
        _read(cert_file) if cert_file else None,
    )


def _check_pair(cert_file: str, key_file: str) -> None:
    """gRPC says nothing of a pair that it can't use."""
    _readable(cert_file)
    _readable(key_file)
    try:
        # An empty password, because OpenSSL would ask for one on the terminal.
        ssl.create_default_context().load_cert_chain(cert_file, key_file, password="")
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"{cert_file} and {key_file} are no pair of certificate and unencrypted key",
            "Name PEM files that belong together",
        ) from error


def _readable(path: str) -> bool:
    _read(path)
    return True


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(_LARGEST)
    except OSError as error:
        raise ConfigError(
            f"{path or 'a PEM file that is not named'} can't be read: {error.strerror}",
            "Check the path, and that this user may read the file",
        ) from error
