"""AddressedEnds: an end's identity and, where they are chosen, its address and port, as one set.

Addresses and ports are unbounded, so they are opt-in on metrics; a set with them is interned for
each (identity, address, port) that occurs in a batch.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from retina_otel.model.attribute_sets import EMPTY_SET, AttributeSet, AttributeSets
from retina_otel.model.batches import UNKNOWN_ROW, RawEnds

_Ids = npt.NDArray[np.int32]

_MAX_CACHED = 1 << 17

_Key = tuple[int, ...]


class IdentitySets(Protocol):
    """From rows to sets of identity alone."""

    def ids(self, rows: _Ids) -> _Ids: ...

    def alive(self) -> npt.NDArray[np.bool_]: ...

    def having(self, rows: _Ids) -> npt.NDArray[np.bool_]: ...


class AddressedEnds:
    """One end of batches. `address` and `port` are the attributes' names, empty if not chosen."""

    def __init__(
        self, sets: AttributeSets, identity: IdentitySets, *, address: str, port: str
    ) -> None:
        self._sets = sets
        self._identity = identity
        self._address = address
        self._port = port
        self._cache: dict[_Key, tuple[int, int]] = {}
        self._identity_of: _Ids = np.full(0, -1, np.int32)
        self._version: _Ids = np.full(0, -1, np.int32)
        self._identity_version: _Ids = np.full(0, -1, np.int32)

    def ids(self, count: int, rows: _Ids | None, raw: RawEnds | None) -> _Ids:
        """The set of each of `count` rows."""
        if rows is None:
            known = self._identity.ids(np.full(1, UNKNOWN_ROW, np.int32)).repeat(count)
        else:
            known = self._identity.ids(rows)
        if raw is None or count == 0 or not (self._address or self._port):
            return known
        columns = (
            known.astype(np.uint64),
            self._sets.versions(known).astype(np.uint64),
            raw.hi if self._address else np.zeros(count, np.uint64),
            raw.lo if self._address else np.zeros(count, np.uint64),
            raw.port.astype(np.uint64) if self._port else np.zeros(count, np.uint64),
        )
        first, place = _distinct(columns)
        keys = np.stack([column[first] for column in columns], axis=1).tolist()
        return self._intern(keys)[place]

    def alive(self) -> npt.NDArray[np.bool_]:
        """By set id: an endpoint that is present has it, with an address or without."""
        return self._with_addresses(self._identity.alive())

    def having(self, rows: _Ids) -> npt.NDArray[np.bool_]:
        """By set id: one of the rows has it, with an address or without."""
        return self._with_addresses(self._identity.having(rows))

    def _with_addresses(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Adds to chosen sets of identity those that were made of them."""
        if not self._cache:
            return chosen
        versions = self._sets.versions(np.arange(len(chosen)))
        known = min(len(chosen), len(self._identity_of))
        ids = np.flatnonzero(
            (self._identity_of[:known] >= 0) & (self._version[:known] == versions[:known])
        )
        identity = self._identity_of[ids]
        chosen[ids] |= chosen[identity] & (versions[identity] == self._identity_version[ids])
        return chosen

    def _intern(self, keys: list[_Key]) -> _Ids:
        sets, cache = self._sets, self._cache
        if len(cache) > _MAX_CACHED:
            cache.clear()
        ids = np.empty(len(keys), np.int32)
        for place, (identity, version, hi, lo, port) in enumerate(keys):
            key = (identity, version, hi, lo, port)
            number, known_version = cache.get(key, (EMPTY_SET, -1))
            if known_version < 0 or sets.version(number) != known_version:
                number = sets.intern(self._with(sets.get(identity), hi, lo, port))
                known_version = sets.version(number)
                cache[key] = (number, known_version)
                self._remember(number, known_version, identity, version)
            ids[place] = number
        return ids

    def _remember(self, number: int, version: int, identity: int, identity_version: int) -> None:
        if number >= len(self._identity_of):
            size = max(len(self._sets), number + 1) * 3 // 2
            grown = [np.full(size, -1, np.int32) for _ in range(3)]
            for new, old in zip(
                grown, (self._identity_of, self._version, self._identity_version), strict=True
            ):
                new[: len(old)] = old
            self._identity_of, self._version, self._identity_version = grown
        self._identity_of[number] = identity
        self._version[number] = version
        self._identity_version[number] = identity_version

    def _with(self, identity: AttributeSet, hi: int, lo: int, port: int) -> AttributeSet:
        raw: dict[str, str | int] = {}
        if self._address and (hi or lo):
            raw[self._address] = address_text(hi, lo)
        if self._port and port:
            raw[self._port] = port
        # Identity comes last: an end of which it says the address means that address.
        return tuple(sorted({**raw, **dict(identity)}.items()))


def _distinct(
    columns: Sequence[npt.NDArray[np.uint64]],
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """A row for each distinct combination, and for each row the place of its combination."""
    mixed = np.zeros_like(columns[0])
    for column in columns:
        mixed ^= column
        mixed *= np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    _, first, place = np.unique(mixed, return_index=True, return_inverse=True)
    if all((column[first][place] == column).all() for column in columns):
        return first, place
    # Two combinations were mixed to one number, which somebody may have wanted: compare in full.
    rows = np.stack(columns, axis=1)
    _, first, place = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return first, place.reshape(-1)


def address_text(hi: int, lo: int) -> str:
    """The usual text of an address in two halves; a mapped IPv4 address as IPv4."""
    if hi == 0 and lo >> 32 == 0xFFFF:
        return str(ipaddress.IPv4Address(lo & 0xFFFFFFFF))
    return str(ipaddress.IPv6Address(hi << 64 | lo))
