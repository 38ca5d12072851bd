"""The drops receiver: batches of what the table in the kernel counted.

Every call of kfree_skb is accounted for: it is a row, or left out for a reason that the ledger
names, or lost and counted. Needs reasons (Linux 5.17) and tp_btf.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from retina_otel.component import Collected, Context
from retina_otel.errors import KernelError
from retina_otel.kernel.bpf.btf import Btf, BtfError
from retina_otel.kernel.kallsyms import KernelSymbols
from retina_otel.kernel.net.netns import own_inode
from retina_otel.model import signals
from retina_otel.model.batches import Column, EventBatch, MetricBatch, RawEnds, Window
from retina_otel.model.interfaces import Interface
from retina_otel.model.protocols import network_type_column, transport_column
from retina_otel.receivers.drops.reasons import NO_DROPS, DropReasons
from retina_otel.receivers.drops.settings import DropsSettings
from retina_otel.receivers.drops.table import Array, Drops, DropsTable, Namespaces

_LOOPBACK = 1
_NO_REASONS = "This kernel does not say why it drops packets: use Linux 5.17 or later"
_BODY = (
    "{retina_event_packets} packets dropped: {retina_drop_reason}"
    " {source_address} -> {destination_address}"
)


class DropsReceiver:
    """All calls are on the tick thread."""

    def __init__(self, settings: DropsSettings, context: Context) -> None:
        self._settings = settings
        self._context = context
        self._symbols = KernelSymbols()
        self._table: DropsTable | None = None
        self._reasons = DropReasons({})
        self._node_netns = 0
        self._limited = Namespaces()
        self._epochs = (-1, -1)
        self._said = ""

    def start(self) -> None:
        """Raises KernelError where this kernel or these capabilities can't count drops."""
        self._context.ledger.may_lose("table_full", "insert_failed")
        try:
            with Btf.vmlinux() as types:
                self._reasons = DropReasons(types.enum("skb_drop_reason"))
        except BtfError as error:
            raise KernelError("tp_btf/kfree_skb", error.errno, _NO_REASONS) from error
        self._node_netns = own_inode()
        excluded, unknown = self._reasons.numbers(self._settings.exclude_reasons)
        for name in unknown:
            if name not in NO_DROPS:
                near = self._reasons.nearest(name)
                hint = f", did you mean '{near}'?" if near else ""
                self._context.logger.warning(
                    "exclude_reasons: this kernel has no reason '%s'%s", name, hint
                )
        self._table = DropsTable(
            excluded,
            max_entries=self._settings.max_entries,
            ring_bytes=_power_of_two(self._settings.ring_size),
            max_namespaces=4096,
        )
        self._follow_namespaces()

    def collect(self, window: Window, deadline_ns: int) -> Collected:
        """Everything since the last call."""
        assert self._table is not None
        # First: if it fails, what was counted is still in the kernel.
        self._follow_namespaces()
        drops = self._table.take()
        self._account(drops)
        if not len(drops.keys):
            return Collected()
        keys, rows = drops.keys, drops.rows
        symbols = self._symbol_column(keys["location"])
        to_wall = self._context.clock.offset_ns()
        metrics = MetricBatch(
            window=window,
            values={
                signals.DROP_PACKETS: rows["packets"].astype(np.int64),
                signals.DROP_IO: rows["bytes"].astype(np.int64),
            },
            own=self._own(keys, symbols),
            source=self._ends(keys, "s"),
            destination=self._ends(keys, "d"),
            first_ns=rows["first"].astype(np.int64) + to_wall,
            last_ns=rows["last"].astype(np.int64) + to_wall,
        )
        events = [self._events(window, keys, rows)] if self._settings.events else []
        return Collected(metrics=[metrics], events=events)

    def fds(self) -> Sequence[int]:
        return ()

    def ready(self, fd: int) -> None:
        """Nothing wakes this receiver: the ring is an overflow, drained with the table."""

    def stop(self) -> None:
        if self._table is not None:
            self._table.close()
            self._table = None

    def _account(self, drops: Drops) -> None:
        assert self._table is not None
        not_ours = {self._reasons.name(number): n for number, n in drops.excluded.items()}
        not_ours |= _without_zeros(
            not_network=drops.not_network,
            other_netns=drops.other_netns,
            unknown_netns=drops.unknown_netns,
        )
        self._context.ledger.add(
            seen=drops.seen,
            drained=int(drops.rows["packets"].sum()),
            not_ours=not_ours,
            lost=_without_zeros(table_full=drops.lost, insert_failed=drops.insert_failed),
        )
        self._context.ledger.set_beside("recursion_misses", self._table.recursion_misses())

    def _follow_namespaces(self) -> None:
        """Tells the kernel in which namespaces drops count: all or only those that are known, and
        not those of pods that are not observed. The node's own always."""
        assert self._table is not None
        table, selection = self._context.identity, self._context.selection
        epochs = (table.epoch, selection.epoch)
        if epochs == self._epochs:
            return
        # Where they do not fit, one tick fails and tells it; the next one counts as before.
        self._epochs = epochs
        others = self._settings.namespaces == "all"
        counted, left_out = {self._node_netns}, set[int]()
        if not (others and selection.everything):
            for row in table.index.local.tolist():
                endpoint = table.endpoint(row)
                (counted if selection.observes(endpoint) else left_out).update(endpoint.netns)
        wanted = Namespaces(
            counted=frozenset() if others else frozenset(counted),
            left_out=frozenset(left_out - counted),
            others=others,
        )
        if wanted != self._limited:
            self._table.limit(wanted)
            self._limited = wanted

    def _symbol_column(self, location: npt.NDArray[np.uint64]) -> Column:
        addresses, codes = np.unique(location, return_inverse=True)
        names = self._symbols.names(addresses.tolist())
        known = np.array([bool(name) for name in names])
        if self._symbols.unavailable != self._said:
            self._said = self._symbols.unavailable
            self._context.degraded(f"no function names: {self._said}")
        return Column(np.where(known[codes], codes, -1).astype(np.int32), names)

    def _own(self, keys: Array, symbols: Column) -> dict[str, Column]:
        return {
            signals.DROP_REASON.name: Column(*self._reasons.column(keys["reason"])),
            signals.DROP_SYMBOL.name: symbols,
            signals.NETWORK_TRANSPORT.name: transport_column(
                keys["protocol"], keys["version"] != 0
            ),
            signals.NETWORK_TYPE.name: network_type_column(keys["version"]),
        }

    def _events(self, window: Window, keys: Array, rows: Array) -> EventBatch:
        """One event a pair of addresses, protocol, reason, function and namespace."""
        pairs = keys.copy()
        pairs["sport"] = pairs["dport"] = 0
        groups, codes = np.unique(_as_bytes(pairs), return_inverse=True)
        pairs = groups.view(keys.dtype)
        for port in ("sport", "dport"):
            # A port is told where all packets of the pair had the same one.
            low, high = _fold(np.minimum, codes, keys[port]), _fold(np.maximum, codes, keys[port])
            pairs[port] = np.where(low == high, low, 0)
        first = _fold(np.minimum, codes, rows["first"])
        last = _fold(np.maximum, codes, rows["last"])
        to_wall = self._context.clock.offset_ns()
        time_ns = last.astype(np.int64) + to_wall
        return EventBatch(
            event=signals.DROP_EVENT,
            window=window,
            time_ns=time_ns,
            own={
                **self._own(pairs, self._symbol_column(pairs["location"])),
                signals.EVENT_PACKETS.name: _fold(np.add, codes, rows["packets"].astype(np.int64)),
                signals.EVENT_BYTES.name: _fold(np.add, codes, rows["bytes"].astype(np.int64)),
                signals.EVENT_FIRST_SEEN.name: first.astype(np.int64) + to_wall,
                signals.EVENT_LAST_SEEN.name: time_ns,
            },
            source=self._ends(pairs, "s"),
            destination=self._ends(pairs, "d"),
            body=_BODY,
        )

    def _ends(self, keys: Array, which: Literal["s", "d"]) -> RawEnds:
        """What the kernel knew of one end.

        Made here (no receiving interface): the source lives in that namespace. Received: in a pod's
        namespace the destination lives there; in the node's own, which forwards, it is told by its
        address. On the node the interface tells a pod, if it is the node's end of a pod's wire.
        The address means what it does in that namespace, which may be of another cluster.
        """
        halves = keys["saddr" if which == "s" else "daddr"].copy().view(">u8").reshape(-1, 2)
        received = keys["iif"] != 0
        looped = keys["iif"] == _LOOPBACK
        on_node = keys["netns"] == self._node_netns
        at = keys["iif" if which == "s" else "ifindex"]
        wires = [i for i, one in self._context.interfaces.current().items() if _is_wire(one)]
        at_wire = on_node & np.isin(at, np.array(wires, np.uint32))
        if which == "d":
            at_wire &= keys["ifindex"] != keys["iif"]
            inside = looped | (received & ~on_node)
        else:
            inside = looped | ~received
        return RawEnds(
            hi=halves[:, 0].astype(np.uint64),
            lo=halves[:, 1].astype(np.uint64),
            port=keys["sport" if which == "s" else "dport"],
            ifindex=np.where(at_wire, at, 0).astype(np.uint32),
            netns=np.where(inside, keys["netns"], 0).astype(np.uint32),
            seen_netns=keys["netns"].astype(np.uint32),
        )


def _without_zeros(**counts: int) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def _is_wire(interface: Interface) -> bool:
    return interface.peer_netnsid >= 0 and not interface.default_route


def _as_bytes(keys: Array) -> Array:
    size = keys.dtype.itemsize
    return np.ascontiguousarray(keys).view(np.dtype((np.void, size)))


def _fold(how: np.ufunc, codes: npt.NDArray[np.intp], values: Array) -> Array:
    """`values` of each group combined; codes are 0 to n - 1 and every one occurs."""
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    folded: Array = how.reduceat(values[order], starts)
    return folded


def _power_of_two(size: int) -> int:
    return 1 << max(12, (size - 1).bit_length())
