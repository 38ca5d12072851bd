"""An exporter that stops cuts its connection wherever it hangs, so that its books close."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from retina_otel.delivery.http.sender import HttpSender, HttpTarget
from retina_otel.delivery.outcome import Outcome, Result
from retina_otel.delivery.push import EventsRoute, Push
from retina_otel.encode.otlp import LogsEncoder
from retina_otel.testing.exporters import Bench, ManualClock, Source
from tests.unit.agent.agent_parts import until

LONG_S = 60.0
STAGES = ["answer", "tls", "tunnel", "connection"]


class Hanging:
    """A backend that hangs at one stage of a request, and whether one has got there."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._open = ExitStack()
        self._listener = self._open.enter_context(closing(socket.socket()))
        self._listener.bind(("127.0.0.1", 0))
        self._listener.settimeout(10)
        self._listener.listen(0 if stage == "connection" else 8)
        address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.target = {
            "answer": HttpTarget(f"http://{address}/"),
            "tls": HttpTarget(f"https://{address}/"),
            "tunnel": HttpTarget("https://collector.example/", proxy_url=f"http://{address}"),
            "connection": HttpTarget(f"http://{address}/"),
        }[stage]
        if stage == "connection":
            # One more fits into a queue of length 0; who comes after it gets no answer at all.
            queued = socket.create_connection(self._listener.getsockname())
            self._open.enter_context(closing(queued))

    def wait(self) -> None:
        """Until the request hangs."""
        if self._stage == "connection":
            port = f":{self._listener.getsockname()[1]:04X}"
            until(lambda: connecting(port), "a connection that is not answered")
        else:
            connection, _ = self._listener.accept()
            self._open.enter_context(closing(connection))
            connection.settimeout(10)
            assert connection.recv(1)

    def close(self) -> None:
        self._open.close()


def connecting(port: str) -> bool:
    """Whether this machine has a TCP connection to a port in the state SYN_SENT."""
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table]
    return any(row[2].endswith(port) and row[3] == "02" for row in rows)


@pytest.fixture(params=STAGES)
def hanging(request: pytest.FixtureRequest) -> Iterator[Hanging]:
    with closing(Hanging(request.param)) as backend:
        yield backend


def test_abort_ends_a_request_at_whatever_stage_it_hangs(hanging: Hanging) -> None:
    sender = HttpSender(hanging.target, clock=ManualClock(), user_agent="test")
    outcomes: list[Outcome] = []
    thread = threading.Thread(
        target=lambda: outcomes.append(sender.send(sender.pack(b"points", 1), LONG_S)), daemon=True
    )
    thread.start()
    hanging.wait()
    sender.abort()
    thread.join(5)
    sender.close()
    assert [outcome.result for outcome in outcomes] == [Result.RETRY]


def test_the_books_close_though_the_backend_hangs_when_the_exporter_stops(hanging: Hanging) -> None:
    bench, source = Bench(), Source()
    reader = source.buffer.reader("push")
    source.happen(3)
    route = EventsRoute(
        encode=lambda: LogsEncoder({}).requests,
        sender=HttpSender(hanging.target, clock=bench.clock, user_agent="test"),
        interval_s=0.01,
        timeout_s=LONG_S,
    )
    push = Push(bench.context(), events=route, at_once=True)
    push.start([], [reader])
    hanging.wait()
    push.stop(bench.deadline_ns(0.5))
    books = bench.ledger.report()
    assert (books.difference, books.lost) == (0, {"events_shutdown": 3})
