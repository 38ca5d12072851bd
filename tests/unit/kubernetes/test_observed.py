"""Which pods are observed: annotations and MetricsConfigurations, alone and together."""

from __future__ import annotations

from typing import Any

import pytest

from retina_otel.kubernetes.metrics_configuration.merge import Merged, merge
from retina_otel.kubernetes.metrics_configuration.objects import read
from retina_otel.kubernetes.metrics_configuration.observed import asks_for_observation, observed
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind
from retina_otel.pipeline.identity.selection import View

NOTHING = Merged()


def pod(namespace: str, uid: str = "u1") -> Endpoint:
    return Endpoint(EndpointKind.POD, uid, {"k8s.namespace.name": namespace})


def merged(**namespaces: Any) -> Merged:
    spec = {"contextOptions": [{"metricName": "forward_count"}], "namespaces": namespaces}
    return merge([read({"metadata": {"name": "one"}, "spec": spec})])


def test_without_annotations_and_objects_everything_is_observed() -> None:
    assert observed(NOTHING, View.REMOTE, annotations=False) is None


@pytest.mark.parametrize("annotations", [False, True])
def test_in_node_context_everything_is_counted(annotations: bool) -> None:
    assert observed(merged(include=["x"]), View.NODE, annotations=annotations) is None


@pytest.mark.parametrize(
    ("value", "asks"), [("observe", True), ("Observe", False), ("true", False), ("", False)]
)
def test_the_annotation_is_exactly_retinas(value: str, asks: bool) -> None:
    assert asks_for_observation({"retina.sh": value}) is asks
    assert not asks_for_observation({"retina.sh/observe": value})


def test_with_annotations_alone_only_annotated_pods_and_namespaces_are() -> None:
    choose = observed(
        NOTHING,
        View.LOCAL,
        annotations=True,
        pods=frozenset({"u1"}),
        namespaces=frozenset({"shop"}),
    )
    assert choose is not None
    assert choose(pod("bank", "u1"))
    assert choose(pod("shop", "u2"))
    assert not choose(pod("bank", "u2"))


def test_annotations_that_nobody_asked_for_change_nothing() -> None:
    choose = observed(
        merged(include=["shop"]), View.LOCAL, annotations=False, pods=frozenset({"u1"})
    )
    assert choose is not None
    assert not choose(pod("bank", "u1"))
    assert choose(pod("shop", "u2"))


def test_annotations_and_objects_add_up() -> None:
    choose = observed(
        merged(include=["shop"]),
        View.REMOTE,
        annotations=True,
        pods=frozenset({"u1"}),
        namespaces=frozenset({"bank"}),
    )
    assert choose is not None
    assert [choose(pod(*one)) for one in (("x", "u1"), ("bank", "u2"), ("shop", "u3"))] == [
        True
    ] * 3
    assert not choose(pod("x", "u2"))


def test_an_annotation_wins_over_an_exclude() -> None:
    choose = observed(
        merged(exclude=["kube-system", "shop"]),
        View.REMOTE,
        annotations=True,
        pods=frozenset({"u1"}),
        namespaces=frozenset({"shop"}),
    )
    assert choose is not None
    assert choose(pod("kube-system", "u1"))
    assert not choose(pod("kube-system", "u2"))
    assert choose(pod("shop", "u3"))
    assert choose(pod("other", "u4"))


@pytest.mark.parametrize("kind", [EndpointKind.NODE, EndpointKind.SERVICE, EndpointKind.WORLD])
def test_what_is_no_pod_is_always_counted(kind: EndpointKind) -> None:
    choose = observed(merged(include=[]), View.REMOTE, annotations=False)
    assert choose is not None
    assert choose(Endpoint(kind, "k", {}))


def test_what_selects_the_same_is_equal() -> None:
    def choose() -> object:
        return observed(merged(include=["x", "y"]), View.LOCAL, annotations=True)

    assert choose() == choose()
