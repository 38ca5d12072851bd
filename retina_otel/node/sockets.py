"""NodeSockets: which workload owns each local end of the node's own network namespace.

An end belongs to a workload only if nobody else was seen to hold a socket there for a while: a port
that goes from one owner to another is nobody's until the first is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from retina_otel.errors import KernelError
from retina_otel.node.ends import LocalEnds
from retina_otel.node.looks import Looks, in_one_line
from retina_otel.node.released import ReleasedSockets
from retina_otel.pipeline.ledger import Ledger

FRESH_NS = 500_000_000
"""A look that is not older is not repeated: those who ask in one tick get the same."""
REMEMBERED_LOOKS = 3
"""A socket that has gone still answers, and keeps the next owner from answering, as long as rows of
its time may come: those of one tick, and those that were held back for another."""
MAX_OWNERS = 4096
"""Beyond that those are forgotten of whom no socket is remembered."""

_TCP, _MPTCP = 6, 262
_PREFIX = 0xFFFF
_ANY_IPV6 = np.uint64(0)
_ANY_IPV4 = np.uint64(_PREFIX << 32)
_K1, _K2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)

_AMBIGUOUS = -1
_NOBODY = -2
"""Held by a process that no container runtime started."""
_UNSEEN = -3

_U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class _Held:
    """n local ends and their owners."""

    hi: _U64
    lo: _U64
    rest: _U64
    """Protocol and port."""
    owner: npt.NDArray[np.int64]
    seen: npt.NDArray[np.int64]
    """Number of the last look that found it."""

    def take(self, which: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> _Held:
        return _Held(*(getattr(self, field.name)[which] for field in fields(_Held)))


class NodeSockets:
    """A model.namespaces.SocketOwners. Tick thread."""

    def __init__(self, looks: Looks, monotonic_ns: Callable[[], int]) -> None:
        self._looks = looks
        self._monotonic_ns = monotonic_ns
        self._looked_ns: int | None = None
        self._look = 0
        self._without_room = 0
        self._released: ReleasedSockets | None = None
        self._blind = ""
        self._owners: dict[str, int] = {}
        self._workloads: list[frozenset[str]] = []
        none = np.zeros(0, np.uint64)
        seen = np.zeros(0, np.int64)
        self._held = _Held(none, none, none, seen, seen)
        self._hashes: _U64 = np.zeros(0, np.uint64)
        self._ends = self._held
        self.ledger = Ledger("node/sockets", "sockets")

    @property
    def workloads(self) -> Sequence[frozenset[str]]:
        return self._workloads

    @property
    def unavailable(self) -> str:
        return self._looks.unavailable or self._blind

    def close(self) -> None:
        if self._released is not None:
            self._released.close()
            self._released = None

    def owners(
        self,
        protocol: npt.NDArray[np.uint8],
        hi: _U64,
        lo: _U64,
        port: npt.NDArray[np.uint16],
    ) -> npt.NDArray[np.int32]:
        self._refresh()
        rest = _rest(protocol.astype(np.uint64), port)
        found = self._find(hi, lo, rest)
        unseen = found == _UNSEEN
        if unseen.any():
            ipv4 = (hi == 0) & (lo >> np.uint64(32) == _PREFIX)
            any_lo = np.where(ipv4, _ANY_IPV4, _ANY_IPV6)
            listening = self._find(np.zeros_like(hi), any_lo, rest)
            found = np.where(unseen, listening, found)
        return np.maximum(found, _AMBIGUOUS).astype(np.int32)

    def _refresh(self) -> None:
        now_ns = self._monotonic_ns()
        if self._looked_ns is not None and now_ns - self._looked_ns < FRESH_NS:
            return
        look = self._looks.take(sockets=True)
        if look is None:
            return
        self._looked_ns = now_ns
        self._look += 1
        self._without_room += look.lost
        remembered = self._held.take(self._held.seen > self._look - REMEMBERED_LOOKS)
        if len(self._workloads) > MAX_OWNERS:
            remembered = self._without_others(remembered)
        seen = [self._seen(look.sockets, [group.workloads for group in look.groups])]
        released = self._take_released()
        if released is not None:
            seen.append(self._seen(*released))
        lost = self._without_room + (self._released.lost if self._released is not None else 0)
        if lost:
            self.ledger.set_beside("without_room", lost)
        self._held = _newest(_joined(remembered, *seen))
        self._ends = _judged(self._held)
        hashes = _mix(self._ends.hi, self._ends.lo, self._ends.rest)
        order = np.argsort(hashes)
        self._hashes, self._ends = hashes[order], self._ends.take(order)

    def _take_released(self) -> tuple[LocalEnds, list[tuple[str, ...]]] | None:
        try:
            if self._released is None and not self._blind:
                self._released = ReleasedSockets()
            if self._released is None:
                return None
            found = self._released.take()
        except KernelError as error:
            self._blind = f"sockets closed between two looks are not seen: {in_one_line(error)}"
            return None
        self._blind = ""
        return found

    def _without_others(self, held: _Held) -> _Held:
        """Numbers the owners of these sockets anew, and forgets all others."""
        kept = np.unique(held.owner[held.owner >= 0])
        names = list(self._owners)
        self._owners = {names[index]: place for place, index in enumerate(kept.tolist())}
        self._workloads = [self._workloads[index] for index in kept.tolist()]
        owner = np.where(held.owner >= 0, np.searchsorted(kept, held.owner), held.owner)
        return replace(held, owner=owner)

    def _seen(self, sockets: LocalEnds, names: Sequence[tuple[str, ...]]) -> _Held:
        """The ends of sockets by their owners' workloads. All containers of a pod are one."""
        indices = np.full(len(names), _NOBODY, np.int64)
        for place in np.unique(sockets.owner).tolist():
            if workloads := names[place]:
                index = self._owners.setdefault(workloads[0], len(self._workloads))
                if index == len(self._workloads):
                    self._workloads.append(frozenset())
                self._workloads[index] |= frozenset(workloads)
                indices[place] = index
        return _ends(sockets, indices, self._look)

    def _find(self, hi: _U64, lo: _U64, rest: _U64) -> npt.NDArray[np.int64]:
        """The owner of each end, or one of the marks above."""
        if not len(self._hashes):
            return np.full(len(hi), _UNSEEN, np.int64)
        ends = self._ends
        place = np.searchsorted(self._hashes, _mix(hi, lo, rest)).clip(max=len(self._hashes) - 1)
        same = (ends.hi[place] == hi) & (ends.lo[place] == lo) & (ends.rest[place] == rest)
        return np.where(same, ends.owner[place], _UNSEEN)


def _rest(protocol: _U64, port: npt.NDArray[np.uint16]) -> _U64:
    return protocol << np.uint64(16) | port.astype(np.uint64)


def _ends(sockets: LocalEnds, indices: npt.NDArray[np.int64], look: int) -> _Held:
    """The local ends of sockets; one that takes both families has two."""
    protocol = np.where(sockets.protocol == _MPTCP, _TCP, sockets.protocol).astype(np.uint64)
    seen = np.full(len(sockets), look, np.int64)
    held = _Held(
        sockets.hi, sockets.lo, _rest(protocol, sockets.port), indices[sockets.owner], seen
    )
    both = held.take((sockets.hi == 0) & (sockets.lo == _ANY_IPV6) & ~sockets.only_ipv6)
    return _joined(held, replace(both, lo=np.full_like(both.lo, _ANY_IPV4)))


def _joined(*parts: _Held) -> _Held:
    return _Held(
        *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(_Held))
    )


def _newest(held: _Held) -> _Held:
    """One row for each end and owner, seen when it was seen last; sorted by end."""
    held = held.take(np.lexsort((held.seen, held.owner, held.rest, held.lo, held.hi)))
    last = np.ones(len(held.owner), np.bool_)
    last[:-1] = _ends_differ(held) | (held.owner[1:] != held.owner[:-1])
    return held.take(last)


def _judged(held: _Held) -> _Held:
    """One row for each end, of rows sorted by end."""
    first = np.ones(len(held.owner), np.bool_)
    first[1:] = _ends_differ(held)
    starts = np.flatnonzero(first)
    alone = np.diff(np.append(starts, len(held.owner))) == 1
    ends = held.take(starts)
    return replace(ends, owner=np.where(alone, ends.owner, _AMBIGUOUS))


def _ends_differ(held: _Held) -> npt.NDArray[np.bool_]:
    """Of each row from the next."""
    differ: npt.NDArray[np.bool_] = (
        (held.hi[1:] != held.hi[:-1])
        | (held.lo[1:] != held.lo[:-1])
        | (held.rest[1:] != held.rest[:-1])
    )
    return differ


def _mix(hi: _U64, lo: _U64, rest: _U64) -> _U64:
    mixed = (lo ^ hi * _K1) * _K2
    mixed = (mixed ^ mixed >> np.uint64(29) ^ rest) * _K1
    return mixed ^ mixed >> np.uint64(32)
