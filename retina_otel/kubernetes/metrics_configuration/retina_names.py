"""What Retina calls metrics and labels in a MetricsConfiguration, and what they are here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from retina_otel.model import signals
from retina_otel.model.signals import Metric

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "forward_count": signals.FLOW_PACKETS,
        "forward_bytes": signals.FLOW_IO,
        "tcp_flag_gauges": signals.TCP_FLAG_PACKETS,
        "drop_count": signals.DROP_PACKETS,
        "drop_bytes": signals.DROP_IO,
    }
)
"""Retina's metrics for which a receiver is here."""

METRICS_WITHOUT_RECEIVER = frozenset(
    {
        "dns_request_count",
        "dns_response_count",
        "tcp_retransmission_count",
        "node_apiserver_latency",
        "node_apiserver_handshake_latency",
        "node_apiserver_no_response",
        "node_connectivity_status",
        "node_connectivity_latency_seconds",
        "tcp_state",
        "tcp_connection_remote",
        "tcp_connection_stats",
        "ip_connection_stats",
        "udp_connection_stats",
    }
)
"""Metrics that Retina takes in a MetricsConfiguration and that nothing reports here. Of the last
seven Retina reports nothing either, whatever a MetricsConfiguration says."""


END_LABELS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ip": ("address",),
        "port": ("port",),
        "namespace": ("k8s.namespace.name",),
        "podname": ("k8s.pod.name",),
        "workload": ("k8s.owner.name", "k8s.owner.type"),
        "service": ("k8s.service.name",),
        "zone": ("cloud.availability_zone",),
    }
)
"""Source and destination labels; the attributes of an end, without its prefix."""

ADDITIONAL_LABELS: Mapping[str, str] = MappingProxyType(
    {
        "direction": signals.NETWORK_INTERFACE_DIRECTION.name,
        "is_reply": signals.FLOW_INITIATOR.name,
    }
)
"""Additional labels; the metric's own attributes. `is_reply` is true where the destination opened
the connection."""


def own_attributes(metric: Metric) -> tuple[str, ...]:
    """What stands on its points whatever labels are chosen: reason, flag, direction, protocol."""
    return tuple(one.name for one in metric.attributes if not one.opt_in)
