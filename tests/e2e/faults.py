"""What the tests of faults share: an exporter driven step by step on a clock of the test's, with a
source of known amounts, and a relay that fails as networks do."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from retina_otel.component import Clock, Exporter
from retina_otel.delivery.lane import Lane
from retina_otel.delivery.sharing import Sharing
from retina_otel.delivery.worker import Worker
from retina_otel.model.batches import Column, EventBatch, MetricBatch, Window
from retina_otel.pipeline.accumulator import Accumulator
from retina_otel.pipeline.events import EventBuffer, EventBufferSettings
from retina_otel.pipeline.identity.endpoints import EndpointTable
from retina_otel.pipeline.ledger import LedgerReport
from retina_otel.pipeline.points import Temporality
from retina_otel.testing.exporters import EVENT, METRIC, NUMBER, WHO, Bench, ManualClock

_S = 10**9
_LINGER = struct.pack("ii", 1, 0)
"""Makes close() send RST."""


class SteppedClock(ManualClock):
    """The wall clock may be set; the monotonic one only goes on."""

    step_ns = 0

    def wall_ns(self) -> int:
        return super().wall_ns() + self.step_ns

    def offset_ns(self) -> int:
        return super().offset_ns() + self.step_ns


class Source:
    """The ends of two pipelines, fed with known amounts, a tick at a time, on the clock given."""

    def __init__(self, clock: Clock, first_event: int = 0) -> None:
        endpoints = EndpointTable()
        self.accumulator = Accumulator(endpoints)
        self.buffer = EventBuffer(endpoints, EventBufferSettings(max_bytes=4 << 20))
        self.truth: dict[str, int] = {}
        """What was added to each series so far."""
        self.events = first_event
        """The number of the next event."""
        self._clock = clock
        self._end_ns = clock.wall_ns()

    def tick(self, n_events: int = 0, **amounts: int) -> None:
        """Adds to series, and publishes, as an agent's tick does; then so many events."""
        # The agent's own rule for the end of a window.
        end_ns = max(self._clock.wall_ns(), self._end_ns + 1)
        window, self._end_ns = Window(self._end_ns, end_ns), end_ns
        if amounts:
            who = Column(np.arange(len(amounts), dtype=np.int32), tuple(amounts))
            values = np.array(list(amounts.values()), np.int64)
            self.accumulator.add(MetricBatch(window, {METRIC: values}, own={WHO.name: who}))
            for name, amount in amounts.items():
                self.truth[name] = self.truth.get(name, 0) + amount
        self.accumulator.snapshot(end_ns)
        if n_events:
            numbers = np.arange(self.events, self.events + n_events, dtype=np.int64)
            self.events += n_events
            times = np.full(n_events, end_ns)
            self.buffer.append(EventBatch(EVENT, window, times, {NUMBER.name: numbers}))
        else:
            self.buffer.tidy()


class Stepped:
    """An exporter whose threads are the test: nothing happens but in `run` and `stop`."""

    def __init__(
        self,
        make: Callable[[Any], Exporter],
        clock: SteppedClock,
        source: Source | None = None,
    ) -> None:
        """`make` gets the context. Call it under `no_threads`."""
        self.clock = clock
        self.bench = Bench(clock)
        self.source = source or Source(clock)
        # The first metrics go out at once, events a moment later.
        context = replace(self.bench.context(), sharing=Sharing(phase=1 / 15))
        self.exporter = make(context)
        self._metrics = self.source.accumulator.reader(
            "faults", temporality=getattr(self.exporter, "temporality", Temporality.CUMULATIVE)
        )
        self._events = self.source.buffer.reader("faults")
        self.exporter.start([self._metrics], [self._events])
        self._workers = _STARTED.copy()
        _STARTED.clear()
        _RUNNING.append(self)

    @property
    def ledger(self) -> LedgerReport:
        report = self.bench.ledger.report()
        assert report.difference == 0
        return report

    def run(self, seconds: float) -> None:
        """Steps the lanes whenever they are due, for so long on the test's clock."""
        end = self.clock.monotonic_ns() + round(seconds * _S)
        while (due := self._step()) < end:
            self.clock.advance_to(due)
        self.clock.advance_to(end)

    def stop(self, seconds: float = 10.0) -> LedgerReport:
        """An orderly end, with so much time on the test's clock."""
        deadline = self.clock.monotonic_ns() + round(seconds * _S)
        for lane in self._lanes:
            lane.begin_flush(deadline)
        while not all(lane.finished for lane in self._lanes):
            self.clock.advance_to(min(self._step(), deadline))
        self.exporter.stop(deadline)
        _RUNNING.remove(self)
        return self.ledger

    def kill(self) -> None:
        """What SIGKILL leaves behind: nothing flushed, no lock, no connection."""
        for lane in self._lanes:
            if (spool := getattr(lane, "_spool", None)) is not None:
                spool.close()
        for worker in self._workers:
            worker._abort()
        _RUNNING.remove(self)
        self.source.accumulator.remove(self._metrics)
        self.source.buffer.remove(self._events)

    @property
    def _lanes(self) -> list[Lane[Any]]:
        return [lane for worker in self._workers for lane in worker._lanes]

    def _step(self) -> int:
        """Each worker in turn. When the next step is due."""
        return min(worker.step() for worker in self._workers)


_STARTED: list[Worker] = []
_RUNNING: list[Stepped] = []


@contextmanager
def no_threads() -> Iterator[None]:
    """Workers that are started here do not run: a `Stepped` steps them."""

    def keep(worker: Worker) -> None:
        _STARTED.append(worker)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "start", keep)
        yield
        while _RUNNING:
            _RUNNING[-1].kill()


@dataclass
class Relay:
    """Stands before a backend on loopback, and fails as networks do. Passes on at first."""

    port_behind: int
    listener: socket.socket = field(init=False)
    cut_after: int | None = None
    """Each connection is reset once so many bytes went to the backend."""
    at_cut: Callable[[], None] = lambda: None
    """Called before that."""
    silent: bool = False
    """Takes connections and bytes, and never answers."""
    answers_lost: Callable[[], int] | None = None
    """Requests pass, answers do not. It tells how many requests the backend has taken: when there
    is one more than at first, the connection is reset."""
    tls: ssl.SSLContext | None = None
    """Speaks TLS to the client, in front of a backend that does not."""

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.port = 0
        self.up()

    def up(self) -> None:
        """Listens, at the same port as before."""
        self._over = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]
        self._start(self._accept, self.listener, self._over)

    def down(self) -> None:
        """Refuses connections; those that there are end."""
        self._over.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.reset()
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def reset(self) -> None:
        """Ends the connections that there are, so that the next ones behave as set by now."""
        for connection in list(self._connections):
            with _unless_closed():
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
                connection.shutdown(socket.SHUT_RDWR)

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket, over: threading.Event) -> None:
        while not over.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self._start(self._pass_on, client, over)

    def _pass_on(self, client: socket.socket, over: threading.Event) -> None:
        if self.tls is not None:
            try:
                client = self.tls.wrap_socket(client, server_side=True)
            except OSError:
                client.close()
                return
        self._connections.add(client)
        backend = socket.create_connection(("127.0.0.1", self.port_behind))
        sent = 0
        taken, cut_after, silent = self.answers_lost, self.cut_after, self.silent
        taken_before = taken() if taken is not None else 0
        with client, backend, _unless_closed():
            while not over.is_set():
                if taken is not None and taken() > taken_before:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
                    break
                ready, _, _ = select.select([client, backend], [], [], 0.02)
                if client in ready or (isinstance(client, ssl.SSLSocket) and client.pending()):
                    data = client.recv(65536)
                    sent += len(data)
                    if cut_after is not None and sent > cut_after:
                        backend.sendall(data[: max(0, len(data) - (sent - cut_after))])
                        self.at_cut()
                        for end in client, backend:
                            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
                        break
                    if not data:
                        break
                    if not silent:
                        backend.sendall(data)
                if backend in ready:
                    answer = backend.recv(65536)
                    if not answer:
                        break
                    if taken is None or sent < _GREETING:
                        client.sendall(answer)
        self._connections.discard(client)


_GREETING = 2000
"""Bytes to a backend: more than a protocol needs before the first request, less than that."""


@contextmanager
def _unless_closed() -> Iterator[None]:
    try:
        yield
    except OSError:
        return


@contextmanager
def relay_to(port: int) -> Iterator[Relay]:
    relay = Relay(port)
    try:
        yield relay
    finally:
        relay.down()
