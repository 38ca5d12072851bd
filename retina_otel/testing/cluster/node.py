"""A node: containerd, kubelet and kube-proxy in a network and a mount namespace of their own.

Whatever runs on the node, an agent too, is started by `popen` or `run` and sees the node's
interfaces, /sys, /run/netns and containerd, and the machine's processes, cgroups and other files.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from retina_otel.errors import RetinaError
from retina_otel.testing import cgroups
from retina_otel.testing.cluster import node_files
from retina_otel.testing.cluster.access import Access
from retina_otel.testing.cluster.binaries import binary, node_file
from retina_otel.testing.cluster.ground import Ground
from retina_otel.testing.cluster.network import NodeAddresses
from retina_otel.testing.cluster.process import Process
from retina_otel.testing.namespaces import Namespace, execute

ZONES = ("lab-1a", "lab-1b", "lab-1c")
REGION = "lab-1"
START_SECONDS = 20


class Node:
    """Node number `number` (from 1) of a cluster, named `node-<number>`.

    Its zones take turns, so that the first two nodes are in different ones.
    """

    def __init__(self, ground: Ground, access: Access, namespace: Namespace, number: int) -> None:
        self.name = f"node-{number}"
        self.namespace = namespace
        self.addresses = NodeAddresses(number)
        self.folder = ground.folder / self.name
        self.folder.mkdir()
        self._access = access
        self._ground = ground
        self._holder = ground.processes.add(f"{self.name}.mounts", self._holder_argv())

    # ------------------------------------------------------------------------------------ running

    def enter(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` on the node."""
        pid = self._holder.pid
        own = [f"--mount=/proc/{pid}/ns/mnt", f"--net={self.namespace.path}"]
        return ["nsenter", *own, "--", *argv]

    def run(
        self, argv: Sequence[str], *, check: bool = True, stdin: str = "", timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on the node to its end."""
        return execute(self.enter(argv), check=check, stdin=stdin, timeout_s=timeout_s)

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Starts a command on the node. Who starts it ends it."""
        return subprocess.Popen(
            self.enter(argv),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=env,
            start_new_session=True,
        )

    def ctr(self, *arguments: str, timeout_s: float = 120) -> str:
        """Runs containerd's client in Kubernetes' own containerd namespace."""
        client = [node_file("usr/bin/ctr"), f"--address={node_files.CONTAINERD_SOCKET}"]
        return self.run([*client, "-n", "k8s.io", *arguments], timeout_s=timeout_s).stdout

    def import_image(self, archive: Path) -> None:
        """Makes the images of a docker-archive known to containerd."""
        self.ctr("images", "import", "--snapshotter=overlayfs", str(archive))

    def pin_addresses(self, namespace: str, hosts: range) -> None:
        """Pods of this Kubernetes namespace get their addresses from these hosts of the node's
        ranges only: with one host, each pod gets the address of the one before it.

        Hosts from 200 to 254, and no host for two namespaces. Takes effect with the next pod. A pod
        that is made while all are taken waits up to ten seconds, and has one as soon as it is free.
        """
        if hosts.start < node_files.SHARED_HOSTS.stop or hosts.stop > 255:
            raise RetinaError(f"hosts {hosts} are not for pinning", "Choose some of 200 to 254")
        text = node_files.pinned(self.addresses, namespace, hosts)
        self._write(f"{node_files.CNI_FOLDER}/pinned/{namespace}.json", text)

    # ----------------------------------------------------------------------------------- starting

    def prepare(self) -> None:
        """Makes the node's mounts, and starts containerd on them."""
        (self.folder / "containerd").mkdir()
        (self.folder / "sys").mkdir()
        self._holder.start()
        ready = self.folder / "mounted"
        self._wait(ready.exists, self._holder)
        plugins = self.folder / "cni"
        plugins.mkdir()
        for plugin in Path(node_file("usr/lib/cni")).iterdir():
            (plugins / plugin.name).symlink_to(plugin)
        ipam = plugins / node_files.IPAM
        ipam.write_text(node_files.ipam_plugin())
        ipam.chmod(0o755)
        self._write(f"{node_files.CNI_FOLDER}/10-lab.conflist", node_files.cni(self.addresses))
        config = self.folder / "containerd.toml"
        config.write_text(node_files.containerd(self.folder))
        path = f"{node_file('usr/bin')}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        containerd = self._start(
            "containerd",
            ["env", f"PATH={path}", node_file("usr/bin/containerd"), f"--config={config}"],
        )
        socket = Path(f"/proc/{self._holder.pid}/root{node_files.CONTAINERD_SOCKET}")
        self._wait(socket.exists, containerd)

    def start(self) -> None:
        """Starts kubelet and kube-proxy. The node becomes ready by itself."""
        cgroups.create(self._ground.tag, self.name)
        kubelet_config = self.folder / "kubelet.yaml"
        authority = self._access.authority
        kubelet_config.write_text(
            node_files.kubelet(authority.certificate, f"/rt-{self._ground.tag}/{self.name}")
        )
        kubeconfig = self._access.kubeconfig_of_user(
            f"system:node:{self.name}", "system:nodes", inner=True
        )
        self.kubelet = self._start(
            "kubelet",
            [
                binary("kubelet"),
                f"--config={kubelet_config}",
                f"--kubeconfig={kubeconfig}",
                f"--hostname-override={self.name}",
                f"--node-ip={','.join(self.addresses.own)}",
                f"--cert-dir={self.folder / 'kubelet-pki'}",
            ],
        )
        proxy_config = self.folder / "kube-proxy.yaml"
        proxy_user = self._access.kubeconfig_of_user("system:kube-proxy", inner=True)
        proxy_config.write_text(node_files.kube_proxy(proxy_user, self.name))
        self._start("kube-proxy", [binary("kube-proxy"), f"--config={proxy_config}"])

    def manifest(self) -> dict[str, Any]:
        """The Node object that kubelet finds when it registers: its pods' ranges and its place."""
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": self.name,
                "labels": {
                    "topology.kubernetes.io/region": REGION,
                    "topology.kubernetes.io/zone": ZONES[(self.addresses.number - 1) % len(ZONES)],
                },
            },
            "spec": {
                "podCIDR": self.addresses.pod_cidrs[0],
                "podCIDRs": list(self.addresses.pod_cidrs),
            },
        }

    def _start(self, name: str, argv: Sequence[str]) -> Process:
        process = self._ground.processes.add(f"{self.name}.{name}", self.enter(argv))
        process.start()
        return process

    def _holder_argv(self) -> list[str]:
        script = node_files.mounts(self.folder / "containerd", self.folder / "sys")
        hold = f"{script}\ntouch {self.folder / 'mounted'}\nexec sleep infinity"
        enter = ["nsenter", f"--net={self.namespace.path}", "--"]
        return [*enter, "unshare", "--mount", "--propagation=private", "/bin/sh", "-c", hold]

    def _write(self, path: str, text: str) -> None:
        # Renamed into its place: whoever watches the folder sees whole files only.
        script = 'cat >"$0.new" && mv "$0.new" "$0"'
        self.run(["/bin/sh", "-c", script, path], stdin=text)

    def _wait(self, condition: Callable[[], bool], process: Process) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            process.require_running()
            if time.monotonic() > deadline:
                raise RetinaError(f"{process.name} is not ready:\n{process.tail()}")
            time.sleep(0.02)
