"""An OTLP/gRPC backend for tests: a real server on loopback that decodes, keeps, and can refuse.

    with OtlpGrpcSink() as sink:
        sink.script(Status("UNAVAILABLE"), Status("RESOURCE_EXHAUSTED", retry_delay_s=1))
        ...                                     # point an exporter at sink.endpoint
        sink.wait_for(lambda: sink.points(), timeout_s=10)

Requests are decoded with the official protobuf messages. A request above the 4 MiB that gRPC
servers take by default is refused by the server itself, as everywhere.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status as StatusMessage
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from retina_otel.testing.otlp_backend import Message, OtlpBackend, Received, response_to

_MESSAGES: dict[str, type[ExportMetricsServiceRequest] | type[ExportLogsServiceRequest]] = {
    "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export": ExportMetricsServiceRequest,
    "/opentelemetry.proto.collector.logs.v1.LogsService/Export": ExportLogsServiceRequest,
}


@dataclass(frozen=True, slots=True)
class Status:
    """How the sink ends one call. `code` is a name of grpc.StatusCode."""

    code: str = "OK"
    details: str = ""
    retry_delay_s: float | None = None
    """Said by RetryInfo in the status' details."""
    rejected: int = 0
    """Partial success: so many items are said to be rejected. The sink keeps them all."""
    message: str = ""
    delay_s: float = 0.0
    wait: threading.Event | None = None
    """End the call when this is set."""


class OtlpGrpcSink(OtlpBackend[Status]):
    """The backend. Serves from construction until `close()`; use it as a context manager."""

    def __init__(
        self,
        address: str = "127.0.0.1:0",
        credentials: grpc.ServerCredentials | None = None,
        threads: int = 4,
    ) -> None:
        """`address` is host:port or unix:path; `credentials` makes it speak TLS."""
        super().__init__(Status())
        self._called = threading.Event()
        self._server = grpc.server(
            ThreadPoolExecutor(threads),
            handlers=[_Service(self)],
            options=[("grpc.so_reuseport", 0)],
        )
        if credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, credentials)
        scheme = "http" if credentials is None else "https"
        host = address.rpartition(":")[0]
        self.endpoint = address if address.startswith("unix:") else f"{scheme}://{host}:{self.port}"
        self._server.start()

    def close(self) -> None:
        """Ends all connections; its port refuses further ones. What came stays readable."""
        self._server.stop(None).wait()

    def wait_for_call(self, timeout_s: float) -> None:
        """Returns when a call has begun, however long its answer takes."""
        if not self._called.wait(timeout_s):
            raise TimeoutError(f"not within {timeout_s} s")

    def answer(self, method: str, wire: bytes, context: grpc.ServicerContext) -> bytes:
        """One call, on a thread of the server's."""
        status = self.next_answer()
        self._called.set()
        message: Message = _MESSAGES[method]()
        fault = ""
        try:
            message.ParseFromString(wire)
        except DecodeError as error:
            fault = f"body that can't be decoded: {error}"
        if status.delay_s:
            time.sleep(status.delay_s)
        if status.wait is not None:
            status.wait.wait()
        code = grpc.StatusCode.INVALID_ARGUMENT if fault else grpc.StatusCode[status.code]
        self.keep(
            Received(
                time_ns=time.time_ns(),
                path=method,
                headers={str(k): str(v) for k, v in context.invocation_metadata()},
                wire_bytes=len(wire),
                body_bytes=len(wire),
                message=None if fault else message,
                answer=status,
                accepted=code is grpc.StatusCode.OK,
            ),
            fault,
        )
        if code is not grpc.StatusCode.OK:
            _fail(context, code, status)
        return response_to(message, status.rejected, status.message).SerializeToString()


def _fail(context: grpc.ServicerContext, code: grpc.StatusCode, status: Status) -> None:
    if status.retry_delay_s is not None:
        wait = RetryInfo()
        wait.retry_delay.FromNanoseconds(int(status.retry_delay_s * 1e9))
        full = StatusMessage(code=code.value[0], message=status.details)
        full.details.add().Pack(wait)
        context.set_trailing_metadata((("grpc-status-details-bin", full.SerializeToString()),))
    context.abort(code, status.details)


class _Service(grpc.GenericRpcHandler):
    def __init__(self, sink: OtlpGrpcSink) -> None:
        self._sink = sink

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = handler_call_details.method
        if method not in _MESSAGES:
            return None

        def export(wire: bytes, context: grpc.ServicerContext) -> bytes:
            return self._sink.answer(method, wire, context)

        return grpc.unary_unary_rpc_method_handler(export)
