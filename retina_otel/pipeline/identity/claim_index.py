"""ClaimIndex: what endpoints claim (interfaces, namespaces, addresses, networks), and to which row
each of these leads. Changing a row costs the same whatever the number of rows. Readers on other
threads need a lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retina_otel.model.batches import UNKNOWN_ROW
from retina_otel.pipeline.hash_index import MISSING
from retina_otel.pipeline.identity.addresses import AddressIndex
from retina_otel.pipeline.identity.claims import (
    FOREVER,
    PRECEDENCE,
    Claim,
    Endpoint,
    EndpointKind,
    Segment,
    alone,
    one_after_another,
    timeline,
)
from retina_otel.pipeline.identity.networks import ADDRESS_BITS, Network, Networks, parse
from retina_otel.pipeline.identity.timelines import Timelines

_WORLD_NETWORKS = ("0.0.0.0/0", "::/0")
_NOT_WORLD_NETWORKS = (
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
)

_V4_BITS_BELOW = 16
_V6_BITS_BELOW = 80
"""Pods have their addresses near each other: in one /16 of IPv4, in one /48 of IPv6."""

_NO_NUMBERS: tuple[Sequence[int], ...] = ((), (), ())

_Words = npt.NDArray[np.uint64]
_Rows = npt.NDArray[np.int32]
_Times = npt.NDArray[np.int64]


@dataclass(slots=True)
class Row:
    """An endpoint in the table."""

    endpoint: Endpoint
    networks: tuple[Network, ...] = ()
    """Its addresses, parsed."""
    gone: bool = False
    parts: tuple[int, int] | None = None
    """Rows of the service and the backend that it stands for together."""

    @property
    def timed(self) -> bool:
        """It is known until when its addresses are its own."""
        return self.endpoint.valid.possible_until < FOREVER


class ClaimIndex:
    """See the module's docstring. `rows` are the table's own, by number."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows
        self._interfaces = Timelines()
        self._netns = Timelines()
        self._node_ports = Timelines()
        self._addresses = AddressIndex()
        self._near_pods: set[int] = set()
        self._sorted_near_pods = np.zeros(0, np.uint64)
        self._networked: set[int] = set()
        self._networks_changed = False

    def interfaces(self, numbers: npt.NDArray[np.uint32]) -> _Rows:
        """The row behind each interface; UNKNOWN_ROW for none."""
        return _find(self._interfaces, numbers)

    def netns(self, inodes: npt.NDArray[np.uint32]) -> _Rows:
        """The row that lives in each network namespace; UNKNOWN_ROW for none."""
        return _find(self._netns, inodes)

    def node_ports(self, numbers: npt.NDArray[np.uint32]) -> _Rows:
        """The row of the service at each node port; UNKNOWN_ROW for none."""
        return _find(self._node_ports, numbers)

    def addresses(
        self, hi: _Words, lo: _Words, first_ns: _Times | None, last_ns: _Times | None
    ) -> _Rows:
        """As `AddressIndex.find`."""
        if self._networks_changed:
            self._addresses.networks = self._built_networks()
            self._networks_changed = False
        return self._addresses.find(hi, lo, first_ns, last_ns)

    def near_pods(self, hi: _Words, lo: _Words) -> npt.NDArray[np.bool_]:
        """Whether each address is where pods have theirs, or had them."""
        if len(self._sorted_near_pods) != len(self._near_pods):
            self._sorted_near_pods = np.array(sorted(self._near_pods), np.uint64)
        v4 = (hi == 0) & ((lo >> np.uint64(32)) == np.uint64(0xFFFF))
        near = np.where(v4, lo >> np.uint64(_V4_BITS_BELOW), hi >> np.uint64(_V6_BITS_BELOW - 64))
        return np.isin(near, self._sorted_near_pods)

    def claim_addresses(self, number: int) -> None:
        """What a row says is its own; also after its times, or whether it is gone, have changed."""
        row = self._rows[number]
        is_pod = row.endpoint.kind is EndpointKind.POD
        for network in row.networks:
            if network.prefix == ADDRESS_BITS:
                timelines = self._addresses.timelines(network)
                self._claim(timelines, network.base, number, self._timeline)
                if is_pod:
                    bits = _V4_BITS_BELOW if network.v4 else _V6_BITS_BELOW
                    self._near_pods.add(network.base >> bits)
            else:
                self._networked.add(number)
                self._networks_changed = True
        if row.endpoint.kind is EndpointKind.WORLD and not row.networks:
            self._networked.add(number)
            self._networks_changed = True

    def claim_numbers(self, number: int) -> None:
        """As `claim_addresses`, for interfaces, namespaces and node ports."""
        for timelines, keys in self._numbers(self._rows[number].endpoint):
            for key in keys:
                self._claim(timelines, key, number, self._best)

    def withdraw_numbers(self, number: int, before: Endpoint, now: Endpoint | None = None) -> None:
        """The interfaces and the like that a row claimed, but for those that it still does."""
        after = _NO_NUMBERS if now is None else (now.interfaces, now.netns, now.node_ports)
        for (timelines, keys), kept in zip(self._numbers(before), after, strict=True):
            for key in keys:
                if key not in kept:
                    self._withdraw(timelines, key, number, self._best)

    def withdraw_addresses(self, number: int, networks: Iterable[Network]) -> None:
        """The addresses and networks that a row claims no longer."""
        for network in networks:
            if network.prefix == ADDRESS_BITS:
                timelines = self._addresses.timelines(network)
                self._withdraw(timelines, network.base, number, self._timeline)
            else:
                self._networks_changed = True
        if number in self._networked:
            self._networked.discard(number)
            self._networks_changed = True

    def _numbers(self, endpoint: Endpoint) -> tuple[tuple[Timelines, Sequence[int]], ...]:
        return (
            (self._interfaces, endpoint.interfaces),
            (self._netns, endpoint.netns),
            (self._node_ports, endpoint.node_ports),
        )

    def _claim(
        self,
        timelines: Timelines,
        key: int,
        number: int,
        segments: Callable[[tuple[int, ...]], list[Segment]],
    ) -> None:
        entry = timelines.entry(key)
        if entry == MISSING:
            entry = timelines.add(key)
            claimants: tuple[int, ...] = (number,)
        else:
            claimants = timelines.claimants(entry)
            if number not in claimants:
                claimants = (*claimants, number)
        timelines.set(entry, claimants, segments(claimants))

    def _withdraw(
        self,
        timelines: Timelines,
        key: int,
        number: int,
        segments: Callable[[tuple[int, ...]], list[Segment]],
    ) -> None:
        entry = timelines.entry(key)
        if entry == MISSING:
            return
        left = tuple(one for one in timelines.claimants(entry) if one != number)
        if left:
            timelines.set(entry, left, segments(left))
        else:
            timelines.remove(key, entry)

    def _timeline(self, claimants: tuple[int, ...]) -> list[Segment]:
        rows = self._rows
        if len(claimants) == 1:
            return alone(claimants[0], rows[claimants[0]].endpoint.valid)
        spans = [(rows[number].endpoint.valid, number) for number in claimants]
        if (segments := one_after_another(spans)) is not None:
            return segments
        return timeline([self._claim_of(number) for number in claimants])

    def _claim_of(self, number: int) -> Claim:
        row = self._rows[number]
        endpoint = row.endpoint
        weak = row.gone and not row.timed
        return Claim(number, endpoint.key, endpoint.kind, endpoint.valid, weak)

    def _best(self, claimants: tuple[int, ...]) -> list[Segment]:
        best = claimants[0] if len(claimants) == 1 else max(claimants, key=self._standing)
        return [(0, best)]

    def _standing(self, number: int) -> tuple[bool, int, int]:
        row = self._rows[number]
        return not row.gone, PRECEDENCE[row.endpoint.kind], number

    def _built_networks(self) -> Networks:
        claims: list[tuple[Network, int]] = []
        # The last claim wins: so those that give way to others come first.
        for number in sorted(self._networked, key=self._standing):
            row = self._rows[number]
            if row.networks:
                networks = (one for one in row.networks if one.prefix < ADDRESS_BITS)
                claims.extend((network, number) for network in networks)
            else:
                claims[:0] = [
                    *((parse(text), number) for text in _WORLD_NETWORKS),
                    *((parse(text), UNKNOWN_ROW) for text in _NOT_WORLD_NETWORKS),
                ]
        return Networks(claims)


def _find(timelines: Timelines, numbers: npt.NDArray[np.uint32]) -> _Rows:
    rows = timelines.rows(timelines.entries(numbers.astype(np.uint64)))
    rows[(rows < 0) | (numbers == 0)] = UNKNOWN_ROW
    return rows
