"""Makes once the etcd data of a large cluster, and keeps it.

`python -m tests.bench.kubernetes.store [PODS]` says where. Pods are written to etcd as copies of
one that the API server stored: through the API it takes minutes. What was made is kept in the
cache, by Kubernetes' version, the shape of the objects and the number of pods.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from retina_otel.kubernetes.api import protobuf
from retina_otel.kubernetes.api.access import Access
from retina_otel.testing.cluster import ControlPlane
from retina_otel.testing.cluster.binaries import folder as kubernetes_folder
from tests.bench.kubernetes import shapes

PODS = 30_000
_AT_ONCE = 64
_THREADS = 6


def stored(pods: int = PODS) -> Path:
    """The folder of the etcd data, made if it is not there."""
    digest = hashlib.sha256(Path(shapes.__file__).read_bytes()).hexdigest()[:12]
    kept = kubernetes_folder() / "stores" / f"{pods}-pods-{digest}"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with ControlPlane() as control_plane:
            _fill(control_plane, pods)
            new = kept.with_name(f"{kept.name}.{os.getpid()}")
            shutil.rmtree(new, ignore_errors=True)
            control_plane.save_store(new)
        new.rename(kept)
    return kept


def _fill(control_plane: ControlPlane, pods: int) -> None:
    access = Access.from_settings(control_plane.kubeconfig)
    workloads = max(1, pods // shapes.PODS_PER_WORKLOAD)
    post = access.post
    _each(lambda n: post("/api/v1/namespaces", shapes.namespace(n)), range(shapes.NAMESPACES))
    _each(lambda n: _add_node(access, n), range(shapes.NODES))
    uids: dict[int, str] = {}

    def add_workload(workload: int) -> None:
        namespaced = f"namespaces/{shapes.namespace_of(workload)}"
        made = post(f"/apis/apps/v1/{namespaced}/replicasets", shapes.replica_set(workload))
        uids[workload] = made["metadata"]["uid"]
        post(f"/api/v1/{namespaced}/services", shapes.service(workload))
        post(
            f"/apis/discovery.k8s.io/v1/{namespaced}/endpointslices",
            shapes.endpoint_slice(workload, list(range(workload, pods, workloads))),
        )

    _each(add_workload, range(workloads))
    template = _stored_template(control_plane, access)
    with grpc.insecure_channel(control_plane.store.endpoint) as channel:
        put = channel.unary_unary("/etcdserverpb.KV/Put")
        room = threading.Semaphore(_AT_ONCE)
        calls = []
        for number in range(pods):
            workload = number % workloads
            key, value = _copy(template, number, workload, uids[workload])
            room.acquire()
            call = put.future(_field(1, key) + _field(2, value))
            call.add_done_callback(lambda _: room.release())
            calls.append(call)
        for call in calls:
            call.result()


def _add_node(access: Access, number: int) -> None:
    body, status = shapes.node(number)
    access.post("/api/v1/nodes", body)
    _patch_status(access, f"/api/v1/nodes/{shapes.node_name(number)}", status)


def _stored_template(control_plane: ControlPlane, access: Access) -> bytes:
    """What etcd holds of a pod that came by the API."""
    body, status = shapes.pod()
    pods = "/api/v1/namespaces/default/pods"
    access.post(pods, body)
    _patch_status(access, f"{pods}/template", status)
    with grpc.insecure_channel(control_plane.store.endpoint) as channel:
        answer = channel.unary_unary("/etcdserverpb.KV/Range")(
            _field(1, b"/registry/pods/default/template")
        )
    start = answer.index(protobuf.MAGIC)
    with access.session() as session:
        session.request("DELETE", f"{pods}/template", body={"gracePeriodSeconds": 0})
    # RangeResponse.kvs[0].value is the message's last field but two small numbers.
    raw: bytes = protobuf.unwrap(answer[start:])[1]
    return raw


def _copy(template: bytes, number: int, workload: int, owner_uid: str) -> tuple[bytes, bytes]:
    """Key and value of another pod. What the reduced message has not is carried along unchanged."""
    pod = protobuf.parse("Pod", template)
    meta = pod.metadata
    meta.name = shapes.pod_name(number, workload)
    meta.namespace = shapes.namespace_of(workload)
    meta.uid = f"{number:08x}-1111-4111-8111-{number:012x}"
    for key, value in shapes.labels(workload).items():
        meta.labels[key] = value
    meta.owners[0].name = shapes.replica_set_name(workload)
    meta.owners[0].uid = owner_uid
    node = number % shapes.NODES
    pod.spec.node = shapes.node_name(node)
    pod.spec.host_network = number % 100 == 0
    on_host = (shapes.node_address(node),)
    addresses = on_host if pod.spec.host_network else shapes.addresses(number)
    pod.status.pod_ip = addresses[0]
    del pod.status.pod_ips[:]
    for address in addresses:
        pod.status.pod_ips.add(ip=address)
    pod.status.host_ip = pod.status.host_ips[0].ip = on_host[0]
    for place, each in enumerate(pod.status.containers):
        each.id = f"containerd://{number * 2 + place:064x}"
    envelope = protobuf.message_class("Unknown")(raw=pod.SerializeToString())
    envelope.type.api_version, envelope.type.kind = "v1", "Pod"
    key = f"/registry/pods/{meta.namespace}/{meta.name}".encode()
    return key, protobuf.MAGIC + envelope.SerializeToString()


def _patch_status(access: Access, path: str, status: shapes.Json) -> None:
    with access.session() as session:
        session.request(
            "PATCH",
            f"{path}/status",
            body={"status": status},
            content_type="application/merge-patch+json",
        )


def _each(do: Callable[[int], object], numbers: Iterable[int]) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(do, numbers):
            pass


def _field(number: int, data: bytes) -> bytes:
    """A bytes field of etcd's own messages, for which there is no generated code here."""
    length = len(data)
    head = bytearray([number << 3 | 2])
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*head, length]) + data


if __name__ == "__main__":
    started = time.monotonic()
    where = stored(int(sys.argv[1]) if len(sys.argv) > 1 else PODS)
    print(f"{where} ({time.monotonic() - started:.0f} s)")
