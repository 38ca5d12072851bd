"""prometheus: a page for scrapes, as Prometheus text, OpenMetrics or protobuf.

The page of a snapshot is rendered once for each format and kept compressed; further scrapers of the
same snapshot get the same bytes. A series that has ended is on the page with its final value for a
while after a scrape has taken it, then it is gone, which is how a scrape says so.
"""

from __future__ import annotations

import logging
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pydantic import Field

from retina_otel.component import (
    Component,
    ComponentKind,
    Context,
    Duration,
    PositiveDuration,
    Settings,
)
from retina_otel.encode.prometheus.classic import ClassicBlocks
from retina_otel.encode.prometheus.escaping import Naming
from retina_otel.encode.prometheus.formats import Format, Syntax, accepts_gzip, negotiate
from retina_otel.encode.prometheus.names import DEFAULT_STRATEGY, TranslationStrategy
from retina_otel.encode.prometheus.protobuf import ProtobufRenderer
from retina_otel.encode.prometheus.text import PrometheusRenderer
from retina_otel.errors import cannot_listen
from retina_otel.pipeline.points import EventsReader, MetricsExport, MetricsReader
from retina_otel.serving.access import ServerAccess, ServerAuthSettings, ServerTlsSettings
from retina_otel.serving.address import ListenAddress, PagePath
from retina_otel.serving.server import Handler, Server

_GZIP = 31  # zlib's number for a gzip header around a 32 KiB window
_LEVEL = 1
_STEP = 256 * 1024
_MOST_RENDERERS = 4
"""Kept with their bytes of labels, 20 MB for 50,000 series: the least recently used goes first."""
_IDLE_PAGES = 20
"""One that was not used for so many pages goes too: perhaps somebody had a look once."""

_Sequences = tuple[int | None, ...]
_Renderer = PrometheusRenderer | ProtobufRenderer


class PrometheusSettings(Settings):
    """Settings of `prometheus`."""

    endpoint: ListenAddress = "127.0.0.1:10093"
    """Address and port to listen on. Loopback by default, because the page tells who talks to whom;
    `0.0.0.0:10093` lets a Prometheus on another machine scrape."""

    path: PagePath = Field(default="/metrics", pattern=r"^/\S*$")
    """Where the page is."""

    translation_strategy: TranslationStrategy = DEFAULT_STRATEGY
    """How OpenTelemetry names become Prometheus names: the four ways that Prometheus has for OTLP
    and the Collector for its exporters. The `NoUTF8Escaping...` one and `NoTranslation` keep dots
    and other UTF-8 for scrapers that ask for `escaping=allow-utf-8`, as Prometheus 3 does."""

    created_samples: bool = False
    """OpenMetrics also says of each counter and histogram when it began, as a `_created` sample.
    Prometheus stores those as further series, twice as many in all, unless it runs with
    `--enable-feature=created-timestamp-zero-ingestion`; in protobuf the time costs nothing and is
    always there."""

    linger: Duration = Field(default="1m", validate_default=True)
    """How long a series that has ended stays on the page with its final value, counted from the
    first scrape that had it: in this time a second Prometheus takes it too. `0s`: one scrape is
    enough."""

    classic: bool = False
    """Also Retina's metrics (`networkobservability_*`), as far as there are receivers for them,
    with Retina's labels and types: for dashboards and alerts that know these names. They are
    accumulated beside ours, which costs about as much again."""

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
        self.linger_ns = round(settings.linger * 1e9)
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
        page = Page(metrics, self._context, self._settings)
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


@dataclass(frozen=True, slots=True)
class RenderedPage:
    """One page of one tick, as gzip."""

    packed: bytes
    plain_bytes: int
    sequences: _Sequences
    """Of which snapshots it is, for `Page.scraped`."""


class Page:
    """The newest snapshots of all readers as one page. Any thread."""

    def __init__(
        self, readers: Sequence[MetricsReader], context: Context, settings: PrometheusSettings
    ) -> None:
        self._readers = readers
        self._resource = context.resource
        self._settings = settings
        self._classic = ClassicBlocks()
        self._renderers: OrderedDict[tuple[bool, Naming], tuple[_Renderer, int]] = OrderedDict()
        self._ledger = context.ledger
        self._logger = context.logger
        self._lock = threading.Lock()
        self._sequences: _Sequences | None = None
        self._pages: dict[tuple[Syntax, Naming], RenderedPage] = {}
        self._exports: list[tuple[MetricsReader, MetricsExport]] = []
        self._conflicts: dict[str, str] = {}
        self._renders = 0

    def rendered(self, wanted: Format) -> RenderedPage:
        """The page of this tick in this format."""
        key = wanted.syntax, Naming(self._settings.translation_strategy, wanted.escaping)
        with self._lock:
            exports = [(reader, reader.take()) for reader in self._readers]
            sequences = tuple(export.sequence if export else None for _, export in exports)
            if sequences != self._sequences:
                self._sequences = sequences
                self._pages.clear()
            # Anew also for the same snapshots: what was taken before has been let go.
            self._exports = [(reader, export) for reader, export in exports if export]
            try:
                if key not in self._pages:
                    self._pages[key] = self._render(*key, sequences)
            finally:
                for reader in self._readers:
                    # A scrape that breaks off is never acknowledged, perhaps nobody comes again.
                    reader.let_go()
            return self._pages[key]

    def scraped(self, page: RenderedPage) -> None:
        """A scraper has this page."""
        with self._lock:
            self._ledger.count_request("points", page.plain_bytes)
            if page.sequences != self._sequences:
                return
            for reader, export in self._exports:
                self._ledger.add_export("points", exported=export.n_points, failed={})
                reader.acknowledge(export)

    def _render(self, syntax: Syntax, naming: Naming, sequences: _Sequences) -> RenderedPage:
        blocks = self._classic.mapped(
            block for _, export in self._exports for block in export.blocks
        )
        renderer = self._renderer(syntax is Syntax.PROTOBUF, naming)
        if isinstance(renderer, ProtobufRenderer):
            chunks = renderer.chunks(blocks)
        else:
            chunks = renderer.chunks(blocks, syntax is Syntax.OPENMETRICS)
        packed, plain_bytes = _packed(chunks)
        self._renders += 1
        self._ledger.set_beside("renders", self._renders)
        for metric, why in renderer.families.conflicts.items():
            if metric not in self._conflicts:
                self._conflicts[metric] = why
                self._logger.warning("%s is not on the page: %s", metric, why)
        return RenderedPage(packed, plain_bytes, sequences)

    def _renderer(self, protobuf: bool, naming: Naming) -> _Renderer:
        key = protobuf, naming
        renderer: _Renderer
        if key in self._renderers:
            renderer, _ = self._renderers.pop(key)
        elif protobuf:
            renderer = ProtobufRenderer(self._resource, naming)
        else:
            created = self._settings.created_samples
            renderer = PrometheusRenderer(self._resource, naming, created=created)
        self._renderers[key] = renderer, self._renders
        _, last_used = next(iter(self._renderers.values()))
        if len(self._renderers) > _MOST_RENDERERS or self._renders - last_used > _IDLE_PAGES:
            self._renderers.popitem(last=False)
        return renderer


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
        wanted = negotiate(self._header("Accept"))
        page = self.server.page.rendered(wanted)
        self.send_response(200)
        self.send_header("Content-Type", wanted.content_type)
        self.send_header("Vary", "Accept, Accept-Encoding")
        if accepts_gzip(self._header("Accept-Encoding")):
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(page.packed)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(page.packed)
        elif self.request_version < "HTTP/1.1" or self.command == "HEAD":
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            if self.command != "HEAD":
                for part in _unpacked(page.packed):
                    self.wfile.write(part)
        else:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for part in _unpacked(page.packed):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
        if self.command != "HEAD":
            self.wfile.flush()
            self.server.page.scraped(page)

    def _header(self, name: str) -> str:
        """All that the client says under this name, which it may in several lines."""
        return ",".join(self.headers.get_all(name, []))


def _packed(chunks: Iterable[bytes]) -> tuple[bytes, int]:
    """gzip of the chunks, and their bytes in all.

    Compressed as they come: the plain text of 50,000 series is 30 MB.
    """
    # Imported on first use: an agent that nobody scrapes does not pay for it. Half the CPU of zlib.
    import cramjam

    packer = cramjam.gzip.Compressor(_LEVEL)
    plain_bytes = 0
    for chunk in chunks:
        packer.compress(chunk)
        plain_bytes += len(chunk)
    return bytes(packer.finish()), plain_bytes


def _unpacked(packed: bytes) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(wbits=_GZIP)
    part = unpacker.decompress(packed, _STEP)
    while part:
        yield part
        part = unpacker.decompress(unpacker.unconsumed_tail, _STEP)


COMPONENT = Component(
    type="prometheus",
    kind=ComponentKind.EXPORTER,
    stability="beta",
    Settings=PrometheusSettings,
    create=PrometheusExporter,
    signals=frozenset({"metrics"}),
)
