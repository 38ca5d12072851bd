"""What Azure Monitor's own exporters write for a point or an event, with places for what differs.

One item of each metric and event goes through the public `export()` of theirs into a transport that
keeps it; our encoders fill in the rest. So an envelope is theirs, whatever a later version puts
into it. Nothing here reaches the network.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from azure.monitor.opentelemetry.exporter import AzureMonitorLogExporter, AzureMonitorMetricExporter
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Metric as MetricData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from retina_otel.delivery.http.responses import Response
from retina_otel.encode.protobuf import utf8
from retina_otel.exporters.azure_monitor.connection_string import ConnectionString
from retina_otel.exporters.azure_monitor.envelopes import Template
from retina_otel.exporters.azure_monitor.sdk import Answer, Transport, quiet
from retina_otel.model.batches import AttributeValue
from retina_otel.model.signals import Event, Metric

_TAKEN = Response(
    200,
    {"Content-Type": "application/json"},
    b'{"itemsReceived":1,"itemsAccepted":1,"errors":[]}',
)
_CUSTOM_EVENT = "microsoft.custom_event.name"


class Templates:
    """Makes templates for one destination and one agent. Those of metrics and of events may be made
    by two threads."""

    def __init__(self, target: ConnectionString, resource: Mapping[str, AttributeValue]) -> None:
        """Of the resource only what becomes role, role instance and version is in templates."""
        self._kept_metrics, self._kept_logs = _Kept(), _Kept()
        self._metrics = quiet(AzureMonitorMetricExporter, target, self._kept_metrics)
        self._logs = quiet(AzureMonitorLogExporter, target, self._kept_logs)
        self._resource = _role(resource)

    def metric(self, metric: Metric) -> Template:
        point = NumberDataPoint({}, 0, 10**9, 1)
        data = Sum([point], AggregationTemporality.DELTA, True)
        series = MetricData(metric.name, metric.brief, metric.unit, data)
        scope = ScopeMetrics(InstrumentationScope(metric.scope), [series], "")
        self._metrics.export(MetricsData([ResourceMetrics(self._resource, [scope], "")]))
        return _template(self._kept_metrics.item())

    def event(self, event: Event) -> Template:
        record = LogRecord(
            timestamp=10**9,
            severity_number=SeverityNumber(event.severity),
            attributes={_CUSTOM_EVENT: event.name},
            event_name=event.name,
        )
        scope = InstrumentationScope(event.scope)
        self._logs.export([ReadableLogRecord(record, self._resource, scope)])
        return _template(self._kept_logs.item())


class _Kept(Transport):
    """Keeps the last request, and says that all is well."""

    def __init__(self) -> None:
        self._content: Any = b"[]"

    def send(self, request: Any, **options: Any) -> Answer:
        self._content = request.content
        return Answer(request, _TAKEN)

    def item(self) -> dict[str, Any]:
        envelopes = json.loads(self._content)
        self._content = b"[]"
        if len(envelopes) != 1 or not isinstance(envelopes[0], dict):
            raise ValueError("Azure Monitor's exporter does not make one envelope of one item")
        return envelopes[0]


def _role(resource: Mapping[str, AttributeValue]) -> Resource:
    """Theirs makes the cloud role of the service's name, the role instance of the pod's name or
    the service's instance id, which is a UUID here: the node's name says more to a person."""
    known = {key: resource[key] for key in _ROLE if key in resource}
    node = resource.get("k8s.node.name") or resource.get("service.instance.id")
    return Resource({**known, "service.instance.id": node} if node else known)


_ROLE = ("service.name", "service.namespace", "service.version")


def _template(envelope: dict[str, Any]) -> Template:
    time, pairs, value = (uuid.uuid4().hex for _ in range(3))
    envelope["time"] = time
    base = envelope["data"]["baseData"]
    properties, base["properties"] = base.get("properties") or {}, pairs
    for point in base.get("metrics", ()):
        del point["value"], point["count"]
        point[value] = value
    text = utf8(json.dumps(envelope, ensure_ascii=False, separators=(",", ":")))
    before_time, text = _around(text, f'"{time}"')
    before_properties, text = _around(text, f'"{pairs}"')
    before_value, end = _around(text, f'"{value}":"{value}"') if "metrics" in base else (text, b"")
    return Template(
        before_time + b'"', b'"' + before_properties + b"{", b"}" + before_value, end, properties
    )


def _around(text: bytes, place: str) -> tuple[bytes, bytes]:
    before, found, after = text.partition(place.encode())
    if not found:
        raise ValueError("Azure Monitor's envelopes have another order than this one is made for")
    return before, after
