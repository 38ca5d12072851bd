"""ClaimIndex: what endpoints claim (interfaces, namespaces, addresses, networks), and to which row
each of these leads. Changing a row costs the same whatever the number of rows. Readers on other
threads need a lock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retina_otel.model.batches import UNKNOWN_ROW
from retina_otel.pipeline.addresses import AddressIndex
from retina_otel.pipeline.claims import (
    FOREVER,
    PRECEDENCE,
    Claim,
    Endpoint,
    EndpointKind,
    timeline,
)
from retina_otel.pipeline.hash_index import MISSING
from retina_otel.pipeline.networks import ADDRESS_BITS, Network, Networks, parse
from retina_otel.pipeline.timelines import Timelines

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
        self._addresses = AddressIndex()
        self._networked: set[int] = set()
        self._networks_changed = False

    def interfaces(self, numbers: npt.NDArray[np.uint32]) -> _Rows:
        """The row behind each interface; UNKNOWN_ROW for none."""
        return _find(self._interfaces, numbers)

    def netns(self, inodes: npt.NDArray[np.uint32]) -> _Rows:
        """The row that lives in each network namespace; UNKNOWN_ROW for none."""
        return _find(self._netns, inodes)

    def addresses(
        self, hi: _Words, lo: _Words, first_ns: _Times | None, last_ns: _Times | None
    ) -> _Rows:
        """As `AddressIndex.find`."""
        if self._networks_changed:
            self._addresses.networks = self._built_networks()
            self._networks_changed = False
        return self._addresses.find(hi, lo, first_ns, last_ns)

    def claim(self, number: int) -> None:
        """All that a row says is its own; also after that, or whether it is gone, has changed."""
        row = self._rows[number]
        endpoint = row.endpoint
        for network in row.networks:
            if network.prefix == ADDRESS_BITS:
                claimants = self._addresses.claimants(network)
                if number not in claimants:
                    claimants = (*claimants, number)
                self._set_address(network, claimants)
            else:
                self._networked.add(number)
                self._networks_changed = True
        if endpoint.kind is EndpointKind.WORLD and not row.networks:
            self._networked.add(number)
            self._networks_changed = True
        for timelines, keys in self._numbers(endpoint):
            for key in keys:
                entry = timelines.entry(key)
                claimants = () if entry == MISSING else timelines.claimants(entry)
                if number not in claimants:
                    claimants = (*claimants, number)
                self._set_number(timelines, key, claimants)

    def withdraw_numbers(self, number: int, before: Endpoint, now: Endpoint | None = None) -> None:
        """The interfaces and namespaces that a row claimed and, if it does now, no longer does."""
        kept = self._numbers(now) if now is not None else ((None, ()), (None, ()))
        for (timelines, keys), (_, still) in zip(self._numbers(before), kept, strict=True):
            for key in set(keys).difference(still):
                entry = timelines.entry(key)
                if entry != MISSING:
                    claimants = timelines.claimants(entry)
                    self._set_number(timelines, key, _without(claimants, number))

    def withdraw_addresses(self, number: int, networks: Iterable[Network]) -> None:
        """The addresses and networks that a row claims no longer."""
        for network in networks:
            if network.prefix == ADDRESS_BITS:
                claimants = self._addresses.claimants(network)
                if number in claimants:
                    self._set_address(network, _without(claimants, number))
        if number in self._networked:
            self._networked.discard(number)
            self._networks_changed = True

    def _numbers(self, endpoint: Endpoint) -> tuple[tuple[Timelines, tuple[int, ...]], ...]:
        return (
            (self._interfaces, tuple(endpoint.interfaces)),
            (self._netns, tuple(endpoint.netns)),
        )

    def _set_number(self, timelines: Timelines, key: int, claimants: tuple[int, ...]) -> None:
        entry = timelines.entry(key)
        if key == 0 or (entry == MISSING and not claimants):
            return
        if not claimants:
            timelines.remove(key, entry)
            return
        best = max(claimants, key=self._standing)
        timelines.set(timelines.add(key) if entry == MISSING else entry, claimants, [(0, best)])

    def _set_address(self, address: Network, claimants: tuple[int, ...]) -> None:
        claims = [self._claim_of(number) for number in claimants]
        self._addresses.set(address, claimants, timeline(claims) if claims else ())

    def _claim_of(self, number: int) -> Claim:
        row = self._rows[number]
        endpoint = row.endpoint
        weak = row.gone and not row.timed
        return Claim(number, endpoint.key, endpoint.kind, endpoint.valid, weak)

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
    rows[rows < 0] = UNKNOWN_ROW
    return rows


def _without(claimants: tuple[int, ...], number: int) -> tuple[int, ...]:
    return tuple(one for one in claimants if one != number)
