"""The flows that have not ended, over generations: a bounded table of records.

Every record that goes in comes out once, added up with those of the same flow, in whatever way the
flow ends; so nothing is lost when the table is full. Two flows with one hash of 64 bits would be
taken for one, as in `tuples`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from retina_otel.receivers.flows.rows import FIN, RST
from retina_otel.receivers.flows.tuples import Side, tuple_hash

Array = npt.NDArray[Any]

FLOW = np.dtype(
    [
        ("hash", "u8"),
        ("reverse", "u8"),  # hash of the connection's other direction
        ("source_hi", "u8"),
        ("source_lo", "u8"),
        ("destination_hi", "u8"),
        ("destination_lo", "u8"),
        ("packets", "i8"),
        ("bytes", "i8"),
        ("first", "i8"),  # ns of CLOCK_MONOTONIC
        ("last", "i8"),
        ("generation", "i8"),  # the last one in which it had packets
        ("interface", "u4"),
        ("source_port", "u2"),
        ("destination_port", "u2"),
        ("flags", "u2"),  # bit n: flag n of rt_tcp_flag was seen; the last one: ACK
        ("protocol", "u1"),
        ("ipv6", "?"),
        ("leaves", "u1"),  # 1: egress as the workload sees it
        ("initiator", "i1"),  # index of INITIATORS; -1: nobody asked
    ],
    align=True,
)
"""A record of a flow. Only LiveFlows uses `reverse` and `generation`."""

INITIATORS = ("unknown", "source", "destination")
END_REASONS = ("finished", "reset", "idle", "evicted", "shutdown")
_FINISHED, _RESET, _IDLE, _EVICTED, _SHUTDOWN = range(len(END_REASONS))
_LIVES = -1
_NONE = -1

_FIN_BIT = np.uint16(1 << FIN)
_RST_BIT = np.uint16(1 << RST)
_PLACE_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_FIRST_CAPACITY = 1024

Ended = tuple[Array, npt.NDArray[np.int32]]
"""Records, and of each the index of its reason in END_REASONS."""


class LiveFlows:
    """Records lie still in slots; a sorted index of hashes says where."""

    def __init__(self, capacity: int, idle_ns: int) -> None:
        """`capacity` is how many may live between two updates."""
        self._capacity = capacity
        self._idle_ns = idle_ns
        self._generation = 0
        self._hashes = np.empty(0, np.uint64)
        self._slots = np.empty(0, np.int32)
        self._flows = np.empty(0, FLOW)
        self._free = np.empty(0, np.int32)

    def __len__(self) -> int:
        return len(self._hashes)

    def update(self, flows: Array, now_ns: int) -> Ended:
        """Adds a generation's flows, distinct and in order of their hashes; returns those that
        have ended at `now_ns` (CLOCK_MONOTONIC)."""
        self._generation += 1
        at = np.searchsorted(self._hashes, flows["hash"])
        known = np.zeros(len(flows), np.bool_)
        inside = at < len(self._hashes)
        known[inside] = self._hashes[at[inside]] == flows["hash"][inside]
        self._add_up(self._slots[at[known]], flows[known])
        self._insert(at[~known], flows[~known])
        return self._take_out(self._judge(now_ns))

    def finish(self) -> Ended:
        """Ends all."""
        return self._take_out(np.full(len(self), _SHUTDOWN, np.int32))

    def _add_up(self, slots: npt.NDArray[np.int32], flows: Array) -> None:
        table = self._flows
        table["packets"][slots] += flows["packets"]
        table["bytes"][slots] += flows["bytes"]
        # What was held for a generation is older than what is here already.
        table["first"][slots] = np.minimum(table["first"][slots], flows["first"])
        table["last"][slots] = np.maximum(table["last"][slots], flows["last"])
        table["flags"][slots] |= flows["flags"]
        told = flows["initiator"] > 0
        table["initiator"][slots[told]] = flows["initiator"][told]
        table["generation"][slots] = self._generation

    def _insert(self, at: npt.NDArray[np.intp], flows: Array) -> None:
        count = len(flows)
        if count > len(self._free):
            self._grow(count - len(self._free))
        slots, self._free = self._free[:count], self._free[count:]
        flows["reverse"] = flow_hash(
            Side(flows["destination_hi"], flows["destination_lo"], flows["destination_port"]),
            Side(flows["source_hi"], flows["source_lo"], flows["source_port"]),
            flows["protocol"],
            ipv6=flows["ipv6"],
            interface=flows["interface"],
            leaves=flows["leaves"] ^ 1,
        )
        flows["generation"] = self._generation
        self._flows[slots] = flows
        self._hashes = np.insert(self._hashes, at, flows["hash"])
        self._slots = np.insert(self._slots, at, slots)

    def _grow(self, missing: int) -> None:
        before = len(self._flows)
        more = max(missing, before, _FIRST_CAPACITY)
        self._flows = np.concatenate([self._flows, np.empty(more, FLOW)])
        fresh = np.arange(before, before + more, dtype=np.int32)
        self._free = np.concatenate([self._free, fresh])

    def _judge(self, now_ns: int) -> npt.NDArray[np.int32]:
        """For each in the index why it has ended, or _LIVES."""
        reasons = np.full(len(self), _LIVES, np.int32)
        last = self._flows["last"][self._slots]
        reasons[last <= now_ns - self._idle_ns] = _IDLE
        self._judge_tcp(reasons)
        lives = np.flatnonzero(reasons == _LIVES)
        excess = len(lives) - self._capacity
        if excess > 0:
            longest_idle = np.argpartition(last[lives], excess - 1)[:excess]
            reasons[lives[longest_idle]] = _EVICTED
        return reasons

    def _judge_tcp(self, reasons: npt.NDArray[np.int32]) -> None:
        """A RST ends both directions, a FIN those that both have one; both must be quiet."""
        flags = self._flows["flags"][self._slots]
        closing = np.flatnonzero(flags & (_FIN_BIT | _RST_BIT))
        if len(closing) == 0:
            return
        quiet = self._flows["generation"][self._slots] < self._generation
        other = self._find(self._flows["reverse"][self._slots[closing]])
        alone = other == _NONE
        ready = quiet[closing] & (alone | quiet[other])
        closing, other, alone = closing[ready], other[ready], alone[ready]
        both = (flags[closing] & _FIN_BIT != 0) & ~alone & (flags[other] & _FIN_BIT != 0)
        reasons[closing[both]] = _FINISHED
        reset = flags[closing] & _RST_BIT != 0
        reasons[closing[reset]] = _RESET
        reasons[other[reset & ~alone]] = _RESET

    def _find(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
        """Places in the index, _NONE where there is none."""
        at = np.searchsorted(self._hashes, hashes)
        at[at == len(self._hashes)] = 0
        found: npt.NDArray[np.intp] = np.where(self._hashes[at] == hashes, at, _NONE)
        return found

    def _take_out(self, reasons: npt.NDArray[np.int32]) -> Ended:
        ended = reasons != _LIVES
        slots = self._slots[ended]
        flows = self._flows[slots]
        if len(slots):
            self._free = np.concatenate([slots, self._free])
            self._hashes, self._slots = self._hashes[~ended], self._slots[~ended]
        return flows, reasons[ended]


def flow_hash(
    source: Side,
    destination: Side,
    protocol: Array,
    *,
    ipv6: Array,
    interface: Array,
    leaves: Array,
) -> npt.NDArray[np.uint64]:
    """64 bits for each of n flows: of the tuple, and of where it was counted in which direction."""
    place = (
        interface.astype(np.uint64) << np.uint64(2)
        | leaves.astype(np.uint64) << np.uint64(1)
        | ipv6.astype(np.uint64)
    )
    hashes: npt.NDArray[np.uint64] = tuple_hash(source, destination, protocol)
    hashes ^= place * _PLACE_FACTOR
    return hashes
