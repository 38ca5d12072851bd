"""What runs without a configuration file: everything of ours that needs no decision of the user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retina_otel.component import ComponentKind
from retina_otel.config.document import Document
from retina_otel.config.registry import Registry

_OTLP_VARIABLES = {
    signal: ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
    for signal in ("metrics", "logs")
}
PROMETHEUS_ENDPOINT = "127.0.0.1:10093"


def default_document(registry: Registry, environment: Mapping[str, str]) -> Document:
    """Every built-in receiver (one that this kernel can't run says so and is left out), identity,
    Prometheus on loopback, and OTLP for each signal whose endpoint an OTEL_* variable names."""
    built_in = [offer for offer in registry.offers() if offer.built_in]
    receivers = [offer.type for offer in built_in if offer.kind is ComponentKind.RECEIVER]
    processors = [
        offer.type
        for offer in built_in
        if offer.kind is ComponentKind.PROCESSOR and offer.type == "identity"
    ]
    exporters: dict[str, Any] = {"prometheus": {"endpoint": PROMETHEUS_ENDPOINT}}
    pushed = [
        signal
        for signal, names in _OTLP_VARIABLES.items()
        if any(environment.get(name, "").strip() for name in names)
    ]
    if pushed:
        exporters["otlp_http"] = {}
    pipelines = {
        signal: {
            "receivers": _standing_in(registry, ComponentKind.RECEIVER, receivers, signal),
            "processors": _standing_in(registry, ComponentKind.PROCESSOR, processors, signal),
            "exporters": [
                type_
                for type_ in _standing_in(registry, ComponentKind.EXPORTER, list(exporters), signal)
                if type_ != "otlp_http" or signal in pushed
            ],
        }
        for signal in ("metrics", "logs")
    }
    data: dict[str, Any] = {
        "receivers": {type_: {} for type_ in receivers},
        "processors": {type_: {} for type_ in processors},
        "exporters": exporters,
        "service": {
            "pipelines": {
                signal: pipeline
                for signal, pipeline in pipelines.items()
                if pipeline["receivers"] and pipeline["exporters"]
            }
        },
    }
    return Document("built-in default", data)


def _standing_in(
    registry: Registry, kind: ComponentKind, types: list[str], signal: str
) -> list[str]:
    return [type_ for type_ in types if signal in registry.load(kind, type_).signals]
