"""MetricsConfigurations as Retina's users have them: read, checked, merged, and what they mean."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest

from retina_otel.kubernetes.metrics_configuration.merge import Merged, merge, overlay
from retina_otel.kubernetes.metrics_configuration.objects import read
from retina_otel.kubernetes.metrics_configuration.retina_names import METRICS
from retina_otel.kubernetes.metrics_configuration.status import (
    desired_status,
    outdated,
    status_patch,
)
from retina_otel.model.signals import BUILT_IN, END_ATTRIBUTES, Metric
from retina_otel.pipeline.identity.selection import View
from retina_otel.pipeline.overlay import Overlay


def made(name: str = "one", *, created: str = "2026-01-01T00:00:00Z", **spec: Any) -> Any:
    """An object as the API gives it. Without more: forward_count with podname, all namespaces."""
    options = [{"metricName": "forward_count", "sourceLabels": ["podname"]}]
    return {
        "apiVersion": "retina.sh/v1alpha1",
        "kind": "MetricsConfiguration",
        "metadata": {"name": name, "resourceVersion": "7", "creationTimestamp": created},
        "spec": {"contextOptions": options, "namespaces": {"exclude": []}, **spec},
    }


def told(document: Any) -> list[str]:
    return [str(problem) for problem in read(document).problems]


def option(**fields: Any) -> dict[str, Any]:
    return {"metricName": "forward_count", **fields}


def state(*documents: Any) -> dict[str, tuple[str, str]]:
    wanted = desired_status(read(one) for one in documents)
    return {name: (status.state, status.reason) for name, status in wanted.items()}


def test_the_example_of_retinas_documentation_is_read_as_it_is_meant() -> None:
    labels = {"sourceLabels": ["ip", "podname", "port"], "additionalLabels": ["direction"]}
    example = made(
        contextOptions=[
            {"metricName": "drop_count", **labels},
            {"metricName": "forward_count", **labels},
        ],
        namespaces={"include": ["default", "kube-system"]},
    )
    merged = merge([read(example)])
    assert merged.included == {"default", "kube-system"}
    assert [merged.observes(name) for name in ("default", "kube-system", "shop")] == [
        True, True, False
    ]  # fmt: skip
    assert overlay(merged, View.REMOTE) == Overlay(
        attributes={
            "retina.flow.packets": (
                "network.interface.direction", "network.transport", "network.type",
                "source.address", "source.port", "source.k8s.pod.name",
            ),
            "retina.drop.packets": (
                "retina.drop.reason", "network.transport", "network.type",
                "source.address", "source.port", "source.k8s.pod.name",
            ),
        },
        exclude=frozenset({"retina.flow.io", "retina.drop.io", "retina.tcp.flag.packets"}),
    )  # fmt: skip
    assert state(example) == {
        "one": (
            "Warning",
            "spec.contextOptions[0].additionalLabels[0]: drop_count has no direction; "
            "the label is left out",
        )
    }


def test_retinas_sample_is_errored_with_every_fault_by_path() -> None:
    sample = made(
        contextOptions=[
            {
                "metricName": "requests_total",
                "sourceLabels": ["source"],
                "additionalLabels": ["direction"],
            }
        ],
        namespaces={"include": ["default"], "exclude": ["kube-system"]},
    )
    ((found, reason),) = state(sample).values()
    assert found == "Errored"
    metric, namespaces = reason.split("; spec.namespaces")
    assert metric.startswith('spec.contextOptions[0].metricName: unknown metric "requests_total"')
    assert namespaces == ": both include and exclude are set; set one of them"
    assert merge([read(sample)]) == Merged()


@pytest.mark.parametrize(
    ("label", "attributes"),
    [
        ("ip", ["source.address"]),
        ("port", ["source.port"]),
        ("namespace", ["source.k8s.namespace.name"]),
        ("podname", ["source.k8s.pod.name"]),
        ("workload", ["source.k8s.owner.name", "source.k8s.owner.type"]),
        ("service", ["source.k8s.service.name"]),
        ("zone", ["source.cloud.availability_zone"]),
    ],
)
def test_each_label_of_retina_is_an_attribute_of_the_end(label: str, attributes: list[str]) -> None:
    merged = merge([read(made(contextOptions=[option(sourceLabels=[label])]))])
    chosen = overlay(merged, View.REMOTE).attributes["retina.flow.packets"]
    assert [name for name in chosen if name.startswith(("source.", "destination."))] == attributes


def test_each_attribute_that_labels_stand_for_is_declared() -> None:
    every = ["ip", "port", "namespace", "podname", "workload", "service"]
    merged = merge(
        [
            read(
                made(
                    contextOptions=[
                        {"metricName": name, "sourceLabels": every, "destinationLabels": every}
                        for name in METRICS
                    ]
                )
            )
        ]
    )
    ends = {one.name for one in END_ATTRIBUTES}
    metrics = {one.name: one for one in BUILT_IN if isinstance(one, Metric)}
    for name, chosen in overlay(merged, View.REMOTE).attributes.items():
        own = {one.name for one in metrics[name].attributes}
        for attribute in chosen:
            bare = attribute.removeprefix("source.").removeprefix("destination.")
            assert attribute in own or bare in ends


def test_is_reply_is_who_opened_the_connection_and_only_flows_know_it() -> None:
    merged = merge(
        [
            read(
                made(
                    contextOptions=[
                        option(additionalLabels=["is_reply"]),
                        {"metricName": "drop_bytes", "additionalLabels": ["is_reply"]},
                    ]
                )
            )
        ]
    )
    chosen = overlay(merged, View.REMOTE).attributes
    assert "retina.flow.initiator" in chosen["retina.flow.packets"]
    assert "retina.flow.initiator" not in chosen["retina.drop.io"]


def test_in_local_context_a_label_is_the_local_pods_whichever_end_that_is() -> None:
    merged = merge([read(made(contextOptions=[option(sourceLabels=["podname"])]))])
    chosen = overlay(merged, View.LOCAL).attributes["retina.flow.packets"]
    assert {"source.k8s.pod.name", "destination.k8s.pod.name"} <= set(chosen)


def test_in_node_context_there_is_nothing_to_label() -> None:
    assert overlay(merge([read(made())]), View.NODE) == Overlay()


def test_without_objects_nothing_is_changed() -> None:
    assert overlay(merge([]), View.REMOTE) == Overlay()
    assert merge([]).observes("any")


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [("30s", 30.0), ("1h30m", 5400.0), ("500ms", 0.5), ("+2m", 120.0), ("1.5h", 5400.0)],
)
def test_ttl_is_gos_duration(ttl: str, seconds: float) -> None:
    merged = merge([read(made(contextOptions=[option(ttl=ttl)]))])
    assert overlay(merged, View.REMOTE).expiry == {"retina.flow.packets": seconds}


@pytest.mark.parametrize("ttl", ["0", "0s"])
def test_ttl_of_0_is_never_as_in_retina(ttl: str) -> None:
    merged = merge([read(made(contextOptions=[option(ttl=ttl)]))])
    assert overlay(merged, View.REMOTE).expiry == {"retina.flow.packets": math.inf}


@pytest.mark.parametrize("ttl", ["", None])
def test_without_ttl_the_pipelines_own_expiry_counts(ttl: str | None) -> None:
    merged = merge([read(made(contextOptions=[option(ttl=ttl)]))])
    assert overlay(merged, View.REMOTE).expiry == {}


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (
            {"contextOptions": [option(sourceLabels=["ip", "pod"])]},
            'spec.contextOptions[0].sourceLabels[1]: unknown label "pod", did you mean "podname"?',
        ),
        (
            {"contextOptions": [option(), option(destinationLabels=["Namespace"])]},
            'spec.contextOptions[1].destinationLabels[0]: unknown label "Namespace", '
            'did you mean "namespace"?',
        ),
        (
            {"contextOptions": [option(additionalLabels=["isreply"])]},
            'spec.contextOptions[0].additionalLabels[0]: unknown label "isreply", '
            'did you mean "is_reply"?',
        ),
        (
            {"contextOptions": [{"metricName": "dns_request_count"}]},
            "spec.contextOptions[0].metricName: no receiver reports dns_request_count; "
            "this option has no effect",
        ),
        (
            {"namespaces": {"include": ["default", "Shop"]}},
            'spec.namespaces.include[1]: no namespace can be called "Shop"',
        ),
    ],
)
def test_what_can_be_done_without_is_a_warning_and_the_rest_is_in_force(
    spec: dict[str, Any], problem: str
) -> None:
    document = made(**spec)
    assert told(document) == [problem]
    assert state(document) == {"one": ("Warning", problem)}
    assert merge([read(document)]).anything


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (
            {"contextOptions": [{"metricName": "networkobservability_adv_forward_count"}]},
            'spec.contextOptions[0].metricName: unknown metric '
            '"networkobservability_adv_forward_count", did you mean "forward_count"?',
        ),
        (
            {"contextOptions": [option(ttl="-5m")]},
            'spec.contextOptions[0].ttl: "-5m" is not a duration above 0: '
            'write number and unit, as "30s" or "5m"',
        ),
        (
            {"contextOptions": [option(ttl="5")]},
            'spec.contextOptions[0].ttl: "5" is not a duration above 0: '
            'write number and unit, as "30s" or "5m"',
        ),
        ({"contextOptions": []}, "spec.contextOptions: name at least one metric"),
        (
            {"contextOptions": [option(sourceLabels="ip")]},
            "spec.contextOptions[0].sourceLabels: it is not a list of strings",
        ),
        (
            {"contextOptions": [option()] * 257},
            "spec.contextOptions: more than 256 options",
        ),
        (
            {"namespaces": {}},
            "spec.namespaces: neither include nor exclude is set; set one of them",
        ),
        (
            {"namespaces": {"include": ["a"], "exclude": ["b"]}},
            "spec.namespaces: both include and exclude are set; set one of them",
        ),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_errored_and_has_no_effect(
    spec: dict[str, Any], problem: str
) -> None:
    document = made(**spec)
    assert state(document) == {"one": ("Errored", problem)}
    assert merge([read(document)]) == Merged()


@pytest.mark.parametrize(
    "document", [{}, {"spec": []}, {"metadata": 3, "spec": {"contextOptions": [None]}}]
)
def test_whatever_an_object_holds_it_can_be_read(document: Any) -> None:
    assert read(document).spec is None
    assert read(document).problems


def test_an_edit_that_goes_wrong_leaves_what_was_accepted_before() -> None:
    good = made(namespaces={"include": ["shop"]})
    bad = made(contextOptions=[], namespaces={"include": ["bank"]})
    bad["status"] = {"state": "Accepted", "reason": "", "lastKnownSpec": good["spec"]}
    merged = merge([read(bad)])
    assert merged.observes("shop")
    assert not merged.observes("bank")
    ((found, reason),) = state(bad).values()
    assert found == "Errored"
    assert reason.endswith("what was accepted before stays in force")
    assert desired_status([read(bad)])["one"].last_known_spec == good["spec"]


def test_several_objects_are_merged_the_same_in_any_order() -> None:
    documents = [
        made("a", contextOptions=[option(sourceLabels=["ip"], ttl="30s")],
             namespaces={"exclude": ["kube-system", "shop"]}),
        made("b", contextOptions=[option(destinationLabels=["podname"], ttl="5m")],
             namespaces={"exclude": ["monitoring"]}),
        made("c", contextOptions=[{"metricName": "drop_bytes"}], namespaces={"include": ["shop"]}),
    ]  # fmt: skip
    merged = {
        json.dumps(repr(_plain(merge([read(one) for one in order]))))
        for order in itertools.permutations(documents)
    }
    assert len(merged) == 1
    result = merge([read(one) for one in documents])
    assert {name: result.observes(name) for name in ("kube-system", "monitoring", "shop", "x")} == {
        "kube-system": False, "monitoring": False, "shop": True, "x": True
    }  # fmt: skip
    both = overlay(result, View.REMOTE)
    assert both.attributes["retina.flow.packets"][-2:] == (
        "source.address", "destination.k8s.pod.name"
    )  # fmt: skip
    assert both.expiry == {"retina.flow.packets": 300.0}
    assert both.exclude == {"retina.flow.io", "retina.drop.packets", "retina.tcp.flag.packets"}


def _plain(merged: Merged) -> list[Any]:
    choices = [
        (name, sorted(c.source), sorted(c.destination), sorted(c.additional), c.ttl_s)
        for name, c in sorted(merged.metrics.items())
    ]
    return [choices, sorted(merged.included), sorted(merged.excluded or ())]


def test_includes_alone_leave_only_what_any_of_them_includes() -> None:
    merged = merge(
        [
            read(made("a", namespaces={"include": ["x"]})),
            read(made("b", namespaces={"include": []})),
        ]
    )
    assert [merged.observes(name) for name in ("x", "y")] == [True, False]


def test_an_exclude_that_another_objects_include_overrides_is_told() -> None:
    excluding = made("a", namespaces={"exclude": ["kube-system", "shop"]})
    including = made("b", namespaces={"include": ["shop"]})
    assert state(excluding, including) == {
        "a": ("Warning", 'spec.namespaces.exclude[1]: "shop" is observed: b includes it'),
        "b": ("Accepted", ""),
    }


def test_only_objects_whose_status_is_not_right_are_outdated() -> None:
    fresh, settled = read(made("fresh")), made("settled")
    settled["status"] = {"state": "Accepted", "reason": "", "lastKnownSpec": settled["spec"]}
    assert [(one.name, status.state) for one, status in outdated([fresh, read(settled)])] == [
        ("fresh", "Accepted")
    ]


def test_a_patch_replaces_the_whole_status_of_that_very_version() -> None:
    one = read(made())
    (status,) = desired_status([one]).values()
    assert status_patch(one, status) == [
        {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"},
        {
            "op": "add",
            "path": "/status",
            "value": {"state": "Accepted", "reason": "", "lastKnownSpec": made()["spec"]},
        },
    ]
