"""`identity`: says of each end of each row who it is, by what identity extensions know.

A local end is told by the interface or the network namespace it lives behind, since an address can
be anybody's; only then by address, as remote ends are. An address tells only where the packet was
seen in a namespace that is somebody's here (the node's own, a pod's): other containers may use the
same addresses for others. Nothing known: UNKNOWN_ROW, never a guess.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from retina_otel.component import Component, ComponentKind, Context, Settings
from retina_otel.model.batches import UNKNOWN_ROW, EventBatch, MetricBatch, RawEnds
from retina_otel.pipeline.endpoints import EndpointTable

Rows = npt.NDArray[np.int32]
AnyBatch = TypeVar("AnyBatch", MetricBatch, EventBatch)


class IdentitySettings(Settings):
    """There is nothing to set: what is put on points is the exporters' and pipelines' choice."""


class IdentityProcessor:
    """Holds nothing but the table."""

    def __init__(self, settings: IdentitySettings, context: Context) -> None:
        self._table = context.identity

    def process_metrics(self, batch: MetricBatch) -> MetricBatch:
        return self._resolve(batch)

    def process_events(self, batch: EventBatch) -> EventBatch:
        return self._resolve(batch)

    def _resolve(self, batch: AnyBatch) -> AnyBatch:
        return replace(
            batch,
            source_rows=resolve(self._table, batch.source),
            destination_rows=resolve(self._table, batch.destination),
        )


def resolve(table: EndpointTable, ends: RawEnds | None) -> Rows | None:
    """The row of each end: by interface, else by namespace, else by address. The node's own
    namespace must be in the table, as NodeIdentity puts it there."""
    if ends is None:
        return None
    rows = table.resolve_interface(ends.ifindex)
    if ends.netns is not None:
        open_ = rows == UNKNOWN_ROW
        rows[open_] = table.resolve_netns(ends.netns[open_])
    open_ = rows == UNKNOWN_ROW
    if ends.seen_netns is not None:
        open_ &= table.resolve_netns(ends.seen_netns) != UNKNOWN_ROW
    if open_.any():
        rows[open_] = table.resolve_address(ends.hi[open_], ends.lo[open_])
    return rows


COMPONENT = Component(
    type="identity",
    kind=ComponentKind.PROCESSOR,
    stability="beta",
    Settings=IdentitySettings,
    create=IdentityProcessor,
    signals=frozenset({"metrics", "logs"}),
)
