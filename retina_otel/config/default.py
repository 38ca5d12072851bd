"""What runs without a configuration file: everything of ours that needs no decision of the user.

Where data goes is the decision of OTEL_METRICS_EXPORTER and OTEL_LOGS_EXPORTER, if they are set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retina_otel.component import ComponentKind
from retina_otel.config.document import Document
from retina_otel.config.registry import Registry
from retina_otel.delivery.environment import OtlpEnvironment
from retina_otel.errors import ConfigError

PROMETHEUS_ENDPOINT = "127.0.0.1:10093"
_EXPORTERS = {
    "metrics": {"otlp": "", "prometheus": "prometheus", "console": "debug", "none": ""},
    "logs": {"otlp": "", "console": "debug", "none": ""},
}
"""The specification's words, and the exporters that they mean; which one `otlp` means depends."""
_OTLP = {"": "otlp_http", "http/protobuf": "otlp_http", "grpc": "otlp_grpc"}
"""By the word of OTEL_EXPORTER_OTLP_PROTOCOL."""


def default_document(registry: Registry, environment: Mapping[str, str]) -> Document:
    """Every built-in receiver (one that this kernel can't run says so and is left out), identity,
    and the exporters that OTEL_* variables name for each signal; where they name none, Prometheus
    on loopback, and OTLP for each signal that has an endpoint. Raises ConfigError for variables
    that make no sense."""
    built_in = [offer for offer in registry.offers() if offer.built_in]
    receivers = [offer.type for offer in built_in if offer.kind is ComponentKind.RECEIVER]
    processors = [
        offer.type
        for offer in built_in
        if offer.kind is ComponentKind.PROCESSOR and offer.type == "identity"
    ]
    chosen = {signal: _exporters(signal, environment) for signal in _EXPORTERS}
    if not any(chosen.values()):
        raise ConfigError(
            "OTEL_METRICS_EXPORTER and OTEL_LOGS_EXPORTER leave nothing to do",
            "Name an exporter, as otlp; to silence the agent set OTEL_SDK_DISABLED=true instead.",
        )
    settings = {"prometheus": {"endpoint": _prometheus_endpoint(environment)}}
    pipelines = {
        signal: {
            "receivers": _standing_in(registry, ComponentKind.RECEIVER, receivers, signal),
            "processors": _standing_in(registry, ComponentKind.PROCESSOR, processors, signal),
            "exporters": exporters,
        }
        for signal, exporters in chosen.items()
    }
    data: dict[str, Any] = {
        "receivers": {type_: {} for type_ in receivers},
        "processors": {type_: {} for type_ in processors},
        "exporters": {
            type_: settings.get(type_, {}) for exporters in chosen.values() for type_ in exporters
        },
        "service": {
            "pipelines": {
                signal: pipeline
                for signal, pipeline in pipelines.items()
                if pipeline["receivers"] and pipeline["exporters"]
            }
        },
    }
    return Document("built-in default", data)


def _exporters(signal: str, environment: Mapping[str, str]) -> list[str]:
    """The exporters of one signal, without repetition."""
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    words = [word.strip() for word in environment.get(variable, "").split(",") if word.strip()]
    known = _EXPORTERS[signal]
    for word in words:
        if word not in known:
            raise ConfigError(
                f"{variable} names {word!r}, which is no exporter of {signal}",
                f"Use {', '.join(known)}, or several with commas between them.",
            )
    if "none" in words and len(words) > 1:
        raise ConfigError(f"{variable} names none and others", "Keep none, or the others.")
    if not words:
        words = ["prometheus"] if signal == "metrics" else []
        if OtlpEnvironment(environment, signal).endpoint[1]:
            words.append("otlp")
    found = [_otlp(signal, environment) if word == "otlp" else known[word] for word in words]
    return list(dict.fromkeys(filter(None, found)))


def _otlp(signal: str, environment: Mapping[str, str]) -> str:
    otlp = OtlpEnvironment(environment, signal)
    variable, word = otlp.protocol
    if word not in _OTLP:
        raise ConfigError(
            f"{variable} is {word!r}, which the agent does not speak", "Use grpc or http/protobuf."
        )
    # The exporter reads these itself, but only when the agent starts.
    otlp.check(grpc=word == "grpc")
    return _OTLP[word]


def _prometheus_endpoint(environment: Mapping[str, str]) -> str:
    own_host, _, own_port = PROMETHEUS_ENDPOINT.rpartition(":")
    host = environment.get("OTEL_EXPORTER_PROMETHEUS_HOST", "").strip() or own_host
    port = environment.get("OTEL_EXPORTER_PROMETHEUS_PORT", "").strip() or own_port
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise ConfigError(
            f"OTEL_EXPORTER_PROMETHEUS_PORT is {port!r}", "Set it to a port, as 9464."
        )
    return f"[{host}]:{port}" if ":" in host.strip("[]") and host[0] != "[" else f"{host}:{port}"


def _standing_in(
    registry: Registry, kind: ComponentKind, types: list[str], signal: str
) -> list[str]:
    return [type_ for type_ in types if signal in registry.load(kind, type_).signals]
