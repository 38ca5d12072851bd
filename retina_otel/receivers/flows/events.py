"""Events of flows: one an interval, or one when the flow has ended.

A flow is one direction of a connection at one interface. It has one record of `FLOW`, whatever
number of rows the kernel kept of it. Each packet and byte of the metrics is in exactly one event:
those of a flow add up to what the metrics counted.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from retina_otel.component import Clock
from retina_otel.kernel.bpf.jiffies import Anchor
from retina_otel.model import signals
from retina_otel.model.batches import Column, EventBatch, MetricBatch, RawEnds, Window
from retina_otel.model.protocols import NETWORK_TYPES, TRANSPORTS
from retina_otel.receivers.flows.live import (
    END_REASONS,
    FLOW,
    INITIATORS,
    Array,
    LiveFlows,
    flow_hash,
)
from retina_otel.receivers.flows.rows import NO_ACK, SYN, SYN_ACK, FlowRows
from retina_otel.receivers.flows.stamps import Stamps
from retina_otel.receivers.flows.tuples import Side

_TCP = 6
_DIRECTIONS = ("ingress", "egress")
_FLAG_NAMES = ("fin", "syn", "syn_ack", "rst", "psh", "urg", "ece", "cwr", "ack")
_FLAG_ORDER = (0, 1, 2, 3, 4, 8, 5, 6, 7)
_FLAG_SETS = tuple(
    "|".join(_FLAG_NAMES[flag] for flag in _FLAG_ORDER if bits >> flag & 1)
    for bits in range(1 << len(_FLAG_NAMES))
)
"""`retina.tcp.flags` by the bits of a record, bit n for flag n of rt_tcp_flag and the last for
ACK."""
_BODY = (
    "{retina_event_packets} packets, {retina_event_bytes} bytes"
    " {network_transport} {source_address} -> {destination_address}"
)


class FlowEvents:
    """Used by the tick thread only."""

    def __init__(self, clock: Clock, stamps: Stamps, ends: tuple[int, float] | None) -> None:
        """`ends`: events when flows end, of at most so many that live, idle for so many seconds;
        None: events of each interval."""
        self._clock = clock
        self._live = LiveFlows(ends[0], int(ends[1] * 1e9)) if ends else None
        self._stamps = stamps

    def collect(
        self,
        rows: FlowRows,
        volumes: MetricBatch | None,
        window: Window,
        names: Mapping[int, str],
    ) -> list[EventBatch]:
        """Events of a generation. `volumes` is the batch of packets and bytes made of `rows`, None
        for no rows; `names` are those of interfaces by ifindex."""
        anchor = self._stamps.anchor
        flows = np.empty(0, FLOW) if volumes is None else flows_of(rows, volumes, anchor)
        if self._live is None:
            return self._batches(flows, None, window, names)
        ended, reasons = self._live.update(flows, self._clock.monotonic_ns())
        return self._batches(ended, reasons, window, names)

    def finish(self, window: Window, names: Mapping[int, str]) -> list[EventBatch]:
        """Ends what still lives."""
        if self._live is None:
            return []
        ended, reasons = self._live.finish()
        return self._batches(ended, reasons, window, names)

    def _batches(
        self,
        flows: Array,
        reasons: npt.NDArray[np.int32] | None,
        window: Window,
        names: Mapping[int, str],
    ) -> list[EventBatch]:
        if len(flows) == 0:
            return []
        return [batch(flows, reasons, window, names, self._clock.offset_ns())]


def flows_of(rows: FlowRows, volumes: MetricBatch, anchor: Anchor) -> Array:
    """A record for each flow among n > 0 rows, of which `volumes` was made, in order of hashes."""
    source, destination, own = volumes.source, volumes.destination, volumes.own
    assert source is not None
    assert destination is not None
    leaves = own[signals.NETWORK_INTERFACE_DIRECTION.name].codes
    hashes = flow_hash(
        Side(source.hi, source.lo, source.port),
        Side(destination.hi, destination.lo, destination.port),
        rows.protocol,
        ipv6=rows.ipv6,
        interface=rows.ifindex,
        leaves=leaves,
    )
    order = np.argsort(hashes)
    sorted_hashes = hashes[order]
    begins = np.empty(len(order), np.bool_)
    begins[0] = True
    np.not_equal(sorted_hashes[1:], sorted_hashes[:-1], out=begins[1:])
    starts = np.flatnonzero(begins)
    one = order[starts]
    initiators = own.get(signals.FLOW_INITIATOR.name)

    flows = np.zeros(len(one), FLOW)
    flows["hash"] = sorted_hashes[starts]
    for name, end in (("source", source), ("destination", destination)):
        flows[f"{name}_hi"] = end.hi[one]
        flows[f"{name}_lo"] = end.lo[one]
        flows[f"{name}_port"] = end.port[one]
    flows["interface"] = rows.ifindex[one]
    flows["leaves"] = leaves[one]
    flows["protocol"] = rows.protocol[one]
    flows["ipv6"] = rows.ipv6[one]
    flows["initiator"] = -1 if initiators is None else initiators.codes[one]
    flows["packets"] = np.add.reduceat(rows.packets[order], starts)
    flows["bytes"] = np.add.reduceat(rows.bytes[order], starts)
    # Rows that have only flags have no time: they must be neither first nor last.
    timed = rows.packets[order] > 0
    limits = np.iinfo(np.int64)
    first = np.where(timed, anchor.monotonic(rows.first[order]), limits.max)
    last = np.where(timed, anchor.monotonic(rows.last[order]), limits.min)
    flows["first"] = np.minimum.reduceat(first, starts)
    flows["last"] = np.maximum.reduceat(last, starts)
    flows["flags"] = _flag_bits(rows, order, starts, flows)
    # Flags alone: the packets they came with were lost, and are in the ledger as such.
    return flows[flows["packets"] > 0]


def _flag_bits(rows: FlowRows, order: Array, starts: Array, flows: Array) -> Array:
    counts = np.add.reduceat(rows.flags[order].astype(np.int64), starts, axis=0)
    has_header = (flows["protocol"] == _TCP) & (
        (flows["source_port"] != 0) | (flows["destination_port"] != 0)
    )
    without = counts[:, SYN] + counts[:, SYN_ACK] + counts[:, NO_ACK]
    counts[:, NO_ACK] = np.where(has_header, flows["packets"] - without, 0)
    bits = np.zeros(len(starts), np.uint16)
    for flag in range(len(_FLAG_NAMES)):
        bits |= (counts[:, flag] > 0).astype(np.uint16) << np.uint16(flag)
    return bits


def batch(
    flows: Array,
    reasons: npt.NDArray[np.int32] | None,
    window: Window,
    names: Mapping[int, str],
    offset_ns: int,
) -> EventBatch:
    """One event a record; `reasons` index END_REASONS. `offset_ns` leads to wall time."""
    nowhere = np.uint32(0)
    leaves = flows["leaves"] != 0
    numbers, codes = np.unique(flows["interface"], return_inverse=True)
    last = flows["last"] + offset_ns
    own: dict[str, Column | npt.NDArray[np.int64]] = {
        signals.NETWORK_INTERFACE_DIRECTION.name: Column(leaves.astype(np.int32), _DIRECTIONS),
        signals.NETWORK_TRANSPORT.name: Column(flows["protocol"].astype(np.int32), TRANSPORTS),
        signals.NETWORK_TYPE.name: Column(flows["ipv6"].astype(np.int32), NETWORK_TYPES),
        signals.FLOW_INTERFACE_NAME.name: Column(
            codes.astype(np.int32),
            [names.get(number, str(number)) for number in numbers.tolist()],
        ),
        signals.FLOW_INITIATOR.name: Column(flows["initiator"].astype(np.int32), INITIATORS),
        signals.TCP_FLAGS.name: Column(
            np.where(flows["flags"] != 0, flows["flags"].astype(np.int32), np.int32(-1)),
            _FLAG_SETS,
        ),
        signals.EVENT_PACKETS.name: flows["packets"].copy(),
        signals.EVENT_BYTES.name: flows["bytes"].copy(),
        signals.EVENT_FIRST_SEEN.name: flows["first"] + offset_ns,
        signals.EVENT_LAST_SEEN.name: last,
    }
    if reasons is not None:
        own[signals.FLOW_END_REASON.name] = Column(reasons, END_REASONS)
    return EventBatch(
        event=signals.FLOW_EVENT,
        window=window,
        time_ns=last,
        own=own,
        source=_end(flows, "source", np.where(leaves, flows["interface"], nowhere)),
        destination=_end(flows, "destination", np.where(leaves, nowhere, flows["interface"])),
        body=_BODY,
    )


def _end(flows: Array, name: str, ifindex: npt.NDArray[np.uint32]) -> RawEnds:
    return RawEnds(
        flows[f"{name}_hi"].copy(),
        flows[f"{name}_lo"].copy(),
        flows[f"{name}_port"].copy(),
        ifindex,
    )
