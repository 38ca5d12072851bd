"""The monitor knows the interfaces of its namespace, and says what changed, in order."""

from __future__ import annotations

import json
import select
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retina_otel.kernel.net import links, netlink
from retina_otel.kernel.net.rtnetlink import InterfaceMonitor
from retina_otel.model.interfaces import Change, ChangeKind
from tests.kernel.conftest import command


class Watched:
    """A monitor, and what it told."""

    def __init__(self, monitor: InterfaceMonitor) -> None:
        self.monitor = monitor
        self.told: list[Change] = []
        monitor.subscribe(self.told.append)

    def heard(self) -> list[tuple[str, str]]:
        """(kind, name) of each change since the last call."""
        # rtnetlink queues the notifications of a command before it returns: nothing to wait for.
        self.monitor.poll()
        told = [(one.kind.value, one.interface.name) for one in self.told]
        self.told.clear()
        return told

    def named(self, name: str):
        return next(one for one in self.monitor.current().values() if one.name == name)


@pytest.fixture
def watch(namespace) -> Iterator[Callable[..., Watched]]:
    made: list[InterfaceMonitor] = []

    def one(**options) -> Watched:
        made.append(namespace.run(lambda: InterfaceMonitor(**options)))
        return Watched(made[-1])

    yield one
    for monitor in made:
        monitor.close()


def veth(namespace, up=False):
    namespace.ip("link add rt0 type veth peer name rt1")
    # Without IPv6 there are no packets but those of the test.
    for name in ("rt0", "rt1"):
        namespace.ip(f"link set {name} addrgenmode none")
    if not up:
        return
    for name in ("rt0", "rt1"):
        namespace.ip(f"link set {name} up")
    # The kernel readies the queues a moment later, by itself: until then it drops what is sent,
    # and then it announces the change.
    with select.epoll() as watching, namespace.run(InterfaceMonitor) as monitor:
        watching.register(monitor.fd, select.EPOLLIN)
        while not all(one.up for one in monitor.current().values()):
            assert watching.poll(10), "the interfaces did not come up"
            monitor.poll()


def test_interfaces_that_are_there_are_told_first(namespace, watch):
    veth(namespace)
    watched = watch()

    assert sorted(watched.heard()) == [("added", "lo"), ("added", "rt0"), ("added", "rt1")]
    assert watched.named("lo").loopback
    assert watched.named("lo").up
    rt0 = watched.named("rt0")
    assert (rt0.kind, rt0.loopback, rt0.up, rt0.mtu) == ("veth", False, False, 1500)
    assert rt0.peer == namespace.ifindex("rt1")
    assert rt0.peer_netnsid == -1
    assert rt0.speed_mbps == 10000
    assert watched.named("lo").speed_mbps == -1


@pytest.mark.kernels
def test_interfaces_are_followed_as_they_come_change_and_go(namespace, watch):
    watched = watch()
    assert watched.heard() == [("added", "lo")]

    namespace.ip("link add rt0 type veth peer name rt1")
    assert sorted(watched.heard()) == [("added", "rt0"), ("added", "rt1")]
    namespace.ip("link set rt0 mtu 1400")
    assert watched.heard() == [("changed", "rt0")]
    assert watched.named("rt0").mtu == 1400
    namespace.ip("link set rt0 name rt9")
    assert watched.heard() == [("changed", "rt9")]
    namespace.ip("link del rt9")
    assert sorted(watched.heard()) == [("removed", "rt1"), ("removed", "rt9")]
    assert [one.name for one in watched.monitor.current().values()] == ["lo"]


def test_the_descriptor_is_readable_when_there_is_something_to_hear(namespace, watch):
    watched = watch()
    assert select.select([watched.monitor.fd], [], [], 0)[0] == []

    namespace.ip("link add rt0 type veth peer name rt1")
    assert select.select([watched.monitor.fd], [], [], 0)[0] == [watched.monitor.fd]
    watched.heard()
    assert select.select([watched.monitor.fd], [], [], 0)[0] == []


def test_what_did_not_change_is_not_told(namespace, watch):
    veth(namespace)
    watched = watch()
    watched.heard()

    namespace.ip("link set rt0 alias something")
    assert watched.heard() == []


def test_leaving_a_bridge_is_a_change_and_no_removal(namespace, watch):
    veth(namespace)
    namespace.ip("link add br0 type bridge")
    watched = watch()
    watched.heard()

    namespace.ip("link set rt0 master br0")
    assert ("changed", "rt0") in watched.heard()
    assert watched.named("rt0").master == namespace.ifindex("br0")
    namespace.ip("link set rt0 nomaster")
    told = watched.heard()
    assert ("changed", "rt0") in told
    assert all(kind != "removed" for kind, _name in told)
    assert watched.named("rt0").master == 0


def test_addresses_and_default_routes_are_followed(namespace, watch):
    veth(namespace, up=True)
    watched = watch()
    watched.heard()

    namespace.ip("addr add 10.7.0.1/24 dev rt0")
    namespace.ip("addr add fd07::1/64 dev rt0 nodad")
    watched.heard()
    assert watched.named("rt0").addresses == ("10.7.0.1", "fd07::1")
    assert not watched.named("rt0").default_route
    namespace.ip("route add default via 10.7.0.2")
    assert watched.heard() == [("changed", "rt0")]
    assert watched.named("rt0").default_route
    namespace.ip("-6 route add default via fd07::2")
    namespace.ip("route del default")
    watched.heard()
    assert watched.named("rt0").default_route
    namespace.ip("-6 route del default")
    assert watched.heard() == [("changed", "rt0")]
    assert not watched.named("rt0").default_route
    namespace.ip("addr del 10.7.0.1/24 dev rt0")
    assert watched.heard() == [("changed", "rt0")]
    assert watched.named("rt0").addresses == ("fd07::1",)


def test_a_default_route_that_goes_with_its_interface_is_noticed(namespace, watch):
    veth(namespace, up=True)
    namespace.ip("addr add 10.7.0.1/24 dev rt0")
    namespace.ip("route add default via 10.7.0.2")
    watched = watch()
    assert watched.named("rt0").default_route

    namespace.ip("link set rt0 down")
    watched.heard()
    assert not watched.named("rt0").default_route


def test_both_ways_of_a_multipath_route_are_uplinks(namespace, watch):
    veth(namespace, up=True)
    for name, net in (("rt0", "10.7.0"), ("rt1", "10.8.0")):
        namespace.ip(f"addr add {net}.1/24 dev {name}")
    namespace.ip("route add default nexthop via 10.7.0.2 nexthop via 10.8.0.2")

    uplinks = [one.name for one in watch().monitor.current().values() if one.default_route]
    assert sorted(uplinks) == ["rt0", "rt1"]


def test_a_route_that_leads_nowhere_makes_no_uplink(namespace, watch):
    namespace.ip("route add blackhole default")
    namespace.ip("-6 route add unreachable default")

    assert not any(one.default_route for one in watch().monitor.current().values())


@pytest.mark.kernels
def test_statistics_are_those_that_ip_prints(namespace, watch):
    watched = watch()
    namespace.send(1009)

    mine = next(iter(watched.monitor.read_stats().values()))
    theirs = json.loads(namespace.ip("-j -s -s link show dev lo"))[0]["stats64"]

    assert mine.stats is not None
    assert mine.stats["rx_packets"] == theirs["rx"]["packets"] == 1009
    assert mine.stats["tx_bytes"] == theirs["tx"]["bytes"] == 1009 * (1 + 8 + 20)
    assert mine.stats["rx_missed_errors"] == theirs["rx"]["missed_errors"] == 0
    assert tuple(mine.stats) == links.STATS_FIELDS[: len(mine.stats)]


def test_a_removal_carries_the_last_word_of_the_statistics(namespace, watch):
    veth(namespace, up=True)
    watched = watch()
    watched.heard()
    sent = 13

    def send() -> None:
        import socket

        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind(("rt0", 0))
            for _ in range(sent):
                sender.send(bytes(12) + b"\x88\xb5" + bytes(46))

    namespace.run(send)
    namespace.ip("link del rt0")
    watched.monitor.poll()

    gone = {one.interface.name: one.interface for one in watched.told}
    assert {one.kind for one in watched.told} >= {ChangeKind.REMOVED}
    assert gone["rt0"].stats is not None
    assert gone["rt0"].stats["tx_packets"] == sent
    assert gone["rt0"].stats["tx_bytes"] == sent * 60


def test_an_interface_removed_and_made_again_between_two_polls_is_told_as_both(namespace, watch):
    veth(namespace)
    watched = watch()
    watched.heard()
    ifindex = namespace.ifindex("rt0")

    namespace.ip("link del rt0")
    namespace.ip(f"link add rt0 index {ifindex} type veth peer name rt1")

    told = watched.heard()
    assert told.index(("removed", "rt0")) < told.index(("added", "rt0"))


def test_lost_notifications_are_made_up_for_by_reading_all(namespace, watch):
    watched = watch(receive_bytes=1)
    watched.heard()

    for number in range(40):
        namespace.ip(f"link add rt{number} type veth peer name peer{number}")
    for number in range(0, 40, 2):
        namespace.ip(f"link del rt{number}")
    told = watched.heard()

    assert watched.monitor.lost_notifications == 1
    assert len(set(told)) == len(told)
    names = {one.name for one in watched.monitor.current().values()}
    assert names == {"lo"} | {f"{end}{n}" for end in ("rt", "peer") for n in range(1, 40, 2)}
    assert watched.heard() == []


@pytest.mark.kernels
def test_addresses_in_another_namespace_are_told_without_entering_it(namespace, watch):
    name = f"{namespace.name}-inside"
    command("ip", "netns", "add", name)
    try:
        namespace.ip(f"link add rt0 type veth peer name rt1 netns {name}")
        for address in ("10.99.0.7/24", "fd00:99::7/64"):
            command("ip", "-n", name, "address", "add", address, "dev", "rt1", "nodad")
        namespace.ip("address add 10.99.0.1/24 dev rt0")
        watched = watch()
        nsid = watched.named("rt0").peer_netnsid
        assert sorted(watched.monitor.addresses_in(nsid)) == ["10.99.0.7", "fd00:99::7"]
    finally:
        command("ip", "netns", "del", name)
    assert list(watched.monitor.addresses_in(nsid + 1)) == [], "there is none"


def test_monitors_of_two_namespaces_hear_only_their_own(namespace, watch):
    outside = InterfaceMonitor()
    told: list[Change] = []
    outside.subscribe(told.append)
    told.clear()

    namespace.ip("link add rt-inside type bridge")
    outside.poll()
    outside.close()

    assert all(one.interface.name != "rt-inside" for one in told)


@given(st.binary(max_size=300), st.integers(0, 60))
def test_messages_of_any_bytes_never_crash_a_parser(data, kind):
    message = netlink.Message(kind, 0, 0, data)
    links.parse_link(message)
    links.parse_address(message)
    links.parse_default_route(message)
    list(netlink.messages(data))


@given(st.binary(max_size=200), st.sampled_from([3, 4, 5, 16, 18, 23, 37]))
def test_attributes_of_any_bytes_never_crash_a_parser(payload, kind):
    head = links._IFINFO.pack(0, 0, 1, 0, 0)
    body = head + netlink.attribute(3, b"x\0") + netlink.attribute(4, b"\0" * 4)
    links.parse_link(netlink.Message(16, 0, 0, body + netlink.attribute(kind, payload)))


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40)), max_size=8))
def test_attributes_come_back_as_they_were_packed(pairs):
    packed = b"".join(netlink.attribute(kind, payload) for kind, payload in pairs)
    assert list(netlink.attributes(packed)) == pairs


def test_a_subscriber_may_read_and_everybody_hears_all_in_order(namespace, watch):
    watched = watch()
    watched.heard()

    def reads(change: Change) -> None:
        if change.interface.name == "rt0":
            namespace.ip("link add rt9 type bridge")
            assert "rt9" in {one.name for one in watched.monitor.read_stats().values()}

    watched.monitor.subscribe(reads)
    namespace.ip("link add rt0 type bridge")

    assert watched.heard() == [("added", "rt0"), ("added", "rt9")]


def test_a_subscriber_that_fails_keeps_nothing_from_the_others(namespace, watch):
    watched = watch()
    told: list[str] = []

    def fails(change: Change) -> None:
        if change.interface.name != "lo":
            raise ValueError(change.interface.name)

    watched.monitor.subscribe(fails)
    watched.monitor.subscribe(lambda change: told.append(change.interface.name))
    namespace.ip("link add rt0 type bridge")
    namespace.ip("link add rt1 type bridge")

    with pytest.raises(ValueError, match="rt0"):
        watched.monitor.poll()
    assert told == ["lo", "rt0", "rt1"]
    assert watched.heard()[-2:] == [("added", "rt0"), ("added", "rt1")]
