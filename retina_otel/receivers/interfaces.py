"""`interfaces`: what every interface of the node counted, its link state and speed, from rtnetlink.

Exact and nearly free: the kernel's own 64-bit counters, differenced here, nothing attached. An
interface that goes away is counted to its end, since the kernel says its last values as it goes.
Directions are the interface's own: what the node's end of a pod's wire transmits, the pod gets.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from retina_otel.component import Collected, Component, ComponentKind, Context, Settings
from retina_otel.model import signals
from retina_otel.model.batches import Column, MetricBatch, RawEnds, Window
from retina_otel.model.interfaces import Change, ChangeKind, Interface
from retina_otel.model.signals import Metric

_RECEIVE, _TRANSMIT, _NEITHER = 0, 1, -1
_DIRECTIONS = ("receive", "transmit")
_BYTES_PER_MEGABIT = 125_000

_RECEIVE_ERRORS = ("length", "over", "crc", "frame", "fifo", "missed")
_TRANSMIT_ERRORS = ("aborted", "carrier", "fifo", "heartbeat", "window")


@dataclass(frozen=True, slots=True)
class _Table:
    """Metrics whose points have the same attributes: one batch."""

    fields: Mapping[Metric, Sequence[str]]
    """Fields of rtnl_link_stats64, one a point of an interface; in the same order for all."""
    directions: Sequence[int]
    kinds: Sequence[str] = ()
    kind_key: str = ""
    name_key: str = signals.NETWORK_INTERFACE_NAME.name
    sparse: bool = False
    """Only where the kernel has ever counted something: nearly all of these stay 0 for ever."""


_BOTH_WAYS = (_RECEIVE, _TRANSMIT)
_TABLES = (
    _Table(
        {
            signals.INTERFACE_IO: ("rx_bytes", "tx_bytes"),
            signals.INTERFACE_DROPPED: ("rx_dropped", "tx_dropped"),
            signals.INTERFACE_ERRORS: ("rx_errors", "tx_errors"),
        },
        _BOTH_WAYS,
    ),
    _Table(
        {signals.INTERFACE_PACKETS: ("rx_packets", "tx_packets")},
        _BOTH_WAYS,
        name_key=signals.SYSTEM_DEVICE.name,
    ),
    _Table({signals.INTERFACE_MULTICAST: ("multicast",)}, (_NEITHER,), sparse=True),
    _Table({signals.INTERFACE_COLLISIONS: ("collisions",)}, (_NEITHER,), sparse=True),
    _Table(
        {signals.INTERFACE_COMPRESSED: ("rx_compressed", "tx_compressed")},
        _BOTH_WAYS,
        sparse=True,
    ),
    _Table(
        {
            signals.INTERFACE_ERRORS_BY_TYPE: (
                *(f"rx_{name}_errors" for name in _RECEIVE_ERRORS),
                *(f"tx_{name}_errors" for name in _TRANSMIT_ERRORS),
            )
        },
        (_RECEIVE,) * len(_RECEIVE_ERRORS) + (_TRANSMIT,) * len(_TRANSMIT_ERRORS),
        kinds=(*_RECEIVE_ERRORS, *_TRANSMIT_ERRORS),
        kind_key=signals.ERROR_TYPE.name,
        sparse=True,
    ),
    _Table(
        {signals.INTERFACE_DISCARDED: ("rx_nohandler", "rx_otherhost_dropped")},
        (_NEITHER, _NEITHER),
        kinds=("no_handler", "other_host"),
        kind_key=signals.DISCARD_REASON.name,
        sparse=True,
    ),
)

FIELDS: Sequence[str] = tuple(
    dict.fromkeys(
        field for table in _TABLES for fields in table.fields.values() for field in fields
    )
)
"""All of rtnl_link_stats64, in the order of a row of counters."""
_COLUMN = {field: number for number, field in enumerate(FIELDS)}
_IN_ORDER = itemgetter(*FIELDS)

Counters = npt.NDArray[np.int64]


class InterfacesSettings(Settings):
    exclude: tuple[str, ...] = ()
    """Names of interfaces to leave out, as shell patterns ("lo", "docker*")."""


class InterfacesReceiver:
    """Holds the counters of the last reading; all calls are on the tick thread."""

    def __init__(self, settings: InterfacesSettings, context: Context) -> None:
        self._settings = settings
        self._context = context
        self._last: dict[int, Counters] = {}
        self._gone: list[tuple[Interface, Counters, Counters]] = []
        self._started = False

    def start(self) -> None:
        """Raises KernelError if rtnetlink can't be read. What was counted before stays out."""
        for ifindex, interface in self._context.interfaces.read_stats().items():
            self._last[ifindex] = _counters(interface)
        self._context.interfaces.subscribe(self._changed)
        self._started = True

    def collect(self, window: Window, deadline_ns: int) -> Collected:
        """Deltas since the last call, also of interfaces that are gone by now."""
        present: list[Interface] = []
        # Reading also tells of interfaces that have gone: they are part of this window.
        readings = self._context.interfaces.read_stats()
        found, self._gone = self._gone, []
        for ifindex, interface in readings.items():
            if self._excluded(interface):
                continue
            current = _counters(interface)
            # One that was not there at the start is counted from its birth.
            last = self._last.get(ifindex, np.zeros_like(current))
            self._last[ifindex] = current
            found.append((interface, current, last))
            present.append(interface)
        if not found:
            return Collected()
        interfaces = [interface for interface, _, _ in found]
        current = np.stack([counters for _, counters, _ in found])
        last = np.stack([counters for _, _, counters in found])
        delta = np.where(current >= last, current - last, current)
        batches = [
            batch
            for table in _TABLES
            if (batch := _batch(table, window, interfaces, current, delta)) is not None
        ]
        return Collected(metrics=[*batches, *_link_batches(window, present)])

    def fds(self) -> Sequence[int]:
        return ()

    def ready(self, fd: int) -> None:
        """Nothing wakes this receiver."""

    def stop(self) -> None:
        self._context.interfaces.unsubscribe(self._changed)
        self._started = False

    def _excluded(self, interface: Interface) -> bool:
        return any(fnmatch.fnmatchcase(interface.name, p) for p in self._settings.exclude)

    def _changed(self, change: Change) -> None:
        if not self._started:
            return
        interface = change.interface
        if change.kind is ChangeKind.ADDED:
            self._last.setdefault(interface.ifindex, np.zeros(len(FIELDS), dtype=np.int64))
        elif change.kind is ChangeKind.REMOVED:
            last = self._last.pop(interface.ifindex, None)
            if last is not None and interface.stats and not self._excluded(interface):
                self._gone.append((interface, _counters(interface), last))


def _counters(interface: Interface) -> Counters:
    stats = interface.stats or {}
    try:
        return np.array(_IN_ORDER(stats), dtype=np.uint64).view(np.int64)
    except KeyError:
        # An older kernel's record ends earlier; what it does not count is 0.
        return np.array([stats.get(field, 0) for field in FIELDS], dtype=np.uint64).view(np.int64)


def _batch(
    table: _Table,
    window: Window,
    interfaces: Sequence[Interface],
    current: Counters,
    delta: Counters,
) -> MetricBatch | None:
    columns = {
        metric: np.array([_COLUMN[field] for field in fields])
        for metric, fields in table.fields.items()
    }
    points = len(table.directions)
    of_interface = np.repeat(np.arange(len(interfaces)), points)
    of_point = np.tile(np.arange(points), len(interfaces))
    if table.sparse:
        (only,) = columns.values()
        kept = (current[:, only] != 0).ravel()
        of_interface, of_point = of_interface[kept], of_point[kept]
    if not len(of_interface):
        return None
    own = {
        table.name_key: Column(
            of_interface.astype(np.int32), [interface.name for interface in interfaces]
        )
    }
    directions = np.array(table.directions, dtype=np.int32)
    if (directions != _NEITHER).any():
        own[signals.NETWORK_IO_DIRECTION.name] = Column(directions[of_point], _DIRECTIONS)
    if table.kinds:
        own[table.kind_key] = Column(of_point.astype(np.int32), table.kinds)
    return MetricBatch(
        window=window,
        values={metric: delta[of_interface, only[of_point]] for metric, only in columns.items()},
        own=own,
        source=_ends(np.array([i.ifindex for i in interfaces], dtype=np.uint32)[of_interface]),
    )


def _link_batches(window: Window, interfaces: Sequence[Interface]) -> list[MetricBatch]:
    batches = []
    with_speed = [interface for interface in interfaces if interface.speed_mbps > 0]
    for metric, those, values in (
        (signals.INTERFACE_UP, interfaces, [int(i.up) for i in interfaces]),
        (
            signals.INTERFACE_SPEED,
            with_speed,
            [i.speed_mbps * _BYTES_PER_MEGABIT for i in with_speed],
        ),
    ):
        if those:
            name = Column(np.arange(len(those), dtype=np.int32), [i.name for i in those])
            batches.append(
                MetricBatch(
                    window=window,
                    values={metric: np.array(values, dtype=np.int64)},
                    own={signals.HW_ID.name: name, signals.NETWORK_INTERFACE_NAME.name: name},
                    source=_ends(np.array([i.ifindex for i in those], dtype=np.uint32)),
                )
            )
    return batches


def _ends(ifindex: npt.NDArray[np.uint32]) -> RawEnds:
    """Ends known by their interface alone."""
    nothing = np.zeros(len(ifindex), dtype=np.uint64)
    return RawEnds(nothing, nothing, nothing.astype(np.uint16), ifindex)


COMPONENT = Component(
    type="interfaces",
    kind=ComponentKind.RECEIVER,
    stability="beta",
    Settings=InterfacesSettings,
    create=InterfacesReceiver,
    signals=frozenset({"metrics"}),
    declares=(
        signals.INTERFACE_IO,
        signals.INTERFACE_PACKETS,
        signals.INTERFACE_DROPPED,
        signals.INTERFACE_ERRORS,
        signals.INTERFACE_ERRORS_BY_TYPE,
        signals.INTERFACE_COMPRESSED,
        signals.INTERFACE_MULTICAST,
        signals.INTERFACE_COLLISIONS,
        signals.INTERFACE_DISCARDED,
        signals.INTERFACE_UP,
        signals.INTERFACE_SPEED,
    ),
)
