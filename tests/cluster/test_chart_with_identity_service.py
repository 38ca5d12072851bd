"""The chart with all that it can secure: agents told by the identity service alone, pages behind
TLS and a token."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from retina_otel.testing.cluster import Cluster
from retina_otel.testing.cluster.binaries import binary
from tests.cluster.shop import CHART, HEALTH_PORT, METRICS_PORT, NAMESPACE, ROOT

pytestmark = pytest.mark.timeout(900)  # the first time an image is built from nothing
TOKEN = "a-token-of-the-test"
VALUES = {
    "context": "remote",
    "image": {"repository": "localhost/retina-otel", "pullPolicy": "Never"},
    "identityService": {"enabled": True, "fallback": False},
    "exporters": {
        "prometheus": {"tls": {"secretName": "serving"}, "auth": {"secretName": "scraping"}}
    },
}


def secret(name: str, **data: bytes) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "data": {
            key.replace("_", "."): base64.b64encode(value).decode() for key, value in data.items()
        },
    }


def tls(name: str, authority: trustme.CA, *names: str) -> dict[str, Any]:
    issued = authority.issue_cert(*names)
    chain = b"".join(one.bytes() for one in issued.cert_chain_pems)
    key, ca = issued.private_key_pem.bytes(), authority.cert_pem.bytes()
    return secret(name, tls_crt=chain, tls_key=key, ca_crt=ca)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def installed(authority: trustme.CA) -> Iterator[Cluster]:
    built = subprocess.run(
        [ROOT / "tools" / "build-image"], check=True, capture_output=True, text=True
    )
    with Cluster() as cluster:
        cluster.import_image(Path(built.stdout.split()[-1]))
        objects = [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
            tls("retina-otel-identity", authority, f"retina-identity.{NAMESPACE}.svc"),
            tls("serving", authority, cluster.node.addresses.own[0]),
            secret("scraping", token=TOKEN.encode()),
        ]
        cluster.apply(yaml.safe_dump_all(objects))
        values = Path(cluster.ground.folder) / "values.yaml"
        values.write_text(yaml.safe_dump(VALUES))
        install = [binary("helm"), "install", "retina", str(CHART), "--values", str(values)]
        place = ["--namespace", NAMESPACE, "--kubeconfig", str(cluster.kubeconfig)]
        subprocess.run([*install, *place], check=True, capture_output=True)
        cluster.wait_for_rollout("deployment/retina-identity", NAMESPACE)
        cluster.wait_for_rollout("daemonset/retina-agent", NAMESPACE)
        yield cluster


def kubernetes_state(cluster: Cluster) -> str:
    def ask() -> Any:
        made = http.client.HTTPConnection("127.0.0.1", HEALTH_PORT, timeout=5)
        with closing(made) as connection:
            connection.request("GET", "/")
            return json.loads(connection.getresponse().read())

    state: str = cluster.node.namespace.call(ask)["components"]["extensions"]["kubernetes"]["state"]
    return state


def test_an_agent_without_rights_knows_all_by_the_service(installed: Cluster) -> None:
    roles = installed.kubectl("get", "clusterroles", "-o", "name").stdout
    assert f"{NAMESPACE}-retina-agent" not in roles
    installed.wait_for(lambda: kubernetes_state(installed) == "running", what="all that is known")
    (agent,) = installed.wait_for_pods(NAMESPACE, "app.kubernetes.io/component=agent", 1)
    asked = ["retina-otel", "pods", "--json"]
    told = installed.exec(f"{NAMESPACE}/{agent.metadata.name}", asked).stdout.splitlines()
    names = {json.loads(line)["attributes"]["k8s.pod.name"] for line in told}
    pods: Any = installed.core().list_pod_for_all_namespaces()
    assert names == {pod.metadata.name for pod in pods.items}


def test_one_replica_leads(installed: Cluster) -> None:
    replicas = installed.wait_for_pods(NAMESPACE, "app.kubernetes.io/component=identity-service", 2)
    lease = ["get", "lease", "retina-identity", "-n", NAMESPACE, "-o", "json"]
    holder = json.loads(installed.kubectl(*lease).stdout)["spec"]["holderIdentity"]
    assert holder in {pod.metadata.name for pod in replicas}


@pytest.mark.parametrize(("token", "status"), [("", 401), ("another", 401), (TOKEN, 200)])
def test_a_page_is_for_who_trusts_and_shows_the_token(
    installed: Cluster, authority: trustme.CA, token: str, status: int
) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    address = installed.node.addresses.own[0]

    def ask() -> int:
        made = http.client.HTTPSConnection(address, METRICS_PORT, timeout=5, context=context)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with closing(made) as connection:
            connection.request("GET", "/metrics", headers=headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status

    assert installed.node.namespace.call(ask) == status
