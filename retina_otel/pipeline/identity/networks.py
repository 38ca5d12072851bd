"""Networks: from addresses to the row of the longest prefix that covers them. Never changes.

Of IPv4 one search over the disjoint ranges that the networks cut it into; of IPv6 one prefix length
after the other, each by hashing.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from retina_otel.errors import RetinaError
from retina_otel.pipeline.hash_index import MISSING, HashIndex
from retina_otel.pipeline.identity.claims import NOBODY

ADDRESS_BITS = 128
MAPPED = 0xFFFF << 32
HALF = (1 << 64) - 1
_V4_OFFSET = 96

Words = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int32]


class Network(NamedTuple):
    """A network in 128 bits: `prefix` of 128 is a single address."""

    base: int
    prefix: int

    @property
    def v4(self) -> bool:
        return self.prefix >= _V4_OFFSET and self.base >> 32 == 0xFFFF


def parse(text: str) -> Network:
    """Reads "10.0.0.1", "10.0.0.0/8", "fd00::1" or "fd00::/8"; host bits of a network are ignored.

    Raises RetinaError if it is none of these.
    """
    try:
        if "/" not in text:
            # Twenty times as fast as ipaddress, which then says what is wrong.
            return _address(text)
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise RetinaError(
            f"{text!r} is neither an address nor a network",
            "Write 10.0.0.1, 10.0.0.0/8, fd00::1 or fd00::/8.",
        ) from None
    base = int(network.network_address)
    if network.version == 4:
        return Network(base | MAPPED, network.prefixlen + _V4_OFFSET)
    return Network(base, network.prefixlen)


def _address(text: str) -> Network:
    family, mapped = (socket.AF_INET6, 0) if ":" in text else (socket.AF_INET, MAPPED)
    try:
        return Network(int.from_bytes(socket.inet_pton(family, text)) | mapped, ADDRESS_BITS)
    except OSError as error:
        raise ValueError(str(error)) from error


class _Exact:
    """Rows of 128-bit addresses by hash; a find is checked against the whole address."""

    def __init__(self, rows_of: dict[int, int]) -> None:
        count = len(rows_of)
        self._hi = np.fromiter((base >> 64 for base in rows_of), np.uint64, count)
        self._lo = np.fromiter((base & HALF for base in rows_of), np.uint64, count)
        self._rows = np.fromiter(rows_of.values(), np.int32, count)
        self._mix = Mix()
        mixed = self._mix.of(self._hi, self._lo)
        while len(np.unique(mixed)) != count:
            self._mix = self._mix.another()
            mixed = self._mix.of(self._hi, self._lo)
        self._index = HashIndex.of(mixed, np.arange(count, dtype=np.int32))

    def find(self, hi: Words, lo: Words) -> Rows:
        """The row of each address, MISSING where there is none."""
        position = self._index.find(self._mix.of(hi, lo))
        known = position != MISSING
        if not known.any():
            return position
        known &= (self._hi[position] == hi) & (self._lo[position] == lo)
        found: Rows = np.where(known, self._rows[position], np.int32(MISSING))
        return found


class Mix:
    """From 128 bits to 64. Of different addresses that become the same, `another()` may tell."""

    __slots__ = ("_factor", "_factor64")

    def __init__(self, factor: int = 0xD6E8FEB86659FD93) -> None:
        self._factor = factor
        self._factor64 = np.uint64(factor)

    def another(self) -> Mix:
        return Mix((self._factor * 3 + 2) & HALF)

    def of(self, hi: Words, lo: Words) -> Words:
        mixed: Words = hi * self._factor64
        mixed ^= mixed >> np.uint64(32)
        mixed += lo
        return mixed

    def of_one(self, base: int) -> int:
        mixed = (base >> 64) * self._factor & HALF
        return (mixed ^ mixed >> 32) + base & HALF


class _Ranges:
    """Disjoint ranges of the IPv4 space, each with the row of the longest prefix that covers it."""

    def __init__(self, networks: list[tuple[Network, int]]) -> None:
        starts = [0]
        rows = [MISSING]
        around: list[tuple[int, int]] = []

        def cut(start: int, row: int) -> None:
            if start > 0xFFFFFFFF:
                return
            if starts[-1] == start:
                rows[-1] = row
            else:
                starts.append(start)
                rows.append(row)

        def leave_until(start: int) -> None:
            while around and around[-1][0] <= start:
                end, _ = around.pop()
                cut(end, around[-1][1] if around else MISSING)

        for network, row in sorted(networks, key=lambda item: (item[0].base, item[0].prefix)):
            start = network.base & 0xFFFFFFFF
            leave_until(start)
            cut(start, row)
            around.append((start + (1 << (ADDRESS_BITS - network.prefix)), row))
        leave_until(1 << 33)
        self._starts = np.array(starts, np.uint32)
        self._rows = np.array(rows, np.int32)

    def find(self, lo: Words) -> Rows:
        at = np.searchsorted(self._starts, lo.astype(np.uint32), side="right") - 1
        return self._rows[at]


class Networks:
    """Made from (network, row) pairs; a later pair replaces an earlier one of the same network."""

    def __init__(self, claims: Iterable[tuple[Network, int]] = ()) -> None:
        ranges: dict[Network, int] = {}
        by_prefix: dict[int, dict[int, int]] = {}
        for network, row in claims:
            if network.v4:
                ranges[network] = row
            else:
                by_prefix.setdefault(network.prefix, {})[network.base] = row
        self._ranges = _Ranges(list(ranges.items())) if ranges else None
        self._prefixes = [
            (_mask(prefix), _Exact(rows_of))
            for prefix, rows_of in sorted(by_prefix.items(), reverse=True)
        ]

    def find_v4(self, lo: Words) -> Rows:
        """The row of each address, NOBODY where no network covers it."""
        if self._ranges is None:
            return np.full(len(lo), NOBODY, np.int32)
        return self._ranges.find(lo)

    def find_v6(self, hi: Words, lo: Words) -> Rows:
        rows = np.full(len(lo), NOBODY, np.int32)
        for (mask_hi, mask_lo), exact in self._prefixes:
            missing = np.flatnonzero(rows == NOBODY)
            if missing.size == 0:
                break
            rows[missing] = exact.find(hi[missing] & mask_hi, lo[missing] & mask_lo)
        return rows


def _mask(prefix: int) -> tuple[np.uint64, np.uint64]:
    mask = ((1 << prefix) - 1) << (ADDRESS_BITS - prefix)
    return np.uint64(mask >> 64), np.uint64(mask & HALF)
