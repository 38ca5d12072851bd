"""One connection to an API server, and one request over it."""

from __future__ import annotations

import json
import socket
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode

from retina_otel.errors import RetinaError
from retina_otel.kubernetes.api.login import Login

_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class Connection(HTTPConnection):
    """TLS with a name of its own to check, through a proxy if there is one, and kept alive."""

    def __init__(
        self, host: str, port: int, tls: ssl.SSLContext | None, name: str, timeout_s: float
    ) -> None:
        super().__init__(host, port, timeout=timeout_s)
        self._tls = tls
        self._name = name

    def connect(self) -> None:
        super().connect()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            if hasattr(socket, option):
                self.sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._name)


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: object = None
    """Sent as JSON."""

    def send(self, connection: HTTPConnection, prefix: str, headers: Mapping[str, str]) -> None:
        """`prefix` stands before each path: a gateway tells clusters apart so."""
        target = f"{prefix}{self.path}"
        if self.query:
            target += f"?{urlencode(self.query)}"
        body = None if self.body is None else json.dumps(self.body).encode()
        connection.request(self.method, target, body, dict(headers))

    def right(self) -> str:
        """What RBAC must grant for this: `list pods`, `patch retinaendpoints/status`."""
        # /api/v1/..., /apis/GROUP/VERSION/..., then [namespaces/NAME/]RESOURCE[/NAME[/SUB]]
        parts = self.path.strip("/").split("/")
        rest = parts[2:] if parts[0] == "api" else parts[3:]
        if len(rest) > 2 and rest[0] == "namespaces":
            rest = rest[2:]
        if not rest:
            return f"{self.method.lower()} {self.path}"
        resource = "/".join(rest[::2])
        verb = _VERBS.get(self.method, "get" if len(rest) > 1 else "list")
        if verb == "list" and self.query.get("watch"):
            verb = "watch"
        return f"{verb} {resource}"


def tls_context(login: Login) -> ssl.SSLContext:
    """Raises RetinaError."""
    try:
        context = ssl.create_default_context(cadata=login.ca)
    except (ssl.SSLError, ValueError) as error:
        raise RetinaError(
            f"The CA certificate for {login.server} is none",
            "Set certificate-authority in the kubeconfig to PEM certificates",
        ) from error
    if not login.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if login.certificate:
        # OpenSSL takes a client certificate from files only.
        with tempfile.TemporaryDirectory(prefix="retina-otel-") as folder:
            certificate, key = Path(folder, "certificate"), Path(folder, "key")
            certificate.write_text(login.certificate)
            key.touch(mode=0o600)
            key.write_text(login.key or login.certificate)
            try:
                # An empty password, because OpenSSL would ask for one on the terminal.
                context.load_cert_chain(certificate, key, password="")
            except (ssl.SSLError, ValueError):
                raise RetinaError(
                    f"The client certificate and key for {login.server} are no pair",
                    "Check client-certificate and client-key in the kubeconfig",
                ) from None
    return context
