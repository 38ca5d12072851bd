"""One sender of several: the first endpoint that takes wins, and the first of all is returned to.

A request goes to the next endpoint when one can't take it now, never when one refuses it. An
endpoint that asked to be left alone is left alone. What one endpoint took without its answer
arriving is sent again to another: events and deltas arrive at least once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from retina_otel.delivery.outcome import Clock, Outcome, Result
from retina_otel.delivery.packed import Packed
from retina_otel.delivery.retry import LONGEST_RETRY_AFTER_S
from retina_otel.delivery.sender import Sender

_S = 10**9
_LEAST_S = 0.1
"""Less time than this is not enough to try another endpoint."""


@dataclass(slots=True)
class _Endpoint:
    shown: str
    sender: Sender
    not_before_ns: int = 0
    """Until when it asked to be left alone."""
    why: str = ""
    """What its last failure was."""


class FailoverSender:
    """Used by one thread; `abort` may be called from any."""

    def __init__(
        self,
        endpoints: Sequence[tuple[str, Sender]],
        *,
        clock: Clock,
        logger: logging.Logger,
        failback_s: float,
    ) -> None:
        """`endpoints`: what is shown of each, and its sender; all pack alike."""
        self._endpoints = [_Endpoint(shown, sender) for shown, sender in endpoints]
        self._clock = clock
        self._logger = logger
        self._failback_ns = int(failback_s * _S)
        self._active = 0
        """Where the next request goes first."""
        self._taking = 0
        """Which one took the last request."""
        self._first_again_ns = 0
        """When the first is to be tried again, while another is active."""

    @property
    def active(self) -> str:
        """The endpoint that the next request goes to, as it is shown."""
        return self._endpoints[self._active].shown

    def pack(self, body: bytes, n_items: int) -> Packed:
        return self._endpoints[self._active].sender.pack(body, n_items)

    def send(self, packed: Packed, timeout_s: float) -> Outcome:
        """To the active endpoint, then to others as far as the time reaches."""
        deadline = time.monotonic() + timeout_s
        failed: list[Outcome] = []
        for number in self._order():
            left_s = deadline - time.monotonic()
            if failed and left_s < _LEAST_S:
                break
            endpoint = self._endpoints[number]
            # A first that only hangs must leave time for the one that has taken so far.
            probing = number == 0 and self._active != 0
            outcome = endpoint.sender.send(packed, left_s / 2 if probing else left_s)
            if outcome.result is not Result.RETRY:
                self._takes(number)
                return replace(outcome, before=tuple(failed))
            failed.append(outcome)
            self._failed(number, outcome)
        return self._none_takes(failed)

    def abort(self) -> None:
        for endpoint in self._endpoints:
            endpoint.sender.abort()

    def close(self) -> None:
        for endpoint in self._endpoints:
            endpoint.sender.close()

    def _order(self) -> list[int]:
        """Which endpoints to try, in turn, without those that asked to be left alone."""
        now = self._clock.monotonic_ns()
        order = list(range(len(self._endpoints)))
        if self._active and now < self._first_again_ns:
            order = order[self._active :] + order[: self._active]
        elif self._active:
            self._first_again_ns = now + self._failback_ns
            order = [0, self._active, *(n for n in order if n not in (0, self._active))]
        return [number for number in order if self._endpoints[number].not_before_ns <= now]

    def _takes(self, number: int) -> None:
        endpoints = self._endpoints
        if number != self._taking and number == 0:
            self._logger.info("sending to %s again", endpoints[0].shown)
        elif number != self._taking:
            why = endpoints[self._taking].why
            self._logger.warning("%s. Sending to %s instead", why, endpoints[number].shown)
        self._active = self._taking = number

    def _failed(self, number: int, outcome: Outcome) -> None:
        endpoint = self._endpoints[number]
        endpoint.why = outcome.message
        now = self._clock.monotonic_ns()
        if outcome.retry_after_s is not None:
            pause_s = min(outcome.retry_after_s, LONGEST_RETRY_AFTER_S)
            endpoint.not_before_ns = now + int(pause_s * _S)
        if number == self._active:
            # Also where no time is left for another one: the next request begins there.
            self._active = (number + 1) % len(self._endpoints)
            if number == 0:
                self._first_again_ns = now + self._failback_ns

    def _none_takes(self, failed: list[Outcome]) -> Outcome:
        """One outcome for all; it asks for a pause only where every endpoint does."""
        now = self._clock.monotonic_ns()
        pause_ns = min(endpoint.not_before_ns for endpoint in self._endpoints) - now
        retry_after_s = pause_ns / _S if pause_ns > 0 else None
        if not failed:
            message = "; ".join(endpoint.why for endpoint in self._endpoints)
            return Outcome(Result.RETRY, "throttled", message, retry_after_s=retry_after_s)
        return replace(
            failed[-1],
            message="; ".join(dict.fromkeys(each.message for each in failed)),
            retry_after_s=retry_after_s,
            before=tuple(failed[:-1]),
        )
