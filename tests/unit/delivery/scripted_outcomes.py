"""Outcomes that a backend under a lane answers with, by a script, and the truth of what it took."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from retina_otel.delivery.otlp_wire import LOGS
from retina_otel.delivery.outcome import Outcome, Result

ACCEPTED = Outcome(Result.ACCEPTED)
UNAVAILABLE = Outcome(Result.RETRY, "http_503", "HTTP 503")
TOO_LARGE = Outcome(Result.TOO_LARGE, "too_large", "HTTP 413")
REFUSED = Outcome(Result.REFUSED, "http_400", "HTTP 400")
WORDS = st.sampled_from(["accept", "retry", "large", "refuse", "partial"])
"""Words of a script."""


class Scripted:
    """Answers requests of events as the script says, then takes all, and counts what became of
    each event."""

    def __init__(self, script: Sequence[str]) -> None:
        self._script = list(script)
        self.truth = {"accepted": 0, "rejected": 0, "refused": 0, "too_large": 0}

    def __call__(self, body: bytes) -> Outcome:
        n = LOGS.count(body)
        what = self._script.pop(0) if self._script else "accept"
        if what == "retry":
            return UNAVAILABLE
        if what == "large":
            self.truth["too_large"] += n == 1
            return TOO_LARGE
        if what == "refuse":
            self.truth["refused"] += n
            return REFUSED
        rejected = 1 if what == "partial" else 0
        self.truth["accepted"] += n - rejected
        self.truth["rejected"] += rejected
        return Outcome(Result.ACCEPTED, "partial_success" if rejected else "", rejected=rejected)


def stamps_of(requests: Iterable[bytes]) -> list[int]:
    """The times of all log records in requests, in order."""
    return [
        record.time_unix_nano
        for request in map(ExportLogsServiceRequest.FromString, requests)
        for resource in request.resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    ]
