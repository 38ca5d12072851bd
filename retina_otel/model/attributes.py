"""Every built-in attribute, declared once. Those of ends stand here without their prefix.

`network.transport` and the like have the semantic conventions' names and values; what no released
convention has stands under `PREFIX`, or is marked draft.
"""

from __future__ import annotations

from retina_otel.model.signal_types import PREFIX, Attribute

# --- Attributes of the network, on points and events ---

NETWORK_TRANSPORT = Attribute(
    "network.transport",
    "string",
    "Transport protocol. `tcp` and `udp` are the convention's; any other protocol has its IANA "
    "keyword in lower case (`icmp`, `icmpv6`, `sctp`), or its number if it has none.",
    stability="stable",
    examples=("tcp", "udp", "icmp", "253"),
)
NETWORK_TYPE = Attribute(
    "network.type",
    "string",
    "Network layer protocol; absent if the packet is neither IPv4 nor IPv6.",
    stability="stable",
    examples=("ipv4", "ipv6"),
)
NETWORK_INTERFACE_NAME = Attribute(
    "network.interface.name",
    "string",
    "The node's interface at which it was counted.",
    stability="release_candidate",
    examples=("eth0", "veth3f2a1c"),
)
FLOW_INTERFACE_NAME = Attribute(
    "network.interface.name",
    "string",
    "The node's interface at which it was counted.",
    stability="release_candidate",
    examples=("eth0", "veth3f2a1c"),
    opt_in=True,
)
NETWORK_IO_DIRECTION = Attribute(
    "network.io.direction",
    "string",
    "Direction as the interface sees it. At the node's side of a pod's veth `transmit` is what the "
    "pod receives.",
    stability="release_candidate",
    examples=("transmit", "receive"),
)
NETWORK_INTERFACE_DIRECTION = Attribute(
    "network.interface.direction",
    "string",
    "Direction as the workload sees it: `egress` leaves the pod, `ingress` enters it. Over a "
    "cluster a pod pair is seen once in each direction: sum over one of them.",
    stability="draft",
    examples=("ingress", "egress"),
)
SYSTEM_DEVICE = Attribute(
    "system.device", "string", "The interface's name.", examples=("eth0", "cni0")
)
SOURCE_ADDRESS = Attribute(
    "source.address",
    "string",
    "Address of the sender of the packets.",
    examples=("10.0.1.7", "fd00::7"),
    opt_in=True,
)
SOURCE_PORT = Attribute(
    "source.port",
    "int",
    "Port of the sender of the packets.",
    examples=(43210,),
    opt_in=True,
)
DESTINATION_ADDRESS = Attribute(
    "destination.address",
    "string",
    "Address that the packets were sent to.",
    examples=("10.0.2.9", "fd00::9"),
    opt_in=True,
)
DESTINATION_PORT = Attribute(
    "destination.port",
    "int",
    "Port that the packets were sent to.",
    examples=(443,),
    opt_in=True,
)
ERROR_TYPE = Attribute(
    "error.type",
    "string",
    "What kind of error.",
    stability="stable",
    examples=("crc", "fifo", "length"),
)

# --- Attributes of an end; metrics with Ends.BOTH put `source.` or `destination.` before them ---

K8S_NAMESPACE_NAME = Attribute(
    "k8s.namespace.name", "string", "Namespace.", stability="stable", examples=("shop",)
)
K8S_POD_NAME = Attribute("k8s.pod.name", "string", "Pod.", stability="stable", examples=("web-0",))
K8S_POD_UID = Attribute(
    "k8s.pod.uid",
    "string",
    "UID of the pod.",
    stability="stable",
    examples=("275ecb36-5aa8-4c2a-9c47-d8bb681b9aff",),
    opt_in=True,
)
K8S_OWNER_NAME = Attribute(
    "k8s.owner.name",
    "string",
    "The workload at the top of the pod's chain of owners.",
    stability="draft",
    examples=("web",),
)
K8S_OWNER_TYPE = Attribute(
    "k8s.owner.type",
    "string",
    "Kind of the owner, in lower case.",
    stability="draft",
    examples=("deployment", "daemonset"),
)
K8S_RESOURCE_TYPE = Attribute(
    "k8s.resource.type",
    "string",
    "What the end is.",
    stability="draft",
    examples=("pod", "node", "service"),
)
K8S_SERVICE_NAME = Attribute(
    "k8s.service.name", "string", "Service, where the end is one.", examples=("api",)
)
K8S_NODE_NAME = Attribute(
    "k8s.node.name",
    "string",
    "Node on which it runs.",
    stability="stable",
    examples=("node-1",),
)
K8S_NODE_UID = Attribute(
    "k8s.node.uid",
    "string",
    "UID of the node.",
    stability="stable",
    examples=("1eb3a0c6-0477-4080-a9cb-0cb7db65c6a2",),
    opt_in=True,
)
CLOUD_REGION = Attribute(
    "cloud.region",
    "string",
    "Region of the node on which it runs.",
    examples=("westeurope", "us-east-1"),
    opt_in=True,
)
CLOUD_AVAILABILITY_ZONE = Attribute(
    "cloud.availability_zone",
    "string",
    "Zone of the node on which it runs.",
    examples=("westeurope-1", "us-east-1c"),
    opt_in=True,
)
CIDR = Attribute(
    "cidr",
    "string",
    "Name of the configured network that the address belongs to.",
    stability="draft",
    examples=("office", "10.0.0.0/8"),
)

END_ATTRIBUTES: tuple[Attribute, ...] = (
    K8S_NAMESPACE_NAME,
    K8S_POD_NAME,
    K8S_POD_UID,
    K8S_OWNER_NAME,
    K8S_OWNER_TYPE,
    K8S_RESOURCE_TYPE,
    K8S_SERVICE_NAME,
    K8S_NODE_NAME,
    K8S_NODE_UID,
    CLOUD_REGION,
    CLOUD_AVAILABILITY_ZONE,
    CIDR,
)
"""What identity may say of an end. `k8s.pod.label.<key>` are added to these as they are chosen."""

# --- Attributes of every event that stands for several occurrences ---

EVENT_PACKETS = Attribute(
    PREFIX + "event.packets",
    "int",
    "How many packets this event stands for.",
    examples=(17,),
)
EVENT_BYTES = Attribute(
    PREFIX + "event.bytes",
    "int",
    "Bytes of the packets this event stands for.",
    examples=(1734,),
)
EVENT_FIRST_SEEN = Attribute(
    PREFIX + "event.first_seen", "int", "Time of the first packet, in ns since 1970."
)
EVENT_LAST_SEEN = Attribute(
    PREFIX + "event.last_seen", "int", "Time of the last packet, in ns since 1970."
)

_KNOWN_BY = (
    "How it became known who the {} is: `interface`, `network_namespace` and `socket` for what "
    "lives on this node; `address` and the time; `translation`, the address behind a service's by "
    "connection tracking. It is not known: `ambiguous`, more than one had the address then; `none`."
)
_WAYS = ("interface", "network_namespace", "socket", "address", "translation", "ambiguous", "none")
SOURCE_KNOWN_BY = Attribute(
    PREFIX + "source.known_by", "string", _KNOWN_BY.format("source"), examples=_WAYS
)
DESTINATION_KNOWN_BY = Attribute(
    PREFIX + "destination.known_by", "string", _KNOWN_BY.format("destination"), examples=_WAYS
)

# --- Flows ---

FLOW_INITIATOR = Attribute(
    PREFIX + "flow.initiator",
    "string",
    "Which end opened the connection: the packets' source, their destination, or not seen.",
    examples=("source", "destination", "unknown"),
    opt_in=True,
)
FLOW_INTER_ZONE = Attribute(
    PREFIX + "flow.inter_zone",
    "boolean",
    "Whether the ends are in different availability zones; absent unless both zones are known.",
    examples=(True, False),
    opt_in=True,
)
TCP_FLAG = Attribute(
    PREFIX + "tcp.flag",
    "string",
    "Flag of the TCP header. A packet counts once for each flag it carries; `syn_ack` is counted "
    "instead of `syn` and `ack`, `ack` only where it stands alone.",
    examples=("syn", "syn_ack", "ack", "fin", "rst", "psh", "urg", "ece", "cwr"),
)
TCP_FLAGS = Attribute(
    PREFIX + "tcp.flags",
    "string",
    "Flags that any of the flow's TCP packets carried, joined by `|`; each as `retina.tcp.flag` "
    "has it, in this order: fin, syn, syn_ack, rst, psh, ack, urg, ece, cwr. Absent for other "
    "protocols and for fragments but the first.",
    examples=("syn|ack", "fin|syn_ack|psh|ack", "rst"),
)
FLOW_END_REASON = Attribute(
    PREFIX + "flow.end_reason",
    "string",
    "Why the flow's event was written: `finished`, both sides sent a FIN; `reset`, one of them a "
    "RST; `idle`, no packet for `idle_timeout`; `evicted`, it was the longest idle when the table "
    "was full; `shutdown`, the receiver stopped. Absent with `events: interval`.",
    examples=("finished", "reset", "idle", "evicted", "shutdown"),
)

# --- Drops ---

DROP_REASON = Attribute(
    PREFIX + "drop.reason",
    "string",
    "Why the kernel dropped it: its own name of the reason in lower case; "
    "`subsystem_<n>_reason_<m>` for a subsystem whose names the kernel does not tell.",
    examples=("netfilter_drop", "no_socket", "tcp_csum"),
)
DROP_SYMBOL = Attribute(
    PREFIX + "drop.symbol",
    "string",
    "The kernel function that dropped it; its address in hexadecimal if symbols are hidden.",
    examples=("nf_hook_slow", "udp_queue_rcv_one_skb"),
    opt_in=True,
)
HW_ID = Attribute("hw.id", "string", "The interface's name.", examples=("eth0",))
DISCARD_REASON = Attribute(
    PREFIX + "interface.discard.reason",
    "string",
    "Why the kernel did not take what the interface received.",
    examples=("no_handler", "other_host"),
)
