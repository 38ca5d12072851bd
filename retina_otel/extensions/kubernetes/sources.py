"""Sources: where changes of objects come from, the API server or the identity service.

Each kind's first whole list comes first, so one may take over from another. The API server is asked
for nothing but by `Watches`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from retina_otel.extensions.kubernetes.introduction import Enquiry, Introduction
from retina_otel.extensions.kubernetes.plan import TOLD_BY_SERVICE, Watched
from retina_otel.extensions.kubernetes.settings import ServiceSettings
from retina_otel.kubernetes.api.access import Access
from retina_otel.kubernetes.api.watch import Change, Timing, Watcher, WatchState
from retina_otel.kubernetes.inventory.owners import Missing, kind_of
from retina_otel.kubernetes.metrics_configuration.following import Configurations
from retina_otel.kubernetes.objects import Kind, Workload
from retina_otel.kubernetes.owner_reader import OwnerReader
from retina_otel.pipeline.identity.selection import View

_TIMING = Timing(phase_s=0.5)
_PODS_TIMING = Timing(after_s=0.5, phase_s=1.5)
"""Owners and nodes are known by then, very likely. When they come later, all pods are worked out
again."""


class Source(Protocol):
    def start(self) -> None: ...

    def stop(self) -> None:
        """No callback comes after it has returned."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told. From any thread."""

    changed: Callable[[Change], None]
    lacks: Callable[[str, str, str], None]
    """What it is about, why it is not as it should be (empty where it is), and what that costs."""
    missing_owners: Callable[[], Mapping[str, Missing]]
    """Which owners lead on to what is not known, by uid."""
    introduction: Introduction


class Watches:
    """A watch of the API server for each kind, and questions for what is not watched."""

    def __init__(
        self, access: Access, watched: Sequence[Watched], node: str, listener: Listener
    ) -> None:
        self._listener = listener
        self._lock = threading.Lock()
        self._lacking: set[str] = set()
        self._stopped = False
        self._kinds = frozenset(one.kind for one in watched)
        self._owners = OwnerReader(access, self._owner_found, self._owner_refused)
        self._parts: list[Source] = [self._part(access, one) for one in watched]
        self._enquiry = Enquiry(
            access,
            node,
            listener.introduction,
            lambda reason: self._lacks("introduction", reason),
        )

    def start(self) -> None:
        self._owners.start()
        for part in (*self._parts, self._enquiry):
            part.start()

    def stop(self) -> None:
        """What it lacked is nobody's matter any more."""
        for part in (self._enquiry, *self._parts, self._owners):
            part.stop()
        with self._lock:
            self._stopped = True
            for about in self._lacking:
                self._listener.lacks(about, "", "")

    def _part(self, access: Access, one: Watched) -> Source:
        def on_state(state: WatchState) -> None:
            self._lacks(one.kind.value, "" if state.synced else state.reason, one.without)

        if one.kind is Kind.METRICS_CONFIGURATION:
            return Configurations(access, self._changed, on_state)
        return Watcher(
            access,
            one.kind,
            on_change=self._changed,
            on_state=on_state,
            resource=one.resource,
            selector=one.selector,
            wanted=one.wanted,
            timing=_PODS_TIMING if one.kind is Kind.POD else _TIMING,
            remember=False,  # the inventory does
        )

    def _changed(self, change: Change) -> None:
        self._listener.changed(change)
        missing = self._listener.missing_owners()
        self._owners.ask(
            {uid: one for uid, one in missing.items() if kind_of(one.ref) not in self._kinds}
        )

    def _owner_found(self, found: Workload) -> None:
        self._changed(Change(Kind.OWNER, [found], [], False, found.meta.created_ns))

    def _owner_refused(self, right: str) -> None:
        text = f"some pods' owners are not known to the top: grant `{right}`"
        self._lacks(f"owner {right}", text)

    def _lacks(self, about: str, reason: str, cost: str = "") -> None:
        with self._lock:
            if self._stopped:
                return
            if reason:
                self._lacking.add(about)
            self._listener.lacks(about, reason, cost)


def of_service(
    settings: ServiceSettings,
    watched: Sequence[Watched],
    listener: Listener,
    *,
    node: str,
    view: View,
    in_its_place: Callable[[], Source] | None,
) -> Source:
    """The identity service's stream and, while it is away for long, what `in_its_place` makes.
    Raises ConfigError."""
    # gRPC takes 9 MB, of which most agents have no use.
    from retina_otel.identity_service.client import IdentityStream, StreamSettings
    from retina_otel.identity_service.fallback import FallBack
    from retina_otel.identity_service.protocol import Keys

    kinds = {kind: Keys() for kind in TOLD_BY_SERVICE[view]}
    for one in watched:
        wanted = one.wanted
        kinds[one.kind] = Keys(
            tuple(sorted(wanted.label_keys)), tuple(sorted(wanted.annotation_keys))
        )
    stream = StreamSettings(
        endpoint=settings.endpoint,
        kinds=kinds,
        node=node,
        local=view is not View.REMOTE,
        token_file=settings.token_file,
        ca_file=settings.ca_file,
        cert_file=settings.cert_file,
        key_file=settings.key_file,
        server_name=settings.server_name,
        insecure=settings.insecure,
    )

    def on_state(state: WatchState) -> None:
        reason = "" if state.synced else state.reason
        listener.lacks("identity service", reason, "what the identity service tells")

    on_cluster = listener.introduction.cluster
    if in_its_place is None:
        return IdentityStream(stream, listener.changed, on_state, on_cluster=on_cluster)
    return FallBack(
        stream,
        listener.changed,
        on_state,
        in_its_place=in_its_place,
        on_cluster=on_cluster,
        after_s=settings.fall_back_after,
    )
