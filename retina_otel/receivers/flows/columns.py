"""Turns flow rows into batches: ends, own attributes, packets, bytes and flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from retina_otel.model.attributes import (
    FLOW_INITIATOR,
    FLOW_INTERFACE_NAME,
    NETWORK_INTERFACE_DIRECTION,
    NETWORK_TRANSPORT,
    NETWORK_TYPE,
    TCP_FLAG,
)
from retina_otel.model.batches import Column, MetricBatch, RawEnds, Window
from retina_otel.model.protocols import NETWORK_TYPES, TRANSPORTS
from retina_otel.model.signals import FLOW_IO, FLOW_PACKETS, TCP_FLAG_PACKETS
from retina_otel.receivers.flows.rows import N_FLAGS, NO_ACK, SYN, SYN_ACK, FlowRows
from retina_otel.receivers.flows.tuples import Side, TupleMemory, tuple_hash

_TCP = 6
_DIRECTIONS = ("ingress", "egress")
_INITIATORS = ("unknown", "source", "destination")
_FLAG_NAMES = ("fin", "syn", "syn_ack", "rst", "psh", "urg", "ece", "cwr", "ack")
"""By index of rt_tcp_flag, but for the last: the counter of segments without ACK becomes `ack`."""

_BY_SOURCE = 1
_BY_DESTINATION = 2


def batches(
    rows: FlowRows,
    window: Window,
    uplinks: npt.NDArray[np.uint32],
    names: Mapping[int, str],
    openers: TupleMemory | None,
    *,
    times: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None,
) -> list[MetricBatch]:
    """Metric batches of n rows. `uplinks` are ifindexes; `names` those of all interfaces; `times`
    those of each row's first and last packet, the window's if they are not told."""
    if len(rows) == 0:
        return []
    at_egress_hook = rows.at_egress_hook
    at_uplink = np.isin(rows.ifindex, uplinks)
    # Behind a pod's interface lives the pod: what enters the node there is what the pod sent.
    leaves = np.where(at_uplink, at_egress_hook, ~at_egress_hook)
    local = rows.ifindex
    nowhere = np.zeros(len(rows), np.uint32)
    source = RawEnds(
        rows.source_hi, rows.source_lo, rows.source_port, np.where(leaves, local, nowhere)
    )
    destination = RawEnds(
        rows.destination_hi,
        rows.destination_lo,
        rows.destination_port,
        np.where(leaves, nowhere, local),
    )
    own = {
        NETWORK_INTERFACE_DIRECTION.name: Column(leaves.astype(np.int32), _DIRECTIONS),
        NETWORK_TRANSPORT.name: Column(rows.protocol.astype(np.int32), TRANSPORTS),
        NETWORK_TYPE.name: Column(rows.ipv6.astype(np.int32), NETWORK_TYPES),
        FLOW_INTERFACE_NAME.name: _names(local, names),
    }
    if openers is not None:
        own[FLOW_INITIATOR.name] = Column(_initiators(rows, openers).astype(np.int32), _INITIATORS)
    first_ns, last_ns = (None, None) if times is None else times
    volumes = MetricBatch(
        window,
        {FLOW_IO: rows.bytes, FLOW_PACKETS: rows.packets},
        own,
        source,
        destination,
        first_ns=first_ns,
        last_ns=last_ns,
    )
    flags = _flags(rows, volumes)
    return [volumes] if flags is None else [volumes, flags]


def _flags(rows: FlowRows, volumes: MetricBatch) -> MetricBatch | None:
    """One row for each flow and flag that occurred."""
    counts = rows.flags.astype(np.int64)
    # Fragments but the first carry no TCP header: their ports are 0 and their flags unknown.
    tcp = (rows.protocol == _TCP) & ((rows.source_port != 0) | (rows.destination_port != 0))
    without = counts[:, SYN] + counts[:, SYN_ACK] + counts[:, NO_ACK]
    # A flow's rows add up: the one with its rare flags has no packets, and so fewer than no ACKs.
    counts[:, NO_ACK] = np.where(tcp, rows.packets - without, 0)
    row, flag = np.nonzero(counts)
    if len(row) == 0:
        return None

    flows = volumes.at(row)
    own = {name: column for name, column in flows.own.items() if name != NETWORK_TRANSPORT.name}
    own[TCP_FLAG.name] = Column(flag.astype(np.int32), _FLAG_NAMES[:N_FLAGS])
    return replace(flows, values={TCP_FLAG_PACKETS: counts[row, flag]}, own=own)


def _names(ifindexes: npt.NDArray[np.uint32], names: Mapping[int, str]) -> Column:
    unique, codes = np.unique(ifindexes, return_inverse=True)
    values = [names.get(int(number), str(int(number))) for number in unique]
    return Column(codes.astype(np.int32), values)


def _initiators(rows: FlowRows, openers: TupleMemory) -> npt.NDArray[np.uint8]:
    """Who opened each row's connection: 0 unknown, 1 its source, 2 its destination.

    Known from a SYN or SYN-ACK, in this generation or an earlier one.
    """
    source = Side(rows.source_hi, rows.source_lo, rows.source_port)
    destination = Side(rows.destination_hi, rows.destination_lo, rows.destination_port)
    forward = tuple_hash(source, destination, rows.protocol)
    tcp = np.flatnonzero(rows.protocol == _TCP)
    opened = rows.flags[tcp, SYN] > 0
    accepted = rows.flags[tcp, SYN_ACK] > 0
    spoke = tcp[opened | accepted]
    if len(spoke):
        state = np.where(rows.flags[spoke, SYN] > 0, _BY_SOURCE, _BY_DESTINATION).astype(np.uint8)
        openers.put(forward[spoke], state)
        backward = tuple_hash(destination, source, rows.protocol)[spoke]
        openers.put(backward, np.where(state == _BY_SOURCE, _BY_DESTINATION, _BY_SOURCE))
    initiators = np.zeros(len(rows), np.uint8)
    initiators[tcp] = openers.get(forward[tcp])
    return initiators
