"""The drops object in the kernel: loaded, attached, and read a generation at a time.

`take()` returns all packets of the generation that it ends, each exactly once: rows of the finished
table, records of the ring, and the ledger's words of the same generation. So the books close at
every call, not just in the long run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from retina_otel.kernel.bpf.attach import tp_btf
from retina_otel.kernel.bpf.mapping import Variables, mmap_array
from retina_otel.kernel.bpf.maps import ArrayMap, HashMap, possible_cpus
from retina_otel.kernel.bpf.quiesce import wait_for_programs
from retina_otel.kernel.bpf.ring import Ring
from retina_otel.kernel.syscall import prog_info
from retina_otel.loaders import core, objects

Array = npt.NDArray[Any]

_PROGRAM = "drops_kfree_skb"
_TABLES = ("drops_even", "drops_odd")
_WORDS = ("seen", "lost", "insert_failed", "not_network", "other_netns", "unknown_netns")
"""Of the ledger, named as in Drops."""


@dataclass(frozen=True, slots=True)
class Drops:
    """One generation. Arrays are the caller's."""

    keys: Array
    """rt_drop_key; a key may occur more than once."""
    rows: Array
    """rt_drop_row."""
    seen: int
    lost: int
    """Table and ring were full."""
    insert_failed: int
    """The table took no row for another reason, and the ring was full."""
    not_network: int
    other_netns: int
    unknown_netns: int
    """0 where all namespaces are counted."""
    excluded: Mapping[int, int]
    """By number of the reason."""


@dataclass(frozen=True, slots=True)
class Namespaces:
    """Network namespaces, by inode, in which drops are counted or not."""

    counted: frozenset[int] = frozenset()
    left_out: frozenset[int] = frozenset()
    others: bool = True
    """Whether they are counted in those that are in neither."""


class DropsTable:
    """Raises LoadError, AttachError, MapError while it is made; then nothing stays behind."""

    def __init__(
        self,
        excluded: Collection[int],
        *,
        max_entries: int,
        ring_bytes: int,
        max_namespaces: int,
    ) -> None:
        """`excluded` are numbers of core reasons. Counting begins at once."""
        with ExitStack() as stack:
            loaded = stack.enter_context(
                core.load(
                    objects.path("drops"),
                    max_entries={
                        **dict.fromkeys(_TABLES, max_entries),
                        "drops_ledger": 2 * possible_cpus(),
                        "drops_ring": ring_bytes,
                        "drops_netns": max_namespaces,
                    },
                )
            )
            maps = loaded.maps
            self._tables = [
                HashMap(m.fd, m.key_dtype, m.value_dtype, m.max_entries)
                for m in (maps[name] for name in _TABLES)
            ]
            ring = maps["drops_ring"]
            self._ring = Ring(ring.fd, ring.value_dtype, ring.max_entries)
            stack.callback(self._ring.close)
            ledger = maps["drops_ledger"]
            words = mmap_array(ledger.fd, ledger.value_dtype, ledger.max_entries)
            self._ledger = words.reshape(possible_cpus(), 2)
            self._before = [self._ledger[:, parity].copy() for parity in (0, 1)]
            self._globals = Variables(maps[".data"].fd, loaded.btf, ".data")
            netns = maps["drops_netns"]
            self._netns = HashMap(netns.fd, netns.key_dtype, netns.value_dtype, netns.max_entries)
            reasons = maps["drops_excluded"]
            flags = ArrayMap(reasons.fd, np.uint32, reasons.max_entries)
            for number in excluded:
                if number < reasons.max_entries:
                    flags.put(number, 1)
            self._pending = np.empty(0, ring.value_dtype)
            self._program = loaded.programs[_PROGRAM]
            stack.enter_context(tp_btf(self._program))
            self._stack = stack.pop_all()

    def limit(self, namespaces: Namespaces) -> None:
        """Counts only in some network namespaces. MapError if there are too many."""
        wanted = dict.fromkeys(namespaces.left_out, 0) | dict.fromkeys(namespaces.counted, 1)
        inodes, flags = self._netns.read()
        known = dict(zip(inodes.tolist(), flags.tolist(), strict=True))
        for inode in known.keys() - wanted.keys():
            self._netns.delete(inode)
        for inode, flag in wanted.items():
            if known.get(inode) != flag:
                self._netns.put(inode, flag)
        self._globals.all_namespaces[...] = int(namespaces.others)

    def recursion_misses(self) -> int:
        """Drops that interrupted the handling of another on the same CPU, and were not seen."""
        return int(prog_info(self._program).recursion_misses)

    def take(self) -> Drops:
        """Ends the generation and returns what it counted. Waits for running programs."""
        finished = int(self._globals.generation)
        self._globals.generation[...] = (finished + 1) & 0xFFFFFFFF
        wait_for_programs()
        parity = finished & 1
        keys, rows = self._tables[parity].drain()
        records = np.concatenate((self._pending, self._ring.drain()))
        # A record that another one, not yet committed, kept back comes a generation late.
        ours = records["generation"] <= finished
        self._pending = records[~ours]
        records = records[ours]
        now = self._ledger[:, parity].copy()
        change = {
            name: now[name].sum(axis=0) - self._before[parity][name].sum(axis=0)
            for name in (*_WORDS, "excluded")
        }
        self._before[parity] = now
        return Drops(
            keys=np.concatenate((keys, records["key"])),
            rows=np.concatenate((rows, _as_rows(records, rows.dtype))),
            **{name: int(change[name]) for name in _WORDS},
            excluded={
                int(number): int(change["excluded"][number])
                for number in np.flatnonzero(change["excluded"])
            },
        )

    def close(self) -> None:
        """Detaches, then frees everything."""
        self._stack.close()


def _as_rows(records: Array, dtype: np.dtype[Any]) -> Array:
    rows = np.zeros(len(records), dtype)
    rows["packets"] = 1
    rows["bytes"] = records["bytes"]
    rows["first"] = rows["last"] = records["now"]
    return rows
