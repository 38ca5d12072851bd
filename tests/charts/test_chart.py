"""The Helm chart, by the real helm: examples are what it renders, wrong values are refused, rights
and capabilities are those of the mode and of the receivers in use."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from retina_otel.testing.cluster.binaries import binary

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "retina-otel"


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([binary("helm"), *arguments], capture_output=True, text=True)


def render(*settings: str) -> list[dict[str, Any]]:
    """The objects that the chart makes with `--set` of each of `settings`."""
    arguments = [argument for setting in settings for argument in ("--set", setting)]
    done = helm("template", "r", str(CHART), "--kube-version", "1.34.4", "-n", "obs", *arguments)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def one(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = (o for o in objects if (o["kind"], o["metadata"]["name"]) == (kind, name))
    return found


def rights(objects: list[dict[str, Any]]) -> set[str]:
    """What the agents may read, as `list pods`."""
    role = one(objects, "ClusterRole", "obs-r-agent")
    return {
        f"{verb} {resource}"
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if not rule.get("resourceNames")
    }


def test_the_chart_passes_its_linter() -> None:
    done = helm("lint", "--strict", str(CHART), "--kube-version", "1.34.4")
    assert done.returncode == 0, done.stdout


def test_the_examples_are_what_the_chart_renders(tmp_path: Path) -> None:
    subprocess.run([ROOT / "tools" / "render-charts", tmp_path], check=True)
    rendered = {path.name: path.read_text() for path in tmp_path.iterdir()}
    checked_in = {
        path.name: path.read_text()
        for path in (CHART / "examples").glob("*.yaml")
        if not path.name.endswith(".values.yaml")
    }
    assert rendered == checked_in, "run tools/render-charts"


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("contxt=local", "additional properties 'contxt' not allowed"),
        ("context=everything", "at '/context': value must be one of"),
        ("exporters.prometheus.port=0", "at '/exporters/prometheus/port': minimum"),
        ("exporters.prometheus.tls.secret=x", "additional properties 'secret' not allowed"),
        ("receivers.flows.events=always", "at '/receivers/flows/events': value must be one of"),
        ("identityService.replicas=two", "at '/identityService/replicas': got string"),
        ("podsFrom=retinaEndpoints", "at '/context': value must be 'remote'"),
    ],
)
def test_wrong_values_are_refused_by_their_path(setting: str, complaint: str) -> None:
    done = helm("template", "r", str(CHART), "--kube-version", "1.34.4", "--set", setting)
    assert done.returncode == 1
    assert complaint in done.stderr


def test_every_value_is_in_the_schema_and_no_object_of_it_is_open_by_mistake() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(value: Any, described: dict[str, Any], path: str) -> list[str]:
        if not isinstance(value, dict) or "properties" not in described:
            return []
        wrong = [] if described.get("additionalProperties") is False else [f"{path} is open"]
        if set(value) != set(described["properties"]) - {"global"}:
            wrong.append(f"{path} has other keys")
        for key in set(value) & set(described["properties"]):
            wrong += compare(value[key], described["properties"][key], f"{path}.{key}")
        return wrong

    assert compare(values, schema, "values") == []


@pytest.mark.parametrize(
    ("receivers", "capabilities"),
    [
        ({"flows", "drops", "interfaces"}, ["BPF", "NET_ADMIN", "PERFMON", "SYSLOG"]),
        ({"flows"}, ["BPF", "NET_ADMIN", "PERFMON"]),
        ({"drops"}, ["BPF", "PERFMON", "SYSLOG"]),
        ({"interfaces"}, []),
    ],
)
def test_only_the_receivers_in_use_bring_capabilities(
    receivers: set[str], capabilities: list[str]
) -> None:
    off = [
        f"receivers.{name}.enabled=false" for name in {"flows", "drops", "interfaces"} - receivers
    ]
    agent = one(render(*off), "DaemonSet", "r-agent")["spec"]["template"]["spec"]["containers"][0]
    security = agent["securityContext"]
    assert (security["capabilities"], security["privileged"]) == (
        {"drop": ["ALL"], "add": capabilities},
        False,
    )


def test_rights_grow_with_the_context() -> None:
    read = ("get", "list", "watch")
    node = {f"{verb} nodes" for verb in read}
    local = node | {
        f"{verb} {resource}"
        for verb in read
        for resource in ("pods", "namespaces", "metricsconfigurations")
    }
    all_owners = {f"{verb} {what}" for verb in read for what in ("replicasets", "jobs")}
    services = {f"{verb} {what}" for verb in read for what in ("services", "endpointslices")}
    remote = local | all_owners | services
    local |= {"get replicasets", "get jobs"}
    found = [rights(render(f"context={context}")) for context in ("node", "local", "remote")]
    assert found == [node, local, remote]
    with_service = ("context=remote", "identityService.enabled=true")
    assert rights(render(*with_service)) == remote


def test_retina_endpoints_bring_one_more_right() -> None:
    remote = render("context=remote")
    mirrored = render("context=remote", "podsFrom=retinaEndpoints")
    assert rights(mirrored) - rights(remote) == {
        "get retinaendpoints",
        "list retinaendpoints",
        "watch retinaendpoints",
    }
    assert rights(remote) <= rights(mirrored)
    text = one(mirrored, "ConfigMap", "r-agent")["data"]["agent.yaml"]
    assert yaml.safe_load(text)["extensions"]["kubernetes"]["pods_from"] == "retina_endpoints"


@pytest.mark.parametrize("context", ["node", "local", "remote"])
def test_agents_that_never_ask_the_api_server_have_no_rights_and_no_token(context: str) -> None:
    chosen = (f"context={context}", "identityService.enabled=true")
    objects = render(*chosen, "identityService.fallback=false")
    accounts = {
        (subject["name"], binding["kind"])
        for binding in objects
        if binding["kind"] in ("RoleBinding", "ClusterRoleBinding")
        for subject in binding["subjects"]
    }
    assert {name for name, _ in accounts} == {"r-identity"}
    agent = one(objects, "DaemonSet", "r-agent")["spec"]["template"]["spec"]
    assert agent["automountServiceAccountToken"] is False
    config = yaml.safe_load(one(objects, "ConfigMap", "r-agent")["data"]["agent.yaml"])
    assert config["extensions"]["kubernetes"]["service"]["fall_back"] is False


def test_nobody_may_write_but_the_identity_service_its_statuses_leases_and_reviews() -> None:
    objects = render("context=remote", "identityService.enabled=true")
    written = {
        f"{verb} {resource}"
        for role in objects
        if role["kind"] in ("Role", "ClusterRole")
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if verb not in ("get", "list", "watch")
    }
    assert written == {
        "patch metricsconfigurations",
        "patch metricsconfigurations/status",
        "create tokenreviews",
        "create leases",
        "update leases",
        "patch leases",
    }


def test_the_agents_configuration_is_valid_in_every_example(tmp_path: Path) -> None:
    for example in (CHART / "examples").glob("*.values.yaml"):
        rendered = yaml.safe_load_all(example.with_name(example.name[:-12] + ".yaml").read_text())
        config = one(list(rendered), "ConfigMap", "retina-otel-agent")["data"]["agent.yaml"]
        path = tmp_path / "agent.yaml"
        path.write_text(config)
        done = subprocess.run(
            [ROOT / ".venv/bin/retina-otel", "validate", "--config", path],
            env={"K8S_NODE_IP": "10.0.0.1", "PATH": "/usr/bin"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{example.name}: {done.stderr}"


def test_dashboard_and_alerts_go_out_as_they_are_generated() -> None:
    files = CHART / "files"
    objects = render("dashboard.enabled=true", "prometheusRule.enabled=true")

    board = one(objects, "ConfigMap", "r-dashboard")
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(board["data"]["retina-otel.json"]) == json.loads(
        (files / "dashboard.json").read_text()
    )
    rules = one(objects, "PrometheusRule", "r")
    assert rules["spec"] == yaml.safe_load((files / "alerts.yaml").read_text())


def test_a_scrape_gets_the_labels_by_which_the_dashboard_groups() -> None:
    monitor = one(render("podMonitor.enabled=true", "clusterName=blue"), "PodMonitor", "r-agent")

    assert monitor["spec"]["podMetricsEndpoints"][0]["relabelings"] == [
        {"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "k8s_node_name"},
        {"targetLabel": "k8s_cluster_name", "replacement": "blue"},
    ]
