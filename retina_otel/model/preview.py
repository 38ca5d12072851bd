"""Names that the semantic conventions' draft of network flows has for what stands under `PREFIX`.

The draft is pull request 3828 of the semantic conventions; it has the bytes of a flow, and its
packets follow them. `service.telemetry.semconv_preview` emits these names; the schema of their own
says how they came from ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from retina_otel.model.attributes import FLOW_INTER_ZONE
from retina_otel.model.signals import FLOW_IO, FLOW_PACKETS

METRICS: Mapping[str, str] = MappingProxyType(
    {FLOW_IO.name: "network.flow.io", FLOW_PACKETS.name: "network.flow.packets"}
)
ATTRIBUTES: Mapping[str, str] = MappingProxyType({FLOW_INTER_ZONE.name: "network.flow.inter_zone"})

PREVIEW_SCHEMA_URL = "https://retina-otel.dev/schemas/0.2.0-preview"
PREVIEW_SCOPE = "retina_otel.preview"
"""Scope of every signal that has, or may have, one of these names: it has another schema."""
