"""Tells at an uplink whether a packet is the node's own or was counted at a pod's interface.

A pod's traffic to the outside passes the uplink too, masqueraded or not, and must not be counted
again. At egress the kernel says whether a socket of the node's namespace sent the packet. At
ingress nobody can say yet, so the answer is that of the other direction: the reply to a tuple that
was sent by no local socket is somebody else's. A tuple seen only at ingress is held for one
generation, until its replies had time to appear, and is the node's own after that.

Limits: what is forwarded to a pod by destination NAT and never answered counts as the node's too;
what the node itself sends through a tunnel that carries pods' packets counts at egress only.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retina_otel.receivers.flows.rows import FlowRows
from retina_otel.receivers.flows.tuples import Side, TupleMemory, address_hash, tuple_hash

_OWN = 1
_FORWARDED = 2
_UDP = 17
_TUNNEL_PORTS = np.array([4789, 8472, 6081], np.uint16)
"""VXLAN (RFC 7348), Linux's own VXLAN port and Geneve (RFC 8926). Their source ports only spread
load: the two directions of one tunnel have nothing but the addresses in common."""
_ICMP = 1
_ICMPV6 = 58


@dataclass(frozen=True, slots=True)
class Judged:
    ours: FlowRows
    elsewhere: FlowRows
    held: FlowRows


class UplinkJudge:
    """Remembers tuples between generations, `capacity` at most."""

    def __init__(self, capacity: int) -> None:
        self._memory = TupleMemory(capacity)
        self._held: FlowRows | None = None

    def judge(
        self,
        rows: FlowRows,
        addresses: tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]],
    ) -> Judged:
        """Splits the rows of one generation, seen at uplinks, and those that were held before.

        `addresses` are (hi, lo) of the node's own addresses.
        """
        n_new = len(rows)
        if self._held is not None and len(self._held):
            rows = FlowRows.concatenate([rows, self._held])
        waited = np.arange(len(rows)) >= n_new
        outgoing = rows.at_egress_hook
        own_hi = np.where(outgoing, rows.source_hi, rows.destination_hi)
        own_lo = np.where(outgoing, rows.source_lo, rows.destination_lo)
        at_node = contains(addresses, own_hi, own_lo)
        hashes = _tuple_from_node(rows, outgoing)

        # The newest word on a tuple wins: a port that was a pod's may be the node's later.
        sent_by_node = outgoing & at_node & rows.local_socket
        sent_by_others = outgoing & at_node & ~rows.local_socket
        self._memory.put(hashes[sent_by_others], _FORWARDED)
        # But a tunnel that carries pods' packets is not the node's because it carries its own too.
        self._memory.put(hashes[sent_by_node & ~_is_tunnel(rows)], _OWN)

        known = np.zeros(len(rows), np.uint8)
        asked = ~outgoing & at_node
        known[asked] = self._memory.get(hashes[asked])
        to_group = ~outgoing & _is_group(rows)
        ours = sent_by_node | to_group | (asked & ((known == _OWN) | ((known == 0) & waited)))
        held = asked & (known == 0) & ~waited & ~to_group
        self._held = rows.select(held)
        self._memory.next_generation()
        return Judged(rows.select(ours), rows.select(~(ours | held)), self._held)

    def release(self) -> FlowRows | None:
        """What is still held, at the end: nobody will say more about it."""
        held, self._held = self._held, None
        return held


def contains(
    addresses: tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]],
    hi: npt.NDArray[np.uint64],
    lo: npt.NDArray[np.uint64],
) -> npt.NDArray[np.bool_]:
    """Which of n addresses are among the given ones: a handful, or thousands where kube-proxy
    uses IPVS and every service has its address on the node."""
    return np.isin(address_hash(hi, lo), address_hash(*addresses))


def halves(addresses: Sequence[str]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """(hi, lo) of textual addresses, IPv4 mapped."""
    numbers = []
    for text in addresses:
        address = ipaddress.ip_address(text.split("/")[0].split("%")[0])
        number = int(address) | (0xFFFF << 32 if address.version == 4 else 0)
        numbers.append(number)
    hi = np.array([number >> 64 for number in numbers], np.uint64)
    lo = np.array([number & (1 << 64) - 1 for number in numbers], np.uint64)
    return hi, lo


def _tuple_from_node(rows: FlowRows, outgoing: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """A hash that is the same for both directions of a connection at the node's uplink."""
    protocol = rows.protocol
    echo = (protocol == _ICMP) | (protocol == _ICMPV6)
    # Type and code differ between a request and its reply; the identifier is the same.
    source_port = np.where(echo, 0, rows.source_port)
    near_port = np.where(outgoing, source_port, rows.destination_port)
    far_port = np.where(outgoing, rows.destination_port, source_port)
    near_port = np.where(echo, rows.destination_port, near_port)
    far_port = np.where(echo, rows.destination_port, far_port)
    tunnel = _is_tunnel(rows)
    near_port = np.where(tunnel, rows.destination_port, near_port)
    far_port = np.where(tunnel, rows.destination_port, far_port)
    return tuple_hash(
        Side(
            np.where(outgoing, rows.source_hi, rows.destination_hi),
            np.where(outgoing, rows.source_lo, rows.destination_lo),
            near_port,
        ),
        Side(
            np.where(outgoing, rows.destination_hi, rows.source_hi),
            np.where(outgoing, rows.destination_lo, rows.source_lo),
            far_port,
        ),
        protocol,
    )


def _is_tunnel(rows: FlowRows) -> npt.NDArray[np.bool_]:
    tunnel: npt.NDArray[np.bool_] = (rows.protocol == _UDP) & np.isin(
        rows.destination_port, _TUNNEL_PORTS
    )
    return tunnel


def _is_group(rows: FlowRows) -> npt.NDArray[np.bool_]:
    """Multicast and IPv4's limited broadcast: for the node, whoever else listens."""
    v4 = (rows.destination_lo & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    group4 = ~rows.ipv6 & ((v4 >> np.uint32(28)) == 14) | ~rows.ipv6 & (v4 == 0xFFFFFFFF)
    group6 = rows.ipv6 & ((rows.destination_hi >> np.uint64(56)) == 0xFF)
    either: npt.NDArray[np.bool_] = group4 | group6
    return either
