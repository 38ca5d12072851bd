"""What each component is doing, kept for the health endpoint and the agent's own metrics.

Written by any thread. A change of state is logged once, not at each tick that confirms it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from retina_otel.component import AgentStatus, ComponentKind, ComponentStatus, State
from retina_otel.pipeline.ledger import Ledger, LedgerReport

Key = tuple[ComponentKind, str]


@dataclass(slots=True)
class _Entry:
    state: State
    reason: str
    failures: int
    logger: logging.Logger


class StatusBoard:
    """States of components by kind and id, and all ledgers by name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[Key, _Entry] = {}
        self._ledgers: dict[str, Ledger] = {}
        self._held: list[tuple[logging.Logger, int, str]] | None = None

    def hold(self) -> None:
        """What is to be logged waits for `release`: whoever starts may say it in other words."""
        self._held = []

    def release(self) -> None:
        """Logs what has waited, and from now on at once."""
        held, self._held = self._held or [], None
        for logger, level, text in held:
            logger.log(level, "%s", text)

    def add(self, key: Key, logger: logging.Logger) -> None:
        """A component appears, or is replaced by one with other settings."""
        with self._lock:
            before = self._entries.get(key)
            failures = before.failures if before else 0
            self._entries[key] = _Entry(State.STARTING, "", failures, logger)

    def remove(self, key: Key) -> None:
        with self._lock:
            self._entries.pop(key, None)

    def set(
        self,
        key: Key,
        state: State,
        reason: str = "",
        *,
        failed: bool = False,
        detail: str = "",
        said: bool = False,
    ) -> None:
        """Notes a state. `failed` counts one failure; `detail` is lines for the log alone; `said`
        is for a component that has logged it itself."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return
            if failed:
                entry.failures += 1
            changed = (entry.state, entry.reason) != (state, reason)
            worked = entry.state in (State.RUNNING, State.STARTING)
            entry.state, entry.reason = state, reason
        if not changed or said:
            return
        text = f"{reason}\n{detail}" if detail else reason
        if state is State.FAILED:
            self._log(entry.logger, logging.ERROR, text)
        elif state is State.DEGRADED:
            self._log(entry.logger, logging.WARNING, f"degraded: {text}")
        elif state is State.RUNNING and not worked:
            self._log(entry.logger, logging.INFO, "works again")

    def _log(self, logger: logging.Logger, level: int, text: str) -> None:
        if self._held is not None:
            self._held.append((logger, level, text))
        else:
            logger.log(level, "%s", text)

    def state(self, key: Key) -> State:
        with self._lock:
            entry = self._entries.get(key)
            return entry.state if entry else State.STOPPED

    def reason(self, key: Key) -> str:
        with self._lock:
            entry = self._entries.get(key)
            return entry.reason if entry else ""

    def ledger(self, name: str, unit: str) -> Ledger:
        """The ledger of that name, which goes on when its component is replaced."""
        with self._lock:
            ledger = self._ledgers.get(name)
            if ledger is None:
                ledger = self._ledgers[name] = Ledger(name, unit)
            return ledger

    def keep_ledger(self, name: str, ledger: Ledger) -> None:
        """Shows a ledger that somebody else has made."""
        with self._lock:
            self._ledgers[name] = ledger

    def components(self) -> tuple[ComponentStatus, ...]:
        with self._lock:
            return tuple(
                ComponentStatus(id_, kind, entry.state, entry.reason, entry.failures)
                for (kind, id_), entry in self._entries.items()
            )

    def ledgers(self) -> Mapping[str, LedgerReport]:
        with self._lock:
            ledgers = dict(self._ledgers)
        reports = {name: ledger.report() for name, ledger in ledgers.items()}
        return {
            name: report
            for name, report in reports.items()
            # Every component has a ledger, but few extensions keep books.
            if name.startswith(("receiver/", "exporter/", "pipeline/")) or _kept(report)
        }

    def agent(
        self,
        *,
        uptime_s: float,
        tick_age_s: float,
        tick_limit_s: float,
        collecting: str = "",
        starting: bool = False,
    ) -> AgentStatus:
        """Ready when all was started, at least one receiver and one exporter work, and the tick
        thread passed lately."""
        components = self.components()
        receivers = [one for one in components if one.kind is ComponentKind.RECEIVER]
        exporters = [one for one in components if one.kind is ComponentKind.EXPORTER]
        reason = ""
        if starting:
            reason = "it is starting"
        elif tick_age_s > tick_limit_s:
            reason = f"nothing was collected for {tick_age_s:.0f} s"
            if collecting:
                reason += f": {collecting} does not return"
        elif receivers and not any(_works(one) for one in receivers):
            reason = "no receiver works"
        elif exporters and not any(_works(one) for one in exporters):
            reason = "no exporter works"
        return AgentStatus(
            ready=not reason,
            reason=reason,
            uptime_s=uptime_s,
            components=components,
            ledgers=self.ledgers(),
        )


def _works(status: ComponentStatus) -> bool:
    return status.state in (State.RUNNING, State.DEGRADED)


def _kept(report: LedgerReport) -> bool:
    return bool(report.seen or report.not_ours or report.lost or report.beside or report.may_lose)
