"""What an answer to an OTLP/HTTP request means, by the OTLP specification's table of statuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from retina_otel.delivery.otlp_wire import partial_success, status_message
from retina_otel.delivery.outcome import Outcome, Result
from retina_otel.delivery.retry import parse_retry_after

MAX_RESPONSE_BYTES = 64 * 1024
_MAX_MESSAGE = 300
_RETRYABLE = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Response:
    """The beginning of an answer, at most MAX_RESPONSE_BYTES of its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((v for k, v in self.headers.items() if k.lower() == name.lower()), None)


Judge = Callable[[Response, str, int], Outcome]
"""Outcome of an answer, given the URL as it is shown and the wall time in ns."""


def judge(response: Response, url: str, wall_ns: int) -> Outcome:
    """The outcome that an answer stands for."""
    status = response.status
    if 200 <= status < 300:
        return accepted(*_partial_success(response))
    said = one_line(_error_message(response))
    message = f"{url}: HTTP {status}" + (f": {said}" if said else "")
    reason = f"http_{status}"
    if status in _RETRYABLE:
        wait = parse_retry_after(response.header("Retry-After"), wall_ns)
        return Outcome(Result.RETRY, reason, message, _REMEDIES.get(status, ""), retry_after_s=wait)
    # Collectors that reach their limit while reading the body say so with a 400.
    if status == 413 or (status == 400 and "request body too large" in said.lower()):
        return Outcome(Result.TOO_LARGE, "too_large", message, _REMEDIES[413])
    if 300 <= status < 400:
        message += _place(response.header("Location") or "")
    return Outcome(
        Result.REFUSED,
        reason,
        message,
        _REMEDIES.get(status, _REMEDIES[300 if status < 400 else 400]),
    )


def _place(location: str) -> str:
    """Where a redirect leads, without what may be secret."""
    try:
        place = urlsplit(location)
    except ValueError:
        return ""
    return one_line(f": it points to {place.scheme}://{place.hostname}") if place.hostname else ""


def accepted(rejected: int, message: str) -> Outcome:
    """The outcome of a success with what its partial_success says: 0 and "" for nothing."""
    return Outcome(
        Result.ACCEPTED,
        reason="partial_success" if rejected or message else "",
        message=one_line(message),
        rejected=max(0, rejected),
    )


_REMEDIES = {
    300: "Set the endpoint to where it points: redirects are not followed",
    400: "The backend does not want this data; its own log says more",
    401: "Set headers (or OTEL_EXPORTER_OTLP_HEADERS) to what the backend wants for authentication",
    403: "Set headers (or OTEL_EXPORTER_OTLP_HEADERS) to credentials that may write",
    404: "Check the endpoint: /v1/metrics or /v1/logs is added to `endpoint`, not to "
    "`metrics_endpoint` and `logs_endpoint`",
    405: "Check the endpoint: it does not take OTLP over HTTP",
    413: "Set max_request_bytes to the backend's limit",
    415: "Set compression to what the backend reads, or none; check that it takes OTLP protobuf",
    429: "The backend asks for less: a longer interval or fewer attributes help",
    503: "The backend is overloaded or not ready",
}


def _media_type(response: Response) -> str:
    return (response.header("Content-Type") or "").partition(";")[0].strip().lower()


def _partial_success(response: Response) -> tuple[int, str]:
    """(rejected, message); an answer that can't be read counts as a full success."""
    try:
        if _media_type(response) == "application/json":
            partial = _object(_object(json.loads(response.body or b"{}")).get("partialSuccess"))
            rejected = partial.get("rejectedDataPoints") or partial.get("rejectedLogRecords") or 0
            return int(rejected), str(partial.get("errorMessage", ""))
        if _media_type(response) == "application/x-protobuf":
            return partial_success(response.body)
    except (ValueError, TypeError, OverflowError, RecursionError):
        pass
    return 0, ""


def _error_message(response: Response) -> str:
    kind = _media_type(response)
    try:
        if kind == "application/x-protobuf":
            return status_message(response.body)
        if kind == "application/json":
            return str(_object(json.loads(response.body)).get("message", ""))
    except (ValueError, TypeError, RecursionError):
        return ""
    return response.body.decode(errors="replace") if kind in {"", "text/plain"} else ""


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def one_line(text: str) -> str:
    """What a backend said, printable and short."""
    line = "".join(c if c.isprintable() else " " for c in text)
    line = " ".join(line.split())
    return line if len(line) <= _MAX_MESSAGE else line[: _MAX_MESSAGE - 1] + "…"
