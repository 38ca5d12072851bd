"""Sends remote write over HTTP, and reads its answers by the specification's rules.

5xx and 429 are tried again, no other 4xx is. A backend that does not know version 2.0 is given 1.0
from then on. How many samples a backend says it has written is believed.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from retina_otel.delivery.auth.authorizer import Authorizer
from retina_otel.delivery.http.responses import Response, one_line
from retina_otel.delivery.http.sender import HttpSender, HttpTarget
from retina_otel.delivery.outcome import Clock, Outcome, Result
from retina_otel.delivery.packed import Packed
from retina_otel.delivery.retry import parse_retry_after

_LEAST_S = 0.1
VERSION_HEADER = "X-Prometheus-Remote-Write-Version"
WRITTEN_HEADERS = tuple(
    f"X-Prometheus-Remote-Write-{what}-Written" for what in ("Samples", "Histograms", "Exemplars")
)
RESERVED_HEADERS = frozenset(
    name.lower() for name in ("Content-Encoding", "Content-Type", "User-Agent", VERSION_HEADER)
)
"""Headers that users can't set."""


class Protocol(Enum):
    V1 = "1.0"
    V2 = "2.0"

    @property
    def content_type(self) -> str:
        if self is Protocol.V1:
            return "application/x-protobuf"
        return "application/x-protobuf;proto=io.prometheus.write.v2.Request"

    @property
    def version_header(self) -> str:
        return "0.1.0" if self is Protocol.V1 else "2.0.0"


@dataclass(frozen=True, slots=True)
class Wire:
    """What the sender has to know of the bytes of requests."""

    count_samples: Callable[[bytes], int]
    is_version_2: Callable[[bytes], bool]
    as_version_1: Callable[[bytes], bytes] | None
    """None: what is sent can't be said in version 1.0."""
    without_zero_points: Callable[[bytes], tuple[bytes, int] | None]
    """Of version 1.0, with the number of points that are missing; None if none would be."""


class RemoteWriteSender:
    """Used by one thread; `abort` may be called from any."""

    def __init__(
        self,
        target: HttpTarget,
        protocol: Protocol,
        wire: Wire,
        *,
        clock: Clock,
        user_agent: str,
        authorizer: Authorizer | None = None,
    ) -> None:
        """`target` without the headers of a version. Raises ConfigError as HttpSender does."""

        def sender(version: Protocol) -> HttpSender:
            headers = {**target.headers, VERSION_HEADER: version.version_header}
            own = replace(target, headers=headers, content_type=version.content_type)
            return HttpSender(
                own,
                clock=clock,
                user_agent=user_agent,
                authorizer=authorizer,
                judge=functools.partial(self._judge, version),
            )

        self._wire = wire
        self._senders = {protocol: sender(protocol)}
        if protocol is Protocol.V2 and wire.as_version_1 is not None:
            self._senders[Protocol.V1] = sender(Protocol.V1)
        self.protocol = protocol
        """The version in use."""
        self._known = protocol is Protocol.V1
        """Whether the backend has once shown that it takes this version."""
        self._sending: Packed | None = None
        self._answer: Response | None = None

    @property
    def target(self) -> HttpTarget:
        return self._senders[self.protocol].target

    def pack(self, body: bytes, n_items: int) -> Packed:
        return self._senders[self.protocol].pack(body, n_items)

    def send(self, packed: Packed, timeout_s: float) -> Outcome:
        """At most `timeout_s` for all that a request comes to: a second one in another version, or
        without what was refused, has what the first one left of it."""
        deadline = time.monotonic() + timeout_s
        if self.protocol is Protocol.V1:
            return self._send_version_1(self._in_version_1(packed), deadline)
        outcome = self._send(Protocol.V2, packed, deadline)
        answer = self._answer
        if answer is None:
            return outcome
        if _written(answer) is not None:
            self._known = True
            return outcome
        # A receiver of 1.0 reads an empty request, says 2xx and writes nothing: also one that has
        # taken the place of one of 2.0. A 400 may as well be about the samples.
        unread = answer.status == 415 or 200 <= answer.status < 300
        if not unread and (self._known or answer.status != 400):
            return outcome
        return self._fall_back(packed, deadline, outcome)

    def _fall_back(self, packed: Packed, deadline: float, refused: Outcome) -> Outcome:
        """Version 1.0 for a backend that seems not to know 2.0; it is kept if it passes."""
        if Protocol.V1 not in self._senders:
            if refused.reason == "http_400":
                return refused
            return Outcome(
                Result.REFUSED,
                "version",
                f"{self.target.shown}: takes no remote write 2.0",
                "Set translation_strategy to one that escapes, and protocol to 1.0",
            )
        outcome = self._send_version_1(self._in_version_1(packed), deadline)
        first = replace(refused, reason=refused.reason or "version")
        if outcome.result is Result.REFUSED and refused.result is Result.REFUSED:
            return replace(refused, before=(outcome, *outcome.before))
        outcome = replace(outcome, before=(first, *outcome.before))
        if outcome.result is not Result.ACCEPTED:
            return outcome
        self.protocol, self._known = Protocol.V1, True
        return replace(
            outcome,
            reason=outcome.reason or "version",
            message=outcome.message or f"{self.target.shown}: takes remote write 1.0 only",
            remedy="Set protocol to 1.0: to write 2.0 first and then 1.0 costs CPU",
        )

    def _send_version_1(self, packed: Packed, deadline: float) -> Outcome:
        """Prometheus takes nothing of a request of 1.0 in which one sample is older than what it
        has: so are the zeros at a series' start when a request comes again whose answer was lost.
        Without them the rest is another request, which may pass."""
        outcome = self._send(Protocol.V1, packed, deadline)
        if self._answer is None or self._answer.status != 400:
            return outcome
        rest = self._wire.without_zero_points(packed.body())
        if rest is None:
            return outcome
        body, missing = rest
        n_items = packed.n_items - missing
        second = self._send(Protocol.V1, self._senders[Protocol.V1].pack(body, n_items), deadline)
        if second.result is Result.REFUSED:
            return replace(outcome, before=(second,))
        if second.result is not Result.ACCEPTED:
            return replace(second, before=(outcome,))
        return replace(
            outcome,
            result=Result.ACCEPTED,
            reason="partial_write",
            rejected=missing,
            before=(outcome,),
        )

    def _send(self, version: Protocol, packed: Packed, deadline: float) -> Outcome:
        self._sending, self._answer = packed, None
        return self._senders[version].send(packed, max(_LEAST_S, deadline - time.monotonic()))

    def _in_version_1(self, packed: Packed) -> Packed:
        if self._wire.as_version_1 is None or Protocol.V2 not in self._senders:
            return packed
        body = packed.body()
        if not self._wire.is_version_2(body):
            return packed
        return self._senders[Protocol.V1].pack(self._wire.as_version_1(body), packed.n_items)

    def _judge(self, version: Protocol, response: Response, url: str, wall_ns: int) -> Outcome:
        assert self._sending is not None
        self._answer = response
        status, packed = response.status, self._sending
        said = one_line(response.body.decode(errors="replace"))
        message = f"{url}: HTTP {status}" + (f": {said}" if said else "")
        # Of a request of 1.0 Prometheus says that it has written none, whatever it did.
        written = _written(response) if version is Protocol.V2 else None
        if 200 <= status < 300:
            if written is None or written >= packed.n_items:
                return Outcome(Result.ACCEPTED)
            return self._partly(packed, written, f"{message}: {written} samples written")
        if status == 429 or status >= 500:
            wait = parse_retry_after(response.header("Retry-After"), wall_ns)
            remedy = _REMEDIES.get(status, _REMEDIES[500])
            return Outcome(Result.RETRY, f"http_{status}", message, remedy, retry_after_s=wait)
        if status == 413:
            return Outcome(Result.TOO_LARGE, "too_large", message, _REMEDIES[413])
        if status < 500 and written:
            return self._partly(packed, written, message)
        remedy = _REMEDIES.get(status, _REMEDIES[300 if status < 400 else 400])
        return Outcome(Result.REFUSED, f"http_{status}", message, remedy)

    def _partly(self, packed: Packed, written: int, message: str) -> Outcome:
        """Some samples were written. A sample that was not may be of any point."""
        missing = max(0, self._wire.count_samples(packed.body()) - written)
        return Outcome(
            Result.ACCEPTED,
            "partial_write" if missing else "",
            message if missing else "",
            _REMEDIES[400] if missing else "",
            rejected=min(missing, packed.n_items),
        )

    def abort(self) -> None:
        for sender in self._senders.values():
            sender.abort()

    def close(self) -> None:
        for sender in self._senders.values():
            sender.close()


def _written(response: Response) -> int | None:
    """Samples and histograms that the backend says it has written; None if it does not say."""
    given = [response.header(name) for name in WRITTEN_HEADERS]
    if all(value is None for value in given):
        return None
    numbers = [(value or "0").strip() for value in given[:2]]
    return sum(int(each) for each in numbers if each.isascii() and each.isdigit())


_REMEDIES = {
    300: "Set the endpoint to where it points: redirects are not followed",
    400: "The backend does not want these samples; its own log says more",
    401: "Set auth, or headers, to what the backend wants",
    403: "Set auth, or headers, to credentials that may write",
    404: "Check the endpoint, as http://prometheus:9090/api/v1/write; Prometheus needs "
    "--web.enable-remote-write-receiver",
    413: "Set max_request_bytes to the backend's limit",
    415: "Set protocol to what the backend takes",
    429: "The backend asks for less: a longer interval or fewer attributes help",
    500: "The backend has a fault of its own, or is overloaded",
}
