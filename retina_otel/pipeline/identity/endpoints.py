"""EndpointTable: a row for each identity known at a time; batches carry row numbers.

Written by identity extensions (from their own threads) through `update()` and `apply()`, endpoint
by endpoint, in slices; read by the tick thread through `resolve_*`, during which nothing changes.
Local ends are resolved by interface or network namespace, remote ends by address and time. Row 0
is unknown.

A row keeps its endpoint for as long as anybody may hold its number. A removed endpoint is marked
gone, with the time of the next tick; its interfaces and namespaces lead to it for `linger_ns` more,
unless a present endpoint claims them, because what is drained last was counted while it was there.
So do its addresses, if nobody has said until when they were its own; else they are remembered for
`keep_ns`. The row means something else only after `reuse_ns` and several ticks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from retina_otel.model.attributes import K8S_SERVICE_NAME
from retina_otel.model.batches import UNKNOWN_ROW, AttributeValue
from retina_otel.pipeline.identity.claim_index import ClaimIndex, Row
from retina_otel.pipeline.identity.claims import ALWAYS, FOREVER, Endpoint, EndpointKind, Validity
from retina_otel.pipeline.identity.departures import Departures
from retina_otel.pipeline.identity.networks import Network, parse
from retina_otel.pipeline.identity.row_columns import EndpointIndex, RowColumns

__all__ = [
    "ALWAYS",
    "FOREVER",
    "Endpoint",
    "EndpointIndex",
    "EndpointKind",
    "EndpointTable",
    "Validity",
]

_SECOND = 1_000_000_000
_SLICE = 128
"""How many endpoints change while readers wait."""

_Rows = npt.NDArray[np.int32]
_Times = npt.NDArray[np.int64]


class _Turns:
    """A lock that goes to whoever waits: a writer of many slices does not keep the tick thread
    out."""

    def __init__(self) -> None:
        self._queue = threading.Lock()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._queue:
            self._lock.acquire()

    def __exit__(self, *exception: object) -> None:
        self._lock.release()


_UNKNOWN = Endpoint(EndpointKind.UNKNOWN, "unknown", {})


class EndpointTable:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        linger_ns: int = 10 * _SECOND,
        keep_ns: int = 120 * _SECOND,
        reuse_ns: int = 120 * _SECOND,
    ) -> None:
        self.settle_after_ns = 0
        """How late a source may learn who has an address: what was counted in the last so many ns
        waits before it is credited by address. Set by identity extensions."""
        self._writing = threading.Lock()
        self._turns = _Turns()
        self._departures = Departures(linger_ns, keep_ns, reuse_ns)
        self._rows: list[Row] = [Row(_UNKNOWN)]
        self._columns = RowColumns()
        self._row_of: dict[str, dict[str, int]] = {}
        self._free: list[int] = []
        self._named: dict[str, int] = {}
        self._combined: dict[tuple[int, int], int] = {}
        self._part_of: dict[int, set[int]] = {}
        self._claims = ClaimIndex(self._rows)
        self._epoch = 0
        self._last_ns = 0
        self._index = self._columns.index(0, 1)

    def __len__(self) -> int:
        """How many rows exist, free ones included: every row is below this."""
        return len(self._rows)

    @property
    def epoch(self) -> int:
        """Grows whenever a row's meaning or presence changes."""
        return self._epoch

    @property
    def index(self) -> EndpointIndex:
        """Which rows there are now, as one value."""
        if self._index.epoch != self._epoch:
            with self._turns:
                self._index = self._columns.index(self._epoch, len(self._rows))
        return self._index

    def endpoint(self, row: int) -> Endpoint:
        return self._rows[row].endpoint

    def attributes(self, row: int) -> Mapping[str, AttributeValue]:
        return self._rows[row].endpoint.attributes

    def kind(self, row: int) -> EndpointKind:
        return self._rows[row].endpoint.kind

    def kinds(self, rows: _Rows) -> npt.NDArray[np.int8]:
        """`EndpointKind.value` of each row."""
        return self._columns.kinds[rows]

    def since(self, rows: _Rows) -> _Times:
        """Since when each row's namespaces are its own: before, they may have been another's."""
        return self._columns.since[rows]

    def update(self, endpoints: Iterable[Endpoint], *, source: str = "") -> None:
        """Replaces all that `source` has said before. Any thread.

        Raises RetinaError for an address that is none; then nothing has changed.
        """
        wanted = {endpoint.key: endpoint for endpoint in endpoints}
        with self._writing:
            gone = [key for key in self._row_of.get(source, ()) if key not in wanted]
            self._write(list(wanted.values()), gone, source)

    def apply(
        self, added: Iterable[Endpoint] = (), removed: Iterable[str] = (), *, source: str = ""
    ) -> None:
        """Adds or changes endpoints, then removes some by key; the others of `source` stay. One
        that is in both is changed for the last time, and goes. As `update()` otherwise."""
        with self._writing:
            self._write(list(added), list(removed), source)

    def advance(self, now_ns: int) -> None:
        """Lets time pass: called by the tick thread with the end of each window. Repeats are
        free."""
        if now_ns == self._last_ns:
            return
        self._last_ns = now_ns
        with self._turns:
            due = self._departures.advance(now_ns)
            if due.lingered or due.forgotten:
                self._epoch += 1
            for number in due.lingered:
                self._end_lingering(number)
            for number in due.forgotten:
                self._claims.withdraw_addresses(number, self._rows[number].networks)
            for number in due.free:
                self._forget_combined(number)
            self._free.extend(due.free)

    def resolve_interface(self, ifindex: npt.NDArray[np.uint32]) -> _Rows:
        """The row behind each interface of the node; UNKNOWN_ROW for none and for 0."""
        with self._turns:
            return self._claims.interfaces(ifindex)

    def resolve_netns(self, inode: npt.NDArray[np.uint32]) -> _Rows:
        """The row that lives in each network namespace; UNKNOWN_ROW for none and for 0."""
        with self._turns:
            return self._claims.netns(inode)

    def resolve_address(
        self,
        hi: npt.NDArray[np.uint64],
        lo: npt.NDArray[np.uint64],
        first_ns: _Times | None = None,
        last_ns: _Times | None = None,
    ) -> _Rows:
        """The row whose each address (as in RawEnds) was from `first_ns` to `last_ns`, both
        included; without times, whose it is now. Exact first, then the longest prefix.
        UNKNOWN_ROW where nobody claims it, and where more than one may be meant."""
        rows = self.locate(hi, lo, first_ns, last_ns)
        rows[rows < 0] = UNKNOWN_ROW
        return rows

    def locate(
        self,
        hi: npt.NDArray[np.uint64],
        lo: npt.NDArray[np.uint64],
        first_ns: _Times | None = None,
        last_ns: _Times | None = None,
    ) -> _Rows:
        """As `resolve_address`, but tells why it is unknown: `claims.NOBODY` or `AMBIGUOUS`."""
        with self._turns:
            return self._claims.addresses(hi, lo, first_ns, last_ns)

    def near_pods(
        self, hi: npt.NDArray[np.uint64], lo: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.bool_]:
        """Whether each address is where pods have theirs: one of which nobody has heard may have
        it."""
        with self._turns:
            return self._claims.near_pods(hi, lo)

    def resolve_node_port(
        self, protocol: npt.NDArray[np.uint8], port: npt.NDArray[np.uint16]
    ) -> _Rows:
        """The service that is met at each port of any node; UNKNOWN_ROW for none."""
        with self._turns:
            return self._claims.node_ports(protocol.astype(np.uint32) << np.uint32(16) | port)

    @property
    def has_names(self) -> bool:
        """Whether there is anybody to be found by the names of its containers."""
        return bool(self._named)

    def named(self, names: Iterable[str]) -> int:
        """The row of a pod by any of its uid and its containers' ids; UNKNOWN_ROW for none."""
        for name in names:
            if (number := self._named.get(name)) is not None:
                return number
            for row_of in list(self._row_of.values()):
                if (number := row_of.get(name)) is not None:
                    return number
        return UNKNOWN_ROW

    def combined(self, services: _Rows, backends: _Rows) -> _Rows:
        """Rows that stand for backends as reached through services: the backend's attributes and
        the service's name. The service's own row where the backend is UNKNOWN_ROW. Tick thread."""
        pairs = services.astype(np.int64) << 32 | backends
        distinct, place = np.unique(pairs, return_inverse=True)
        with self._turns:
            made = [self._combine(pair >> 32, pair & 0xFFFFFFFF) for pair in distinct.tolist()]
        return np.array(made, np.int32)[place]

    def _write(self, added: Sequence[Endpoint], removed: Sequence[str], source: str) -> None:
        row_of = self._row_of.setdefault(source, {})
        parsed = [
            (endpoint, tuple(map(parse, endpoint.addresses)))
            for endpoint in added
            if (row := row_of.get(endpoint.key)) is None or self._rows[row].endpoint != endpoint
        ]
        for start in range(0, len(parsed), _SLICE):
            with self._turns:
                self._epoch += 1
                for endpoint, networks in parsed[start : start + _SLICE]:
                    self._put(endpoint, networks, row_of)
        leaving = [key for key in dict.fromkeys(removed) if key in row_of]
        for start in range(0, len(leaving), _SLICE):
            with self._turns:
                self._epoch += 1
                for key in leaving[start : start + _SLICE]:
                    self._leave(row_of.pop(key))

    def _put(
        self, endpoint: Endpoint, networks: tuple[Network, ...], row_of: dict[str, int]
    ) -> None:
        number = row_of.get(endpoint.key)
        if number is None:
            row_of[endpoint.key] = number = self._new(Row(endpoint, networks))
            self._claims.claim_addresses(number)
            self._claims.claim_numbers(number)
            self._name(number, endpoint)
            return
        row = self._rows[number]
        before, networks_before = row.endpoint, row.networks
        row.endpoint, row.networks = endpoint, networks
        self._columns.place(number, endpoint)
        if before.attributes != endpoint.attributes or before.kind is not endpoint.kind:
            self._columns.change(number, self._epoch, endpoint)
            for combined in self._part_of.get(number, ()):
                self._merge(self._rows[combined])
                self._columns.change(combined, self._epoch, self._rows[combined].endpoint)
        if (
            networks != networks_before
            or before.valid != endpoint.valid
            or before.kind is not endpoint.kind
        ):
            dropped = [network for network in networks_before if network not in networks]
            self._claims.withdraw_addresses(number, dropped)
            self._claims.claim_addresses(number)
        self._claims.withdraw_numbers(number, before, endpoint)
        self._claims.claim_numbers(number)
        if before.aliases != endpoint.aliases:
            self._forget_names(number, before)
            self._name(number, endpoint)

    def _name(self, number: int, endpoint: Endpoint) -> None:
        if endpoint.aliases:
            self._named[endpoint.key] = number
            self._named.update(dict.fromkeys(endpoint.aliases, number))

    def _forget_names(self, number: int, endpoint: Endpoint) -> None:
        for name in (endpoint.key, *endpoint.aliases):
            if self._named.get(name) == number:
                del self._named[name]

    def _new(self, row: Row) -> int:
        if self._free:
            number = self._free.pop()
            self._rows[number] = row
        else:
            number = len(self._rows)
            self._rows.append(row)
        self._columns.add(number, self._epoch, row.endpoint, gone=row.gone)
        return number

    def _leave(self, number: int) -> None:
        row = self._rows[number]
        row.gone = True
        self._columns.leave(number)
        self._departures.leave(number, remembered=row.timed)
        if not row.timed:
            self._claims.claim_addresses(number)
        self._claims.claim_numbers(number)
        for combined in self._part_of.get(number, ()):
            if not self._rows[combined].gone:
                self._leave(combined)

    def _end_lingering(self, number: int) -> None:
        row = self._rows[number]
        self._columns.change(number, self._epoch, row.endpoint)
        self._claims.withdraw_numbers(number, row.endpoint)
        self._forget_names(number, row.endpoint)
        if not row.timed:
            self._claims.withdraw_addresses(number, row.networks)
        if row.parts is not None:
            self._forget_combined(number)

    def _combine(self, service: int, backend: int) -> int:
        if backend == UNKNOWN_ROW:
            return service
        number = self._combined.get((service, backend))
        if number is None:
            self._epoch += 1
            row = Row(_UNKNOWN, parts=(service, backend))
            row.gone = self._rows[service].gone or self._rows[backend].gone
            self._merge(row)
            number = self._combined[service, backend] = self._new(row)
            for part in (service, backend):
                self._part_of.setdefault(part, set()).add(number)
            if row.gone:
                self._departures.leave(number, remembered=False)
        return number

    def _merge(self, row: Row) -> None:
        assert row.parts is not None
        service, backend = (self._rows[part].endpoint for part in row.parts)
        name = service.attributes.get(K8S_SERVICE_NAME.name)
        attributes = dict(backend.attributes)
        if name is not None:
            attributes[K8S_SERVICE_NAME.name] = name
        row.endpoint = Endpoint(backend.kind, f"{service.key} {backend.key}", attributes)

    def _forget_combined(self, number: int) -> None:
        """A combined row, or all of which it is a part: they are no longer given out."""
        for combined in (number, *self._part_of.pop(number, ())):
            parts = self._rows[combined].parts
            if parts is not None and self._combined.get(parts) == combined:
                del self._combined[parts]
                for part in parts:
                    self._part_of.get(part, set()).discard(combined)
