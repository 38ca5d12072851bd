"""Retina's `networkobservability_*` metrics that the receivers of today cover: the table.

Names, labels, types and texts are those of Retina's code, each with the file of it that says so.
`docs/retina-users.md` is made from this table, and the tests go through it row by row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from retina_otel.model import signals
from retina_otel.model.signals import Ends, Kind, Metric

PREFIX = "networkobservability_"
SCOPE = "retina_otel.classic"
"""Scope of all of them: how an exporter tells them from ours."""
RETINA_COMMIT = "532c5aa2b800"
"""The state of Retina's source that was read."""

UNKNOWN = "unknown"

LABELS: Mapping[str, str] = MappingProxyType(
    {
        "ip": "address",
        "namespace": "k8s.namespace.name",
        "podname": "k8s.pod.name",
        "workload_kind": "k8s.owner.type",
        "workload_name": "k8s.owner.name",
        "service": "k8s.service.name",
        "port": "port",
        "zone": "cloud.availability_zone",
    }
)
"""Labels of an end in Retina's order, and the attribute that each of them is here. In remote
context they stand under `source_` and `destination_`, in local context without prefix."""

DEFAULT_LABELS = ("ip", "namespace", "podname", "workload_kind", "workload_name")
"""What Retina puts on pod-level metrics unless a MetricsConfiguration chooses."""

_METRICS_GO = "pkg/metrics/metrics.go"
_REASON = (
    "Reasons other than `IPTABLE_RULE_DROP` are the kernel's own names in capitals: Retina counts "
    "only what passes its five hooks."
)
_EACH_END = (
    "A packet counts once at each end that is on this node. There it counts at the node's uplink "
    "too with `dataAggregationLevel: low`, the default; and between pods of one node, in local "
    "context both at each of their interfaces, in remote context with the `direction` in which "
    "the connection was first seen."
)
_DROP_END = (
    "In local context what a pod's own network namespace drops is that pod's; there it is the "
    "other pod's too if that is on this node. "
)


@dataclass(frozen=True, slots=True)
class ClassicMetric:
    """One of Retina's metrics. All of them are gauges there, though they only grow."""

    name: str
    """Without PREFIX."""
    brief: str
    labels: tuple[str, ...]
    """Its own labels; pod-level metrics (`ends` is BOTH) have those of the ends beside them."""
    of: tuple[Metric, ...]
    """Ours that it is made of."""
    ends: Ends
    file: str
    """Where Retina's code has it."""
    documents: str = ""
    """What Retina's documents say else; the code is what is done here."""
    difference: str = ""
    """What its values mean here that they do not mean there."""

    @property
    def pod_level(self) -> bool:
        return self.ends is Ends.BOTH

    def metric(self, labels: tuple[str, ...] = ()) -> Metric:
        """The metric as it is accumulated, with the labels of the ends beside its own."""
        return Metric(
            PREFIX + self.name,
            Kind.COUNTER,
            self.of[0].unit,
            self.brief,
            tuple(signals.Attribute(name, "string", "") for name in (*self.labels, *labels)),
            self.ends,
            scope=SCOPE,
        )


FORWARD_COUNT = ClassicMetric(
    "forward_count",
    "Total forwarded packets",
    ("direction",),
    (signals.INTERFACE_PACKETS,),
    Ends.NONE,
    f"{_METRICS_GO}, pkg/plugin/packetforward/packetforward_linux.go",
    documents="Counted at `eth0`; by the code at every interface that a packet passes, `ingress` "
    "being what the interface receives.",
    difference="By the interfaces' own counters, so that broadcasts and multicasts received are in "
    "it.",
)
FORWARD_BYTES = ClassicMetric(
    "forward_bytes",
    "Total forwarded bytes",
    ("direction",),
    (signals.INTERFACE_IO,),
    Ends.NONE,
    FORWARD_COUNT.file,
    documents=FORWARD_COUNT.documents,
    difference=FORWARD_COUNT.difference,
)
DROP_COUNT = ClassicMetric(
    "drop_count",
    "Total dropped packets",
    ("reason", "direction"),
    (signals.DROP_PACKETS,),
    Ends.NONE,
    f"{_METRICS_GO}, pkg/plugin/dropreason/types_linux.go",
    documents="`direction` is `ingress` or `egress`; by the code `unknown` for all that drops "
    "packets.",
    difference=_REASON,
)
DROP_BYTES = ClassicMetric(
    "drop_bytes",
    "Total dropped bytes",
    ("reason", "direction"),
    (signals.DROP_IO,),
    Ends.NONE,
    DROP_COUNT.file,
    documents=DROP_COUNT.documents,
    difference=_REASON,
)
TCP_FLAG_GAUGES = ClassicMetric(
    "tcp_flag_gauges",
    "TCP gauges by flag",
    ("direction", "flag"),
    (signals.TCP_FLAG_PACKETS,),
    Ends.NONE,
    f"{_METRICS_GO}, pkg/plugin/hnsstats/hnsstats_windows.go",
    difference="Set there on Windows only; `SYN`, `SYNACK`, `FIN` and `RST` as there.",
)
INTERFACE_STATS = ClassicMetric(
    "interface_stats",
    "Interface statistics",
    ("interface_name", "statistic_name"),
    (signals.INTERFACE_DROPPED, signals.INTERFACE_ERRORS, signals.INTERFACE_ERRORS_BY_TYPE),
    Ends.NONE,
    f"{_METRICS_GO}, pkg/plugin/linuxutil/ethtool_stats_linux.go",
    documents="A series for each interface, and all that `ethtool -S` tells; by the code the sum "
    "over interfaces as `all_interfaces`, and of statistics those with `err` or `drop` in their "
    "names that are not 0.",
    difference="By the kernel's counters of interfaces instead of the driver's, since the agent "
    "started.",
)
ADV_FORWARD_COUNT = ClassicMetric(
    "adv_forward_count",
    "Total number of forwarded packets",
    ("direction",),
    (signals.FLOW_PACKETS,),
    Ends.BOTH,
    "pkg/module/metrics/forward.go, pkg/module/metrics/types.go, "
    "pkg/plugin/packetparser/packetparser_linux.go, pkg/plugin/conntrack/_cprog/conntrack.c",
    documents="`source_pod` and `source_workload`, and `ingress` or `egress`; by the code "
    "`source_podname`, `source_workload_kind` and `source_workload_name`, no prefix in local "
    "context, and in remote context `INGRESS` or `EGRESS`: whether the connection came or went.",
    difference="IPv6, other protocols than TCP and UDP, and what the node itself sends and gets "
    "count too. " + _EACH_END,
)
ADV_FORWARD_BYTES = ClassicMetric(
    "adv_forward_bytes",
    "Total number of forwarded bytes",
    ("direction",),
    (signals.FLOW_IO,),
    Ends.BOTH,
    ADV_FORWARD_COUNT.file,
    documents=ADV_FORWARD_COUNT.documents,
    difference=ADV_FORWARD_COUNT.difference,
)
ADV_DROP_COUNT = ClassicMetric(
    "adv_drop_count",
    "Total number of dropped packets",
    ("reason", "direction"),
    (signals.DROP_PACKETS,),
    Ends.BOTH,
    "pkg/module/metrics/drops.go, pkg/plugin/dropreason/dropreason_linux.go",
    documents="`direction` is `ingress` or `egress`; by the code `INGRESS` for all drops in remote "
    "context, and in local context the end that the pod is.",
    difference=_DROP_END + _REASON,
)
ADV_DROP_BYTES = ClassicMetric(
    "adv_drop_bytes",
    "Total number of dropped bytes",
    ("reason", "direction"),
    (signals.DROP_IO,),
    Ends.BOTH,
    ADV_DROP_COUNT.file,
    documents=ADV_DROP_COUNT.documents,
    difference=ADV_DROP_COUNT.difference,
)
ADV_TCPFLAGS_COUNT = ClassicMetric(
    "adv_tcpflags_count",
    "Total number of packets by TCP flag",
    ("flag",),
    (signals.TCP_FLAG_PACKETS,),
    Ends.BOTH,
    "pkg/module/metrics/tcpflags.go",
    documents="Flags without `SYNACK`; by the code it is counted instead of `SYN` and `ACK`.",
    difference="`NS`, which no longer exists, is not counted. " + _EACH_END,
)

CLASSIC: tuple[ClassicMetric, ...] = (
    FORWARD_COUNT,
    FORWARD_BYTES,
    DROP_COUNT,
    DROP_BYTES,
    TCP_FLAG_GAUGES,
    INTERFACE_STATS,
    ADV_FORWARD_COUNT,
    ADV_FORWARD_BYTES,
    ADV_DROP_COUNT,
    ADV_DROP_BYTES,
    ADV_TCPFLAGS_COUNT,
)
