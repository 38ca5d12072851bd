"""TLS contexts for senders: what is trusted, who we are, and never below TLS 1.2."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

from retina_otel.delivery.tls.certificates import valid_until
from retina_otel.errors import ConfigError


class TlsVersion(Enum):
    TLS_1_2 = "1.2"
    TLS_1_3 = "1.3"


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """Paths of PEM files; an empty one means the system's trust store, or no client certificate."""

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    insecure_skip_verify: bool = False
    server_name: str = ""
    """The name that the server's certificate must carry, when it is not the endpoint's host."""
    min_version: TlsVersion = TlsVersion.TLS_1_2

    @property
    def files(self) -> tuple[str, ...]:
        """All that are named."""
        return tuple(path for path in (self.ca_file, self.cert_file, self.key_file) if path)

    def expiry_note(self) -> str:
        """That the client certificate has expired, which servers answer with a closed connection;
        "" if it has not."""
        until = valid_until(self.cert_file) if self.cert_file else None
        if until is None or until > datetime.now(UTC):
            return ""
        return f"the client certificate {self.cert_file} expired on {until:%Y-%m-%d at %H:%M} UTC"

    def context(self) -> ssl.SSLContext:
        """A fresh context, files read now. Raises ConfigError that names the file."""
        if self.key_file and not self.cert_file:
            raise ConfigError(
                f"TLS has the client key {self.key_file} but no client certificate",
                "Set tls.cert_file to the certificate that belongs to the key",
            )
        for path in (self.ca_file, self.cert_file, self.key_file):
            _readable(path)
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError(
                f"{self.ca_file} holds no CA certificate",
                "Set tls.ca_file to a file with PEM certificates",
            ) from error
        context.minimum_version = (
            ssl.TLSVersion.TLSv1_3
            if self.min_version is TlsVersion.TLS_1_3
            else ssl.TLSVersion.TLSv1_2
        )
        if self.insecure_skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert_file:
            try:
                # An empty password, because OpenSSL would ask for one on the terminal.
                context.load_cert_chain(self.cert_file, self.key_file or None, password="")
            except (ssl.SSLError, ValueError) as error:
                raise ConfigError(
                    f"{self.cert_file} and {self.key_file or 'itself'} are no pair of certificate "
                    "and unencrypted key",
                    "Set tls.cert_file and tls.key_file to PEM files that belong together",
                ) from error
        return context


def system_ca_file() -> str:
    """The file with the CAs that this system trusts, for libraries that would bring their own; ""
    where there is none. SSL_CERT_FILE counts."""
    places = (
        ssl.get_default_verify_paths().cafile or "",
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/ssl/cert.pem",
    )
    return next((path for path in places if path and Path(path).is_file()), "")


def _readable(path: str) -> None:
    if not path:
        return
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise ConfigError(
            f"{path} can't be read: {error.strerror}",
            "Check the path under tls and that the agent may read the file",
        ) from error
