"""Agents follow the MetricsConfigurations that there are, by our definition and by Retina's own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from retina_otel.agent.clock import SystemClock
from retina_otel.component import Context, Overlay
from retina_otel.extensions.kubernetes import COMPONENT
from retina_otel.kernel.net.rtnetlink import InterfaceMonitor
from retina_otel.kubernetes.api.access import Access
from retina_otel.kubernetes.metrics_configuration.following import Configurations
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind, EndpointTable
from retina_otel.pipeline.identity.selection import Selection
from retina_otel.pipeline.ledger import Ledger
from retina_otel.testing.cluster import ControlPlane
from tests.cluster.metrics_configurations import Api, by, defined, option, ours, retinas, until
from tests.cluster.mirror import QUICK
from tests.cluster.objects import READ_PODS


@pytest.fixture(scope="module")
def api(control_plane: ControlPlane) -> Api:
    return Api(Access.from_settings(control_plane.kubeconfig))


@pytest.fixture(scope="module")
def kind(request: pytest.FixtureRequest, api: Api) -> Iterator[None]:
    """By a definition, or none: it takes the API server a second or more."""
    with nullcontext() if request.param is None else defined(api, request.param()):
        yield


@pytest.fixture(autouse=True)
def clean(kind: None, api: Api) -> Iterator[None]:
    yield
    api.delete_all()


class Followed:
    """What a follower was told."""

    def __init__(self, access: Access) -> None:
        self.names: list[list[str]] = []
        self.reasons: list[str] = []
        self._follower = Configurations(
            access,
            lambda change: self.names.append(sorted(one.meta.name for one in change.upserted)),
            lambda state: self.reasons.append(state.reason),
            timing=QUICK,
        )

    def __enter__(self) -> Followed:
        self._follower.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._follower.stop()

    def wait(self, names: list[str]) -> None:
        until(lambda: self.names[-1:] == [names], f"{names}, not {self.names[-3:]}")


@by(None)
def test_all_are_followed_also_as_the_kind_itself_comes_and_goes(api: Api) -> None:
    with Followed(api.access) as followed:
        followed.wait([])
        for definition in (ours(), retinas()):
            with defined(api, definition):
                api.create()
                followed.wait(["one"])
                api.create("two")
                followed.wait(["one", "two"])
                api.delete()
                followed.wait(["two"])
            followed.wait([])
        # A cluster that has no such kind lacks nothing.
        assert followed.reasons[-1] == ""


@by(ours)
def test_a_missing_right_is_named(control_plane: ControlPlane) -> None:
    kubeconfig = control_plane.kubeconfig_for("without", [READ_PODS])
    with Followed(Access.from_settings(kubeconfig)) as followed:
        until(lambda: bool(followed.reasons), "a reason")
        assert "Grant `watch metricsconfigurations`" in followed.reasons[0]


class Running:
    """The kubernetes extension, and what it wants of the agent."""

    def __init__(self, kubeconfig: Path, **settings: Any) -> None:
        self.selection = Selection()
        self.overlays: list[Overlay] = []
        self._monitor = InterfaceMonitor()
        chosen = COMPONENT.Settings.model_validate({"kubeconfig": kubeconfig, **settings})
        self.extension = COMPONENT.create(
            chosen,
            Context(
                id="kubernetes",
                clock=SystemClock(),
                logger=logging.getLogger("kubernetes"),
                ledger=Ledger("kubernetes", "things"),
                identity=EndpointTable(),
                interfaces=self._monitor,
                selection=self.selection,
                overlay=self.overlays.append,
                resource={"k8s.node.name": "node-a"},
            ),
        )

    def __enter__(self) -> Running:
        self.extension.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.extension.stop()
        self._monitor.close()

    def observes(self, namespace: str, uid: str = "u") -> bool:
        attributes = {"k8s.namespace.name": namespace}
        return self.selection.observes(Endpoint(EndpointKind.POD, uid, attributes))


@by(ours, retinas)
@pytest.mark.parametrize("context", ["remote", "local"])
def test_agents_do_what_objects_say_and_stop_when_these_are_deleted(
    control_plane: ControlPlane, api: Api, context: str
) -> None:
    with Running(control_plane.kubeconfig, context=context) as agent:
        api.create(contextOptions=option(sourceLabels=["podname"], ttl="30s"))
        until(lambda: bool(agent.overlays), "an overlay")
        (overlay,) = agent.overlays
        labels = set(overlay.attributes["retina.flow.packets"])
        assert "source.k8s.pod.name" in labels
        assert ("destination.k8s.pod.name" in labels) == (context == "local")
        assert overlay.expiry == {"retina.flow.packets": 30.0}
        assert "retina.flow.io" in overlay.exclude
        assert [agent.observes(name) for name in ("shop", "bank")] == [True, False]
        api.edit(namespaces={"exclude": ["shop"]})
        until(lambda: agent.observes("bank"), "the edit")
        assert not agent.observes("shop")
        api.delete()
        until(lambda: agent.observes("shop"), "the deletion")
        until(lambda: agent.overlays[-1] == Overlay(), "the end of the overlay")
    assert agent.selection.everything


@by(ours)
def test_annotations_and_objects_add_up_and_each_can_be_taken_back(
    control_plane: ControlPlane, api: Api
) -> None:
    namespace = "/api/v1/namespaces/annotated"
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": "annotated"}})
    with Running(control_plane.kubeconfig, observe_annotated=True) as agent:
        until(lambda: not agent.observes("shop"), "the selection")
        api.create(namespaces={"exclude": ["annotated", "kube-system"]})
        until(lambda: agent.observes("shop"), "the object")
        assert not agent.observes("annotated")
        annotate(api, namespace, "observe")
        until(lambda: agent.observes("annotated"), "the annotation, which wins over the exclude")
        assert not agent.observes("kube-system")
        annotate(api, namespace, None)
        until(lambda: not agent.observes("annotated"), "the end of the annotation")
        api.delete()
        until(lambda: not agent.observes("shop"), "the deletion")
    api.request("DELETE", namespace)


def annotate(api: Api, path: str, value: str | None) -> None:
    api.request(
        "PATCH",
        path,
        {"metadata": {"annotations": {"retina.sh": value}}},
        content_type="application/merge-patch+json",
    )
