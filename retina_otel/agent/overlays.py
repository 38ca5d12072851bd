"""What extensions want beside the configuration: which pods are observed, what is reported of them.

Extensions say so from any thread; pipelines change at the next tick, on the tick thread. Nothing
of it is in the configuration, so a reload neither needs nor loses it; what an extension wanted ends
with the extension.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

import numpy as np

from retina_otel.agent.routes import Route, resolves_identity
from retina_otel.pipeline.identity.endpoints import EndpointTable
from retina_otel.pipeline.identity.selection import Selection
from retina_otel.pipeline.overlay import Overlay
from retina_otel.pipeline.pipeline import MetricsPipeline


class Overlays:
    """See the module's docstring."""

    def __init__(self, endpoints: EndpointTable) -> None:
        self.selection = Selection()
        self._endpoints = endpoints
        self._lock = threading.Lock()
        self._by_extension: dict[str, Overlay] = {}
        self._epoch = 0
        self._left_out: frozenset[int] = frozenset()

    def lay(self, extension: str, overlay: Overlay) -> None:
        """Replaces what an extension has said before. Any thread."""
        with self._lock:
            self._by_extension = {**self._by_extension, extension: overlay}

    def lift(self, extension: str) -> None:
        """The extension has ended. Any thread."""
        with self._lock:
            self._by_extension = {
                id_: one for id_, one in self._by_extension.items() if id_ != extension
            }

    def apply(self, routes: Iterable[Route]) -> None:
        """Before receivers are collected from, at each tick."""
        with self._lock:
            overlay = Overlay.of_all(self._by_extension.values())
        left_out = self._newly_left_out()
        for route in routes:
            if isinstance(route.pipeline, MetricsPipeline) and resolves_identity(route.key):
                own = overlay
                if route.classic is not None:
                    own = route.classic.change(overlay, self.selection.view)
                route.pipeline.accumulator.lay_over(own)
                if left_out:
                    # Their last rows may still come in: of the window before this one.
                    route.pipeline.accumulator.doubt(np.array(left_out, np.int32))

    def _newly_left_out(self) -> list[int]:
        """Rows of this node's pods that were observed up to now."""
        if self.selection.epoch == self._epoch:
            return []
        self._epoch = self.selection.epoch
        before, now = self._left_out, set[int]()
        if not self.selection.everything:
            table = self._endpoints
            now = {
                row
                for row in table.index.local.tolist()
                if not self.selection.observes(table.endpoint(row))
            }
        self._left_out = frozenset(now)
        return sorted(now - before)
