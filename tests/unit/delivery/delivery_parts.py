"""Servers, relays and certificates for tests of senders."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import trustme
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from retina_otel.delivery.auth.settings import AuthSettings
from retina_otel.delivery.grpc.sender import METRICS_METHOD, GrpcSender, GrpcTarget
from retina_otel.delivery.outcome import Outcome
from retina_otel.delivery.tls.contexts import TlsOptions

REQUEST = ExportMetricsServiceRequest()
for _number in range(5):
    _metric = REQUEST.resource_metrics.add().scope_metrics.add().metrics.add()
    _metric.name = f"metric {_number}"
    _metric.gauge.data_points.add().as_int = _number
BODY = REQUEST.SerializeToString()


def sender(endpoint: str, *, auth: AuthSettings | None = None, **options: Any) -> GrpcSender:
    target = GrpcTarget(endpoint, METRICS_METHOD, **options)
    return GrpcSender(
        target, user_agent="retina-otel/test", authorizer=auth.authorizer() if auth else None
    )


def send_with(one: GrpcSender, body: bytes = BODY, timeout_s: float = 5.0) -> Outcome:
    return one.send(one.pack(body, 5), timeout_s)


def send(endpoint: str, *, timeout_s: float = 5.0, body: bytes = BODY, **options: Any) -> Outcome:
    with closing(sender(endpoint, **options)) as one:
        return send_with(one, body, timeout_s)


class Capture:
    """A relay on loopback that keeps what goes to the server and counts connections."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.bytes = b""
        self.connections = 0
        self._port = 0
        self._stranded = 0
        self._threads: list[threading.Thread] = []

    def towards(self, port: int) -> None:
        self._port = port
        self._begin(self._accept)

    def _begin(self, target: Any, *arguments: Any) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._greet(client)
            server = socket.create_connection(("127.0.0.1", self._port))
            self._begin(self._pump, client, server, self.connections, True)
            self._begin(self._pump, server, client, self.connections, False)

    def _greet(self, client: socket.socket) -> None:
        """Before the server is connected to."""

    def strand(self) -> None:
        """Nothing passes any more on the connections that are open now, as behind a gateway that
        has forgotten them; new ones work."""
        self._stranded = self.connections

    def _pump(self, source: socket.socket, drain: socket.socket, number: int, keep: bool) -> None:
        with source:
            try:
                while data := source.recv(1 << 16):
                    if number <= self._stranded:
                        continue
                    if keep:
                        self.bytes += data
                    drain.sendall(data)
                drain.shutdown(socket.SHUT_WR)
            except OSError:
                return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)


class ConnectProxy(Capture):
    """An HTTP proxy that tunnels each CONNECT to one port of loopback, and keeps its head."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def _greet(self, client: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        self.asked.append(head.decode())
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")


def closed_port() -> int:
    """A port of loopback that refuses connections."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


def raw_server(answer: bytes | None, *, read: int = 100) -> Iterator[str]:
    """Reads up to `read` bytes of each connection, answers, and resets it; None: never answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def run() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            if answer is None:
                over.wait(20)
            else:
                connection.recv(read)
                connection.sendall(answer)
            # Linger 0 makes close() send RST.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    over.set()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


@contextmanager
def trickling_server() -> Iterator[str]:
    """Begins an answer to its first connection, and sends a byte now and then, for 5 s at most."""
    over = threading.Event()

    def trickle() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1")
            for _ in range(100):
                if over.wait(0.05):
                    return
                connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=trickle)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        over.set()
        thread.join(10)


class Pki:
    """A CA, and PEM files of its certificates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.ca_file = self.write("ca", self.ca.cert_pem.bytes())

    def write(self, name: str, pem: bytes) -> str:
        """Replaces a file in one step."""
        path = self.folder / f"{name}.pem"
        fresh = self.folder / f"{name}.new"
        fresh.write_bytes(pem)
        fresh.replace(path)
        return str(path)

    def server(self, name: str = "127.0.0.1", *, clients: bool = False, **options: Any) -> Any:
        cert = self.ca.issue_cert(name, **options)
        return grpc.ssl_server_credentials(
            [(cert.private_key_pem.bytes(), cert.cert_chain_pems[0].bytes())],
            self.ca.cert_pem.bytes() if clients else None,
            require_client_auth=clients,
        )

    def client(self, ca: trustme.CA | None = None, **options: Any) -> TlsOptions:
        cert = (ca or self.ca).issue_cert("agent.example", **options)
        return TlsOptions(
            ca_file=self.ca_file,
            key_file=self.write("key", cert.private_key_pem.bytes()),
            cert_file=self.write("cert", cert.cert_chain_pems[0].bytes()),
        )
