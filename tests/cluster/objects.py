"""Kubernetes objects as JSON, to be made by the API, and kubeconfigs of any user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from retina_otel.testing.cluster import ControlPlane

Json = dict[str, Any]

READ_PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}


def pod(name: str, **spec: object) -> Json:
    return {
        "metadata": {
            "name": name,
            "labels": {"app": name, "other": "x"},
            "annotations": {"retina.sh": "observe", "other": "x"},
        },
        "spec": {"containers": [{"name": "a", "image": "a"}], **spec},
    }


def status(*addresses: str, phase: str = "Running", state: Json | None = None) -> Json:
    """As a kubelet writes it, of a pod with one container."""
    return {
        "phase": phase,
        "podIP": addresses[0],
        "podIPs": [{"ip": each} for each in addresses],
        "hostIP": "172.16.0.1",
        "hostIPs": [{"ip": "172.16.0.1"}, {"ip": "fd00::1"}],
        "startTime": "2026-11-21T08:00:00Z",
        "containerStatuses": [
            container("a", state or {"running": {"startedAt": "2026-11-21T08:00:05Z"}})
        ],
    }


def container(name: str, state: Json) -> Json:
    return {
        "name": name,
        "image": "a",
        "imageID": "a",
        "containerID": f"containerd://{name * 8}",
        "ready": "running" in state,
        "restartCount": 0,
        "state": state,
    }


def _terminated(started: str, finished: str) -> Json:
    day = "2026-11-21"
    return {
        "terminated": {
            "exitCode": 0,
            "startedAt": f"{day}T{started}Z",
            "finishedAt": f"{day}T{finished}Z",
        }
    }


_OWNER = {
    "apiVersion": "apps/v1",
    "kind": "ReplicaSet",
    "name": "web-1",
    "uid": "11111111-2222-3333-4444-555555555555",
}
_OWNERS = [
    {**_OWNER, "kind": "Other", "name": "not-the-controller"},
    {**_OWNER, "controller": True},
]
_TEMPLATE = {
    "metadata": {"labels": {"app": "web"}},
    "spec": {"containers": [{"name": "a", "image": "a"}]},
}
_JOB_TEMPLATE = {"spec": {"restartPolicy": "Never", **_TEMPLATE["spec"]}}
_NAMESPACED = "/api/v1/namespaces/default"


def _owned(name: str, **more: object) -> Json:
    return {"name": name, "labels": {"app": name}, "ownerReferences": _OWNERS, **more}


_FINISHED = status("10.0.0.3", phase="Succeeded", state=_terminated("08:00:05", "08:01:00"))
_FINISHED["initContainerStatuses"] = [container("i", _terminated("08:00:02", "08:00:04"))]
_CRASHED = status("10.0.0.4")
_CRASHED["containerStatuses"][0]["state"] = _terminated("08:00:05", "08:00:06")

EVERYTHING: list[tuple[str, Json, Json | None]] = [
    (f"{_NAMESPACED}/pods", pod("pending"), None),
    (f"{_NAMESPACED}/pods", pod("running", nodeName="node-a"), status("10.0.0.2", "fd00:1::2")),
    (
        f"{_NAMESPACED}/pods",
        {**pod("finished", nodeName="node-a"), "metadata": _owned("finished")},
        _FINISHED,
    ),
    (f"{_NAMESPACED}/pods", pod("crashed", nodeName="node-a"), _CRASHED),
    (
        f"{_NAMESPACED}/pods",
        {
            **pod("on-host", nodeName="node-a", hostNetwork=True),
            "metadata": {"name": "on-host", "finalizers": ["example.com/stays"]},
        },
        status("172.16.0.1"),
    ),
    (
        f"{_NAMESPACED}/services",
        {
            "metadata": {"name": "balanced"},
            "spec": {
                "type": "LoadBalancer",
                "ipFamilyPolicy": "RequireDualStack",
                "externalIPs": ["192.0.2.9"],
                "ports": [
                    {"name": "http", "port": 80},
                    {"name": "dns", "port": 53, "protocol": "UDP"},
                ],
            },
        },
        {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "lb.example.com"}]}},
    ),
    (
        f"{_NAMESPACED}/services",
        {"metadata": {"name": "headless"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}},
        None,
    ),
    (
        f"{_NAMESPACED}/services",
        {
            "metadata": {"name": "alias"},
            "spec": {"type": "ExternalName", "externalName": "example.com"},
        },
        None,
    ),
    (
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
        {
            "metadata": {
                "name": "balanced-1",
                "labels": {"kubernetes.io/service-name": "balanced"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.2"]}, {"addresses": ["10.0.0.3"]}],
            "ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 53}],
        },
        None,
    ),
    (
        "/api/v1/nodes",
        {
            "metadata": {"name": "node-a", "labels": {"topology.kubernetes.io/zone": "z1"}},
            "spec": {
                "podCIDRs": ["10.0.0.0/24", "fd00:1::/64"],
                "podCIDR": "10.0.0.0/24",
                "providerID": "azure:///subscriptions/a",
            },
        },
        {
            "addresses": [
                {"type": "InternalIP", "address": "172.16.0.1"},
                {"type": "Hostname", "address": "node-a"},
                {"type": "ExternalIP", "address": "192.0.2.5"},
            ]
        },
    ),
    ("/api/v1/namespaces", {"metadata": {"name": "shop", "labels": {"team": "shop"}}}, None),
    (
        "/apis/apps/v1/namespaces/default/replicasets",
        {
            "metadata": _owned("web-1"),
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": _TEMPLATE},
        },
        None,
    ),
    (
        "/apis/batch/v1/namespaces/default/jobs",
        {"metadata": {"name": "backup-1"}, "spec": {"template": _JOB_TEMPLATE}},
        None,
    ),
]
"""Path of the collection, object, status: each field that is decoded, there and absent."""


def with_user(control_plane: ControlPlane, path: Path, user: Json) -> Path:
    """The administrator's kubeconfig with another way to say who we are."""
    config = yaml.safe_load(control_plane.kubeconfig.read_text())
    config["users"][0]["user"] = user
    path.write_text(yaml.safe_dump(config))
    return path
