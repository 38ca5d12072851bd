"""What the service watches: every kind that an agent's inventory reads, once for all agents."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from retina_otel.identity_service.owners import OWNED, CustomOwners
from retina_otel.identity_service.protocol import Heartbeat, Keys
from retina_otel.identity_service.store import Store
from retina_otel.kubernetes.api.access import Access
from retina_otel.kubernetes.api.watch import Change, Timing, Wanted, Watcher, WatchState
from retina_otel.kubernetes.cloud import NODE_LABELS
from retina_otel.kubernetes.metrics_configuration.following import Configurations
from retina_otel.kubernetes.metrics_configuration.observed import ANNOTATION
from retina_otel.kubernetes.objects import Kind

_WATCHED = (
    Kind.POD,
    Kind.SERVICE,
    Kind.ENDPOINT_SLICE,
    Kind.NODE,
    Kind.NAMESPACE,
    Kind.REPLICA_SET,
    Kind.JOB,
)
_SELECTORS = {
    # Of the slices only the API server's own addresses are read.
    Kind.ENDPOINT_SLICE: "metadata.namespace=default,metadata.name=kubernetes",
}


def keys(labels: Iterable[str], annotations: Iterable[str]) -> dict[Kind, Keys]:
    """By kind, which labels and annotations are kept: those asked for of pods, and what the
    inventory itself reads."""
    of = {kind: Keys() for kind in (*_WATCHED, Kind.METRICS_CONFIGURATION, Kind.OWNER)}
    of[Kind.POD] = Keys(tuple(sorted(labels)), tuple(sorted({*annotations, ANNOTATION})))
    of[Kind.NAMESPACE] = Keys((), (ANNOTATION,))
    of[Kind.NODE] = Keys(tuple(sorted(NODE_LABELS)))
    return of


class Sources:
    """Watches that fill a store."""

    def __init__(
        self,
        access: Access,
        store: Store,
        *,
        kept: Mapping[Kind, Keys],
        on_state: Callable[[], None],
        logger: logging.Logger,
        timing: Timing | None = None,
    ) -> None:
        """`on_state` is called after each change of state, from any thread."""
        self._store = store
        self._on_state = on_state
        self._logger = logger
        self._lock = threading.Lock()
        followed: list[Kind] = [kind for kind in kept if kind is not Kind.OWNER]
        self._states = {kind: WatchState(False, time.time_ns(), "no list yet") for kind in followed}
        self._never = {kind.value for kind in followed}
        self._refused: set[str] = set()
        self._owners = CustomOwners(access, store.apply, self._owner_refused)
        timing = timing or Timing(phase_s=0.0)
        self._watchers: list[Watcher | Configurations] = [
            Watcher(
                access,
                kind,
                on_change=self._changed,
                on_state=self._listener(kind),
                selector=_SELECTORS.get(kind, ""),
                wanted=Wanted(frozenset(kept[kind].labels), frozenset(kept[kind].annotations)),
                timing=timing,
            )
            for kind in _WATCHED
        ]
        state = self._listener(Kind.METRICS_CONFIGURATION)
        self._watchers.append(Configurations(access, store.apply, state, timing=timing))

    def start(self) -> None:
        self._owners.start()
        for watcher in self._watchers:
            watcher.start()

    def stop(self) -> None:
        for watcher in self._watchers:
            watcher.stop()
        self._owners.stop()

    def unsynced(self) -> frozenset[str]:
        """Kinds of which there was no whole list yet."""
        return frozenset(self._never)

    def synced(self) -> dict[str, float]:
        """1 or 0 by kind."""
        with self._lock:
            found = {kind.value: float(state.synced) for kind, state in self._states.items()}
            return found | {Kind.OWNER.value: float(not self._refused)}

    def heartbeat(self) -> Heartbeat:
        """The state of all watches in one."""
        with self._lock:
            states = dict(self._states)
        behind = {kind: state for kind, state in states.items() if not state.synced}
        since_ns = max(state.since_ns for state in (behind or states).values())
        reason = next((f"{kind.value}: {state.reason}" for kind, state in behind.items()), "")
        return Heartbeat(not behind, since_ns, reason)

    def _changed(self, change: Change) -> None:
        self._store.apply(change)
        if change.kind in OWNED:
            self._owners.follow(change)

    def _owner_refused(self, right: str) -> None:
        with self._lock:
            known, self._refused = self._refused, self._refused | {right}
        if right not in known:
            self._logger.warning(
                "some pods' owners are not known to the top: grant the service `%s`",
                right,
            )

    def _listener(self, kind: Kind) -> Callable[[WatchState], None]:
        def listen(state: WatchState) -> None:
            with self._lock:
                self._states[kind] = state
                if state.synced:
                    self._never.discard(kind.value)
            if state.synced:
                self._logger.info("%s: up to date", kind.value)
            else:
                self._logger.warning("%s: %s", kind.value, state.reason)
            self._on_state()

        return listen
