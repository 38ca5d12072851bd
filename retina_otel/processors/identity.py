"""`identity`: says of each end of each row who it is, by what identity extensions know.

A local end is told by the interface or the network namespace it lives behind, since an address can
be anybody's; on the node's own network by who owns the socket; only then by address and time, as
remote ends are. An address tells only where the packet was seen in a namespace that is somebody's
here (the node's own, a pod's): other containers may use the same addresses for others. Nothing
known, or two that may be meant: UNKNOWN_ROW, never a guess. The view of the Selection decides how
much is told, and rows of pods that it does not observe are left out.

A row that waited comes again, when it is better known who had an address. What the node itself told
of it the first time stays: its sockets, translations and namespaces may be others' by then.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

import numpy as np

from retina_otel.component import Component, ComponentKind, Context, Settings
from retina_otel.model.attributes import CLOUD_AVAILABILITY_ZONE, FLOW_INTER_ZONE, K8S_NODE_NAME
from retina_otel.model.batches import UNKNOWN_ROW, Column, EventBatch, How, MetricBatch
from retina_otel.model.namespaces import Tuples
from retina_otel.model.signals import Event, Metric
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind
from retina_otel.pipeline.identity.late import lives_here
from retina_otel.pipeline.identity.row_facts import RowFacts
from retina_otel.pipeline.identity.selection import View
from retina_otel.processors.identity_ends import (
    End,
    Mask,
    Protocols,
    Rows,
    Times,
    by_address,
    kept_from,
    locally,
    protocols,
    times,
    with_behind,
    without_address,
)

_CLIENT_PORTS_FROM = 32768
"""Linux gives connections ports from here on (net.ipv4.ip_local_port_range); others do from 49152
on."""

AnyBatch = TypeVar("AnyBatch", MetricBatch, EventBatch)


class IdentitySettings(Settings):
    """There is nothing to set: what is put on points is the exporters' and pipelines' choice."""


class IdentityProcessor:
    """Its ledger has only what it leaves out."""

    def __init__(self, settings: IdentitySettings, context: Context) -> None:
        self._context = context
        self._table = context.identity
        self._selection = context.selection
        self._selected = -1
        self._observed = RowFacts(self._table, self._is_observed)
        self._zones: dict[str, int] = {}
        self._zone = RowFacts(self._table, self._zone_of)
        self._said = ""
        self._own_netns = 0
        with suppress(OSError):
            self._own_netns = os.stat("/proc/thread-self/ns/net").st_ino

    def process_metrics(self, batch: MetricBatch) -> MetricBatch | None:
        return self._process(batch)

    def process_events(self, batch: EventBatch) -> EventBatch | None:
        return self._process(batch)

    def _process(self, batch: AnyBatch) -> AnyBatch | None:
        first_ns, last_ns = times(batch)
        ends = {
            name: kept_from(locally(self._table, raw, first_ns), rows, how)
            for name, raw, rows, how in (
                ("source", batch.source, batch.source_rows, batch.source_how),
                ("destination", batch.destination, batch.destination_rows, batch.destination_how),
            )
            if raw is not None
        }
        own = int(self._table.resolve_netns(np.array([self._own_netns], np.uint32))[0])
        again = batch.source_rows is not None or batch.destination_rows is not None
        if not again:
            for end in ends.values():
                self._by_socket(batch, end, own)
        kept = self._kept(ends)
        if kept is not None:
            left_out = len(kept) - int(np.count_nonzero(kept))
            self._context.ledger.add(seen=left_out, filtered=left_out)
            if left_out == len(kept):
                return None
            batch = batch.at(kept)
            ends = {name: end.at(kept) for name, end in ends.items()}
            first_ns, last_ns = first_ns[kept], last_ns[kept]
        view = self._selection.view
        if view is View.REMOTE:
            for end in ends.values():
                by_address(self._table, end, first_ns, last_ns)
                if not again:
                    self._by_socket(batch, end, own)
            self._behind_services(batch, ends, first_ns, last_ns, again=again)
        else:
            _hide_remote(batch, ends)
        if view is View.NODE:
            for end in ends.values():
                here = end.local if not self._selection.everything else lives_here(end.raw)
                end.rows[here], end.how[here] = own, How.INTERFACE
        self._tell()
        return self._between_zones(_with(batch, ends))

    def _tell(self) -> None:
        """What the node could not tell, if that has changed."""
        sockets, translations = self._context.sockets, self._context.translations
        reasons = (
            (
                "pods on the node's own network may be told as the node",
                "" if sockets is None else sockets.unavailable,
            ),
            (
                "services are told without what answers behind them",
                "" if translations is None else translations.unavailable,
            ),
        )
        said = "; ".join(f"{cost}: {reason}" for cost, reason in reasons if reason)
        if said != self._said:
            self._said = said
            self._context.degraded(said)

    def _by_socket(self, batch: AnyBatch, end: End, own: int) -> None:
        """Pods on the node's own network, by who has the socket."""
        sockets = self._context.sockets
        if sockets is None or own == UNKNOWN_ROW or not self._table.has_names:
            return
        at_node = end.how != How.SOCKET
        at_node &= self._is_own_node(end.rows, own)
        asked = np.flatnonzero(at_node)
        if not asked.size:
            return
        protocol = protocols(batch)[asked]
        raw = end.raw
        owners = sockets.owners(protocol, raw.hi[asked], raw.lo[asked], raw.port[asked])
        for owner in np.unique(owners[owners >= 0]).tolist():
            row = self._table.named(sockets.workloads[owner])
            if row != UNKNOWN_ROW:
                theirs = asked[owners == owner]
                end.rows[theirs], end.how[theirs] = row, How.SOCKET

    def _is_own_node(self, rows: Rows, own: int) -> Mask:
        """Whether each row is this node, by whichever source."""
        found: Mask = rows == own
        others = np.flatnonzero(~found & (self._table.kinds(rows) == EndpointKind.NODE.value))
        if others.size:
            name = self._table.attributes(own).get(K8S_NODE_NAME.name)
            for row in np.unique(rows[others]).tolist():
                if self._table.attributes(row).get(K8S_NODE_NAME.name) == name:
                    found |= rows == row
        return found

    def _kept(self, ends: dict[str, End]) -> Mask | None:
        """Rows that are not left out; None if that is all of them."""
        if self._selection.everything:
            return None
        if self._selection.epoch != self._selected:
            self._selected = self._selection.epoch
            self._observed.forget()
        none, some = np.True_, np.False_
        for end in ends.values():
            local_pod = end.local & (self._table.kinds(end.rows) == EndpointKind.POD.value)
            observed = self._observed.of(end.rows) != 0
            none = none & ~local_pod
            some = some | (local_pod & observed)
        kept: Mask = np.asarray(none | some)
        return None if kept.all() else kept

    def _is_observed(self, endpoint: Endpoint) -> int:
        return int(self._selection.observes(endpoint))

    def _behind_services(
        self,
        batch: AnyBatch,
        ends: dict[str, End],
        first_ns: Times,
        last_ns: Times,
        *,
        again: bool,
    ) -> None:
        """Ends that are services become what answers behind them, if it was asked in time."""
        translations = self._context.translations
        if translations is None or len(ends) < 2:
            return
        protocol = protocols(batch)
        for name, other in (("destination", "source"), ("source", "destination")):
            end, client = ends[name], ends[other].raw
            services = self._services(end, protocol)
            asked = np.flatnonzero(services)
            if not asked.size:
                continue
            if not again:
                to, by = end.raw.at(asked), client.at(asked)
                # What the service sends back belongs to the connection that the client opened.
                found = translations.backends(
                    Tuples(protocol[asked], by.hi, by.lo, by.port, to.hi, to.lo, to.port)
                )
                end.raw = with_behind(end.raw, asked, found[0], found[1])
            if end.raw.behind_hi is None or end.raw.behind_lo is None:
                continue
            hi, lo = end.raw.behind_hi[asked], end.raw.behind_lo[asked]
            # A node gives what it masquerades any port, also that of a service, so at a node's
            # address the other one must be a client, unless what answers behind it is known.
            at_node = self._table.kinds(end.rows[asked]) == EndpointKind.NODE.value
            meant = ~at_node | ((hi | lo) != 0) | (client.port[asked] >= _CLIENT_PORTS_FROM)
            asked, hi, lo = asked[meant], hi[meant], lo[meant]
            backends = self._table.resolve_address(hi, lo, first_ns[asked], last_ns[asked])
            end.rows[asked] = self._table.combined(services[asked], backends)
            end.how[asked[backends != UNKNOWN_ROW]] = How.BACKEND

    def _services(self, end: End, protocol: Protocols) -> Rows:
        """The service that each end is, UNKNOWN_ROW for none."""
        kinds = self._table.kinds(end.rows)
        by_address = end.how == How.ADDRESS
        services = np.where(
            by_address & (kinds == EndpointKind.SERVICE.value), end.rows, np.int32(UNKNOWN_ROW)
        )
        at_nodes = np.flatnonzero(by_address & (kinds == EndpointKind.NODE.value))
        if at_nodes.size:
            ports = end.raw.port[at_nodes]
            services[at_nodes] = self._table.resolve_node_port(protocol[at_nodes], ports)
        return services

    def _between_zones(self, batch: AnyBatch) -> AnyBatch:
        """Says whether the ends are in different zones, where both are known."""
        if batch.source_rows is None or batch.destination_rows is None:
            return batch
        if not any(FLOW_INTER_ZONE in signal.attributes for signal in _signals(batch)):
            return batch
        source = self._zone.of(batch.source_rows)
        destination = self._zone.of(batch.destination_rows)
        if not self._zones:
            return batch
        known = (source >= 0) & (destination >= 0)
        codes = np.where(known, source != destination, np.int32(-1)).astype(np.int32)
        column = Column(codes, (False, True))
        return replace(batch, own={**batch.own, FLOW_INTER_ZONE.name: column})

    def _zone_of(self, endpoint: Endpoint) -> int:
        zone = endpoint.attributes.get(CLOUD_AVAILABILITY_ZONE.name)
        return -1 if zone is None else self._zones.setdefault(str(zone), len(self._zones))


def _signals(batch: MetricBatch | EventBatch) -> Iterable[Metric | Event]:
    return (batch.event,) if isinstance(batch, EventBatch) else batch.values


def _hide_remote(batch: MetricBatch | EventBatch, ends: dict[str, End]) -> None:
    """Series say nothing of an end that is not to be told, its address neither: there would be one
    for each peer. Events say where their packets went."""
    if isinstance(batch, EventBatch):
        return
    for end in ends.values():
        end.raw = without_address(end.raw, ~(end.local | lives_here(end.raw)))


def _with(batch: AnyBatch, ends: dict[str, End]) -> AnyBatch:
    source, destination = ends.get("source"), ends.get("destination")
    return replace(
        batch,
        source=None if source is None else source.raw,
        destination=None if destination is None else destination.raw,
        source_rows=None if source is None else source.rows,
        source_how=None if source is None else source.how,
        destination_rows=None if destination is None else destination.rows,
        destination_how=None if destination is None else destination.how,
    )


COMPONENT = Component(
    type="identity",
    kind=ComponentKind.PROCESSOR,
    stability="beta",
    Settings=IdentitySettings,
    create=IdentityProcessor,
    signals=frozenset({"metrics", "logs"}),
)
