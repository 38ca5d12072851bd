"""AddressIndex: from addresses and times to rows, a whole column at a time, longest prefix first.

Addresses are 128-bit, IPv4 mapped (::ffff:a.b.c.d), as `RawEnds` has them. A single address has a
timeline; networks, of which there are few, have none. Readers on other threads need a lock.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from retina_otel.pipeline.hash_index import MISSING
from retina_otel.pipeline.identity.claims import NOBODY
from retina_otel.pipeline.identity.networks import HALF, Mix, Network, Networks, Rows, Words
from retina_otel.pipeline.identity.timelines import Timelines

Times = npt.NDArray[np.int64]


class WideTimelines(Timelines):
    """By 128-bit addresses: a find is checked against the whole address."""

    def __init__(self) -> None:
        super().__init__()
        self._mix = Mix()
        self._hi = np.zeros(64, np.uint64)
        self._lo = np.zeros(64, np.uint64)
        self._held: set[int] = set()

    def entry(self, key: int) -> int:
        entry = super().entry(self._mix.of_one(key))
        return entry if entry == MISSING or self._is(entry, key) else MISSING

    def add(self, key: int) -> int:
        while super().entry(self._mix.of_one(key)) != MISSING:
            self._mix_anew()
        entry = super().add(self._mix.of_one(key))
        if entry >= len(self._hi):
            self._hi = np.concatenate([self._hi, np.zeros_like(self._hi)])
            self._lo = np.concatenate([self._lo, np.zeros_like(self._lo)])
        self._hi[entry], self._lo[entry] = key >> 64, key & HALF
        self._held.add(entry)
        return entry

    def remove(self, key: int, entry: int) -> None:
        super().remove(self._mix.of_one(key), entry)
        self._held.remove(entry)

    def find(self, hi: Words, lo: Words) -> Rows:
        """The entry of each address, or MISSING."""
        entries = self.entries(self._mix.of(hi, lo))
        # Of what is mixed to the same, equal upper halves mean equal lower ones.
        entries[self._hi[entries] != hi] = MISSING
        return entries

    def _is(self, entry: int, base: int) -> bool:
        return int(self._lo[entry]) == base & HALF and int(self._hi[entry]) == base >> 64

    def _mix_anew(self) -> None:
        entries = np.fromiter(self._held, np.int32, len(self._held))
        mixed = np.zeros(0, np.uint64)
        while len(np.unique(mixed)) != len(entries) or not len(mixed):
            self._mix = self._mix.another()
            mixed = self._mix.of(self._hi[entries], self._lo[entries])
        self.rekey(mixed, entries)


class AddressIndex:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._v4 = Timelines()
        self._v6 = WideTimelines()
        self.networks = Networks()

    def __len__(self) -> int:
        """How many single addresses somebody claims."""
        return len(self._v4) + len(self._v6)

    def timelines(self, address: Network) -> Timelines:
        """Those among which a single address is, by its `base`."""
        return self._v4 if address.v4 else self._v6

    def find(
        self,
        hi: Words,
        lo: Words,
        first_ns: Times | None = None,
        last_ns: Times | None = None,
    ) -> Rows:
        """The row of each address from `first_ns` to `last_ns`; NOBODY for :: and where nothing
        claims it, AMBIGUOUS where more than one may be meant."""
        v4 = (hi == 0) & ((lo >> np.uint64(32)) == np.uint64(0xFFFF))
        if v4.all():
            return self._find_v4(lo, first_ns, last_ns)
        if not v4.any():
            rows = self._find_v6(hi, lo, first_ns, last_ns)
            rows[(hi | lo) == 0] = NOBODY
            return rows
        rows = np.full(len(lo), NOBODY, np.int32)
        four = np.flatnonzero(v4)
        if four.size:
            rows[four] = self._find_v4(lo[four], _at(first_ns, four), _at(last_ns, four))
        six = np.flatnonzero(~v4 & ((hi != 0) | (lo != 0)))
        if six.size:
            times = _at(first_ns, six), _at(last_ns, six)
            rows[six] = self._find_v6(hi[six], lo[six], *times)
        return rows

    def _find_v4(self, lo: Words, first_ns: Times | None, last_ns: Times | None) -> Rows:
        rows = self._v4.rows(self._v4.entries(lo), first_ns, last_ns)
        missing = np.flatnonzero(rows == NOBODY)
        if missing.size:
            rows[missing] = self.networks.find_v4(lo[missing])
        return rows

    def _find_v6(self, hi: Words, lo: Words, first_ns: Times | None, last_ns: Times | None) -> Rows:
        rows = self._v6.rows(self._v6.find(hi, lo), first_ns, last_ns)
        missing = np.flatnonzero(rows == NOBODY)
        if missing.size:
            rows[missing] = self.networks.find_v6(hi[missing], lo[missing])
        return rows


def _at(times: Times | None, rows: npt.NDArray[np.int64]) -> Times | None:
    return None if times is None else times[rows]
