"""What an exporter did, in its ledger, its log and its state: each item in exactly one account.

    seen = drained (accepted) + not_ours{points_superseded, events_kept} + lost{<unit>_<why>} + held

Items are points and events together, told apart by the names of the accounts and by the ledger's
`exports`, which count requests, bytes and failures too. A superseded point is not lost: a newer
value of its series is sent instead. Held are events that wait on the disk; those still there at the
end are kept, and seen anew (`events_resumed`) by who reads them there.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable

from retina_otel.delivery.outcome import Clock, Outcome, Result
from retina_otel.pipeline.ledger import Ledger

_PAUSE_NS = 10 * 10**9
"""Between two warnings, whatever they say."""
_REPEAT_NS = 600 * 10**9
"""Between two warnings that say the same."""
_MOST_REMEMBERED = 256


Operated = Callable[[str, float, str], None]
"""Unit, seconds that a request took, and why it did not pass, "" if it did."""


class DeliveryReport:
    """Shared by the lanes of one exporter. Any of its threads."""

    def __init__(
        self,
        ledger: Ledger,
        logger: logging.Logger,
        clock: Clock,
        degraded: Callable[[str], None] = lambda reason: None,
        operated: Operated = lambda unit, seconds, error_type: None,
    ) -> None:
        self._ledger = ledger
        self._logger = logger
        self._clock = clock
        self._degraded = degraded
        self._operated = operated
        self._lock = threading.Lock()
        """Of all below; the ledger has its own."""
        self._said: dict[str, int] = {}
        """What was logged, and until when it is not repeated."""
        self._announced = False
        self._silent_until_ns = 0
        self._suppressed = 0
        self._failing: dict[str, Outcome] = {}
        self._unsent: Counter[str] = Counter()

    def may_lose(self, unit: str, reasons: Iterable[str]) -> None:
        """A lane of this unit begins, which may settle items as lost by these reasons."""
        self._ledger.may_fail(unit, *reasons)

    def request(
        self, unit: str, n_bytes: int, outcome: Outcome, seconds: float | None = None
    ) -> None:
        """One request (or write) was answered, of so many bytes before compression, after so many
        seconds; None: nothing was sent."""
        for failed in outcome.before:
            self._ledger.count_request(unit, n_bytes, failed.reason)
        whole = not outcome.rejected and outcome.remainder is None
        passed = outcome.result is Result.ACCEPTED and whole
        error_type = "" if passed else outcome.reason
        self._ledger.count_request(unit, n_bytes, error_type)
        if seconds is not None:
            self._operated(unit, seconds, error_type)

    def settle(
        self,
        unit: str,
        *,
        accepted: int,
        lost: Counter[str],
        superseded: int = 0,
        held: int = 0,
    ) -> None:
        """Books the items of one export, all at once. `unit` is "points" or "events"; `held` of
        them were booked as such."""
        self._ledger.add_export(
            unit, exported=accepted, failed=lost, superseded=superseded, held=held
        )
        with self._lock:
            self._unsent[unit] += lost["shutdown"]

    def hold(self, n_events: int) -> None:
        """So many events were put on the disk, to be settled later."""
        self._ledger.add(seen=n_events, held=n_events)

    def resume(self, n_events: int) -> None:
        """So many were there, from an earlier process."""
        self._ledger.set_beside("events_resumed", n_events)
        self.hold(n_events)
        if n_events:
            self._logger.info("%d events of an earlier run are on the disk, to be sent", n_events)

    def damaged(self, what: str) -> None:
        """Something on the disk is not what was written there."""
        self.warn(Outcome(Result.REFUSED, "spool_corrupt", what))

    def on_disk(self, n_bytes: int, set_aside: int) -> None:
        """What the spool's files take now, and how many were found damaged."""
        self._ledger.set_beside("spool_bytes", n_bytes)
        self._ledger.set_beside("spool_set_aside", set_aside)

    def keep(self, n_events: int) -> None:
        """The end: so many stay on the disk, for who comes after."""
        self._ledger.add(not_ours={"events_kept": n_events} if n_events else None, held=-n_events)
        if n_events:
            self._logger.info("%d events stay on the disk, for the next start", n_events)

    def failed(self, lane: str, outcome: Outcome) -> None:
        """A request did not pass; the exporter counts as degraded until one of this lane does."""
        with self._lock:
            known = self._failing.get(lane)
            self._failing[lane] = outcome
            if known is None or known.reason != outcome.reason:
                # Told under the lock: what is told last is how it is.
                self._degraded(self._reason())
                self._warn(outcome)

    def passed(self, lane: str) -> None:
        with self._lock:
            if self._failing.pop(lane, None) is not None:
                self._degraded(self._reason())
                if self._announced and not self._failing:
                    self._announced = False
                    self._logger.info("delivery works again")

    def warn(self, outcome: Outcome) -> None:
        """Logs a warning, unless the same was said lately or anything was said just now."""
        with self._lock:
            self._warn(outcome)

    def ended(self) -> None:
        """Says what did not get out: the ledger that has it can't be sent any more."""
        with self._lock:
            unsent = sorted(self._unsent.items())
        if left := ", ".join(f"{n} {unit}" for unit, n in unsent if n):
            self._logger.warning("ended before the backend took what was left: %s", left)

    def _warn(self, outcome: Outcome) -> None:
        now = self._clock.monotonic_ns()
        text = f"{outcome.message}. {outcome.remedy}" if outcome.remedy else outcome.message
        if now < self._said.get(text, now):
            return
        if now < self._silent_until_ns:
            self._suppressed += 1
            return
        if len(self._said) >= _MOST_REMEMBERED:
            self._said.clear()
        self._said[text] = now + _REPEAT_NS
        self._silent_until_ns = now + _PAUSE_NS
        self._announced = True
        if self._suppressed:
            text += f" ({self._suppressed} other warnings were not shown)"
            self._suppressed = 0
        self._logger.warning("%s", text)

    def _reason(self) -> str:
        distinct = dict.fromkeys(
            f"{each.message}. {each.remedy}" if each.remedy else each.message
            for each in self._failing.values()
        )
        return "; ".join(distinct)
