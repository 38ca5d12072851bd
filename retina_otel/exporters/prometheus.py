"""prometheus: a page for scrapes, as Prometheus text or OpenMetrics.

The page of a snapshot is rendered once and kept compressed; further scrapers of the same snapshot
get the same bytes. A series that has ended is on the page with its final value until one scrape
has taken it, then it is gone, which is how a scrape says so.
"""

from __future__ import annotations

import logging
import socket
import threading
import zlib
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic import Field

from retina_otel.component import Component, ComponentKind, Context, PositiveDuration, Settings
from retina_otel.encode.prometheus import (
    OPENMETRICS_CONTENT_TYPE,
    TEXT_CONTENT_TYPE,
    PrometheusRenderer,
)
from retina_otel.errors import ConfigError, cannot_listen
from retina_otel.pipeline.points import EventsReader, MetricsExport, MetricsReader, PointBlock

_GZIP = 31  # zlib's number for a gzip header around a 32 KiB window
_MOST_CONNECTIONS = 16
_STEP = 256 * 1024


class PrometheusSettings(Settings):
    """Settings of `prometheus`."""

    endpoint: str = "127.0.0.1:10093"
    """Address and port to listen on. Loopback by default, because the page tells who talks to whom;
    `0.0.0.0:10093` lets a Prometheus on another machine scrape."""

    path: str = Field(default="/metrics", pattern=r"^/\S*$")
    """Where the page is."""

    timeout: PositiveDuration = Field(default="10s", validate_default=True)
    """How long a scraper may take over its request, and over each part of the answer."""


class PrometheusExporter:
    """The page and its server: one thread accepts, each connection has its own while it lasts."""

    zero_points = False
    """A scrape has a time of its own, so a zero point at a series' start has no place in it."""
    stale_markers = False
    """A series that is no longer there says it."""

    def __init__(self, settings: PrometheusSettings, context: Context) -> None:
        self._settings = settings
        self._context = context
        self._address = parse_endpoint(settings.endpoint)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port in use, also where the settings say 0."""
        assert self._server is not None
        return int(self._server.server_address[1])

    def start(self, metrics: Sequence[MetricsReader], events: Sequence[EventsReader]) -> None:
        """Raises ConfigError if the address can't be listened on."""
        page = Page(metrics, self._context)
        host, port = self._address
        try:
            self._server = _Server(host, port, page, self._settings, self._context.logger)
        except OSError as error:
            key = f"exporters.{self._context.id}.endpoint"
            raise cannot_listen(self._settings.endpoint, key, error) from error
        self._thread = threading.Thread(
            target=self._server.serve, name=self._context.id, daemon=True
        )
        self._thread.start()
        self._context.logger.info(
            "metrics are at http://%s:%d%s", _shown(host), self.port, self._settings.path
        )

    def stop(self, deadline_ns: int) -> None:
        """Scrapes that are under way may end by themselves; new ones are refused."""
        if self._server is None or self._thread is None:
            return
        self._server.end()
        self._thread.join()
        self._server.server_close()


class Page:
    """The newest snapshots of all readers as one page. Any thread."""

    def __init__(self, readers: Sequence[MetricsReader], context: Context) -> None:
        self._readers = readers
        self._renderer = PrometheusRenderer(context.resource)
        self._ledger = context.ledger
        self._logger = context.logger
        self._lock = threading.Lock()
        self._sequences: tuple[int | None, ...] | None = None
        self._pages: dict[bool, bytes] = {}
        self._exports: list[tuple[MetricsReader, MetricsExport]] = []
        self._conflicts: dict[str, str] = {}
        self._scrapes = 0
        self._renders = 0

    def compressed(self, openmetrics: bool) -> tuple[bytes, tuple[int | None, ...]]:
        """The page as gzip, and what to tell `scraped` when somebody has it."""
        with self._lock:
            exports = [(reader, reader.take()) for reader in self._readers]
            sequences = tuple(export.sequence if export else None for _, export in exports)
            if sequences != self._sequences:
                self._sequences = sequences
                self._pages.clear()
                self._exports = [(reader, export) for reader, export in exports if export]
            if openmetrics not in self._pages:
                self._pages[openmetrics] = self._render(openmetrics)
            return self._pages[openmetrics], sequences

    def scraped(self, sequences: tuple[int | None, ...]) -> None:
        """A scraper has the page of these snapshots."""
        with self._lock:
            self._scrapes += 1
            self._ledger.set_beside("scrapes", self._scrapes)
            if sequences != self._sequences:
                return
            for reader, export in self._exports:
                self._acknowledge(reader, export)

    def _acknowledge(self, reader: MetricsReader, export: MetricsExport) -> None:
        n = export.n_points
        self._ledger.add(seen=n, drained=n)
        reader.acknowledge(export)

    def _render(self, openmetrics: bool) -> bytes:
        blocks: list[PointBlock] = [block for _, export in self._exports for block in export.blocks]
        # Compressed as it is rendered: the plain text of 50,000 series would be 25 MB.
        packer = zlib.compressobj(1, wbits=_GZIP)
        packed = [packer.compress(chunk) for chunk in self._renderer.chunks(blocks, openmetrics)]
        packed.append(packer.flush())
        self._renders += 1
        self._ledger.set_beside("renders", self._renders)
        for metric, why in self._renderer.conflicts.items():
            if metric not in self._conflicts:
                self._conflicts[metric] = why
                self._logger.warning("%s is not on the page: %s", metric, why)
        return b"".join(packed)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False
    request_queue_size = 64  # with the default of 5 a sixth scraper waits a second for its SYN

    def __init__(
        self,
        host: str,
        port: int,
        page: Page,
        settings: PrometheusSettings,
        logger: logging.Logger,
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.page = page
        self.path = settings.path
        self.timeout_s = settings.timeout
        self.logger = logger
        self._free = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        self._ending = False
        super().__init__((host, port), _Handler)

    def serve(self) -> None:
        """Accepts until `end`. Not serve_forever, which wakes up twice a second to look for it."""
        while not self._ending:
            self.handle_request()

    def end(self) -> None:
        self._ending = True
        self.socket.shutdown(socket.SHUT_RDWR)

    def server_bind(self) -> None:
        # Not HTTPServer's: that asks DNS for this machine's name, which may take seconds.
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.logger.debug("a scrape broke off", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "retina-otel"
    sys_version = ""
    server: _Server

    def setup(self) -> None:
        self.request.settimeout(self.server.timeout_s)
        super().setup()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == self.server.path:
            self._page()
        elif path == "/":
            self._text(200, f"retina-otel: metrics are at {self.server.path}\n")
        else:
            self._text(404, f"Not here: metrics are at {self.server.path}\n")

    def do_HEAD(self) -> None:
        self.do_GET()

    def _page(self) -> None:
        openmetrics = wants_openmetrics(self.headers.get("Accept", ""))
        page, sequences = self.server.page.compressed(openmetrics)
        self.send_response(200)
        self.send_header(
            "Content-Type", OPENMETRICS_CONTENT_TYPE if openmetrics else TEXT_CONTENT_TYPE
        )
        self.send_header("Vary", "Accept, Accept-Encoding")
        if accepts_gzip(self.headers.get("Accept-Encoding", "")):
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(page)
        elif self.request_version == "HTTP/1.0" or self.command == "HEAD":
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            if self.command != "HEAD":
                for part in _unpacked(page):
                    self.wfile.write(part)
        else:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for part in _unpacked(page):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
        if self.command != "HEAD":
            self.wfile.flush()
            self.server.page.scraped(sequences)

    def _text(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        self.server.logger.debug(format, *args)


def _unpacked(page: bytes) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(wbits=_GZIP)
    part = unpacker.decompress(page, _STEP)
    while part:
        yield part
        part = unpacker.decompress(unpacker.unconsumed_tail, _STEP)


def parse_endpoint(endpoint: str) -> tuple[str, int]:
    """Host and port of "host:port", "[::1]:port" or ":port" (all addresses). Raises ConfigError."""
    host, separator, port = endpoint.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        separator = ""
    if not separator or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(
            f"the endpoint {endpoint!r} is no address and port", "Write it as 127.0.0.1:10093"
        )
    return host or "0.0.0.0", int(port)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _qualities(header: str) -> dict[str, float]:
    """What a header accepts, lower case without parameters, with its weight."""
    found: dict[str, float] = {}
    for part in header.split(","):
        name, *parameters = (each.strip() for each in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip().lower() == "q":
                try:
                    weight = float(value)
                except ValueError:
                    weight = 0.0
        if name:
            found[name.lower()] = max(weight, found.get(name.lower(), 0.0))
    return found


def wants_openmetrics(accept: str) -> bool:
    """OpenMetrics only for who names it, and does not like text better."""
    weights = _qualities(accept)
    wanted = weights.get("application/openmetrics-text", 0.0)
    return wanted > 0 and wanted >= weights.get("text/plain", 0.0)


def accepts_gzip(accept_encoding: str) -> bool:
    weights = _qualities(accept_encoding)
    return weights.get("gzip", weights.get("*", 0.0)) > 0


COMPONENT = Component(
    type="prometheus",
    kind=ComponentKind.EXPORTER,
    stability="alpha",
    Settings=PrometheusSettings,
    create=PrometheusExporter,
    signals=frozenset({"metrics"}),
)
