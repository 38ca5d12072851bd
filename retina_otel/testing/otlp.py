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
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import zstandard
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from retina_otel.testing.otlp_backend import Message, OtlpBackend, Received, response_to, series
from retina_otel.testing.otlp_data import ReceivedPoint, ReceivedRecord, points_of, records_of
from retina_otel.testing.otlp_validation import validate

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
    wait: threading.Event | None = None
    """Answer when this is set."""
    reset: bool = False
    """Read half of the body, then reset the connection."""


class OtlpSink(OtlpBackend[Answer]):
    """The backend. Serves from construction until `close()`; use it as a context manager."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(Answer())
        self._server = _Server((host, port), self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="otlp-sink", daemon=True
        )
        self._thread.start()

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
        answer = self.server.sink.next_answer()
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
        if answer.wait is not None:
            answer.wait.wait()
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
        self.server.sink.keep(received, decoded.fault)

    def _send(
        self, status: int, answer: Answer, message: Message | None, content_type: str
    ) -> None:
        body = b""
        if status == 200 and message is not None:
            response = response_to(message, answer.rejected, answer.message)
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
