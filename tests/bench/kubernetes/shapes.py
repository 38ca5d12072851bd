"""Kubernetes objects of the size and shape that a busy cluster has, as JSON for the API.

Pods are as the API server stores them: about 11 KB of JSON, managed fields included, of which
identity needs a few hundred bytes.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

NODES = 1000
NAMESPACES = 200
PODS_PER_WORKLOAD = 20
STARTED = "2026-11-21T08:00:00Z"


def namespace_of(workload: int) -> str:
    return f"team-{workload % NAMESPACES:03d}"


def node_name(number: int) -> str:
    return f"node-{number:04d}"


def workload_name(workload: int) -> str:
    return f"service-{workload:04d}"


def replica_set_name(workload: int) -> str:
    return f"{workload_name(workload)}-{workload * 7919 % 2**36:09x}"


def pod_name(number: int, workload: int) -> str:
    return f"{replica_set_name(workload)}-{number:05x}"


def addresses(number: int) -> tuple[str, str]:
    """Of a pod: one for each family."""
    return (
        f"10.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}",
        f"fd00:10:64::{number >> 8:x}:{number & 255:x}",
    )


def node_address(number: int) -> str:
    return f"172.16.{number >> 8}.{number & 255}"


def labels(workload: int) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": workload_name(workload),
        "app.kubernetes.io/part-of": namespace_of(workload),
        "app.kubernetes.io/version": f"v1.24.{workload % 30}",
        "app.kubernetes.io/managed-by": "Helm",
        "pod-template-hash": f"{workload * 7919 % 2**36:09x}",
        "team": namespace_of(workload),
    }


def namespace(number: int) -> Json:
    return {"metadata": {"name": f"team-{number:03d}", "labels": {"tier": f"t{number % 4}"}}}


def node(number: int) -> tuple[Json, Json]:
    """A node and its status."""
    zone = f"region-1-{number % 3}"
    body = {
        "metadata": {
            "name": node_name(number),
            "labels": {
                "topology.kubernetes.io/zone": zone,
                "topology.kubernetes.io/region": "region-1",
                "kubernetes.io/hostname": node_name(number),
                "kubernetes.io/os": "linux",
                "node.kubernetes.io/instance-type": "Standard_D8s_v5",
            },
        },
        "spec": {"podCIDR": f"10.{64 + (number >> 8)}.{number & 255}.0/24"},
    }
    images = [
        {"names": [f"registry.example.com/team/image-{each}:v1.2.{each}"], "sizeBytes": 10**8}
        for each in range(40)
    ]
    status = {
        "addresses": [
            {"type": "InternalIP", "address": node_address(number)},
            {"type": "Hostname", "address": node_name(number)},
        ],
        "capacity": {"pods": "110", "cpu": "8", "memory": "32Gi"},
        "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": STARTED}],
        "images": images,
    }
    return body, status


def replica_set(workload: int) -> Json:
    name = {"app.kubernetes.io/name": workload_name(workload)}
    return {
        "metadata": {
            "name": replica_set_name(workload),
            "labels": labels(workload),
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "Deployment",
                    "name": workload_name(workload),
                    "uid": f"00000000-0000-4000-8000-{workload:012x}",
                    "controller": True,
                }
            ],
        },
        "spec": {
            "replicas": PODS_PER_WORKLOAD,
            "selector": {"matchLabels": name},
            "template": {
                "metadata": {"labels": name},
                "spec": {"containers": [{"name": "app", "image": "app"}]},
            },
        },
    }


def service(workload: int) -> Json:
    return {
        "metadata": {"name": workload_name(workload), "labels": labels(workload)},
        "spec": {
            "selector": {"app.kubernetes.io/name": workload_name(workload)},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
        },
    }


def endpoint_slice(workload: int, pods: list[int]) -> Json:
    return {
        "metadata": {
            "name": f"{workload_name(workload)}-abcde",
            "labels": {"kubernetes.io/service-name": workload_name(workload)},
        },
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": [addresses(number)[0]],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": node_name(number % NODES),
                "zone": f"region-1-{number % 3}",
                "targetRef": {
                    "kind": "Pod",
                    "name": pod_name(number, workload),
                    "namespace": namespace_of(workload),
                },
            }
            for number in pods
        ],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }


def _container(name: str, port: int) -> Json:
    return {
        "name": name,
        "image": f"registry.example.com/platform/team/{name}:v1.24.7",
        "imagePullPolicy": "IfNotPresent",
        "args": ["--config=/etc/app/config.yaml", "--log-level=info", f"--listen=:{port}"],
        "ports": [{"containerPort": port, "name": "http", "protocol": "TCP"}],
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "DB_HOST", "value": "postgres.database.svc.cluster.local"},
            {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector.otel:4317"},
            {"name": "FEATURES", "value": "a=1,b=2,c=3,d=4,e=5,f=6"},
            {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "app", "key": "password"}}},
        ],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 10},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 5},
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/app"},
            {
                "name": "kube-api-access",
                "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
                "readOnly": True,
            },
        ],
    }


def pod() -> tuple[Json, Json]:
    """The pod that all others are copies of, and its status."""
    body = {
        "metadata": {
            "name": "template",
            "labels": labels(0),
            "annotations": {
                "prometheus.io/scrape": "true",
                "prometheus.io/port": "9090",
                "checksum/config": "0" * 64,
            },
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "name": replica_set_name(0),
                    "uid": "00000000-0000-4000-8000-000000000000",
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": {
            "nodeName": node_name(0),
            "containers": [_container("app", 8080), _container("sidecar", 9090)],
            "volumes": [
                {"name": "config", "configMap": {"name": "app"}},
                {"name": "kube-api-access", "emptyDir": {}},
            ],
            "tolerations": [
                {
                    "key": f"node.kubernetes.io/{key}",
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": 300,
                }
                for key in ("not-ready", "unreachable")
            ],
        },
    }
    ipv4, ipv6 = addresses(0)
    status = {
        "phase": "Running",
        "podIP": ipv4,
        "podIPs": [{"ip": ipv4}, {"ip": ipv6}],
        "hostIP": node_address(0),
        "hostIPs": [{"ip": node_address(0)}],
        "startTime": STARTED,
        "qosClass": "Burstable",
        "conditions": [
            {"type": kind, "status": "True", "lastTransitionTime": STARTED}
            for kind in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady")
        ],
        "containerStatuses": [
            {
                "name": name,
                "image": f"registry.example.com/platform/team/{name}:v1.24.7",
                "imageID": f"registry.example.com/platform/team/{name}@sha256:{'0' * 64}",
                "containerID": f"containerd://{'0' * 64}",
                "ready": True,
                "started": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": STARTED}},
            }
            for name in ("app", "sidecar")
        ],
    }
    return body, status
