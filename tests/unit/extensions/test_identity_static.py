"""The endpoints that a YAML file and the node's own interfaces become, and how ends find them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pytest

from retina_otel.agent.clock import SystemClock
from retina_otel.component import Context
from retina_otel.errors import ConfigError
from retina_otel.extensions.node_identity import NodeIdentity
from retina_otel.extensions.static_identity import StaticIdentity, StaticIdentitySettings
from retina_otel.model.batches import RawEnds
from retina_otel.model.interfaces import Change, ChangeKind, Interface
from retina_otel.pipeline.identity.endpoints import EndpointTable
from retina_otel.pipeline.ledger import Ledger
from retina_otel.processors.identity_ends import resolve

OWN_NETNS = os.stat("/proc/thread-self/ns/net").st_ino


class Registry:
    """An interface registry that the test drives: what the kernel would say."""

    def __init__(self, *interfaces: Interface) -> None:
        self._interfaces = {interface.ifindex: interface for interface in interfaces}
        self._subscribers: list[Callable[[Change], None]] = []

    def current(self) -> Mapping[int, Interface]:
        return self._interfaces

    def addresses_in(self, netnsid: int) -> Sequence[str]:
        raise AssertionError(netnsid)

    def read_stats(self) -> Mapping[int, Interface]:
        return self._interfaces

    def unsubscribe(self, callback: Callable[[Change], None]) -> None: ...

    def subscribe(self, callback: Callable[[Change], None]) -> None:
        for interface in self._interfaces.values():
            callback(Change(ChangeKind.ADDED, interface))
        self._subscribers.append(callback)

    def tell(self, kind: ChangeKind, interface: Interface) -> None:
        if kind is ChangeKind.REMOVED:
            del self._interfaces[interface.ifindex]
        else:
            self._interfaces[interface.ifindex] = interface
        for callback in self._subscribers:
            callback(Change(kind, interface))


def interface(ifindex: int, name: str, *addresses: str, wire: bool = False) -> Interface:
    return Interface(
        ifindex=ifindex,
        name=name,
        kind="veth" if wire else "",
        up=True,
        loopback=name == "lo",
        mtu=1500,
        master=0,
        peer_netnsid=1 if wire else -1,
        peer=0,
        addresses=addresses,
    )


class Setting:
    def __init__(self, folder: Path, *interfaces: Interface) -> None:
        self.registry = Registry(*interfaces)
        self.table = EndpointTable()
        self.reasons: list[str] = []
        self.path = folder / "identity.yaml"
        self.context = Context(
            id="static_identity",
            clock=SystemClock(),
            logger=logging.getLogger("static_identity"),
            ledger=Ledger("static_identity", "things"),
            identity=self.table,
            interfaces=self.registry,
            resource={"host.name": "metal"},
            degraded=self.reasons.append,
        )
        self.extension = StaticIdentity(
            StaticIdentitySettings.model_validate({"path": self.path, "check_interval": "1h"}),
            self.context,
        )

    def write(self, text: str) -> None:
        draft = self.path.with_suffix(".new")
        draft.write_text(text)
        draft.rename(self.path)

    def start(self, text: str) -> None:
        self.write(text)
        NodeIdentity(self.context).start()
        self.extension.start()

    def known(self, address: str = "::", ifindex: int = 0, netns: int = 0) -> dict[str, object]:
        number = int(ip_address(address))
        if ":" not in address:
            number |= 0xFFFF << 32
        ends = RawEnds(
            hi=np.array([number >> 64], np.uint64),
            lo=np.array([number & (1 << 64) - 1], np.uint64),
            port=np.zeros(1, np.uint16),
            ifindex=np.array([ifindex], np.uint32),
            netns=np.array([netns], np.uint32),
        )
        rows = resolve(self.table, ends)
        assert rows is not None
        return dict(self.table.attributes(int(rows[0])))


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(
        tmp_path,
        interface(1, "lo", "127.0.0.1/8"),
        interface(2, "eth0", "192.168.7.2/24", "fe80::2/64"),
        interface(7, "veth-web", wire=True),
        interface(8, "veth-other", "169.254.1.1/32", wire=True),
    )


WEB = """
pods:
  - {namespace: shop, name: web, uid: u1, addresses: [10.244.0.10, "fd00::a"],
     interface: veth-web, owner: {kind: Deployment, name: web}, labels: {app: web}}
"""
WEB_ATTRIBUTES = {
    "k8s.namespace.name": "shop",
    "k8s.pod.name": "web",
    "k8s.pod.uid": "u1",
    "k8s.owner.name": "web",
    "k8s.owner.type": "deployment",
    "k8s.resource.type": "pod",
    "k8s.pod.label.app": "web",
}
METAL = {"k8s.node.name": "metal", "k8s.resource.type": "node"}


def test_a_pod_is_known_by_interface_and_by_each_address(setting: Setting) -> None:
    setting.start(WEB)
    assert setting.known(ifindex=7) == WEB_ATTRIBUTES
    assert setting.known("10.244.0.10") == WEB_ATTRIBUTES
    assert setting.known("fd00::a") == WEB_ATTRIBUTES
    setting.extension.stop()


def test_a_local_end_is_who_its_interface_says_not_its_address(setting: Setting) -> None:
    setting.start(WEB + "\ncidrs: [{name: spoofed, cidr: 10.9.0.0/16}]")
    assert setting.known("10.9.0.1", ifindex=7) == WEB_ATTRIBUTES
    assert setting.known("10.9.0.1") == {"cidr": "spoofed"}
    setting.extension.stop()


def test_the_node_is_known_without_any_file(setting: Setting) -> None:
    NodeIdentity(setting.context).start()
    assert setting.known("192.168.7.2") == METAL
    assert setting.known(ifindex=2) == METAL
    assert setting.known(netns=OWN_NETNS) == METAL


def test_pods_wires_and_addresses_of_every_host_are_not_the_nodes(setting: Setting) -> None:
    NodeIdentity(setting.context).start()
    for end in (
        setting.known(ifindex=8),
        setting.known("169.254.1.1"),
        setting.known("127.0.0.1"),
        setting.known("fe80::2"),
    ):
        assert end == {}


def test_a_public_address_that_nobody_claims_is_the_world(setting: Setting) -> None:
    NodeIdentity(setting.context).start()
    assert setting.known("198.41.0.4") == {"k8s.resource.type": "world"}
    assert setting.known("10.1.2.3") == {}


def test_the_files_node_replaces_the_detected_one(setting: Setting) -> None:
    setting.start("node: {name: node-1, uid: n1, addresses: [172.30.0.2]}\n" + WEB)
    node = {"k8s.node.name": "node-1", "k8s.node.uid": "n1", "k8s.resource.type": "node"}
    assert setting.known(ifindex=2) == node
    assert setting.known("192.168.7.2") == node
    assert setting.known("172.30.0.2") == node
    assert setting.known(netns=OWN_NETNS) == node
    assert setting.known(ifindex=7) == {**WEB_ATTRIBUTES, "k8s.node.name": "node-1"}
    setting.extension.stop()


def test_a_new_interface_of_the_node_is_the_nodes(setting: Setting) -> None:
    setting.start("node: {name: node-1}")
    setting.registry.tell(ChangeKind.ADDED, interface(9, "eth1", "192.168.8.2/24"))
    assert setting.known("192.168.8.2")["k8s.node.name"] == "node-1"
    setting.extension.stop()


def test_a_pods_interface_may_come_after_the_file(setting: Setting) -> None:
    setting.start(WEB.replace("veth-web", "veth-late"))
    assert setting.known(ifindex=11) == {}
    setting.registry.tell(ChangeKind.ADDED, interface(11, "veth-late", wire=True))
    assert setting.known(ifindex=11) == WEB_ATTRIBUTES
    setting.extension.stop()


def test_an_interface_follows_its_name_not_its_number(setting: Setting) -> None:
    setting.start(WEB)
    setting.registry.tell(ChangeKind.CHANGED, interface(7, "renamed", wire=True))
    assert setting.known(ifindex=7) == {}
    setting.registry.tell(ChangeKind.REMOVED, interface(7, "renamed", wire=True))
    setting.registry.tell(ChangeKind.ADDED, interface(12, "veth-web", wire=True))
    assert setting.known(ifindex=12) == WEB_ATTRIBUTES
    setting.extension.stop()


def test_a_namespace_is_known_by_path_when_it_appears(setting: Setting, tmp_path: Path) -> None:
    namespace = tmp_path / "netns"
    setting.start(f"pods: [{{name: a, uid: u2, netns: {namespace}}}]")
    namespace.touch()
    setting.extension.check()
    assert setting.known(netns=namespace.stat().st_ino)["k8s.pod.name"] == "a"
    setting.extension.stop()


def test_a_pod_without_owner_is_its_own(setting: Setting) -> None:
    setting.start("pods: [{name: bare, addresses: [10.0.0.1]}]")
    known = setting.known("10.0.0.1")
    assert (known["k8s.owner.name"], known["k8s.owner.type"]) == ("bare", "pod")
    setting.extension.stop()


def test_services_nodes_and_networks_are_known_by_address(setting: Setting) -> None:
    setting.start(
        "services: [{namespace: shop, name: api, addresses: [10.96.0.7]}]\n"
        "nodes: [{name: node-2, addresses: [172.30.0.3]}]\n"
        "cidrs: [{name: office, cidr: 192.0.2.0/24}, {name: desk, cidr: 192.0.2.16/28}]"
    )
    assert setting.known("10.96.0.7")["k8s.service.name"] == "api"
    assert setting.known("172.30.0.3")["k8s.node.name"] == "node-2"
    assert setting.known("192.0.2.1") == {"cidr": "office"}
    assert setting.known("192.0.2.17") == {"cidr": "desk"}
    setting.extension.stop()


def test_a_changed_file_replaces_what_was_known(setting: Setting) -> None:
    setting.start(WEB)
    setting.write(WEB.replace("name: web,", "name: web-2,"))
    setting.extension.check()
    assert setting.known(ifindex=7)["k8s.pod.name"] == "web-2"
    setting.extension.stop()


def test_a_wrong_file_leaves_what_was_known_and_is_told_once(
    setting: Setting,
) -> None:
    setting.start(WEB)
    setting.write("pods: [{nmae: web}]")
    setting.extension.check()
    setting.extension.check()
    assert setting.known(ifindex=7) == WEB_ATTRIBUTES
    (reason,) = filter(None, setting.reasons)
    assert "did you mean 'name'?" in reason
    setting.write(WEB)
    setting.extension.check()
    assert setting.reasons[-1] == ""
    setting.extension.stop()


def test_a_file_that_vanishes_leaves_what_was_known(setting: Setting) -> None:
    setting.start(WEB)
    setting.path.unlink()
    setting.extension.check()
    assert setting.known(ifindex=7) == WEB_ATTRIBUTES
    setting.extension.stop()


def test_a_wrong_file_at_the_start_is_refused(setting: Setting) -> None:
    with pytest.raises(ConfigError, match="did you mean 'name'"):
        setting.start("pods: [{nmae: web}]")
