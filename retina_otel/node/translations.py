"""NodeTranslations: the backends that the node's NAT chose for connections to services.

Answers hold for one tick only: a client may use its port again for a connection that gets another
backend, and only the kernel knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from retina_otel.errors import KernelError
from retina_otel.kernel.net.conntrack import Backends, ConntrackSocket
from retina_otel.model.namespaces import Tuples
from retina_otel.pipeline.ledger import Ledger

FRESH_NS = 500_000_000
"""An answer that is not older is not asked for again: those who ask in one tick get the same."""
LOOKUPS = 5_000
"""In one tick; connections beyond that stay without a backend."""

_U64 = npt.NDArray[np.uint64]
_K1, _K2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


class NodeTranslations:
    """A model.namespaces.Translations. Tick thread."""

    def __init__(self, monotonic_ns: Callable[[], int], lookups: int = LOOKUPS) -> None:
        self._monotonic_ns = monotonic_ns
        self._lookups = lookups
        self._socket: ConntrackSocket | None = None
        self._began_ns: int | None = None
        self._known = _Answers.none()
        self.unavailable = ""
        """Why nothing can be said, with the remedy; empty if all is well."""
        self.ledger = Ledger("node/translations", "connections")
        """Those to services that were to be looked up, each once a tick."""
        self.ledger.may_lose("too_many", "failed")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def backends(self, tuples: Tuples) -> Backends:
        now_ns = self._monotonic_ns()
        if self._began_ns is None or now_ns - self._began_ns >= FRESH_NS:
            self._began_ns = now_ns
            self._known = _Answers.none()
        hashes = _mix(tuples)
        place = self._known.find(hashes, tuples)
        missing = np.flatnonzero(place < 0)
        if len(missing):
            _, first = np.unique(hashes[missing], return_index=True)
            self._learn(hashes, tuples, missing[first])
            place = self._known.find(hashes, tuples)
        return self._known.take(place)

    def _learn(self, hashes: _U64, tuples: Tuples, rows: npt.NDArray[np.intp]) -> None:
        room = max(0, self._lookups - len(self._known.hashes))
        beyond, rows = len(rows[room:]), rows[:room]
        self.ledger.add(seen=beyond, lost={"too_many": beyond} if beyond else None)
        asked = tuples.take(rows)
        try:
            if self._socket is None:
                self._socket = ConntrackSocket()
            found = self._socket.backends(asked)
        except KernelError as error:
            self.unavailable = f"connections can't be looked up: {error}"
            self.ledger.add(seen=len(rows), lost={"failed": len(rows)})
            self.close()
            return
        self.unavailable = ""
        translated = int(np.count_nonzero(found[0] | found[1]))
        others = len(rows) - translated
        self.ledger.add(seen=len(rows), drained=translated, not_ours={"not_translated": others})
        self._known = self._known.joined(_Answers(hashes[rows], asked, found))


@dataclass(frozen=True, slots=True)
class _Answers:
    """n answers, sorted by the hash of what was asked."""

    hashes: _U64
    asked: Tuples
    found: Backends

    @classmethod
    def none(cls) -> _Answers:
        halves, ports = np.zeros(0, np.uint64), np.zeros(0, np.uint16)
        protocol = np.zeros(0, np.uint8)
        asked = Tuples(protocol, halves, halves, ports, halves, halves, ports)
        return cls(halves, asked, (halves, halves, ports))

    def find(self, hashes: _U64, tuples: Tuples) -> npt.NDArray[np.intp]:
        """The place of each answer, -1 where there is none."""
        if not len(self.hashes):
            return np.full(len(hashes), -1, np.intp)
        place = np.searchsorted(self.hashes, hashes).clip(max=len(self.hashes) - 1)
        same = np.ones(len(hashes), np.bool_)
        for field in fields(Tuples):
            same &= getattr(self.asked, field.name)[place] == getattr(tuples, field.name)
        return np.where(same, place, -1)

    def take(self, place: npt.NDArray[np.intp]) -> Backends:
        """Zeros where the place is -1."""
        known = place >= 0
        hi, lo, port = (np.zeros(len(place), column.dtype) for column in self.found)
        hi[known] = self.found[0][place[known]]
        lo[known] = self.found[1][place[known]]
        port[known] = self.found[2][place[known]]
        return hi, lo, port

    def joined(self, other: _Answers) -> _Answers:
        hashes = np.concatenate([self.hashes, other.hashes])
        order = np.argsort(hashes)

        def both(first: Any, second: Any) -> Any:
            return np.concatenate([first, second])[order]

        asked = Tuples(
            *(
                both(getattr(self.asked, f.name), getattr(other.asked, f.name))
                for f in fields(Tuples)
            )
        )
        hi, lo, port = map(both, self.found, other.found)
        return _Answers(hashes[order], asked, (hi, lo, port))


def _mix(tuples: Tuples) -> _U64:
    ports = tuples.source_port.astype(np.uint64) << np.uint64(16) | tuples.destination_port
    mixed = ports << np.uint64(8) | tuples.protocol
    for column in (
        tuples.source_hi,
        tuples.source_lo,
        tuples.destination_hi,
        tuples.destination_lo,
    ):
        mixed = (mixed ^ column) * _K1
        mixed ^= mixed >> np.uint64(29)
    return mixed * _K2
