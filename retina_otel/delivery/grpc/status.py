"""What the end of an OTLP/gRPC call means, by the OTLP specification's table of codes.

gRPC gives one code, UNAVAILABLE, to all that goes wrong on the way; the details tell which it was,
and come out here under the same reasons as over HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from retina_otel.delivery.http.responses import one_line
from retina_otel.delivery.otlp_wire import retry_delay_s
from retina_otel.delivery.outcome import Outcome, Result

_RETRYABLE = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""RESOURCE_EXHAUSTED is one too where the backend says how long to wait."""

_TOO_LARGE = ("larger than max", "exceeds maximum size", "http2 header with status: 413")
"""As grpc-go and grpcio, grpc-java, and a proxy say it."""

_REMEDIES = {
    grpc.StatusCode.UNAUTHENTICATED: "Set auth, or headers, to what the backend wants for "
    "authentication",
    grpc.StatusCode.PERMISSION_DENIED: "Set auth, or headers, to credentials that may write",
    grpc.StatusCode.UNIMPLEMENTED: "Check that the endpoint takes OTLP over gRPC for this signal",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "The backend asks for less: a longer interval or fewer "
    "attributes help",
    grpc.StatusCode.UNAVAILABLE: "The backend is overloaded or not ready",
}


@dataclass(frozen=True, slots=True)
class _Failure:
    """A failure below gRPC, by words of the details."""

    words: tuple[str, ...]
    reason: str
    what: str
    remedy: str


_CONNECTING = (
    _Failure(
        ("CERTIFICATE_VERIFY_FAILED", "Hostname Verification Check failed"),
        "tls_certificate",
        "the server's certificate is not trusted",
        "Set tls.ca_file to the CA that signed it, or tls.server_name_override to its name",
    ),
    _Failure(
        ("WRONG_VERSION_NUMBER",),
        "tls_handshake",
        "the server speaks no TLS",
        "Write http:// before an endpoint without TLS",
    ),
    _Failure(
        ("Tls handshake failed", "Ssl handshake failed", "handshaker shutdown"),
        "tls_handshake",
        "TLS failed",
        "Check that the port speaks TLS, and the client certificate if the server wants one",
    ),
    _Failure(
        ("http1.x server", "Failed parsing HTTP/2"),
        "not_grpc",
        "the server speaks no HTTP/2",
        "Set the endpoint to a port that takes OTLP over gRPC, commonly 4317; or use otlp_http",
    ),
    _Failure(
        ("Domain name not found", "errors resolving", "DNS resolution failed"),
        "name_resolution",
        "its host name has no address",
        "Check the endpoint's host name and the node's DNS",
    ),
    _Failure(
        ("Connection refused", "No such file or directory"),
        "connection_refused",
        "connection refused",
        "Check that a backend listens there and that the endpoint's port is right",
    ),
    _Failure(
        ("HTTP proxy returned",),
        "connect",
        "the proxy gave no connection",
        "Check the proxy, and that it lets the agent reach the endpoint",
    ),
    _Failure(
        ("Timeout occurred", "connection attempt timed out", "Connection timed out"),
        "connect_timeout",
        "no connection within the timeout",
        "Check the endpoint, and firewalls and network policies on the way",
    ),
    _Failure(
        ("Socket closed", "Connection reset by peer", "Broken pipe"),
        "connection_lost",
        "the connection was closed at once",
        "Check what the port speaks: a server that wants TLS or a client certificate, or does not "
        "take the one it is shown, closes like that",
    ),
    _Failure(
        ("",),
        "connect",
        "no connection",
        "Check the endpoint and the network",
    ),
)
"""When there was no connection yet; the last holds for all."""

_NO_CONNECTION = ("failed to connect to all addresses", "errors resolving", "DNS resolution failed")

_LOST = _Failure(
    (
        "Socket closed",
        "Connection reset by peer",
        "Broken pipe",
        "GOAWAY",
        "Stream removed",
        "keepalive watchdog",
        "ping timeout",
        "Endpoint closing",
    ),
    "connection_lost",
    "the connection was lost",
    "The backend or something on the way closed it, as one that wants TLS or a client "
    "certificate does; it is tried again",
)
BELOW_GRPC = frozenset(each.reason for each in (*_CONNECTING, _LOST)) | {"timeout"}
"""Reasons for which a new connection may help."""


def judge_call(code: grpc.StatusCode, details: str, status: bytes | None, shown: str) -> Outcome:
    """The outcome of a call that failed. `status` is a serialized google.rpc.Status, which may hold
    how long to wait; `shown` is the endpoint without secrets."""
    said = one_line(details)
    lowered = said.lower()
    name = code.name
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Outcome(
            Result.RETRY,
            "timeout",
            f"{shown}: no answer within the timeout",
            "The backend is slow or overloaded; a longer timeout may help",
        )
    if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN}:
        connecting = any(words in details for words in _NO_CONNECTION)
        # What comes with a status was said by the backend, perhaps of a connection of its own.
        for failure in () if status else _CONNECTING if connecting else (_LOST,):
            if any(word in details for word in failure.words):
                why = f": {_tls_reason(details)}" if failure.reason == "tls_certificate" else ""
                message = f"{shown}: {failure.what}{why}"
                return Outcome(Result.RETRY, failure.reason, message, failure.remedy)
    message = f"{shown}: {name}" + (f": {said}" if said else "")
    reason = f"grpc_{name.lower()}"
    too_large = any(words in lowered for words in _TOO_LARGE)
    if code in {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNKNOWN} and too_large:
        if lowered.startswith("client: received"):
            # It has taken the request; what it said of it was more than we read.
            return Outcome(Result.ACCEPTED)
        return Outcome(
            Result.TOO_LARGE, "too_large", message, "Set max_request_bytes to the backend's limit"
        )
    wait_s = _retry_delay_s(status)
    exhausted = code is grpc.StatusCode.RESOURCE_EXHAUSTED and wait_s is not None
    if code in _RETRYABLE or exhausted:
        return Outcome(Result.RETRY, reason, message, _REMEDIES.get(code, ""), retry_after_s=wait_s)
    remedy = _REMEDIES.get(code, "The backend does not want this data; its own log says more")
    return Outcome(Result.REFUSED, reason, message, remedy)


def _tls_reason(details: str) -> str:
    """What OpenSSL adds to CERTIFICATE_VERIFY_FAILED, as "certificate has expired"."""
    _, found, rest = details.partition("CERTIFICATE_VERIFY_FAILED: ")
    return one_line(rest.split(":")[0]) if found else "it is for another name"


def _retry_delay_s(status: bytes | None) -> float | None:
    try:
        return retry_delay_s(status) if status else None
    except ValueError:
        return None
