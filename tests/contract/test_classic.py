"""Retina's `networkobservability_*` metrics: names, labels, types and sums, row by row.

Batches of known amounts go through a pipeline of Retina's metrics and are read back from the page
by Prometheus' own parser. What Retina's code says is in `retina_otel.model.classic`.
"""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from retina_otel.encode.prometheus.escaping import Naming
from retina_otel.encode.prometheus.names import TranslationStrategy
from retina_otel.encode.prometheus.protobuf import ProtobufRenderer
from retina_otel.encode.prometheus.text import render
from retina_otel.kubernetes.metrics_configuration.merge import merge, overlay
from retina_otel.kubernetes.metrics_configuration.objects import read
from retina_otel.kubernetes.metrics_configuration.retina_names import END_LABELS
from retina_otel.model.classic import CLASSIC, DEFAULT_LABELS, LABELS, PREFIX, ClassicMetric
from retina_otel.pipeline.identity.selection import View
from retina_otel.pipeline.overlay import Overlay
from retina_otel.testing.scrape_protobuf import samples
from tests.contract.classic_parts import (
    DROPS,
    EXPECTED,
    FLAG_COUNTS,
    FLOWS,
    NODE,
    WEB_TO_API,
    Page,
    Pipeline,
    interfaces,
    labels,
    shown,
)


def counted(view: View, overlay: Overlay | None = None) -> Page:
    return filled(Pipeline(view, overlay)).page()


def filled(pipeline: Pipeline) -> Pipeline:
    pipeline.add(
        pipeline.flows(FLOWS),
        pipeline.flags(FLAG_COUNTS),
        pipeline.drops(DROPS),
        *interfaces(pipeline),
    )
    return pipeline


@pytest.mark.parametrize("view", list(View))
@pytest.mark.parametrize("row", CLASSIC, ids=lambda row: row.name)
def test_each_metric_has_retinas_labels_and_the_batches_sums(
    row: ClassicMetric, view: View
) -> None:
    expected = EXPECTED[view].get(row.name, {})
    assert bool(expected) == (view is not View.NODE or not row.pod_level)
    assert counted(view).get(row.name, {}) == shown(expected)


@pytest.mark.parametrize("view", list(View))
def test_the_page_has_no_other_metric(view: View) -> None:
    assert set(counted(view)) == set(EXPECTED[view])


@pytest.mark.parametrize("strategy", list(TranslationStrategy))
def test_every_format_and_translation_says_the_same(strategy: TranslationStrategy) -> None:
    pipeline = filled(Pipeline(View.REMOTE))
    naming = Naming(strategy)
    blocks = pipeline.shown()
    expected = {
        (PREFIX + name, labels): value
        for name, series in pipeline.page().items()
        for labels, value in series.items()
    }
    openmetrics = parse_openmetrics(render(blocks, {}, True, naming).decode())
    assert expected == {
        (one.name, frozenset(one.labels.items())): one.value
        for family in openmetrics
        for one in family.samples
    }
    protobuf = b"".join(ProtobufRenderer({}, naming).chunks(blocks))
    assert expected == {
        (one.name, frozenset(one.labels.items())): one.value for one in samples(protobuf)
    }


def test_values_add_up_over_ticks() -> None:
    pipeline = Pipeline(View.REMOTE)
    for _ in range(3):
        pipeline.add(pipeline.flows(FLOWS[:1]))
    page = pipeline.page()
    assert page["adv_forward_count"] == {labels(f'direction="EGRESS", {WEB_TO_API}'): 303}


def configured(view: View, *options: dict[str, Any]) -> Overlay:
    """What an object on the API server makes of pipelines."""
    spec = {"contextOptions": list(options), "namespaces": {"exclude": []}}
    document = {
        "apiVersion": "retina.sh/v1alpha1",
        "kind": "MetricsConfiguration",
        "metadata": {"name": "one", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": spec,
    }
    return overlay(merge([read(document)]), view)


FORWARD = {
    "metricName": "forward_count",
    "sourceLabels": ["service", "zone"],
    "destinationLabels": ["port"],
    "additionalLabels": ["is_reply"],
}


def test_a_metrics_configuration_chooses_the_labels_in_remote_context() -> None:
    page = counted(View.REMOTE, configured(View.REMOTE, FORWARD))
    assert page["adv_forward_count"] == shown(
        {
            f'direction="{direction}", is_reply="{reply}", source_service="{service}", '
            f'source_zone="{zone}", destination_port="80"': packets
            for direction, reply, service, zone, packets in (
                ("EGRESS", "false", "web-service", "zone-1", 101 + 7),
                ("INGRESS", "false", "web-service", "zone-1", 101),
                ("INGRESS", "true", "api-service", "zone-1", 53),
                ("EGRESS", "true", "api-service", "zone-1", 53),
                ("INGRESS", "false", "unknown", "unknown", 11),
            )
        }
    )


def test_a_metrics_configuration_chooses_the_labels_in_local_context() -> None:
    option = {"metricName": "forward_count", "sourceLabels": ["workload"]}
    page = counted(View.LOCAL, configured(View.LOCAL, option))
    assert page["adv_forward_count"] == shown(
        {
            f'direction="{direction}", workload_kind="{kind}", workload_name="{name}"': packets
            for direction, kind, name, packets in (
                ("egress", "Deployment", "web", 101 + 7),
                ("ingress", "Deployment", "web", 53 + 11),
                ("egress", "StatefulSet", "api", 53),
                ("ingress", "StatefulSet", "api", 101),
            )
        }
    )


@pytest.mark.parametrize("view", [View.LOCAL, View.REMOTE])
def test_pod_level_metrics_that_no_object_names_are_not_reported(view: View) -> None:
    page = counted(view, configured(view, FORWARD))
    assert set(page) == {"adv_forward_count", *(one.name for one in CLASSIC if not one.pod_level)}
    assert page["forward_bytes"] == shown(NODE["forward_bytes"])


def test_an_end_of_which_no_label_is_chosen_has_none() -> None:
    page = counted(
        View.REMOTE, Overlay(attributes={"retina.flow.packets": ("destination.k8s.pod.name",)})
    )
    assert page["adv_forward_count"] == shown(
        {
            'direction="EGRESS", destination_podname="api-0"': 101,
            'direction="INGRESS", destination_podname="api-0"': 101,
            'direction="EGRESS", destination_podname="web-0"': 53,
            'direction="INGRESS", destination_podname="web-0"': 53 + 11,
            'direction="EGRESS", destination_podname="unknown"': 7,
        }
    )


def test_what_there_is_no_room_for_is_told_as_overflow_so_that_sums_stay_right() -> None:
    pipeline = filled(Pipeline(View.REMOTE, limit=4))
    page = pipeline.page()
    of_ends = [f"{end}_{name}" for end in ("source", "destination") for name in DEFAULT_LABELS]
    rest = frozenset({("otel_metric_overflow", "true"), *((name, "unknown") for name in of_ends)})
    assert page["adv_forward_count"][rest] > 0
    assert sum(page["adv_forward_count"].values()) == sum(row.packets for row in FLOWS)
    assert sum(page["adv_forward_bytes"].values()) == sum(row.octets for row in FLOWS)


def test_labels_are_those_that_a_metrics_configuration_knows() -> None:
    of_options = sorted(attribute for names in END_LABELS.values() for attribute in names)
    assert sorted(LABELS.values()) == of_options
