"""What the names of cgroups tell of workloads."""

from __future__ import annotations

import numpy as np
import pytest

from retina_otel.node.workloads import of_cgroup, of_paths

UID = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
STATIC = "0123456789abcdef0123456789abcdef"
A, B, C = "a1" * 32, "b2" * 32, "c3" * 32
BURSTABLE = "kubepods-burstable"
UNDER = UID.replace("-", "_")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"/kubepods/burstable/pod{UID}/{A}", (UID, A)),
        (f"/kubepods/pod{UID}/{A}", (UID, A)),
        (f"/kubepods/pod{UID}", (UID,)),
        (f"/kubepods.slice/{BURSTABLE}.slice/{BURSTABLE}-pod{UNDER}.slice/{A}", (UID, A)),
        (f"/kubepods.slice/kubepods-pod{UNDER}.slice/crio-{A}.scope", (UID, A)),
        (f"/kubepods.slice/kubepods-pod{UNDER}.slice/crio-{A}.scope/container", (UID, A)),
        (f"/kubepods.slice/kubepods-pod{UNDER}.slice/crio-conmon-{A}.scope", (UID,)),
        (f"/kubepods.slice/kubepods-pod{UNDER}.slice/docker-{A}.scope", (UID, A)),
        (f"/kubepods/besteffort/pod{STATIC}/{A}", (STATIC, A)),
        (f"/system.slice/containerd.service/kubepods-pod{UNDER}.slice:cri-containerd:{A}", (A,)),
        (f"/k8s.io/{A}", (A,)),
        (f"/kubepods/pod{UID}/{A}/docker/{B}", (UID, A, B)),
        (f"/docker/{C}/kubelet.slice/kubelet-kubepods-pod{UNDER}.slice/{A}", (UID, A)),
        ("/system.slice/sshd.service", ()),
        ("/user.slice/podman.scope", ()),
        (f"/kubepods/pod{UID[:-1]}", ()),
        (f"/x{A}", ()),
        (f"/{A}f", ()),
        ("/", ()),
    ],
)
def test_a_cgroup_tells_its_pod_and_containers(path, expected):
    names = tuple(part.encode() for part in reversed(path.split("/")) if part)
    assert of_cgroup(names) == expected


def paths(unified: list[bytes], legacy: list[bytes]) -> np.ndarray:
    record = np.zeros(1, [(name, [("names", "S96", 6)]) for name in ("unified", "legacy")])
    for name, given in (("unified", unified), ("legacy", legacy)):
        record[name]["names"][0, : len(given)] = given
    return record


def test_the_hierarchy_that_has_the_pod_comes_first():
    pod = [f"pod{UID}".encode(), b"kubepods"]
    container = [A.encode(), b"k8s.io"]
    assert of_paths(paths(pod, container)) == [(UID, A)]
    assert of_paths(paths(container, pod)) == [(UID, A)]
    assert of_paths(paths([], pod)) == [(UID,)]
    assert of_paths(paths(container, [])) == [(A,)]
    assert of_paths(paths([], [])) == [()]
