"""The one pooled connection of a sender, and what its failures mean in words.

A pool is made again after a failure, and when a TLS file has changed, so that renewed ones are used
without a restart.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as HttpTimeoutError

from retina_otel.delivery.http.deadlines import DEADLINES
from retina_otel.delivery.outcome import Outcome, Result
from retina_otel.delivery.tls.contexts import TlsOptions
from retina_otel.delivery.tls.watched import FileChanges

_T = TypeVar("_T")


class Connections:
    """Makes the pool on first use. `abort` cuts the open socket from another thread."""

    def __init__(self, url: SplitResult, tls: TlsOptions, *, proxy: str | None = None) -> None:
        """Raises ConfigError if the TLS files can't be used."""
        self._url = url
        self._tls = tls
        self._proxy = proxy
        self._pool: urllib3.HTTPConnectionPool | None = None
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        """What is cut: of a connection that is being made a duplicate, else the connection's."""
        self._duplicate = False
        self._over = False
        """Aborted, or the time of the request that is under way has passed."""
        self._aborted = False
        self._changes = FileChanges(tls.files if url.scheme == "https" else ())
        self.pool()

    def pool(self) -> urllib3.HTTPConnectionPool:
        """The pool; TLS files are read when it is made. Raises ConfigError."""
        if self._changes.changed():
            self.reset()
        if self._pool is None:
            self._pool = self._make()
            self._pool.ConnectionCls = _remembering(self._pool.ConnectionCls, self)
        return self._pool

    def path(self, path: str) -> str:
        """The request target: a plain HTTP proxy wants the whole URL."""
        if self._proxy and self._url.scheme == "http":
            return f"http://{self._url.netloc.rpartition('@')[2]}{path}"
        return path

    def reset(self) -> None:
        """Closes; the next request opens a new connection."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
        self.opened(None)

    def abort(self) -> None:
        with self._lock:
            self._aborted = self._over = True
            _cut(self._socket)

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Cuts the open socket after a time, whatever came through it until then: a backend that
        sends a byte now and then is as good as one that sends none."""
        with self._lock:
            self._over = self._aborted
        with DEADLINES.within(seconds, self._cut_now):
            yield

    def _cut_now(self) -> None:
        with self._lock:
            self._over = True
            _cut(self._socket)

    def opening(self, fresh: socket.socket) -> None:
        """A socket will connect, and then perhaps shake hands or ask a proxy, each of which may
        hang. Raises OSError if it is too late for that."""
        # TLS takes the file descriptor away from this object: a duplicate still cuts it.
        self._keep(fresh.dup(), duplicate=True)
        if self._over:
            raise ConnectionAbortedError("too late for another connection")

    def opened(self, ready: socket.socket | None) -> None:
        """The connection is ready; None: there is none."""
        self._keep(ready, duplicate=False)

    def _keep(self, kept: socket.socket | None, *, duplicate: bool) -> None:
        with self._lock:
            if self._duplicate and self._socket is not None:
                self._socket.close()
            self._socket, self._duplicate = kept, duplicate
            if self._over:
                _cut(kept)

    def _make(self) -> urllib3.HTTPConnectionPool:
        assert self._url.hostname is not None
        options: dict[str, Any] = {"maxsize": 1, "block": True}
        if self._url.scheme == "https":
            options["ssl_context"] = self._tls.context()
            if self._tls.server_name:
                options["server_hostname"] = self._tls.server_name
        if self._proxy:
            address, headers = _without_credentials(self._proxy)
            proxies = urllib3.ProxyManager(address, proxy_headers=headers, **options)
            pool = proxies.connection_from_host(
                self._url.hostname, self._url.port, self._url.scheme
            )
            assert isinstance(pool, urllib3.HTTPConnectionPool)
            return pool
        kind = (
            urllib3.HTTPSConnectionPool
            if self._url.scheme == "https"
            else urllib3.HTTPConnectionPool
        )
        return kind(self._url.hostname, self._url.port, **options)


def _without_credentials(proxy: str) -> tuple[str, dict[str, str]]:
    """A proxy's URL without its user, and the headers that name that one."""
    parts = urlsplit(proxy)
    if parts.username is None:
        return proxy, {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    return urlunsplit(address), dict(urllib3.make_headers(proxy_basic_auth=pair))


def _remembering(base: Any, connections: Connections) -> Any:
    """A connection class that tells of its socket from before it connects."""

    class Remembering(base):  # type: ignore[misc]
        def _new_conn(self) -> socket.socket:
            try:
                return _connected(self, connections.opening)
            except socket.gaierror as error:
                raise NameResolutionError(self.host, self, error) from error
            except TimeoutError as error:
                raise ConnectTimeoutError(self, "no connection within the timeout") from error
            except OSError as error:
                raise NewConnectionError(self, f"no connection: {error}") from error

        def connect(self) -> None:
            try:
                super().connect()
            except BaseException:
                connections.opened(None)
                raise
            connections.opened(self.sock)

    assert issubclass(base, HTTPConnection | HTTPSConnection)
    return Remembering


def _connected(wanted: Any, opening: Callable[[socket.socket], None]) -> socket.socket:
    """A socket to the first address of a connection's host that takes one. Raises OSError."""
    failure: OSError | None = None
    for family, kind, protocol, _, address in _addresses(wanted._dns_host, wanted.port):
        fresh = socket.socket(family, kind, protocol)
        try:
            for option in wanted.socket_options or ():
                fresh.setsockopt(*option)
            fresh.settimeout(wanted.timeout)
            opening(fresh)
            fresh.connect(address)
        except OSError as error:
            fresh.close()
            failure = error
        else:
            return fresh
    try:
        raise failure or OSError("its host name has no address")
    finally:
        failure = None


def _addresses(host: str, port: int) -> list[Any]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, "no name that DNS could have") from error


def _cut(open_socket: socket.socket | None) -> None:
    if open_socket is not None:
        with contextlib.suppress(OSError):
            # Not SSLSocket.shutdown, which would reset TLS state under the thread that reads.
            socket.socket.shutdown(open_socket, socket.SHUT_RDWR)


def explain(error: BaseException, url: str) -> Outcome:
    """What a failure below HTTP was, as a RETRY: all of these can pass by themselves."""
    causes = _chain(error)
    certificate = _first(causes, ssl.SSLCertVerificationError)
    if certificate is not None:
        return Outcome(
            Result.RETRY,
            "tls_certificate",
            f"{url}: the server's certificate is not trusted: {certificate.verify_message}",
            "Set tls.ca_file to the CA that signed it, or tls.server_name_override to its name",
        )
    if _first(causes, ssl.SSLError) is not None or _first(causes, SSLError) is not None:
        detail = _first(causes, ssl.SSLError)
        what = (detail.reason or "").replace("_", " ").lower() if detail else str(error)
        return Outcome(
            Result.RETRY,
            "tls_handshake",
            f"{url}: TLS failed: {what or error}",
            "Check that the port speaks TLS, and the client certificate if the server wants one",
        )
    if _first(causes, NameResolutionError) or _first(causes, socket.gaierror):
        return Outcome(
            Result.RETRY,
            "name_resolution",
            f"{url}: its host name has no address",
            "Check the endpoint's host name and the node's DNS",
        )
    failed = _first(causes, OSError)
    if failed is not None and failed.errno == errno.ECONNREFUSED:
        return Outcome(
            Result.RETRY,
            "connection_refused",
            f"{url}: connection refused",
            "Check that a backend listens there and that the endpoint's port is right",
        )
    # NewConnectionError counts as a timeout for urllib3, but not for a person.
    if _first(causes, NewConnectionError) or _first(causes, ProxyError):
        what = failed.strerror if failed is not None and failed.strerror else "no connection"
        return Outcome(
            Result.RETRY, "connect", f"{url}: {what}", "Check the endpoint and the network"
        )
    if _first(causes, ConnectTimeoutError):
        return Outcome(
            Result.RETRY,
            "connect_timeout",
            f"{url}: no connection within the timeout",
            "Check the endpoint, and firewalls and network policies on the way",
        )
    if _first(causes, HttpTimeoutError) or _first(causes, TimeoutError):
        return Outcome(
            Result.RETRY,
            "timeout",
            f"{url}: no answer within the timeout",
            "The backend is slow or overloaded; a longer timeout may help",
        )
    return Outcome(
        Result.RETRY,
        "connection_lost",
        f"{url}: the connection was lost during a request",
        "The backend or something on the way closed it; it is tried again",
    )


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        each = waiting.pop()
        if isinstance(each, BaseException) and each not in found:
            found.append(each)
            waiting += [each.__cause__, each.__context__, getattr(each, "reason", None), *each.args]
    return found


def _first(causes: list[BaseException], kind: type[_T]) -> _T | None:
    return next((each for each in causes if isinstance(each, kind)), None)
