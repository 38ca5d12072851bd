"""AddressIndex: from addresses to rows, a whole column at a time, longest prefix first.

Addresses are 128-bit, IPv4 mapped (::ffff:a.b.c.d), as `RawEnds` has them. Single addresses are
found by hashing; networks, of which there are few, by one search over the disjoint ranges they cut
IPv4 into, and for IPv6 one prefix length after the other. The index never changes after it is
built.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retina_otel.errors import RetinaError
from retina_otel.model.batches import UNKNOWN_ROW
from retina_otel.pipeline.hash_index import MISSING, HashIndex

_MAPPED = 0xFFFF << 32
_HALF = (1 << 64) - 1
_ADDRESS_BITS = 128
_V4_OFFSET = 96

_Words = npt.NDArray[np.uint64]
_Rows = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Network:
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
            address = ipaddress.ip_address(text)
            mapped = int(address) | (_MAPPED if address.version == 4 else 0)
            return Network(mapped, _ADDRESS_BITS)
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise RetinaError(
            f"{text!r} is neither an address nor a network",
            "Write 10.0.0.1, 10.0.0.0/8, fd00::1 or fd00::/8.",
        ) from None
    base = int(network.network_address)
    if network.version == 4:
        return Network(base | _MAPPED, network.prefixlen + _V4_OFFSET)
    return Network(base, network.prefixlen)


class _Exact:
    """Rows of 128-bit addresses by hash; a find is checked against the whole address."""

    def __init__(self, rows_of: dict[int, int]) -> None:
        count = len(rows_of)
        self._hi = np.fromiter((base >> 64 for base in rows_of), np.uint64, count)
        self._lo = np.fromiter((base & _HALF for base in rows_of), np.uint64, count)
        self._rows = np.fromiter(rows_of.values(), np.int32, count)
        factor = 0xD6E8FEB86659FD93
        self._factor = np.uint64(factor)
        mixed = self._mix(self._hi, self._lo)
        while len(np.unique(mixed)) != count:
            factor = (factor * 3 + 2) & _HALF
            self._factor = np.uint64(factor)
            mixed = self._mix(self._hi, self._lo)
        self._index = HashIndex.of(mixed, np.arange(count, dtype=np.int32))

    def __len__(self) -> int:
        return len(self._rows)

    def _mix(self, hi: _Words, lo: _Words) -> _Words:
        mixed: _Words = hi * self._factor
        mixed ^= mixed >> np.uint64(32)
        return mixed + lo

    def find(self, hi: _Words, lo: _Words) -> _Rows:
        """The row of each address, MISSING where there is none."""
        position = self._index.find(self._mix(hi, lo))
        known = position != MISSING
        if not known.any():
            return position
        known &= (self._hi[position] == hi) & (self._lo[position] == lo)
        found: _Rows = np.where(known, self._rows[position], np.int32(MISSING))
        return found


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
            around.append((start + (1 << (_ADDRESS_BITS - network.prefix)), row))
        leave_until(1 << 33)
        self._starts = np.array(starts, np.uint32)
        self._rows = np.array(rows, np.int32)

    def find(self, lo: _Words) -> _Rows:
        at = np.searchsorted(self._starts, lo.astype(np.uint32), side="right") - 1
        return self._rows[at]


class AddressIndex:
    """Built from (network, row) pairs; a later pair replaces an earlier one of the same network."""

    def __init__(self, claims: Iterable[tuple[Network, int]] = ()) -> None:
        exact_v4: dict[int, int] = {}
        exact_v6: dict[int, int] = {}
        ranges: dict[Network, int] = {}
        by_prefix: dict[int, dict[int, int]] = {}
        for network, row in claims:
            if network.prefix == _ADDRESS_BITS:
                (exact_v4 if network.v4 else exact_v6)[network.base] = row
            elif network.v4:
                ranges[network] = row
            else:
                by_prefix.setdefault(network.prefix, {})[network.base] = row
        bases = np.fromiter(exact_v4, np.uint64, len(exact_v4))
        self._v4 = HashIndex.of(bases, np.arange(len(exact_v4), dtype=np.int32))
        self._v4_rows = np.fromiter(exact_v4.values(), np.int32, len(exact_v4))
        self._v6 = _Exact(exact_v6)
        self._ranges = _Ranges(list(ranges.items())) if ranges else None
        self._prefixes = [
            (_mask(prefix), _Exact(rows_of))
            for prefix, rows_of in sorted(by_prefix.items(), reverse=True)
        ]

    def find(self, hi: _Words, lo: _Words) -> _Rows:
        """The row of each address; UNKNOWN_ROW where nothing claims it, and for ::."""
        v4 = (hi == 0) & ((lo >> np.uint64(32)) == np.uint64(0xFFFF))
        if v4.all():
            return self._find_v4(lo)
        rows = np.full(len(lo), UNKNOWN_ROW, np.int32)
        if v4.any():
            rows[v4] = self._find_v4(lo[v4])
        v6 = np.flatnonzero(~v4 & ((hi != 0) | (lo != 0)))
        rows[v6] = self._find_v6(hi[v6], lo[v6])
        return rows

    def _find_v4(self, lo: _Words) -> _Rows:
        if len(self._v4):
            position = self._v4.find(lo)
            missing = position == MISSING
            rows: _Rows = np.where(missing, np.int32(UNKNOWN_ROW), self._v4_rows[position])
        else:
            rows = np.full(len(lo), UNKNOWN_ROW, np.int32)
            missing = np.ones(len(lo), np.bool_)
        if self._ranges is not None and missing.any():
            found = self._ranges.find(lo[missing])
            rows[missing] = np.where(found == MISSING, np.int32(UNKNOWN_ROW), found)
        return rows

    def _find_v6(self, hi: _Words, lo: _Words) -> _Rows:
        rows = self._v6.find(hi, lo) if len(self._v6) else np.full(len(lo), MISSING, np.int32)
        for (mask_hi, mask_lo), exact in self._prefixes:
            missing = np.flatnonzero(rows == MISSING)
            if missing.size == 0:
                break
            rows[missing] = exact.find(hi[missing] & mask_hi, lo[missing] & mask_lo)
        rows[rows == MISSING] = UNKNOWN_ROW
        return rows


def _mask(prefix: int) -> tuple[np.uint64, np.uint64]:
    mask = ((1 << prefix) - 1) << (_ADDRESS_BITS - prefix)
    return np.uint64(mask >> 64), np.uint64(mask & _HALF)
