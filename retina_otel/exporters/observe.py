"""`observe`: keeps the last events and tells them to `retina-otel observe` over a unix socket.

A client sends one line of JSON, what it wants, and gets lines of JSON. Who may open the socket may
see who talks to whom: it is for the agent's own user and group only.
"""

from __future__ import annotations

import json
import os
import socket
import socketserver
import stat
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from pydantic import Field

from retina_otel.component import Component, ComponentKind, Context, PositiveDuration, Settings
from retina_otel.delivery.report import DeliveryReport
from retina_otel.errors import ConfigError, RetinaError
from retina_otel.observe.answers import Request, answer
from retina_otel.observe.history import History
from retina_otel.observe.records import Observed
from retina_otel.observe.socket import DEFAULT_SOCKET
from retina_otel.pipeline.points import EventsReader, MetricsReader
from retina_otel.serving.bounded import BoundedServer

_TAKE_BYTES = 1 << 20
_LONGEST_REQUEST = 1 << 16
_CLIENT_TIMEOUT_S = 10.0
_FAREWELL_S = 1.0
"""How long those who follow may take over the last events when it stops."""


class ObserveSettings(Settings):
    """Keeps the last events in memory, for `retina-otel observe`."""

    socket: Path = DEFAULT_SOCKET
    """Unix socket to listen on. Its directory is made if it is missing."""
    capacity: int = Field(default=8192, ge=1, le=1_000_000)
    """Events that are kept for those who come later."""
    flush_interval: PositiveDuration = Field(default="500ms", validate_default=True)
    """How often new events are taken in."""


class ObserveExporter:
    """One thread that takes events in, one that accepts, one for each client."""

    def __init__(self, settings: ObserveSettings, context: Context) -> None:
        self._settings = settings
        self._context = context
        self._history = History(settings.capacity)
        self._report = DeliveryReport(context.ledger, context.logger, context.clock)
        self._readers: Sequence[EventsReader] = ()
        self._shed: list[int] = []
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._server: _Server | None = None

    def start(self, metrics: Sequence[MetricsReader], events: Sequence[EventsReader]) -> None:
        """Raises ConfigError if the socket can't be made."""
        self._readers, self._shed = events, [0] * len(events)
        self._report.may_lose("events", ["shed"])
        self._server = _Server(self._settings.socket, self._context, self._history)
        self._server.start(f"{self._context.id} socket")
        self._thread = threading.Thread(target=self._run, name=self._context.id, daemon=True)
        self._thread.start()

    def stop(self, deadline_ns: int) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(self._seconds_until(deadline_ns))
        self._history.end(min(_FAREWELL_S, self._seconds_until(deadline_ns)))
        if self._server is not None:
            self._server.stop()

    def _seconds_until(self, deadline_ns: int) -> float:
        return max(0.0, (deadline_ns - self._context.clock.monotonic_ns()) / 1e9)

    def _run(self) -> None:
        while not self._over.wait(self._settings.flush_interval):
            self._take_all()
        self._take_all()

    def _take_all(self) -> None:
        for number, reader in enumerate(self._readers):
            while (export := reader.take(_TAKE_BYTES)) is not None:
                for block in export.blocks:
                    self._history.add(Observed.of(block))
                reader.acknowledge(export)
                self._report.settle("events", accepted=export.n_events, lost=Counter())
            shed = reader.shed - self._shed[number]
            if shed:
                self._shed[number] += shed
                self._report.settle("events", accepted=0, lost=Counter(shed=shed))


class _Server(BoundedServer, socketserver.UnixStreamServer):
    request_queue_size = 16

    def __init__(self, path: Path, context: Context, history: History) -> None:
        self.context = context
        self.history = history
        self.node = str(context.resource.get("k8s.node.name") or context.resource["host.name"])
        self.logger = context.logger
        self._path = path
        key = f"exporters.{context.id}.socket"
        try:
            path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            _remove_stale(path)
            # Made closed to others: there is no moment at which anybody else can connect.
            before = os.umask(0o117)
            try:
                super().__init__(str(path), _Handler)
            finally:
                os.umask(before)
        except OSError as error:
            what = error.strerror or str(error)
            raise ConfigError(f"{path} can't be listened on: {what}", f"Set another: {key}") from (
                error
            )
        self._inode = os.stat(path).st_ino

    def stop(self) -> None:
        super().stop()
        try:
            # After a reload the next exporter listens there already.
            if os.stat(self._path).st_ino == self._inode:
                os.unlink(self._path)
        except OSError as error:
            self.logger.debug("the socket was gone: %s", error)


class _Handler(socketserver.StreamRequestHandler):
    timeout = _CLIENT_TIMEOUT_S

    def handle(self) -> None:
        server = cast(_Server, self.server)
        try:
            request = Request.parse(self.rfile.readline(_LONGEST_REQUEST))
            lines = answer(
                request,
                history=server.history,
                table=server.context.identity,
                node=server.node,
            )
            for line in lines:
                self.wfile.write(json.dumps(line).encode() + b"\n")
        except RetinaError as error:
            refusal = {"error": error.message, "remedy": error.remedy}
            self.wfile.write(json.dumps(refusal).encode() + b"\n")


def _remove_stale(path: Path) -> None:
    """A killed agent's socket is in the way. One that somebody listens on is not touched."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            os.unlink(path)


COMPONENT = Component(
    type="observe",
    kind=ComponentKind.EXPORTER,
    stability="alpha",
    Settings=ObserveSettings,
    create=ObserveExporter,
    signals=frozenset({"logs"}),
)
