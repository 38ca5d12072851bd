"""EndpointTable: a row for each identity known at a time; batches carry row numbers.

Written by identity extensions (from their own threads) through `update()` and `apply()`, which
swap in a new immutable index; read by the tick thread through `resolve_*`, which sees one index
for a whole call. Local ends are resolved by interface or network namespace, remote ends by
address. Row 0 is unknown.

A row keeps its endpoint for as long as anybody may hold its number. A removed endpoint is marked
gone, with the time of the next tick; what it claimed (interfaces, namespaces, addresses) leads to
it for `linger_ns` more, unless a present endpoint claims it, because what is drained last was
counted while it was there; its row means something else only after `reuse_ns` and several ticks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

from retina_otel.model.batches import UNKNOWN_ROW, AttributeValue
from retina_otel.pipeline.addresses import AddressIndex, Network, parse
from retina_otel.pipeline.hash_index import HashIndex

FOREVER = (1 << 63) - 1
"""A time that does not come."""

_SECOND = 1_000_000_000
_TICKS_BEFORE_REUSE = 8


class EndpointKind(Enum):
    UNKNOWN = 0
    POD = 1
    NODE = 2
    SERVICE = 3
    CIDR = 4
    WORLD = 5


_PRECEDENCE = {
    EndpointKind.WORLD: 0,
    EndpointKind.CIDR: 1,
    EndpointKind.SERVICE: 2,
    EndpointKind.POD: 3,
    # A pod on the host's network has the node's address: by address it can't be told from the node.
    EndpointKind.NODE: 4,
    EndpointKind.UNKNOWN: 5,
}

_WORLD_NETWORKS = ("0.0.0.0/0", "::/0")
_NOT_WORLD_NETWORKS = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "224.0.0.0/3",
    "::/127",
    "fc00::/7",
    "fe80::/10",
    "ff00::/8",
]


@dataclass(frozen=True, slots=True)
class Validity:
    """When an endpoint has its addresses, in ns of wall time, as far as its source can tell: surely
    from `certain_from` until `certain_until`, and surely not before `possible_from` or from
    `possible_until` on."""

    possible_from: int = 0
    certain_from: int = 0
    certain_until: int = FOREVER
    possible_until: int = FOREVER


ALWAYS = Validity()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One identity. `key` is what makes it the same one across updates (a pod's uid)."""

    kind: EndpointKind
    key: str
    attributes: Mapping[str, AttributeValue]
    """Unprefixed: `k8s.pod.name`, `k8s.namespace.name`, ... Two rows may have equal attributes."""
    addresses: Sequence[str] = ()
    """Addresses ("10.0.0.1", "fd00::1"), or networks ("10.0.0.0/8") for CIDR. A WORLD endpoint
    without any stands for every address that is neither private nor of special use."""
    interfaces: Sequence[int] = field(default_factory=tuple)
    """ifindexes on the node behind which it lives."""
    netns: Sequence[int] = field(default_factory=tuple)
    """Inodes of its network namespaces."""
    valid: Validity = ALWAYS


class _Numbers:
    """Rows by a number of 64 bits."""

    def __init__(self, rows_of: Mapping[int, int]) -> None:
        count = len(rows_of)
        keys = np.fromiter(rows_of, np.uint64, count)
        self._rows = np.fromiter((*rows_of.values(), UNKNOWN_ROW), np.int32, count + 1)
        self._index = HashIndex.of(keys, np.arange(count, dtype=np.int32))

    def find(self, numbers: npt.NDArray[np.uint32]) -> npt.NDArray[np.int32]:
        # MISSING is -1, the last place, which holds UNKNOWN_ROW.
        return self._rows[self._index.find(numbers.astype(np.uint64))]


@dataclass(frozen=True, slots=True)
class EndpointIndex:
    """What the table knew at one epoch. Never changes."""

    epoch: int
    interfaces: _Numbers
    netns: _Numbers
    addresses: AddressIndex
    present: npt.NDArray[np.bool_]
    """By row: its endpoint has not been removed."""
    changed: npt.NDArray[np.int64]
    """By row: the epoch since which its attributes are what they are."""


@dataclass(slots=True)
class _Row:
    endpoint: Endpoint
    networks: tuple[Network, ...]
    gone: bool = False
    gone_ns: int = 0
    """Time of the first tick that found it gone; 0 before that."""
    gone_tick: int = 0
    lingers: bool = False


_UNKNOWN = Endpoint(EndpointKind.UNKNOWN, "unknown", {})


class EndpointTable:
    """See the module's docstring. Addresses of an endpoint will get times (from, until) here: an
    index entry then carries both and `resolve_address` takes the time of each row."""

    def __init__(self, *, linger_ns: int = 10 * _SECOND, reuse_ns: int = 120 * _SECOND) -> None:
        self._linger_ns = linger_ns
        self._reuse_ns = max(reuse_ns, linger_ns)
        self._lock = threading.Lock()
        self._rows: list[_Row] = [_Row(_UNKNOWN, ())]
        self._changed: list[int] = [0]
        self._row_of: dict[tuple[str, str], int] = {}
        self._leaving: list[int] = []
        self._free: list[int] = []
        self._epoch = 0
        self._tick = 0
        self._last_ns = 0
        self.settle_after_ns = 0
        """How late a source may learn who has an address: what was counted in the last so many ns
        waits before it is credited by address. Set by identity extensions."""
        self._index = self._build()

    def __len__(self) -> int:
        """How many rows exist, free ones included: every row is below this."""
        return len(self._index.present)

    @property
    def epoch(self) -> int:
        """Grows whenever a row's meaning or presence changes."""
        return self._index.epoch

    @property
    def index(self) -> EndpointIndex:
        """What is known now, as one value."""
        return self._index

    def endpoint(self, row: int) -> Endpoint:
        return self._rows[row].endpoint

    def attributes(self, row: int) -> Mapping[str, AttributeValue]:
        return self._rows[row].endpoint.attributes

    def kind(self, row: int) -> EndpointKind:
        return self._rows[row].endpoint.kind

    def update(self, endpoints: Iterable[Endpoint], *, source: str = "") -> None:
        """Replaces all that `source` has said before. Any thread.

        Raises RetinaError for an address that is none; then nothing has changed.
        """
        wanted = {endpoint.key: endpoint for endpoint in endpoints}
        with self._lock:
            gone = [key for owner, key in self._row_of if owner == source and key not in wanted]
            self._apply(wanted.values(), gone, source)

    def apply(
        self, added: Iterable[Endpoint] = (), removed: Iterable[str] = (), *, source: str = ""
    ) -> None:
        """Adds or changes endpoints, and removes some by key; the others of `source` stay."""
        with self._lock:
            self._apply(added, removed, source)

    def advance(self, now_ns: int) -> None:
        """Lets time pass: called by the tick thread with the end of each window. Repeats are free,
        and during an update it is put off: the tick thread waits for nobody."""
        if now_ns == self._last_ns or not self._lock.acquire(blocking=False):
            return
        try:
            self._last_ns = now_ns
            self._tick += 1
            if self._leaving and self._retire(now_ns):
                self._swap()
        finally:
            self._lock.release()

    def resolve_interface(self, ifindex: npt.NDArray[np.uint32]) -> npt.NDArray[np.int32]:
        """The row behind each interface of the node; UNKNOWN_ROW for none and for 0."""
        return self._index.interfaces.find(ifindex)

    def resolve_netns(self, inode: npt.NDArray[np.uint32]) -> npt.NDArray[np.int32]:
        """The row that lives in each network namespace; UNKNOWN_ROW for none and for 0."""
        return self._index.netns.find(inode)

    def resolve_address(
        self,
        hi: npt.NDArray[np.uint64],
        lo: npt.NDArray[np.uint64],
        first_ns: npt.NDArray[np.int64] | None = None,
        last_ns: npt.NDArray[np.int64] | None = None,
    ) -> npt.NDArray[np.int32]:
        """The row of each address (as in RawEnds): exact first, then the longest prefix."""
        return self._index.addresses.find(hi, lo)

    def _apply(self, added: Iterable[Endpoint], removed: Iterable[str], source: str) -> None:
        parsed = [
            (endpoint, tuple(map(parse, endpoint.addresses)))
            for endpoint in added
            if (row := self._row_of.get((source, endpoint.key))) is None
            or self._rows[row].endpoint != endpoint
        ]
        leaving = [
            row for key in removed if (row := self._row_of.pop((source, key), None)) is not None
        ]
        if not parsed and not leaving:
            return
        epoch = self._epoch + 1
        for row in leaving:
            self._rows[row].gone = self._rows[row].lingers = True
        self._leaving.extend(leaving)
        for endpoint, networks in parsed:
            known = self._row_of.get((source, endpoint.key))
            if known is not None:
                if self._rows[known].endpoint.attributes != endpoint.attributes or (
                    self._rows[known].endpoint.kind is not endpoint.kind
                ):
                    self._changed[known] = epoch
                self._rows[known] = _Row(endpoint, networks)
            elif self._free:
                row = self._row_of[source, endpoint.key] = self._free.pop()
                self._rows[row] = _Row(endpoint, networks)
                self._changed[row] = epoch
            else:
                self._row_of[source, endpoint.key] = len(self._rows)
                self._rows.append(_Row(endpoint, networks))
                self._changed.append(epoch)
        self._swap()

    def _retire(self, now_ns: int) -> bool:
        """Stamps what left since the last tick, ends lingering, frees rows; True if any changed."""
        still: list[int] = []
        changed = False
        for number in self._leaving:
            row = self._rows[number]
            if row.gone_ns == 0 or row.gone_ns > now_ns:
                row.gone_ns = now_ns
                row.gone_tick = row.gone_tick or self._tick
            elapsed = now_ns - row.gone_ns
            if row.lingers and elapsed >= self._linger_ns:
                row.lingers = False
                self._changed[number] = self._epoch + 1
                changed = True
            ticks = self._tick - row.gone_tick
            if not row.lingers and elapsed >= self._reuse_ns and ticks >= _TICKS_BEFORE_REUSE:
                self._free.append(number)
            else:
                still.append(number)
        self._leaving = still
        return changed

    def _swap(self) -> None:
        self._epoch += 1
        self._index = self._build()

    def _build(self) -> EndpointIndex:
        numbered = [
            (not row.gone, _PRECEDENCE[row.endpoint.kind], number)
            for number, row in enumerate(self._rows)
            if not row.gone or row.lingers
        ]
        interfaces: dict[int, int] = {}
        netns: dict[int, int] = {}
        claims: list[tuple[Network, int]] = []
        # The last claim wins: so those that give way to others come first.
        for _, _, number in sorted(numbered):
            row = self._rows[number]
            for ifindex in row.endpoint.interfaces:
                interfaces[ifindex] = number
            for inode in row.endpoint.netns:
                netns[inode] = number
            if row.networks:
                claims.extend((network, number) for network in row.networks)
            elif row.endpoint.kind is EndpointKind.WORLD:
                claims[:0] = [
                    *((parse(text), number) for text in _WORLD_NETWORKS),
                    *((parse(text), UNKNOWN_ROW) for text in _NOT_WORLD_NETWORKS),
                ]
        interfaces.pop(0, None)
        netns.pop(0, None)
        return EndpointIndex(
            epoch=self._epoch,
            interfaces=_Numbers(interfaces),
            netns=_Numbers(netns),
            addresses=AddressIndex(claims),
            present=np.array([not row.gone for row in self._rows]),
            changed=np.array(self._changed, np.int64),
        )
