"""MetricsConfigurations on a real API server: what it refuses, what it takes, what the status says,
by our definition and by Retina's own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest

from retina_otel.kubernetes.api.access import Access, AccessError
from retina_otel.kubernetes.metrics_configuration.following import read_all
from retina_otel.kubernetes.metrics_configuration.objects import PATH
from retina_otel.kubernetes.metrics_configuration.status import outdated, write_status
from retina_otel.testing.cluster import ControlPlane
from retina_otel.testing.cluster.binaries import binary
from tests.cluster.metrics_configurations import (
    DEFINITIONS,
    NAME,
    OURS,
    Api,
    Json,
    by,
    configuration,
    defined,
    option,
    ours,
    retinas,
    served,
    until,
)


def without_status() -> Json:
    return retinas(status=False)


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
