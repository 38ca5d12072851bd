"""Every built-in metric and event, declared once; the reference pages are made from here.

A component declares what it adds (`retina_otel.component.Component.declares`); the built-in ones
declare objects of this module. Names follow the semantic conventions where a released one exists
(v1.44.0); everything else stands under `PREFIX`.
"""

from __future__ import annotations

from retina_otel.model.attributes import (
    CIDR,
    DESTINATION_ADDRESS,
    DESTINATION_KNOWN_BY,
    DESTINATION_PORT,
    DISCARD_REASON,
    DROP_REASON,
    DROP_SYMBOL,
    END_ATTRIBUTES,
    ERROR_TYPE,
    EVENT_BYTES,
    EVENT_FIRST_SEEN,
    EVENT_LAST_SEEN,
    EVENT_PACKETS,
    FLOW_END_REASON,
    FLOW_INITIATOR,
    FLOW_INTER_ZONE,
    FLOW_INTERFACE_NAME,
    HW_ID,
    K8S_NAMESPACE_NAME,
    K8S_NODE_NAME,
    K8S_NODE_UID,
    K8S_OWNER_NAME,
    K8S_OWNER_TYPE,
    K8S_POD_NAME,
    K8S_POD_UID,
    K8S_RESOURCE_TYPE,
    K8S_SERVICE_NAME,
    NETWORK_INTERFACE_DIRECTION,
    NETWORK_INTERFACE_NAME,
    NETWORK_IO_DIRECTION,
    NETWORK_TRANSPORT,
    NETWORK_TYPE,
    SOURCE_ADDRESS,
    SOURCE_KNOWN_BY,
    SOURCE_PORT,
    SYSTEM_DEVICE,
    TCP_FLAG,
    TCP_FLAGS,
)
from retina_otel.model.signal_types import (
    PREFIX,
    SCHEMA_URL,
    Attribute,
    Ends,
    Event,
    Fold,
    Kind,
    Metric,
    Signal,
)

__all__ = [
    "BUILT_IN",
    "CIDR",
    "DESTINATION_ADDRESS",
    "DESTINATION_KNOWN_BY",
    "DESTINATION_PORT",
    "DISCARD_REASON",
    "DROP_EVENT",
    "DROP_IO",
    "DROP_PACKETS",
    "DROP_REASON",
    "DROP_SYMBOL",
    "END_ATTRIBUTES",
    "ERROR_TYPE",
    "EVENT_BYTES",
    "EVENT_FIRST_SEEN",
    "EVENT_LAST_SEEN",
    "EVENT_PACKETS",
    "FLOW_END_REASON",
    "FLOW_EVENT",
    "FLOW_INITIATOR",
    "FLOW_INTERFACE_NAME",
    "FLOW_INTER_ZONE",
    "FLOW_IO",
    "FLOW_PACKETS",
    "HW_ID",
    "INTERFACE_COLLISIONS",
    "INTERFACE_COMPRESSED",
    "INTERFACE_DISCARDED",
    "INTERFACE_DROPPED",
    "INTERFACE_ERRORS",
    "INTERFACE_ERRORS_BY_TYPE",
    "INTERFACE_IO",
    "INTERFACE_MULTICAST",
    "INTERFACE_PACKETS",
    "INTERFACE_SPEED",
    "INTERFACE_UP",
    "K8S_NAMESPACE_NAME",
    "K8S_NODE_NAME",
    "K8S_NODE_UID",
    "K8S_OWNER_NAME",
    "K8S_OWNER_TYPE",
    "K8S_POD_NAME",
    "K8S_POD_UID",
    "K8S_RESOURCE_TYPE",
    "K8S_SERVICE_NAME",
    "NETWORK_INTERFACE_DIRECTION",
    "NETWORK_INTERFACE_NAME",
    "NETWORK_IO_DIRECTION",
    "NETWORK_TRANSPORT",
    "NETWORK_TYPE",
    "PREFIX",
    "SCHEMA_URL",
    "SOURCE_ADDRESS",
    "SOURCE_KNOWN_BY",
    "SOURCE_PORT",
    "SYSTEM_DEVICE",
    "TCP_FLAG",
    "TCP_FLAGS",
    "TCP_FLAG_PACKETS",
    "Attribute",
    "Ends",
    "Event",
    "Fold",
    "Kind",
    "Metric",
    "Signal",
]

_FLOWS = "retina_otel.receivers.flows"
_FLOW_ATTRIBUTES = (
    NETWORK_INTERFACE_DIRECTION,
    NETWORK_TRANSPORT,
    NETWORK_TYPE,
    SOURCE_ADDRESS,
    SOURCE_PORT,
    DESTINATION_ADDRESS,
    DESTINATION_PORT,
    FLOW_INTERFACE_NAME,
    FLOW_INITIATOR,
    FLOW_INTER_ZONE,
)

FLOW_IO = Metric(
    PREFIX + "flow.io",
    Kind.COUNTER,
    "By",
    "Bytes from source to destination as the wire sees them, link-layer header included.",
    _FLOW_ATTRIBUTES,
    Ends.BOTH,
    scope=_FLOWS,
)
FLOW_PACKETS = Metric(
    PREFIX + "flow.packets",
    Kind.COUNTER,
    "{packet}",
    "Packets from source to destination as the wire sees them: each segment of an offloaded one.",
    _FLOW_ATTRIBUTES,
    Ends.BOTH,
    scope=_FLOWS,
)
TCP_FLAG_PACKETS = Metric(
    PREFIX + "tcp.flag.packets",
    Kind.COUNTER,
    "{packet}",
    "TCP packets by the flags they carry.",
    (TCP_FLAG, *(a for a in _FLOW_ATTRIBUTES if a is not NETWORK_TRANSPORT)),
    Ends.BOTH,
    scope=_FLOWS,
)
FLOW_EVENT = Event(
    PREFIX + "flow",
    9,
    "Packets of one flow over an interval, or over its whole life.",
    (
        *_FLOW_ATTRIBUTES,
        TCP_FLAGS,
        FLOW_END_REASON,
        EVENT_PACKETS,
        EVENT_BYTES,
        EVENT_FIRST_SEEN,
        EVENT_LAST_SEEN,
        SOURCE_KNOWN_BY,
        DESTINATION_KNOWN_BY,
    ),
    Ends.BOTH,
    scope=_FLOWS,
)
_DROPS = "retina_otel.receivers.drops"
_DROP_ATTRIBUTES = (
    DROP_REASON,
    NETWORK_TRANSPORT,
    NETWORK_TYPE,
    DROP_SYMBOL,
    SOURCE_ADDRESS,
    SOURCE_PORT,
    DESTINATION_ADDRESS,
    DESTINATION_PORT,
)
DROP_PACKETS = Metric(
    PREFIX + "drop.packets",
    Kind.COUNTER,
    "{packet}",
    "Packets that the node's kernel dropped (socket buffers: an offloaded one counts once).",
    _DROP_ATTRIBUTES,
    Ends.BOTH,
    scope=_DROPS,
)
DROP_IO = Metric(
    PREFIX + "drop.io",
    Kind.COUNTER,
    "By",
    "Bytes of the packets that the node's kernel dropped, from the network header on.",
    _DROP_ATTRIBUTES,
    Ends.BOTH,
    scope=_DROPS,
)
DROP_EVENT = Event(
    PREFIX + "drop",
    13,
    "Packets of one pair of ends that were dropped in an interval for one reason at one place.",
    (
        *_DROP_ATTRIBUTES,
        EVENT_PACKETS,
        EVENT_BYTES,
        EVENT_FIRST_SEEN,
        EVENT_LAST_SEEN,
        SOURCE_KNOWN_BY,
        DESTINATION_KNOWN_BY,
    ),
    Ends.BOTH,
    scope=_DROPS,
)

# --- Interfaces ---

_INTERFACES = "retina_otel.receivers.interfaces"
_AT_INTERFACE = (NETWORK_INTERFACE_NAME, NETWORK_IO_DIRECTION)


def _interface_metric(
    name: str,
    unit: str,
    brief: str,
    attributes: tuple[Attribute, ...] = _AT_INTERFACE,
    kind: Kind = Kind.COUNTER,
) -> Metric:
    return Metric(name, kind, unit, brief, attributes, Ends.ONE, Fold.SUM, scope=_INTERFACES)


INTERFACE_IO = _interface_metric(
    "system.network.io", "By", "Bytes by the interface's own counters."
)
INTERFACE_PACKETS = _interface_metric(
    "system.network.packet.count",
    "{packet}",
    "Packets by the interface's own counters.",
    (SYSTEM_DEVICE, NETWORK_IO_DIRECTION),
)
INTERFACE_DROPPED = _interface_metric(
    "system.network.packet.dropped",
    "{packet}",
    "Packets that the interface dropped (`rx_dropped`, `tx_dropped`): not the kernel's above it.",
)
INTERFACE_ERRORS = _interface_metric(
    "system.network.errors",
    "{error}",
    "Errors of the interface (`rx_errors`, `tx_errors`).",
)
INTERFACE_ERRORS_BY_TYPE = _interface_metric(
    PREFIX + "interface.errors",
    "{error}",
    "Errors of the interface by type, as its driver tells them apart; a driver may count one error "
    "under several types.",
    (*_AT_INTERFACE, ERROR_TYPE),
)
INTERFACE_COMPRESSED = _interface_metric(
    PREFIX + "interface.compressed.packets",
    "{packet}",
    "Packets that were compressed (`rx_compressed`, `tx_compressed`).",
)
INTERFACE_MULTICAST = _interface_metric(
    PREFIX + "interface.multicast.packets",
    "{packet}",
    "Multicast packets received.",
    (NETWORK_INTERFACE_NAME,),
)
INTERFACE_COLLISIONS = _interface_metric(
    PREFIX + "interface.collisions",
    "{collision}",
    "Collisions while transmitting.",
    (NETWORK_INTERFACE_NAME,),
)
INTERFACE_DISCARDED = _interface_metric(
    PREFIX + "interface.discarded.packets",
    "{packet}",
    "Packets received that nobody was there for (`rx_nohandler`) or that were for another host "
    "(`rx_otherhost_dropped`).",
    (NETWORK_INTERFACE_NAME, DISCARD_REASON),
)
INTERFACE_UP = _interface_metric(
    "hw.network.up",
    "1",
    "Whether the link is up: 1 or 0.",
    (HW_ID, NETWORK_INTERFACE_NAME),
    Kind.UPDOWN,
)
INTERFACE_SPEED = _interface_metric(
    "hw.network.bandwidth.limit",
    "By/s",
    "Speed of the link, where the driver tells it.",
    (HW_ID, NETWORK_INTERFACE_NAME),
    Kind.UPDOWN,
)

BUILT_IN: tuple[Signal, ...] = (
    FLOW_IO,
    FLOW_PACKETS,
    TCP_FLAG_PACKETS,
    FLOW_EVENT,
    DROP_PACKETS,
    DROP_IO,
    DROP_EVENT,
    INTERFACE_IO,
    INTERFACE_PACKETS,
    INTERFACE_DROPPED,
    INTERFACE_ERRORS,
    INTERFACE_ERRORS_BY_TYPE,
    INTERFACE_COMPRESSED,
    INTERFACE_MULTICAST,
    INTERFACE_COLLISIONS,
    INTERFACE_DISCARDED,
    INTERFACE_UP,
    INTERFACE_SPEED,
)
"""All metrics and events that the built-in receivers report."""
