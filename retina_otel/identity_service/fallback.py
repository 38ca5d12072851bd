"""FallBack: the identity service while it is there, the API server while it is not.

One of the two speaks at a time, and each begins with whole lists, so that nothing old is heard
after something new. Agents do not move together: each waits for a random time, at least as long as
configured, before it asks the API server, and again before it goes back to a service that has
returned. A service that answers and says that it is not up to date itself is not left: the API
server behind it is away, and a thousand lists would be no help to it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Protocol

from retina_otel.identity_service.client import IdentityStream, StreamSettings, probe
from retina_otel.kubernetes.api.watch import Change, WatchState


class Source(Protocol):
    """Anything that tells changes from `start` to `stop`."""

    def start(self) -> None: ...

    def stop(self) -> None:
        """No change is told after it has returned."""


class FallBack:
    """Is a `Source` itself, with a thread of its own."""

    def __init__(
        self,
        settings: StreamSettings,
        on_change: Callable[[Change], None],
        on_state: Callable[[WatchState], None],
        *,
        in_its_place: Callable[[], Source],
        on_cluster: Callable[[str], None] = lambda uid: None,
        after_s: float = 30.0,
    ) -> None:
        """`on_state` and `on_cluster` are about the service; `in_its_place` makes the other source,
        at each fall."""
        self._settings = settings
        self._on_change = on_change
        self._on_state = on_state
        self._on_cluster = on_cluster
        self._in_its_place = in_its_place
        self._after_s = after_s
        self._back_after_s = 2 * after_s
        self._probe_s = after_s / 3
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="identity-fall-back", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        patience_s = self._after_s * random.uniform(1.0, 2.0)
        while not self._stop.is_set():
            self._by_service(patience_s)
            if not self._stop.is_set():
                self._by_other()
            # A service that was there a moment ago: no second wait if it is gone again.
            patience_s = self._settings.connect_s

    def _by_service(self, patience_s: float) -> None:
        """Returns once the service is away for too long."""
        stream = IdentityStream(
            self._settings, self._on_change, self._on_state, on_cluster=self._on_cluster
        )
        stream.start()
        try:
            while not self._stop.is_set():
                away_s = stream.away_s
                if away_s is None:
                    away_s, patience_s = 0.0, self._after_s * random.uniform(1.0, 2.0)
                elif away_s >= patience_s:
                    return
                self._stop.wait(min(max(patience_s - away_s, 0.01), self._after_s / 4))
        finally:
            stream.stop()

    def _by_other(self) -> None:
        """Returns once the service has been there for long enough."""
        other = self._in_its_place()
        other.start()
        try:
            enough_s = self._back_after_s * random.uniform(1.0, 2.0)
            there_since: float | None = None
            while not self._stop.wait(self._probe_s * random.uniform(0.5, 1.0)):
                if reason := probe(self._settings):
                    there_since = None
                    self._on_state(WatchState(False, time.time_ns(), reason))
                    continue
                now = time.monotonic()
                there_since = now if there_since is None else there_since
                if now - there_since >= enough_s:
                    return
        finally:
            other.stop()
