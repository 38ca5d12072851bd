"""The configuration files of a node: containerd, CNI, kubelet, kube-proxy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from retina_otel.testing.cluster.binaries import node_file
from retina_otel.testing.cluster.images import BUSYBOX
from retina_otel.testing.cluster.network import POD_CIDRS, NodeAddresses

CNI_FOLDER = Path("/etc/cni/net.d")
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
DNS_ADDRESS = "10.96.0.10"
SHARED_HOSTS = range(2, 200)
"""Hosts of the node's ranges that any pod may get; the others are for `Node.pin_addresses`."""

IPAM = "lab-ipam"


def mounts(disk: Path, own_sys: Path) -> str:
    """A shell script that gives a mount namespace what belongs to one node.

    Its state is in memory, apart from containerd's, which is in `disk`. /sys shows the node's own
    interfaces, and beneath them the machine's cgroups and BPF file system.
    """
    return f"""
set -eu
mount -t sysfs sysfs {own_sys}
for point in fs/cgroup fs/bpf kernel/tracing kernel/debug; do
    if mountpoint -q /sys/$point; then mount --rbind /sys/$point {own_sys}/$point; fi
done
mount --rbind {own_sys} /sys
for folder in /etc/cni /run/containerd /run/netns /var/lib/cni /var/lib/kubelet \\
    /var/log/containers /var/log/pods
do
    mkdir -p $folder
    mount -t tmpfs -o mode=755 lab $folder
done
mkdir -p /var/lib/containerd {CNI_FOLDER}/pinned
mount --bind {disk} /var/lib/containerd
mount --make-rshared /
"""


def ipam_plugin() -> str:
    """A CNI plugin: host-local, with a range of their own for pods of a pinned namespace.

    Such a pod waits for an address that another one still has: kubelet would ask again only after
    ten seconds and more.
    """
    host_local = node_file("usr/lib/cni/host-local")
    return f"""#!/bin/sh
namespace=$(echo "$CNI_ARGS" | tr ';' '\\n' | sed -n 's/^K8S_POD_NAMESPACE=//p')
pinned={CNI_FOLDER}/pinned/$namespace.json
if [ -z "$namespace" ] || [ ! -f "$pinned" ]; then exec {host_local}; fi
if [ "$CNI_COMMAND" = ADD ]; then
    for attempt in $(seq 400); do
        if answer=$({host_local} <"$pinned"); then echo "$answer"; exit; fi
        sleep 0.02
    done
fi
exec {host_local} <"$pinned"
"""


def containerd(folder: Path) -> str:
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[{cri}]
  sandbox_image = "{BUSYBOX}"
  disable_apparmor = true
  # Without CAP_SYS_RESOURCE no process may lower its score.
  restrict_oom_score_adj = true
  [{cri}.cni]
    bin_dir = "{folder}/cni"
    conf_dir = "{CNI_FOLDER}"
  [{cri}.containerd]
    default_runtime_name = "runc"
    [{cri}.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [{cri}.containerd.runtimes.runc.options]
        BinaryName = "{node_file("usr/sbin/runc")}"
"""


def cni(addresses: NodeAddresses) -> str:
    first, last = SHARED_HOSTS.start, SHARED_HOSTS.stop - 1
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        "ipam": _ipam(addresses, first, last),
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return json.dumps({"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge, portmap]})


def pinned(addresses: NodeAddresses, namespace: str, hosts: range) -> str:
    """What host-local gets in the place of the network's own configuration."""
    ipam = _ipam(addresses, hosts.start, hosts.stop - 1)
    return json.dumps({"cniVersion": "0.4.0", "name": f"pinned-{namespace}", "ipam": ipam})


def _ipam(addresses: NodeAddresses, first: int, last: int) -> dict[str, Any]:
    start, end = addresses.pod_address(first), addresses.pod_address(last)
    return {
        "type": IPAM,
        "ranges": [
            [{"subnet": cidr, "rangeStart": start[i], "rangeEnd": end[i]}]
            for i, cidr in enumerate(addresses.pod_cidrs)
        ],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    }


def kubelet(authority: Path, cgroup: str) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(authority)},
            },
            "authorization": {"mode": "Webhook"},
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            "clusterDNS": [DNS_ADDRESS],
            "clusterDomain": "cluster.local",
            "resolvConf": "",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroup,
            "cgroupsPerQOS": True,
            "enforceNodeAllocatable": [],
            "failCgroupV1": False,
            "failSwapOn": False,
            "localStorageCapacityIsolation": False,
            "makeIPTablesUtilChains": False,
            "serializeImagePulls": False,
            "registryPullQPS": 0,
            "eventRecordQPS": 0,
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {
                "memory.available": "1Mi",
                "nodefs.available": "0%",
                "nodefs.inodesFree": "0%",
                "imagefs.available": "0%",
            },
            "maxPods": 150,
        }
    )


def kube_proxy(kubeconfig: Path, node: str) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "mode": "iptables",
            "clusterCIDR": ",".join(POD_CIDRS),
            "hostnameOverride": node,
            "iptables": {"minSyncPeriod": "100ms"},
            # The connection tracking table is the machine's: leave its size alone.
            "conntrack": {"maxPerCore": 0, "min": 0},
        }
    )
