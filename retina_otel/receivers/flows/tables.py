"""Reads the tables of the flows object, one finished generation at a time.

`take()` adds one to the generation, waits until no program can still be writing with the old
number, and reads the finished half of every table. Everything that the kernel counted in a
generation is in exactly one row of its `Generation`: rows, losses and ledger close.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from retina_otel.errors import KernelError
from retina_otel.kernel.bpf.maps import HashMap, Variables, mmap_array, possible_cpus
from retina_otel.kernel.bpf.quiesce import wait_for_programs
from retina_otel.kernel.bpf.ring import Ring
from retina_otel.loaders import core
from retina_otel.loaders.base import Loaded, MapHandle
from retina_otel.loaders.objects import path
from retina_otel.receivers.flows.rows import N_FLAGS, FlowRows, flag_rows, slot_rows, table_rows

_PARITIES = 2
_DIRECTIONS = 2
_LEDGER_INTERFACES = 256
_LEDGER_COUNTS = ("buffers", "bytes", "packets", "wire_bytes", "not_ip_packets", "not_ip_bytes")


LedgerCounts = dict[str, int]
"""Of _LEDGER_COUNTS by name, since the interface was first seen."""


@dataclass(frozen=True, slots=True)
class Generation:
    """All that was counted in one generation."""

    rows: FlowRows
    seen_packets: int
    not_ip_packets: int
    lost_packets: int
    cache_packets: int
    hash_packets: int
    ring_packets: int


class FlowTables:
    """The loaded flows object and its mapped tables. Used by the tick thread only."""

    def __init__(
        self,
        *,
        cache_bytes: int,
        max_flows: int,
        ring_bytes: int,
        shared_cpus: bool = False,
        constants: Mapping[str, int] | None = None,
        object_path: str = "",
    ) -> None:
        """`cache_bytes` bounds the front caches of all CPUs, both families and both generations;
        `max_flows` is per family and generation; `shared_cpus` leaves the caches out.
        `object_path` and `constants` are for variants of the object (benchmarks). Raises LoadError,
        MapError."""
        cpus = possible_cpus()
        bits = slot_bits(cache_bytes, cpus)
        slots = (_PARITIES * cpus) << bits
        self._loaded = core.load(
            object_path or path("flows"),
            constants={"cfg_slot_bits": bits, "cfg_cache": int(not shared_cpus)}
            | dict(constants or {}),
            max_entries={
                "flows4_cache": slots,
                "flows6_cache": slots,
                "flows6_details": slots,
                "flows4_tags": slots,
                "flows6_tags": slots,
                "flows4_even": max_flows,
                "flows4_odd": max_flows,
                "flows6_even": max_flows,
                "flows6_odd": max_flows,
                "flags4_even": max_flows,
                "flags4_odd": max_flows,
                "flags6_even": max_flows,
                "flags6_odd": max_flows,
                "flows_ring": ring_bytes,
                "flows_ledger": cpus * _PARITIES * _LEDGER_INTERFACES * _DIRECTIONS,
                "flows_stats": cpus * _PARITIES,
            },
        )
        self.cpus = cpus
        try:
            self._map(self._loaded)
        except KernelError:
            self._loaded.close()
            raise

    def _map(self, loaded: Loaded) -> None:
        maps, cpus = loaded.maps, self.cpus

        def mapped(name: str, shape: tuple[int, ...], writable: bool = False) -> Any:
            handle = maps[name]
            array = mmap_array(handle.fd, handle.value_dtype, handle.max_entries, writable)
            return array.reshape(shape)

        def table(name: str) -> HashMap:
            handle = maps[name]
            return HashMap(handle.fd, handle.key_dtype, handle.value_dtype, handle.max_entries)

        self._caches = {f: maps[f"flows{f}_cache"] for f in (4, 6)}
        self._details6 = maps["flows6_details"]
        self._hashes = [[table(f"flows{f}_{p}") for f in (4, 6)] for p in ("even", "odd")]
        self._flags = [[table(f"flags{f}_{p}") for f in (4, 6)] for p in ("even", "odd")]
        self._ledger = mapped(
            "flows_ledger", (cpus, _PARITIES, _LEDGER_INTERFACES, _DIRECTIONS), True
        )
        self._ledger2 = table("flows_ledger2")
        self._stats = mapped("flows_stats", (cpus, _PARITIES))
        self._ring = Ring(
            maps["flows_ring"].fd,
            maps["flows_ring"].value_dtype,
            maps["flows_ring"].max_entries,
        )
        self._variables = Variables(maps[".data"].fd, loaded.btf, ".data")
        self._early_records: npt.NDArray[Any] = np.empty(0, maps["flows_ring"].value_dtype)
        self._read_before = [_Totals(), _Totals()]

    @property
    def programs(self) -> dict[str, int]:
        """Descriptors by name: flows_pod_in, flows_pod_out, flows_host_in, flows_host_out."""
        return dict(self._loaded.programs)

    @property
    def insert_races(self) -> int:
        """How often two CPUs inserted one flow at the same moment; nothing is lost by it."""
        return int(self._stats["insert_races"].sum())

    @property
    def lost_flags(self) -> int:
        """Packets so far that are counted, but not their TCP flags: these had no room."""
        return int(self._stats["lost_flags"].sum())

    def take(self) -> Generation:
        """Ends the running generation and reads it. Raises MapError, RingError."""
        variables = self._variables
        ended = int(variables.generation)
        variables.generation[...] = ended + 1
        try:
            wait_for_programs()
        except KernelError:
            # Still running: what it has so far is read next time, with what is added until then.
            variables.generation[...] = ended
            raise
        parity = ended & 1

        parts, cache_packets = self._read_caches(parity, ended)
        hashed, hash_packets = self._read_hashes(parity)
        records, ring_packets = self._read_ring(ended)
        totals = self._totals(parity)
        before, self._read_before[parity] = self._read_before[parity], totals
        rows = FlowRows.concatenate([*parts, *hashed, *records])
        return Generation(
            rows=rows,
            # What had no ledger row was counted (and lost) only for the ledger.
            seen_packets=totals.packets - before.packets + totals.unledgered - before.unledgered,
            not_ip_packets=totals.not_ip - before.not_ip,
            lost_packets=totals.lost - before.lost,
            cache_packets=cache_packets,
            hash_packets=hash_packets,
            ring_packets=ring_packets,
        )

    def ledger(self) -> dict[tuple[int, bool], LedgerCounts]:
        """Counts since an interface was first seen, by (ifindex, at its egress hook). Live: it may
        be ahead of the last `take()`."""
        flat = self._ledger.reshape(-1)
        _, shared = self._ledger2.read()
        rows = np.concatenate([flat[flat["ifindex"] != 0], shared])
        hooks, group = np.unique(
            rows["ifindex"].astype(np.uint64) << np.uint64(1) | rows["egress"], return_inverse=True
        )
        sums = {name: np.zeros(len(hooks), np.int64) for name in _LEDGER_COUNTS}
        for name, column in sums.items():
            np.add.at(column, group, rows[name].astype(np.int64))
        return {
            (int(hook) >> 1, bool(hook & np.uint64(1))): {
                name: int(column[number]) for name, column in sums.items()
            }
            for number, hook in enumerate(hooks)
        }

    def forget(self, ifindexes: Collection[int]) -> None:
        """Gives the ledger's rows of interfaces back, for others to take. No program may have run
        for them since before the last `take()`, so all they counted has been read."""
        if not ifindexes:
            return
        for ifindex in ifindexes:
            for parity in range(_PARITIES):
                rows = self._ledger[:, parity, ifindex % _LEDGER_INTERFACES]
                own = rows["ifindex"] == ifindex
                self._unread(parity, rows[own])
                for name in _LEDGER_COUNTS:
                    rows[name][own] = 0
        keys, shared = self._ledger2.read()
        leaving = np.isin(keys["ifindex"], list(ifindexes))
        keys, shared = keys[leaving], shared[leaving]
        for parity in range(_PARITIES):
            self._unread(parity, shared[keys["parity"] == parity])
        self._ledger2.delete_many(keys)
        # Only now: a program takes a row as soon as it is nobody's, and then counts into it.
        for ifindex in ifindexes:
            rows = self._ledger[:, :, ifindex % _LEDGER_INTERFACES]
            rows["ifindex"][rows["ifindex"] == ifindex] = 0

    def _unread(self, parity: int, rows: npt.NDArray[Any]) -> None:
        """Takes rows that go out of what has been read."""
        before = self._read_before[parity]
        self._read_before[parity] = replace(
            before,
            packets=before.packets - int(rows["packets"].sum()),
            not_ip=before.not_ip - int(rows["not_ip_packets"].sum()),
        )

    def close(self) -> None:
        self._ring.close()
        self._loaded.close()

    def _read_caches(self, parity: int, generation: int) -> tuple[list[FlowRows], int]:
        parts = []
        for cpu in range(self.cpus):
            slots = self._half(self._caches[4], cpu, parity)
            taken = slots[slots["generation"] == generation]
            parts.append(slot_rows(4, taken, taken["details"]))
            slots = self._half(self._caches[6], cpu, parity)
            chosen = slots["generation"] == generation
            taken = slots[chosen]
            details = self._half(self._details6, cpu, parity)[chosen]
            parts.append(slot_rows(6, taken, details))
        packets = sum(int(part.packets.sum()) for part in parts)
        return parts, packets

    def _half(self, slots: MapHandle, cpu: int, parity: int) -> npt.NDArray[Any]:
        """The slots of one CPU and parity. They are most of the tables' memory and would be most of
        the agent's, so they are mapped only while they are read."""
        n = slots.max_entries // (self.cpus * _PARITIES)
        first = (cpu * _PARITIES + parity) * n
        return mmap_array(slots.fd, slots.value_dtype, n, first=first)

    def _read_hashes(self, parity: int) -> tuple[list[FlowRows], int]:
        parts, packets = [], 0
        for table, flag_table, family in zip(
            self._hashes[parity], self._flags[parity], (4, 6), strict=True
        ):
            keys, values = table.drain()
            none = np.zeros((len(keys), N_FLAGS), np.uint32)
            part = table_rows(family, keys, values, none, first=values["first"])
            packets += int(part.packets.sum())
            parts.append(part)
            keys, values = flag_table.drain()
            parts.append(flag_rows(family, keys, values["flags"].copy()))
        return parts, packets

    def _read_ring(self, generation: int) -> tuple[list[FlowRows], int]:
        """Records of generations up to `generation`; newer ones are kept for their own time."""
        records = np.concatenate([self._early_records, self._ring.drain()])
        due = records["generation"] <= generation
        self._early_records = records[~due]
        records = records[due]
        parts = []
        for family in (4, 6):
            own = records[records["family"] == family]
            keys = own["key"]
            if family == 4:
                # A v4 key lies in the front of the record's v6 key.
                dtype = self._hashes[0][0].key_dtype
                raw = np.ascontiguousarray(keys).view(np.uint8).reshape(-1, keys.dtype.itemsize)
                keys = np.ascontiguousarray(raw[:, : dtype.itemsize]).view(dtype).reshape(-1)
            parts.append(table_rows(family, keys, own, own["flags"].copy(), first=own["last"]))
        return parts, int(records["packets"].sum())

    def _totals(self, parity: int) -> _Totals:
        rows = self._ledger[:, parity]
        stats = self._stats[:, parity]
        keys, shared = self._ledger2.read()
        shared = shared[keys["parity"] == parity]
        return _Totals(
            packets=int(rows["packets"].sum()) + int(shared["packets"].sum()),
            not_ip=int(rows["not_ip_packets"].sum()) + int(shared["not_ip_packets"].sum()),
            lost=int(stats["lost_packets"].sum()),
            unledgered=int(stats["ledger_lost"].sum()),
        )


@dataclass(frozen=True, slots=True)
class _Totals:
    """Cumulative counts of one parity."""

    packets: int = 0
    not_ip: int = 0
    lost: int = 0
    unledgered: int = 0


def slot_bits(cache_bytes: int, cpus: int) -> int:
    """log2 of the slots per CPU, family and generation that fit into `cache_bytes`; 6 to 16."""
    # A line and a tag for each family, and the details of IPv6.
    bytes_per_slot = (64 + 4 + 64 + 24 + 4) * _PARITIES * cpus
    return min(16, max(6, (cache_bytes // bytes_per_slot).bit_length() - 1))
