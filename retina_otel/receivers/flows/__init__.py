"""flows: bytes, packets and TCP flags of each flow, counted where it is certain whose they are."""

from __future__ import annotations

from retina_otel.component import Component, ComponentKind
from retina_otel.model.signals import FLOW_EVENT, FLOW_IO, FLOW_PACKETS, TCP_FLAG_PACKETS
from retina_otel.receivers.flows.receiver import FlowsReceiver
from retina_otel.receivers.flows.settings import FlowsSettings

COMPONENT = Component(
    type="flows",
    kind=ComponentKind.RECEIVER,
    stability="beta",
    Settings=FlowsSettings,
    create=FlowsReceiver,
    signals=frozenset({"metrics", "logs"}),
    declares=(FLOW_IO, FLOW_PACKETS, TCP_FLAG_PACKETS, FLOW_EVENT),
    requires=("CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"),
)
