"""Projection: which attributes stand on a point, and from rows to interned attribute-set ids.

Two ends that look the same through the chosen attributes get the same id, so they are one series.
A projection keeps an id for each row it has met and works it out anew when the EndpointTable says
that the row's meaning has changed; everything else is a gather over columns. Written by the tick
thread.

Chosen are patterns over attribute names as they stand on the point (`source.k8s.*`,
`network.transport`); the word `default` stands for the metric's own attributes that are not opt-in
and, for each end, the few bounded attributes that say who it is (`DEFAULT_END_ATTRIBUTES`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from retina_otel.model.attribute_sets import EMPTY_SET, AttributeSet, AttributeSets
from retina_otel.model.attributes import K8S_POD_NAME, K8S_POD_UID
from retina_otel.model.batches import EventBatch, MetricBatch, RawEnds
from retina_otel.model.signals import Ends, Event, Metric
from retina_otel.pipeline.identity.end_addresses import AddressedEnds
from retina_otel.pipeline.identity.endpoints import EndpointKind, EndpointTable
from retina_otel.pipeline.series.own_sets import OwnSets

DEFAULT = "default"

DEFAULT_END_ATTRIBUTES: Mapping[EndpointKind, tuple[str, ...]] = {
    EndpointKind.POD: (
        "k8s.namespace.name",
        "k8s.pod.name",
        "k8s.owner.name",
        "k8s.service.name",
    ),
    EndpointKind.NODE: ("k8s.node.name", "k8s.service.name"),
    EndpointKind.SERVICE: ("k8s.namespace.name", "k8s.service.name"),
    EndpointKind.CIDR: ("cidr",),
    EndpointKind.WORLD: ("k8s.resource.type",),
}
"""Attributes of an end that are on a point unless others are chosen, by what the end is. The node
of a one-ended metric is left out: it is the resource. Of a pod's or a node's, the service is there
only if the end was reached through one, so that a point of `retina.flow.*` has ten at most."""

PREFIXES: Mapping[Ends, tuple[str, ...]] = {
    Ends.NONE: (),
    Ends.ONE: ("",),
    Ends.BOTH: ("source.", "destination."),
}

_Ids = npt.NDArray[np.int32]

ProjectedRows = tuple[_Ids, _Ids, _Ids]
"""Sets of source, destination and own attributes, by row of a batch."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The attributes chosen for one metric or event."""

    ends: Ends
    patterns: tuple[str, ...]
    own_defaults: frozenset[str]
    pod_uids: bool = False
    """Where the one end is a pod and its name is chosen, so is its UID."""

    @classmethod
    def of(
        cls,
        signal: Metric | Event,
        patterns: Sequence[str] | None = None,
        *,
        pod_uids: bool = False,
    ) -> Choice:
        """`patterns` of None are the defaults: of a metric, DEFAULT; of an event, everything."""
        if patterns is None:
            patterns = (DEFAULT,) if isinstance(signal, Metric) else ("*",)
        defaults = frozenset(a.name for a in signal.attributes if not a.opt_in)
        return cls(
            signal.ends,
            tuple(patterns),
            defaults if DEFAULT in patterns else frozenset(),
            pod_uids and signal.ends is Ends.ONE,
        )

    def own(self, name: str) -> bool:
        """Whether an own attribute is on the point."""
        return name in self.own_defaults or self._named(name)

    def of_end(self, prefix: str, kind: EndpointKind, name: str) -> bool:
        """Whether an attribute of an end is on the point, under `prefix`."""
        if self.pod_uids and kind is EndpointKind.POD and name == K8S_POD_UID.name:
            name = K8S_POD_NAME.name
        if DEFAULT in self.patterns and name in DEFAULT_END_ATTRIBUTES.get(kind, ()):
            return kind is not EndpointKind.NODE or prefix != ""
        return self._named(prefix + name)

    def raw(self, prefix: str, name: str) -> str:
        """The full name of an end's address or port if it is on the point, else nothing."""
        return prefix + name if prefix and self._named(prefix + name) else ""

    def _named(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.patterns if pattern != DEFAULT)


def patterns_for(
    signal: Metric | Event, attributes: Mapping[str, Sequence[str]]
) -> Sequence[str] | None:
    """What `attributes`, by signal names and patterns of them, chooses for a signal: by its exact
    name, else by the first pattern that matches; None if nothing does."""
    chosen = attributes.get(signal.name)
    if chosen is None:
        matching = (p for name, p in attributes.items() if fnmatchcase(signal.name, name))
        chosen = next(matching, None)
    return chosen


class EndProjection:
    """From rows of the EndpointTable to attribute sets, as seen from one end."""

    def __init__(
        self, endpoints: EndpointTable, sets: AttributeSets, choice: Choice, prefix: str
    ) -> None:
        self._endpoints = endpoints
        self._sets = sets
        self._choice = choice
        self._prefix = prefix
        self._epoch = -1
        self._ids: _Ids = np.full(0, -1, np.int32)
        self._names: dict[tuple[EndpointKind, str], str | None] = {}

    def ids(self, rows: _Ids) -> _Ids:
        """The set of each row."""
        self.refresh()
        if len(rows) and int(rows.max()) >= len(self._ids):
            self._grow(int(rows.max()) + 1)
        ids: _Ids = self._ids[rows]
        unmet = np.unique(rows[ids < 0])
        if unmet.size:
            for row in unmet.tolist():
                self._ids[row] = number = self._sets.intern(self.project(row))
                self._sets.retain(number)
            ids = self._ids[rows]
        return ids

    def project(self, row: int) -> AttributeSet:
        endpoint = self._endpoints.endpoint(row)
        return tuple(
            (shown, value)
            for name, value in sorted(endpoint.attributes.items())
            if (shown := self._shown(endpoint.kind, name)) is not None
        )

    def _shown(self, kind: EndpointKind, name: str) -> str | None:
        """The name on the point, one object for all sets; None if it is not chosen."""
        key = (kind, name)
        if key not in self._names:
            chosen = self._choice.of_end(self._prefix, kind, name)
            self._names[key] = self._prefix + name if chosen else None
        return self._names[key]

    def refresh(self) -> None:
        """Takes in what has changed in the EndpointTable."""
        index = self._endpoints.index
        if index.epoch == self._epoch:
            return
        self._grow(len(index.present))
        known = min(len(self._ids), len(index.present))
        stale = np.flatnonzero((index.changed[:known] > self._epoch) & (self._ids[:known] >= 0))
        for row in stale.tolist():
            before = int(self._ids[row])
            if index.present[row]:
                # At once, so that a set which other rows no longer have is not missed in between.
                self._ids[row] = number = self._sets.intern(self.project(row))
                self._sets.retain(number)
            else:
                self._ids[row] = -1
            self._sets.release(before)
        self._epoch = index.epoch

    def release(self) -> None:
        """Gives the sets back; the projection must not be used after this."""
        self._sets.release_all(self._ids[self._ids >= 0])
        self._ids = self._ids[:0]

    def having(self, rows: _Ids) -> npt.NDArray[np.bool_]:
        """By set id: one of the rows has it, and it says something."""
        self.refresh()
        ids = self._ids[rows[rows < len(self._ids)]]
        having = np.zeros(len(self._sets), np.bool_)
        having[ids[ids >= 0]] = True
        having[EMPTY_SET] = False
        return having

    def alive(self) -> npt.NDArray[np.bool_]:
        """By set id: some endpoint that is present, and was met, has it. Of length len(sets)."""
        self.refresh()
        present = self._endpoints.index.present
        known = min(len(self._ids), len(present))
        ids = self._ids[:known][present[:known] & (self._ids[:known] >= 0)]
        alive = np.zeros(len(self._sets), np.bool_)
        alive[ids] = True
        alive[EMPTY_SET] = True
        return alive

    def _grow(self, size: int) -> None:
        if size > len(self._ids):
            ids = np.full(max(size, len(self._ids) * 3 // 2), -1, np.int32)
            ids[: len(self._ids)] = self._ids
            self._ids = ids


class Projection:
    """From the rows of batches to (source, destination, own) sets, for one choice of attributes."""

    def __init__(
        self,
        endpoints: EndpointTable,
        sets: AttributeSets,
        choice: Choice,
        *,
        ports: bool = True,
    ) -> None:
        """`ports` of False leaves them out of the sets, chosen or not: they stand elsewhere."""
        self.choice = choice
        self._sets = sets
        prefixes = PREFIXES[choice.ends]
        self._identities = [EndProjection(endpoints, sets, choice, prefix) for prefix in prefixes]
        self._ends = [
            AddressedEnds(
                sets,
                identity,
                address=choice.raw(prefix, "address"),
                port=choice.raw(prefix, "port") if ports else "",
            )
            for prefix, identity in zip(prefixes, self._identities, strict=True)
        ]
        self._own = OwnSets(sets, choice.own)

    def project(self, batch: MetricBatch | EventBatch) -> ProjectedRows:
        """Sets of source, destination and own attributes for each row of `batch`."""
        count = len(batch)
        given: list[tuple[_Ids | None, RawEnds | None]] = [
            (batch.source_rows, batch.source),
            (batch.destination_rows, batch.destination),
        ]
        ends = [
            end.ids(count, rows, raw) for end, (rows, raw) in zip(self._ends, given, strict=False)
        ]
        while len(ends) < len(given):
            ends.append(np.full(count, EMPTY_SET, np.int32))
        return ends[0], ends[1], self._own.ids(count, batch.own)

    def alive(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """By set id, for source and destination: an endpoint that is present may have it."""
        alive = [end.alive() for end in self._ends]
        while len(alive) < 2:
            alive.append(np.ones(len(self._sets), np.bool_))
        return alive[0], alive[1]

    def having(self, rows: _Ids) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """By set id, for source and destination: it says something of one of the endpoints."""
        having = [end.having(rows) for end in self._ends]
        while len(having) < 2:
            having.append(np.zeros(len(self._sets), np.bool_))
        return having[0], having[1]

    def release(self) -> None:
        """Gives back what it holds; it must not be used after this."""
        for identity in self._identities:
            identity.release()
