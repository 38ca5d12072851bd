"""Follows the MetricsConfigurations of a cluster: all of them, again whenever one has changed.

They are few and their API has no protobuf: changes are watched as metadata, then all are read.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from retina_otel.kubernetes.api.access import Access, AccessError
from retina_otel.kubernetes.api.decode import Decoder
from retina_otel.kubernetes.api.gate import Gate
from retina_otel.kubernetes.api.resources import Resource
from retina_otel.kubernetes.api.watch import Change, Timing, Watcher, WatchState
from retina_otel.kubernetes.metrics_configuration.objects import (
    PATH,
    MetricsConfiguration,
    read,
    reduced,
)
from retina_otel.kubernetes.objects import Kind, Object, Workload

_NOT_FOUND = 404
_TIMING = Timing(retry_most_s=120.0)
"""A cluster without this kind is asked for it again and again by all agents: seldom."""


def read_all(access: Access) -> tuple[MetricsConfiguration, ...]:
    """Those that there are; none where the cluster has no such kind. Raises AccessError."""
    return tuple(read(document) for document in _documents(access))


def _documents(access: Access) -> list[dict[str, Any]]:
    try:
        body = access.get(PATH)
    except AccessError as error:
        if error.status == _NOT_FOUND:
            return []
        raise
    found: list[dict[str, Any]] = json.loads(body).get("items", [])
    return found


class Configurations:
    """Like a `Watcher`; each change is the whole list. Callbacks come from a thread of its own."""

    def __init__(
        self,
        access: Access,
        on_change: Callable[[Change], None],
        on_state: Callable[[WatchState], None],
        *,
        timing: Timing = _TIMING,
    ) -> None:
        """A cluster that has no such kind has an empty list of them."""
        self._access = access
        self._gate = Gate()
        self._on_change = self._gate.guard(on_change)
        self._on_state = self._gate.guard(on_state)
        self._behind = False
        """A change was seen and not read."""
        self._watcher = Watcher(
            access,
            Kind.METRICS_CONFIGURATION,
            resource=Resource(PATH, "PartialObjectMetadata", _version),
            on_change=self._changed,
            on_state=self._state,
            timing=timing,
        )

    def start(self) -> None:
        self._watcher.start()

    def stop(self) -> None:
        """No callback comes after it has returned."""
        # Its callbacks ask the API server: they are not waited for.
        self._watcher.end()
        self._gate.shut()

    def _changed(self, change: Change) -> None:
        self._behind = True
        self._read()

    def _state(self, state: WatchState) -> None:
        if state.synced:
            if self._behind:
                self._read()
            self._on_state(state)
            return
        if self._exists():
            self._on_state(state)
            return
        # The definition is not there, or not any more, and all objects went with it.
        self._tell([])
        self._on_state(WatchState(True, state.since_ns))

    def _read(self) -> None:
        # Where it fails the watcher says so and comes back, and with it the state.
        self._tell([reduced(document) for document in _documents(self._access)])
        self._behind = False

    def _tell(self, objects: list[Object]) -> None:
        kind = Kind.METRICS_CONFIGURATION
        self._on_change(Change(kind, objects, [], True, time.time_ns()))

    def _exists(self) -> bool:
        try:
            self._access.get(PATH, {"limit": "1"})
        except AccessError as error:
            return error.status != _NOT_FOUND
        return True


def _version(decoder: Decoder, message: Any) -> Object:
    """A watcher tells no change that leaves an object equal: here each version is another."""
    meta = decoder.meta(message.metadata)
    told = {"resourceVersion": meta.resource_version}
    return Workload(replace(meta, annotations=told), "retina.sh/v1alpha1", "MetricsConfiguration")
