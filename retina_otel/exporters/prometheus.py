"""prometheus: a page for scrapes, as Prometheus text or OpenMetrics.

The page of a snapshot is rendered once and kept compressed; further scrapers of the same snapshot
get the same bytes. A series that has ended is on the page with its final value until one scrape
has taken it, then it is gone, which is how a scrape says so.
"""

from __future__ import annotations

import logging
import threading
import zlib
from collections.abc import Iterator, Sequence

from pydantic import Field

from retina_otel.component import Component, ComponentKind, Context, PositiveDuration, Settings
from retina_otel.delivery.serving import Handler, ListenAddress, Server
from retina_otel.delivery.serving_access import (
    ServerAccess,
    ServerAuthSettings,
    ServerTlsSettings,
)
from retina_otel.encode.prometheus import (
    OPENMETRICS_CONTENT_TYPE,
    TEXT_CONTENT_TYPE,
    PrometheusRenderer,
)
from retina_otel.errors import cannot_listen
from retina_otel.pipeline.points import EventsReader, MetricsExport, MetricsReader, PointBlock

_GZIP = 31  # zlib's number for a gzip header around a 32 KiB window
_STEP = 256 * 1024


class PrometheusSettings(Settings):
    """Settings of `prometheus`."""

    endpoint: ListenAddress = "127.0.0.1:10093"
    """Address and port to listen on. Loopback by default, because the page tells who talks to whom;
    `0.0.0.0:10093` lets a Prometheus on another machine scrape."""

    path: str = Field(default="/metrics", pattern=r"^/\S*$")
    """Where the page is."""

    tls: ServerTlsSettings | None = None
    """Serve https. Not set: http."""

    auth: ServerAuthSettings | None = None
    """Whom to answer. Not set: everybody who can connect."""

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
        self._server: _Server | None = None

    @property
    def port(self) -> int:
        """The port in use, also where the settings say 0."""
        assert self._server is not None
        return self._server.port

    def start(self, metrics: Sequence[MetricsReader], events: Sequence[EventsReader]) -> None:
        """Raises ConfigError if the address can't be listened on, or a file can't be used."""
        page = Page(metrics, self._context)
        access = ServerAccess(self._settings.tls, self._settings.auth, self._context.logger)
        try:
            self._server = _Server(page, self._settings, access, self._context.logger)
        except OSError as error:
            key = f"exporters.{self._context.id}.endpoint"
            raise cannot_listen(self._settings.endpoint, key, error) from error
        self._server.start(self._context.id)
        self._context.logger.info(
            "metrics are at %s://%s:%d%s",
            access.scheme,
            self._server.host,
            self.port,
            self._settings.path,
        )

    def stop(self, deadline_ns: int) -> None:
        """Scrapes that are under way may end by themselves; new ones are refused."""
        if self._server is not None:
            self._server.stop()


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
            # Anew also for the same snapshots: what was taken before has been let go.
            self._exports = [(reader, export) for reader, export in exports if export]
            if openmetrics not in self._pages:
                self._pages[openmetrics] = self._render(openmetrics)
            for reader in self._readers:
                # A scrape that breaks off is never acknowledged, and perhaps nobody comes again.
                reader.let_go()
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


class _Server(Server):
    def __init__(
        self,
        page: Page,
        settings: PrometheusSettings,
        access: ServerAccess,
        logger: logging.Logger,
    ) -> None:
        self.page = page
        self.path = settings.path
        super().__init__(
            settings.endpoint, _Handler, timeout_s=settings.timeout, logger=logger, access=access
        )


class _Handler(Handler):
    server: _Server

    def respond(self) -> None:
        path = self.path.partition("?")[0]
        if path == self.server.path:
            self._page()
        elif path == "/":
            self.answer_text(200, f"retina-otel: metrics are at {self.server.path}")
        else:
            self.answer_text(404, f"Not here: metrics are at {self.server.path}")

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


def _unpacked(page: bytes) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(wbits=_GZIP)
    part = unpacker.decompress(page, _STEP)
    while part:
        yield part
        part = unpacker.decompress(unpacker.unconsumed_tail, _STEP)


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
    stability="beta",
    Settings=PrometheusSettings,
    create=PrometheusExporter,
    signals=frozenset({"metrics"}),
)
