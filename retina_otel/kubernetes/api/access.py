"""The way to an API server: connections, fresh credentials, and errors that name the remedy.

Credentials are read again when a file behind them changes, when they expire, and when the API
server refuses them. None of them is ever part of an error or a log line.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import retina_otel
from retina_otel.errors import RetinaError
from retina_otel.kubernetes.api import protobuf
from retina_otel.kubernetes.api.connection import Connection, Request, tls_context
from retina_otel.kubernetes.api.login import Login, log_in
from retina_otel.kubernetes.api.stream import Stream

JSON = "application/json"
PROTOBUF = "application/vnd.kubernetes.protobuf"

_TIMEOUT_S = 30.0
_LARGEST_BODY = 256 << 20
"""A page of 500 objects of half a MiB."""
_LARGEST_TOKEN = 64 << 10
_BEFORE_EXPIRY_S = 60.0
_BETWEEN_LOGINS_S = 10.0
"""Refused credentials are read again, a plugin run again, no more often than this."""
_LONGEST_RETRY_AFTER_S = 60.0


class AccessError(RetinaError):
    """The API server was not reached, or refused. `status` is its HTTP status, 0 without one."""

    def __init__(
        self,
        message: str,
        remedy: str = "",
        *,
        status: int = 0,
        retry_after_s: float = 0.0,
        missing_right: str = "",
    ) -> None:
        super().__init__(message, remedy)
        self.status = status
        self.retry_after_s = retry_after_s
        self.missing_right = missing_right
        """As RBAC writes it, `list pods`; empty where no right is missing."""


class Access:
    """One API server, as one user. Any thread; each call has a connection of its own."""

    def __init__(self, kubeconfig: Path | None, context: str | None) -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        self._lock = threading.Lock()
        self._load()

    @classmethod
    def from_settings(cls, kubeconfig: Path | None = None, context: str | None = None) -> Access:
        """Without a kubeconfig: the default one if there is one, else a pod's own files.

        Raises RetinaError.
        """
        return cls(kubeconfig, context)

    @property
    def server(self) -> str:
        return self._login.server

    def headers(self) -> dict[str, str]:
        """Who we are: with the token as it is now. Raises RetinaError."""
        headers = {"User-Agent": f"retina-otel/{retina_otel.__version__}"}
        login = self._fresh()
        value = login.authorization
        if login.token_file:
            value = f"Bearer {_read_token(login.token_file)}"
        if value:
            # http.client would quote a value that it refuses.
            if not (value.isascii() and value.isprintable()):
                raise AccessError("The token has characters that no header may have")
            headers["Authorization"] = value
        return headers

    def ssl_context(self) -> ssl.SSLContext:
        """Whom we trust, and our certificate if we have one. Raises RetinaError."""
        self._fresh()
        return self._tls

    def session(self, timeout_s: float = _TIMEOUT_S) -> Session:
        """A connection for several requests in turn; one thread."""
        return Session(self, timeout_s)

    def get(
        self, path: str, query: Mapping[str, str] | None = None, *, accept: str = JSON
    ) -> bytes:
        """The body. Raises AccessError."""
        with self.session() as session:
            return session.request("GET", path, query, accept=accept)

    def post(self, path: str, body: object) -> Any:
        """Creates from a JSON object and returns the answer's. Raises AccessError."""
        with self.session() as session:
            return json.loads(session.request("POST", path, body=body))

    def open_stream(
        self,
        path: str,
        query: Mapping[str, str],
        *,
        accept: str = JSON,
        timeout_s: float = _TIMEOUT_S,
    ) -> Stream:
        """A watch. Raises AccessError."""
        what = Request("GET", path, query)
        with _told(self, what):
            connection = self._connect(timeout_s)
            try:
                what.send(connection, self._prefix(), self.headers() | {"Accept": accept})
                stream = Stream(connection, timeout_s)
            except BaseException:
                connection.close()
                raise
        if stream.status != 200:
            with contextlib.closing(stream), _told(self, what):
                body = stream.read_all(1 << 20, timeout_s)
                raise self._refusal(what, stream.status, stream.headers, body)
        return stream

    def cluster_uid(self) -> str | None:
        """The uid of namespace kube-system: another store, another uid. Never from a cache.

        Empty while there is none; None if we may not know. Raises AccessError.
        """
        accept = f"{PROTOBUF};as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
        try:
            body = self.get("/api/v1/namespaces/kube-system", accept=accept)
        except AccessError as error:
            if error.status == 404:
                return ""
            if error.status == 403:
                return None
            raise
        _, raw = protobuf.unwrap(body)
        uid: str = protobuf.parse("PartialObjectMetadata", raw).metadata.uid
        return uid

    # ------------------------------------------------------------------------------- connections

    def _connect(self, timeout_s: float) -> Connection:
        login = self._fresh()
        parts = urlsplit(login.server)
        tls = self._tls if parts.scheme == "https" else None
        host, port = parts.hostname or "", parts.port or (443 if tls else 80)
        name = login.server_name or host
        if not login.proxy:
            connection = Connection(host, port, tls, name, timeout_s)
        else:
            proxy = urlsplit(login.proxy)
            if proxy.scheme != "http":
                raise AccessError(
                    f"The kubeconfig's proxy-url has the scheme {proxy.scheme or '(none)'}",
                    "Only http proxies are supported",
                )
            connection = Connection(proxy.hostname or "", proxy.port or 80, tls, name, timeout_s)
            connection.set_tunnel(host, port)
        connection.connect()
        return connection

    def _prefix(self) -> str:
        return urlsplit(self._login.server).path.rstrip("/")

    # ------------------------------------------------------------------------------- credentials

    def _load(self) -> None:
        login = log_in(self._kubeconfig, self._context)
        self._tls = tls_context(login)
        self._login = login
        self._stamps = _stamps(login.files)
        self._loaded_s = time.monotonic()
        self._refused = False

    def _fresh(self) -> Login:
        with self._lock:
            age_s = time.monotonic() - self._loaded_s
            expires_s = self._login.expires_s
            expired = expires_s is not None and time.time() > expires_s - _BEFORE_EXPIRY_S
            if self._stamps != _stamps(self._login.files) or (
                (expired or self._refused) and age_s > _BETWEEN_LOGINS_S
            ):
                self._load()
            return self._login

    def _refusal(self, what: Request, status: int, headers: Message, body: bytes) -> AccessError:
        message = _status_message(body)
        retry_after = headers.get("Retry-After", "")
        retry_after_s = (
            min(float(retry_after), _LONGEST_RETRY_AFTER_S) if retry_after.isdigit() else 0.0
        )
        if status == 401:
            self._refused = True
            return AccessError(
                f"The API server {self.server} does not know us (401)",
                "Check that the token or certificate of the kubeconfig or ServiceAccount is valid",
                status=status,
            )
        if status == 403:
            right = what.right()
            return AccessError(
                f"We may not {right}: {message}",
                f"Grant `{right}` in the ClusterRole of the agent",
                status=status,
                missing_right=right,
            )
        return AccessError(
            f"{what.method} {what.path}: the API server answered {status}: {message}",
            status=status,
            retry_after_s=retry_after_s,
        )


class Session:
    """Requests over one connection, kept open between them."""

    def __init__(self, access: Access, timeout_s: float) -> None:
        self._access = access
        self._timeout_s = timeout_s
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        accept: str = JSON,
        body: object = None,
        content_type: str = JSON,
    ) -> bytes:
        """The body of a 2xx answer. `body` is sent as JSON. Raises AccessError."""
        what = Request(method, path, query or {}, body)
        headers = self._access.headers() | {"Accept": accept}
        if body is not None:
            headers["Content-Type"] = content_type
        with _told(self._access, what):
            try:
                if self._connection is None:
                    self._connection = self._access._connect(self._timeout_s)
                what.send(self._connection, self._access._prefix(), headers)
                response = self._connection.getresponse()
                answer = response.read(_LARGEST_BODY + 1)
            except BaseException:
                self._close()
                raise
        if len(answer) > _LARGEST_BODY:
            self._close()
            raise AccessError(f"{method} {path}: the answer is above {_LARGEST_BODY >> 20} MiB")
        if not 200 <= response.status < 300:
            raise self._access._refusal(what, response.status, response.headers, answer)
        return answer

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@contextlib.contextmanager
def _told(access: Access, what: Request) -> Iterator[None]:
    """Errors of the network as AccessError."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise AccessError(
            f"The certificate of {access.server} is not trusted: {error.verify_message}",
            "Set certificate-authority in the kubeconfig to the cluster's CA",
        ) from None
    except (OSError, HTTPException, EOFError) as error:
        why = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        raise AccessError(
            f"The API server {access.server} is away: {why}",
            "Check that it runs and that this node reaches it",
        ) from error


def _status_message(body: bytes) -> str:
    """What the API server says in a Status object, bounded; empty if it is none."""
    text = ""
    if body.startswith(protobuf.MAGIC):
        with contextlib.suppress(protobuf.WireError):
            text = protobuf.parse("Status", protobuf.unwrap(body)[1]).message
    else:
        with contextlib.suppress(ValueError):
            status = json.loads(body)
            text = str(status.get("message", "")) if isinstance(status, dict) else ""
    return text[:500] or "no reason given"


def _read_token(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            token = file.read(_LARGEST_TOKEN).strip()
    except OSError as error:
        raise AccessError(
            f"The token file {path} can't be read: {error.strerror}",
            "Check tokenFile in the kubeconfig, or the pod's ServiceAccount volume",
        ) from None
    if not token:
        raise AccessError(f"The token file {path} is empty", "Wait until it is written, or fix it")
    return token


def _stamps(files: tuple[str, ...]) -> tuple[tuple[int, int] | None, ...]:
    stamps: list[tuple[int, int] | None] = []
    for path in files:
        try:
            about = os.stat(path)
            stamps.append((about.st_mtime_ns, about.st_ino))
        except OSError:
            stamps.append(None)
    return tuple(stamps)
