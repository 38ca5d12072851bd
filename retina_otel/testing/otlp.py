"""An OTLP/HTTP backend for tests: a real server on loopback that decodes, keeps, and can misbehave.

    with OtlpSink() as sink:
        sink.script(Answer(503, retry_after_s=1), Answer(rejected=3), Answer(reset=True))
        ...                                     # point an exporter at sink.endpoint
        sink.wait_for(lambda: sink.points(), timeout_s=10)
        assert sink.faults() == []
        assert sink.totals()[series("retina.flow.io", pod="web")] == 1234

Bodies are decoded with the official protobuf messages. What was answered with 200 counts as
accepted; all else was received, and is in `received` only.
"""

from __future__ import annotations

import gzip
import json
import math
import socket
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import zstandard
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

from retina_otel.testing.otlp_data import (
    Number,
    ReceivedPoint,
    ReceivedRecord,
    points_of,
    records_of,
)
from retina_otel.testing.otlp_validation import CUMULATIVE, validate

__all__ = [
    "Answer",
    "OtlpSink",
    "Received",
    "ReceivedPoint",
    "ReceivedRecord",
    "points_of",
    "records_of",
    "series",
    "validate",
]

Message = ExportMetricsServiceRequest | ExportLogsServiceRequest
Series = tuple[str, frozenset[tuple[str, Any]]]
_MAX_BODY = 64 << 20
_PROTOBUF, _JSON = "application/x-protobuf", "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the sink does with one request."""

    status: int = 200
    retry_after_s: float | None = None
    rejected: int = 0
    """Partial success: so many items are said to be rejected. The sink keeps them all."""
    message: str = ""
    delay_s: float = 0.0
    reset: bool = False
    """Read half of the body, then reset the connection."""


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came. `message` is None where it could not be decoded, or was cut."""

    time_ns: int
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    wire_bytes: int
    body_bytes: int
    """After decompression."""
    message: Message | None
    answer: Answer
    accepted: bool


def series(metric: str, **attributes: Any) -> Series:
    """A key of `final_sums` and `totals`; underscores in names stand for dots."""
    return metric, frozenset((key.replace("_", "."), value) for key, value in attributes.items())


class OtlpSink:
    """The backend. Serves from construction until `close()`; use it as a context manager."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._changed = threading.Condition()
        self._received: list[Received] = []
        self._script: deque[Answer] = deque()
        self._always = Answer()
        self._undecodable: list[str] = []
        self._server = _Server((host, port), self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="otlp-sink", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> OtlpSink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops serving; its port refuses connections from then on. What came stays readable."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def endpoint(self) -> str:
        """Base URL, as OTEL_EXPORTER_OTLP_ENDPOINT has it."""
        return f"http://{self._server.server_address[0]!s}:{self.port}"

    def script(self, *answers: Answer) -> None:
        """The next requests get these answers, in turn; those after get the standing one."""
        with self._changed:
            self._script.extend(answers)

    def always(self, answer: Answer) -> None:
        """The standing answer, 200 until this is called."""
        with self._changed:
            self._always = answer

    @property
    def received(self) -> list[Received]:
        """All requests, in order of their arrival."""
        with self._changed:
            return list(self._received)

    @property
    def metric_requests(self) -> list[ExportMetricsServiceRequest]:
        """Accepted requests of metrics."""
        messages = [one.message for one in self.received if one.accepted]
        return [m for m in messages if isinstance(m, ExportMetricsServiceRequest)]

    @property
    def log_requests(self) -> list[ExportLogsServiceRequest]:
        """Accepted requests of logs."""
        messages = [one.message for one in self.received if one.accepted]
        return [m for m in messages if isinstance(m, ExportLogsServiceRequest)]

    def points(self, metric: str | None = None) -> list[ReceivedPoint]:
        """Accepted points, of one metric or of all."""
        every = points_of(self.metric_requests)
        return [point for point in every if metric in (None, point.metric)]

    def records(self, event: str | None = None) -> list[ReceivedRecord]:
        """Accepted log records, of one event name or of all."""
        every = records_of(self.log_requests)
        return [record for record in every if event in (None, record.event)]

    def final_sums(self) -> dict[Series, Number]:
        """The last value of each series of a sum or gauge, by time."""
        newest: dict[Series, ReceivedPoint] = {}
        for point in self.points():
            if isinstance(point.value, (int, float)):
                known = newest.get(point.series)
                if known is None or known.time_ns <= point.time_ns:
                    newest[point.series] = point
        return {key: p.value for key, p in newest.items() if isinstance(p.value, (int, float))}

    def totals(self) -> dict[Series, Number]:
        """All that each series of a sum ever added up to, over its starts, cumulative or delta."""
        parts: dict[tuple[Series, int, int], ReceivedPoint] = {}
        for point in self.points():
            if point.kind == "sum" and point.value is not None:
                moment = 0 if point.temporality == CUMULATIVE else point.time_ns
                key = (point.series, point.start_ns, moment)
                known = parts.get(key)
                if known is None or known.time_ns <= point.time_ns:
                    parts[key] = point
        out: dict[Series, Number] = {}
        for (name, _, _), point in parts.items():
            assert isinstance(point.value, (int, float))
            out[name] = out.get(name, 0) + point.value
        return out

    def faults(self, *, zero_first: bool = True, answers_lost: bool = False) -> list[str]:
        """What is wrong with all that was accepted (see `validate`), or could not be decoded."""
        found = validate(
            self.metric_requests,
            self.log_requests,
            zero_first=zero_first,
            answers_lost=answers_lost,
        )
        with self._changed:
            return self._undecodable + found

    def wait_for(self, condition: Callable[[], object], timeout_s: float) -> None:
        """Returns when `condition()`, asked after each request, is true; TimeoutError if never."""
        end = time.monotonic() + timeout_s
        while not condition():
            with self._changed:
                seen = len(self._received)
                if (
                    not self._changed.wait_for(
                        lambda seen=seen: len(self._received) > seen,  # type: ignore[misc]
                        max(0.0, min(0.2, end - time.monotonic())),
                    )
                    and time.monotonic() >= end
                ):
                    raise TimeoutError(f"not within {timeout_s} s; {seen} requests came")

    def _answer(self) -> Answer:
        with self._changed:
            return self._script.popleft() if self._script else self._always

    def _keep(self, received: Received, fault: str) -> None:
        with self._changed:
            self._received.append(received)
            if fault:
                self._undecodable.append(fault)
            self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A request's status by its own merits, and what is in it or wrong with it."""

    status: int
    body: bytes = b""
    message: Message | None = None
    fault: str = ""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], sink: OtlpSink) -> None:
        super().__init__(address, _Handler)
        self.sink = sink

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is a client's business."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        answer = self.server.sink._answer()
        headers = {name.lower(): value for name, value in self.headers.items()}
        length = int(headers.get("content-length", 0))
        if answer.reset:
            self._note(headers, self.rfile.read(length // 2), _Decoded(0), answer)
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            self.connection.close()
            return
        if length > _MAX_BODY:
            self._note(headers, b"", _Decoded(413, fault=f"body of {length} bytes"), answer)
            self._send(413, Answer(), None, _PROTOBUF)
            self.close_connection = True
            return
        wire = self.rfile.read(length)
        decoded = _decoded(self.path, headers, wire)
        if answer.delay_s:
            time.sleep(answer.delay_s)
        if answer.status != 200:
            decoded = replace(decoded, status=answer.status)
        self._note(headers, wire, decoded, answer)
        content_type = headers.get("content-type", _PROTOBUF)
        self._send(decoded.status, answer, decoded.message, content_type)

    def _note(
        self, headers: dict[str, str], wire: bytes, decoded: _Decoded, answer: Answer
    ) -> None:
        received = Received(
            time_ns=time.time_ns(),
            path=self.path,
            headers=headers,
            wire_bytes=len(wire),
            body_bytes=len(decoded.body),
            message=decoded.message,
            answer=answer,
            accepted=decoded.status == 200,
        )
        self.server.sink._keep(received, decoded.fault)

    def _send(
        self, status: int, answer: Answer, message: Message | None, content_type: str
    ) -> None:
        body = b""
        if status == 200 and message is not None:
            response = _response(message, answer)
            body = (
                json_format.MessageToJson(response).encode()
                if content_type.startswith(_JSON)
                else response.SerializeToString()
            )
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if answer.retry_after_s is not None:
            self.send_header("Retry-After", str(math.ceil(answer.retry_after_s)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: what came is in `received`."""


def _decoded(path: str, headers: dict[str, str], wire: bytes) -> _Decoded:
    message: Message
    if path == "/v1/metrics":
        message = ExportMetricsServiceRequest()
    elif path == "/v1/logs":
        message = ExportLogsServiceRequest()
    else:
        return _Decoded(404, wire, fault=f"request to {path}")
    content_type = headers.get("content-type", "").split(";")[0].strip()
    if content_type not in (_PROTOBUF, _JSON):
        return _Decoded(415, wire, fault=f"content type {content_type!r}")
    encoding = headers.get("content-encoding", "identity").strip()
    try:
        body = _decompressed(encoding, wire)
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        return _Decoded(400, fault=f"body that is no {encoding}: {error}")
    except LookupError:
        return _Decoded(415, fault=f"content encoding {encoding!r}")
    try:
        if content_type == _JSON:
            json_format.ParseDict(json.loads(body), message)
        else:
            message.ParseFromString(body)
    except (DecodeError, ValueError, json_format.ParseError) as error:
        return _Decoded(400, body, fault=f"body that can't be decoded: {error}")
    return _Decoded(200, body, message)


def _decompressed(encoding: str, wire: bytes) -> bytes:
    if encoding == "identity":
        return wire
    if encoding == "gzip":
        return gzip.decompress(wire)
    if encoding == "deflate":
        return zlib.decompress(wire)
    if encoding == "zstd":
        with zstandard.ZstdDecompressor().stream_reader(wire) as reader:
            return reader.read()
    raise LookupError(encoding)


def _response(
    message: Message, answer: Answer
) -> ExportMetricsServiceResponse | ExportLogsServiceResponse:
    if not answer.rejected and not answer.message:
        if isinstance(message, ExportMetricsServiceRequest):
            return ExportMetricsServiceResponse()
        return ExportLogsServiceResponse()
    if isinstance(message, ExportMetricsServiceRequest):
        return ExportMetricsServiceResponse(
            partial_success=ExportMetricsPartialSuccess(
                rejected_data_points=answer.rejected, error_message=answer.message
            )
        )
    return ExportLogsServiceResponse(
        partial_success=ExportLogsPartialSuccess(
            rejected_log_records=answer.rejected, error_message=answer.message
        )
    )
