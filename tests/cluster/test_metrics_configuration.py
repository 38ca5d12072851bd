"""MetricsConfigurations on a real API server: what it refuses, what it takes, what the status says,
and that agents follow what is there, by our definition and by Retina's own."""

from __future__ import annotations

import json
import logging
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from retina_otel.agent.clock import SystemClock
from retina_otel.component import Context, Overlay
from retina_otel.extensions.kubernetes import COMPONENT
from retina_otel.kernel.net.rtnetlink import InterfaceMonitor
from retina_otel.kubernetes.api.access import Access, AccessError
from retina_otel.kubernetes.metrics_configuration.following import Configurations, read_all
from retina_otel.kubernetes.metrics_configuration.objects import PATH
from retina_otel.kubernetes.metrics_configuration.status import outdated, write_status
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind, EndpointTable
from retina_otel.pipeline.identity.selection import Selection
from retina_otel.pipeline.ledger import Ledger
from retina_otel.testing.cluster import ControlPlane
from retina_otel.testing.cluster.binaries import binary
from tests.cluster.mirror import QUICK
from tests.cluster.objects import READ_PODS

Json = dict[str, Any]

OURS = Path("charts/retina-otel/crds/metricsconfigurations.yaml")
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
NAME = "metricsconfigurations.retina.sh"
STRINGS = {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}


def retinas(*, status: bool = True) -> Json:
    """What Retina installs under this name: the same fields, nothing but their types checked."""
    spec = {
        "type": "object",
        "required": ["contextOptions", "namespaces"],
        "properties": {
            "contextOptions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["metricName"],
                    "properties": {
                        "metricName": {"type": "string"},
                        "ttl": {"type": "string"},
                        "sourceLabels": STRINGS,
                        "destinationLabels": STRINGS,
                        "additionalLabels": STRINGS,
                    },
                },
            },
            "namespaces": {
                "type": "object",
                "properties": {"include": STRINGS, "exclude": STRINGS},
            },
        },
    }
    states = ["Initialized", "Accepted", "Errored", "Warning"]
    schema = {
        "type": "object",
        "properties": {
            "spec": spec,
            "status": {
                "type": "object",
                "required": ["reason", "state"],
                "properties": {
                    "lastKnownSpec": spec,
                    "reason": {"type": "string"},
                    "state": {"type": "string", "default": "Initialized", "enum": states},
                },
            },
        },
    }
    version: Json = {
        "name": "v1alpha1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
    }
    if status:
        version["subresources"] = {"status": {}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME},
        "spec": {
            "group": "retina.sh",
            "scope": "Cluster",
            "names": {"kind": "MetricsConfiguration", "plural": "metricsconfigurations"},
            "versions": [version],
        },
    }


def ours() -> Json:
    document: Json = yaml.safe_load(OURS.read_text())
    return document


class Api:
    """The API as an administrator uses it."""

    def __init__(self, access: Access) -> None:
        self.access = access

    def request(
        self, method: str, path: str, body: object = None, content_type: str = "application/json"
    ) -> Any:
        with self.access.session() as session:
            return json.loads(session.request(method, path, body=body, content_type=content_type))

    def create(self, name: str = "one", **spec: Any) -> Json:
        made: Json = self.request("POST", PATH, configuration(name, **spec))
        return made

    def edit(self, name: str = "one", **spec: Any) -> None:
        body = [{"op": "add", "path": f"/spec/{key}", "value": spec[key]} for key in spec]
        self.request("PATCH", f"{PATH}/{name}", body, content_type="application/json-patch+json")

    def delete(self, name: str = "one") -> None:
        self.request("DELETE", f"{PATH}/{name}")

    def status(self, name: str = "one") -> Json:
        found: Json = self.request("GET", f"{PATH}/{name}").get("status", {})
        return found

    def write_statuses(self) -> list[str]:
        with self.access.session() as session:
            todo = outdated(read_all(self.access))
            for one, status in todo:
                write_status(session, one, status)
        return sorted(one.name for one, _ in todo)


def configuration(name: str = "one", **spec: Any) -> Json:
    options = [{"metricName": "forward_count", "sourceLabels": ["podname"]}]
    return {
        "apiVersion": "retina.sh/v1alpha1",
        "kind": "MetricsConfiguration",
        "metadata": {"name": name},
        "spec": {"contextOptions": options, "namespaces": {"include": ["shop"]}, **spec},
    }


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.02)


@contextmanager
def defined(api: Api, definition: Json) -> Iterator[None]:
    """The kind is there for the `with` block, and no longer."""
    api.request("POST", DEFINITIONS, definition)
    until(lambda: served(api), "the kind")
    try:
        yield
    finally:
        api.request("DELETE", f"{DEFINITIONS}/{NAME}")
        until(lambda: not served(api), "the end of the kind")


def served(api: Api) -> bool:
    try:
        api.request("GET", PATH)
    except AccessError:
        return False
    return True


def without_status() -> Json:
    return retinas(status=False)


@pytest.fixture(scope="module")
def api(control_plane: ControlPlane) -> Api:
    return Api(Access.from_settings(control_plane.kubeconfig))


@pytest.fixture(scope="module")
def kind(request: pytest.FixtureRequest, api: Api) -> Iterator[None]:
    """By a definition, or none: it takes the API server a second or more."""
    if request.param is None:
        yield
        return
    with defined(api, request.param()):
        yield


@pytest.fixture(autouse=True)
def clean(kind: None, api: Api) -> Iterator[None]:
    yield
    for one in read_all(api.access):
        api.delete(one.name)


def by(*definitions: Callable[[], Json] | None) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", definitions, indirect=True)


def option(**fields: Any) -> list[Json]:
    return [{"metricName": "forward_count", **fields}]


@by(ours)
@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (
            {"namespaces": {"include": ["a"], "exclude": ["b"]}},
            'spec.namespaces: Invalid value: "object": both include and exclude are set',
        ),
        (
            {"namespaces": {}},
            'spec.namespaces: Invalid value: "object": neither include nor exclude is set',
        ),
        ({"namespaces": None}, "spec.namespaces"),
        ({"contextOptions": []}, "spec.contextOptions: Invalid value: 0"),
        ({"contextOptions": [{}]}, "spec.contextOptions[0].metricName: Required value"),
        ({"contextOptions": [{"metricName": ""}]}, "spec.contextOptions[0].metricName"),
        ({"contextOptions": option(ttl="soon")}, "spec.contextOptions[0].ttl"),
        ({"contextOptions": option(ttl="-5m")}, "spec.contextOptions[0].ttl"),
        ({"contextOptions": option(ttl="5")}, "spec.contextOptions[0].ttl"),
        ({"contextOptions": option(sourceLabels="ip")}, "spec.contextOptions[0].sourceLabels"),
        (
            {"contextOptions": option(sourceLabels=["ip", "ip"])},
            'spec.contextOptions[0].sourceLabels[1]: Duplicate value: "ip"',
        ),
    ],
)
def test_faults_of_structure_are_refused_by_path(api: Api, spec: Json, told: str) -> None:
    with pytest.raises(AccessError) as refused:
        api.create(**spec)
    assert refused.value.status == 422
    assert told in str(refused.value)


@by(ours)
def test_an_object_without_a_specification_and_an_unknown_state_are_refused(api: Api) -> None:
    bare = configuration()
    del bare["spec"]
    with pytest.raises(AccessError, match="spec: Required value"):
        api.request("POST", PATH, bare)
    api.create()
    with pytest.raises(AccessError, match=r"status\.state: Unsupported value"):
        api.request(
            "PATCH",
            f"{PATH}/one/status",
            {"status": {"state": "Odd", "reason": ""}},
            content_type="application/merge-patch+json",
        )


TAKEN: list[Json] = [
    {},
    {"namespaces": {"include": []}},
    {"namespaces": {"exclude": ["kube-system"]}},
    {"contextOptions": option(ttl="")},
    {"contextOptions": option(ttl="0")},
    {"contextOptions": option(ttl="+1h30m0.5s")},
    {"contextOptions": option(sourceLabels=["pod"], additionalLabels=["direction", "is_reply"])},
    {"contextOptions": [{"metricName": "tcp_state"}, {"metricName": "dns_request_count"}]},
    {"contextOptions": option() + option(destinationLabels=["ip"])},
    {"namespaces": {"include": ["Shop"]}},
]


@pytest.mark.parametrize("spec", TAKEN)
@by(ours, retinas)
def test_what_is_valid_in_retina_is_taken(api: Api, spec: Json) -> None:
    api.create(**spec)
    api.write_statuses()
    assert api.status()["state"] in ("Accepted", "Warning")
    assert api.status()["lastKnownSpec"] == configuration(**spec)["spec"]


LABELS: Json = {"sourceLabels": ["ip", "podname", "port"], "additionalLabels": ["direction"]}
OF_ITS_PAGE: Json = {
    "contextOptions": [{"metricName": name, **LABELS} for name in ("drop_count", "forward_count")],
    "namespaces": {"include": ["default", "kube-system"]},
}
OF_ITS_SAMPLES: Json = {
    "contextOptions": [
        {
            "metricName": "requests_total",
            "sourceLabels": ["source"],
            "additionalLabels": ["direction"],
        }
    ],
    "namespaces": {"include": ["default"], "exclude": ["kube-system"]},
}


@by(ours, retinas)
def test_retinas_own_examples_do_here_what_the_table_says(
    request: pytest.FixtureRequest, api: Api
) -> None:
    api.create("page", **OF_ITS_PAGE)
    if "ours" in request.node.name:
        with pytest.raises(AccessError, match="both include and exclude are set"):
            api.create("sample", **OF_ITS_SAMPLES)
    else:
        api.create("sample", **OF_ITS_SAMPLES)
    api.write_statuses()
    assert api.status("page")["state"] == "Warning"
    assert api.status("page")["reason"] == (
        "spec.contextOptions[0].additionalLabels[0]: drop_count has no direction; "
        "the label is left out"
    )
    sample = next((one for one in read_all(api.access) if one.name == "sample"), None)
    if sample is not None:
        assert sample.status.state == "Errored"
        assert "spec.contextOptions[0].metricName: unknown metric" in sample.status.reason
        assert "spec.namespaces: both include and exclude are set" in sample.status.reason
        assert sample.in_force is None


@by(ours, retinas, without_status)
def test_the_status_says_what_is_wrong_by_path(api: Api) -> None:
    good = api.create()["spec"]
    api.create("mistyped", contextOptions=option(sourceLabels=["pod"]))
    api.create("mistaken", contextOptions=[{"metricName": "requests_total"}])
    assert api.write_statuses() == ["mistaken", "mistyped", "one"]
    assert api.write_statuses() == []
    assert api.status() == {"state": "Accepted", "reason": "", "lastKnownSpec": good}
    mistyped = api.status("mistyped")
    assert (mistyped["state"], mistyped["reason"]) == (
        "Warning",
        'spec.contextOptions[0].sourceLabels[0]: unknown label "pod", did you mean "podname"?',
    )
    mistaken = api.status("mistaken")
    assert mistaken["state"] == "Errored"
    assert mistaken["reason"].startswith(
        'spec.contextOptions[0].metricName: unknown metric "requests_total"'
    )
    assert "lastKnownSpec" not in mistaken


@by(ours)
def test_an_edit_that_goes_wrong_keeps_what_was_accepted_and_a_right_one_replaces_it(
    api: Api,
) -> None:
    good = api.create()["spec"]
    api.write_statuses()
    api.edit(contextOptions=[{"metricName": "forward_cnt"}])
    api.write_statuses()
    status = api.status()
    assert status == {
        "state": "Errored",
        "reason": 'spec.contextOptions[0].metricName: unknown metric "forward_cnt", '
        'did you mean "forward_count"?; what was accepted before stays in force',
        "lastKnownSpec": good,
    }
    (one,) = read_all(api.access)
    assert one.in_force is not None
    assert one.in_force.include == ("shop",)
    api.edit(contextOptions=option(), namespaces={"exclude": ["bank"]})
    api.write_statuses()
    assert api.status() == {
        "state": "Accepted",
        "reason": "",
        "lastKnownSpec": {"contextOptions": option(), "namespaces": {"exclude": ["bank"]}},
    }


@by(ours)
def test_a_status_is_not_written_over_an_object_that_has_changed_since(api: Api) -> None:
    api.create()
    ((one, status),) = outdated(read_all(api.access))
    api.edit(contextOptions=[{"metricName": "drop_count"}])
    with api.access.session() as session, pytest.raises(AccessError) as refused:
        write_status(session, one, status)
    assert refused.value.status == 409
    assert "lastKnownSpec" not in api.status()


@contextmanager
def installed(control_plane: ControlPlane) -> Iterator[None]:
    """The chart, by Helm. No kubelet is there to run any of it."""

    def helm(*arguments: str) -> None:
        config = ["--kubeconfig", str(control_plane.kubeconfig)]
        subprocess.run([binary("helm"), *arguments, *config], check=True, capture_output=True)

    helm("install", "example", str(OURS.parents[1]))
    try:
        yield
    finally:
        helm("uninstall", "example", "--wait=false")


@by(None)
def test_helm_installs_our_definition_where_there_is_none(
    control_plane: ControlPlane, api: Api
) -> None:
    with installed(control_plane):
        until(lambda: served(api), "the kind")
        with pytest.raises(AccessError, match="both include and exclude are set"):
            api.create(**OF_ITS_SAMPLES)
    # It stays when the chart goes, and with it the objects: Helm deletes none.
    assert served(api)
    api.request("DELETE", f"{DEFINITIONS}/{NAME}")
    until(lambda: not served(api), "the end of the kind")


@by(retinas)
def test_helm_leaves_retinas_definition_as_it_is(control_plane: ControlPlane, api: Api) -> None:
    before = api.request("GET", f"{DEFINITIONS}/{NAME}")
    with installed(control_plane):
        after = api.request("GET", f"{DEFINITIONS}/{NAME}")
    assert after["spec"] == before["spec"]
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    api.create(**OF_ITS_SAMPLES)


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
