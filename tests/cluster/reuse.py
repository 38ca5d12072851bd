"""One address that goes from pod to pod: real wires and packets, objects of a real API server.

The test is the kubelet. Who had the address is written into every packet, as its port.
"""

from __future__ import annotations

import errno
import queue
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from retina_otel.kernel.net import netns
from retina_otel.kubernetes.api.access import Access
from retina_otel.testing import cgroups
from retina_otel.testing.cluster import Cluster, ControlPlane
from retina_otel.testing.lab import Lab, Pod
from retina_otel.testing.namespaces import Namespace, execute
from retina_otel.testing.servers import UdpServer
from tests.cluster.objects import Json
from tests.netns.cgroups_in_lab import Hierarchy, cgroupfs, new_container_id, start

NAMESPACE = "reuse"
OWNED, NOBODYS, STEADY = 10_000, 30_000, 9_000
"""Ports: + number of the pod that has the address; + number of the pod that gets it next; of a flow
whose ports are the same for all of them."""


_RECVERR4, _RECVERR6 = 11, 25


class Sockets(Protocol):
    """Where sockets are opened: a network namespace."""

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket: ...


class Inside:
    """The network namespace of a pod that a kubelet runs."""

    def __init__(self, cluster: Cluster, pod: Any) -> None:
        uid = pod.metadata.uid
        self._pid = next(
            pid
            for pid in cgroups.processes(cluster.ground.tag)
            if f"pod{uid}/" in Path(f"/proc/{pid}/cgroup").read_text()
        )

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        made = partial(socket.socket, family, kind, protocol)
        return netns.run_in(f"/proc/{self._pid}/ns/net", made)

    def run(self, argv: Sequence[str]) -> None:
        """Runs a command of the machine's there."""
        execute(["nsenter", f"--net=/proc/{self._pid}/ns/net", "--", *argv])


class Place(Protocol):
    """Where the pods of one address live."""

    node: str
    addresses: tuple[str, str]

    def plug(self, number: int, uid: str) -> Namespace:
        """Gives the address to a new pod."""

    def unplug(self) -> None:
        """Takes it from the pod that has it."""

    def wait_until_known(self, number: int) -> None:
        """Until what must be seen while the pod lives is seen."""


class Here:
    """Pods of the agent's node, each with processes of its own."""

    node = "node-1"

    def __init__(self, lab: Lab, groups: Hierarchy, prefix: str, known: Any) -> None:
        self._lab = lab
        self._groups = groups
        self._prefix = prefix
        self._known = known
        self._pod: Pod | None = None
        self.addresses = ("10.244.0.50", "fd00:10:244::32")
        self.passed: Counter[str] = Counter()
        """Packets on the wire of each pod, by the wire's own counters."""

    def plug(self, number: int, uid: str) -> Namespace:
        self._pod = self._lab.add_pod(f"{NAMESPACE}/{self._prefix}-{number}", number=50)
        assert (self._pod.ipv4, self._pod.ipv6) == self.addresses
        start(self._pod, self._groups.make(cgroupfs(uid, new_container_id())))
        return self._pod

    def unplug(self) -> None:
        assert self._pod is not None
        wire = self._pod.counters()
        self.passed[self._pod.identity.name] = wire.rx_packets + wire.tx_packets
        self._lab.remove_pod(self._pod)

    def wait_until_known(self, number: int) -> None:
        assert self._pod is not None
        self._known(f"{NAMESPACE}/{self._prefix}-{number}", self._pod.host_ifindex)


class Elsewhere:
    """Pods of another node, beyond the uplink of the agent's."""

    node = "node-2"
    addresses = ("10.245.0.50", "fd00:10:245::32")

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._pod: Namespace | None = None
        lab.outside.sysctl({"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1})

    def plug(self, number: int, uid: str) -> Namespace:
        del uid
        here, gone = "02:00:0a:f5:00:32", "02:00:0a:f5:00:01"
        self._pod = pod = Namespace(self._lab.tag, f"far-{number}")
        four, six = self.addresses
        quiet = {f"ipv6/conf/{w}/accept_dad": 0 for w in ("all", "default")}
        pod.sysctl(quiet | {f"ipv6/conf/{w}/addr_gen_mode": 1 for w in ("all", "default")})
        self._lab.outside.ip(
            f"link add far address {gone} type veth peer name eth0 address {here} netns {pod.name}",
            "link set far arp off multicast off up",
            f"route add {four} dev far",
            f"route add {six} dev far",
            f"neigh replace {four} lladdr {here} dev far nud permanent",
            f"neigh replace {six} lladdr {here} dev far nud permanent",
        )
        pod.ip(
            "link set lo up",
            f"addr add {four}/32 dev eth0",
            f"addr add {six}/128 dev eth0 nodad",
            "link set eth0 arp off multicast off up",
            "route add 10.245.0.1 dev eth0",
            "route add fd00:10:245::1 dev eth0",
            "route add default via 10.245.0.1",
            "route add default via fd00:10:245::1",
            f"neigh replace 10.245.0.1 lladdr {gone} dev eth0 nud permanent",
            f"neigh replace fd00:10:245::1 lladdr {gone} dev eth0 nud permanent",
        )
        self._lab.outside.wait_until_up("far")
        return pod

    def unplug(self) -> None:
        assert self._pod is not None
        self._lab.outside.ip("link del far")
        self._pod.remove()

    def wait_until_known(self, number: int) -> None:
        pass


@dataclass(slots=True)
class Truth:
    """Packets by number of pod; of the flow whose ports stay, as many again."""

    owned: Counter[int] = field(default_factory=Counter)
    answered: Counter[int] = field(default_factory=Counter)
    """As many as `owned`, unless the kernel had to drop some: a CPU's queue is all tests'."""
    steady: int = 0
    """Answers in the flow whose ports stay."""
    nobodys: Counter[int] = field(default_factory=Counter)
    """Sent to the address before the pod of this number had it, and answered by nobody."""


class Talk:
    """Says something to whoever has an address, and is answered; goes on when nobody has it."""

    def __init__(self, peer: Sockets, addresses: tuple[str, str], base: int) -> None:
        self._peer = peer
        self._base = base
        self._four, self._six = addresses
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._next = 0
        self._over = threading.Event()
        self._failed: BaseException | None = None
        self.truth = Truth()

    def __enter__(self) -> Talk:
        self._steady = self._peer.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._owned = self._peer.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self._nobodys = self._peer.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        # Else what the kernel has dropped counts as sent.
        self._steady.setsockopt(socket.IPPROTO_IP, _RECVERR4, 1)
        self._owned.setsockopt(socket.IPPROTO_IPV6, _RECVERR6, 1)
        for number, each in enumerate((self._steady, self._owned, self._nobodys)):
            each.bind(("", self._base + number))
            each.settimeout(2)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._steady.close()
        self._owned.close()
        self._nobodys.close()
        if self._failed:
            raise self._failed

    def set_owner(self, owner: int | None) -> None:
        """What was said before has been answered when this returns."""
        with self._lock:
            self._owner = owner
            self._next = self._next if owner is None else owner + 1

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Says nothing for a while."""
        with self._lock:
            yield

    def _run(self) -> None:
        try:
            while not self._over.wait(0.02):
                with self._lock:
                    self._say()
        except BaseException as error:
            self._failed = error

    def _say(self) -> None:
        if self._owner is None:
            self._nobodys.sendto(b"?" * 33, (self._six, NOBODYS + self._next))
            self.truth.nobodys[self._next] += 1
            return
        _send(self._steady, b"!" * 77, (self._four, STEADY))
        _send(self._owned, b"!" * 55, (self._six, OWNED + self._owner))
        self.truth.owned[self._owner] += 1
        with suppress(TimeoutError):
            self._steady.recv(1500)
            self.truth.steady += 1
        with suppress(TimeoutError):
            _, sender = self._owned.recvfrom(1500)
            self.truth.answered[sender[1] - OWNED] += 1


def _send(sender: socket.socket, data: bytes, to: tuple[str, int]) -> None:
    while True:
        try:
            sender.sendto(data, to)
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            time.sleep(0.001)


class Kubelet:
    """Tells the API server of pods, one thing after another, on a thread of its own."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._access = Access.from_settings(control_plane.kubeconfig)
        self._path = f"/api/v1/namespaces/{NAMESPACE}/pods"
        self._todo: queue.Queue[tuple[float, str, str, Json] | None] = queue.Queue()
        self._failed: BaseException | None = None
        self.slowest_s = 0.0
        """From being said here to being in the API."""

    def __enter__(self) -> Kubelet:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._todo.put(None)
        self._thread.join()
        if self._failed:
            raise self._failed

    def make(self, name: str, node: str) -> str:
        """A pod that is to run on the node. Its uid."""
        container = {"name": "a", "image": "a"}
        body = {"metadata": {"name": name}, "spec": {"nodeName": node, "containers": [container]}}
        made = self._access.post(self._path, body)
        return str(made["metadata"]["uid"])

    def ask_to_go(self, name: str, grace_s: int) -> None:
        self._request("DELETE", name, {"gracePeriodSeconds": grace_s})

    def runs(self, name: str, addresses: Sequence[str], since: float) -> None:
        """It has its addresses since this time."""
        state = {"running": {"startedAt": _stamp(since)}}
        status = _status("Running", addresses, since, state)
        self._tell("PATCH", f"{name}/status", status)

    def has_ended(self, name: str, addresses: Sequence[str], since: float, until: float) -> None:
        times = {"startedAt": _stamp(since), "finishedAt": _stamp(until)}
        state = {"terminated": {"exitCode": 0, **times}}
        self._tell("PATCH", f"{name}/status", _status("Succeeded", addresses, since, state))

    def is_gone(self, name: str) -> None:
        self._tell("DELETE", name, {"gracePeriodSeconds": 0})

    def wait(self) -> None:
        """Until all of it is told."""
        self._todo.join()

    def _tell(self, method: str, path: str, body: Json) -> None:
        self._todo.put((time.monotonic(), method, path, body))

    def _request(self, method: str, path: str, body: Json) -> None:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        with self._access.session() as session:
            session.request(method, f"{self._path}/{path}", body=body, content_type=kind)

    def _run(self) -> None:
        try:
            while item := self._todo.get():
                said, method, path, body = item
                self._request(method, path, body)
                self.slowest_s = max(self.slowest_s, time.monotonic() - said)
                self._todo.task_done()
        except BaseException as error:
            self._failed = error


def _status(phase: str, addresses: Sequence[str], since: float, state: Json) -> Json:
    container = {
        "name": "a",
        "image": "a",
        "imageID": "a",
        "containerID": f"containerd://{new_container_id()}",
        "ready": phase == "Running",
        "restartCount": 0,
        "state": state,
    }
    return {
        "status": {
            "phase": phase,
            "podIP": addresses[0],
            "podIPs": [{"ip": one} for one in addresses],
            "startTime": _stamp(since),
            "containerStatuses": [container],
        }
    }


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def answering(pod: Sockets, addresses: tuple[str, str], number: int) -> Iterator[None]:
    """The pod gives back what it gets."""
    four, six = addresses
    with (
        UdpServer(pod, four, STEADY, lambda said: said),
        UdpServer(pod, six, OWNED + number, lambda said: said),
        UdpServer(pod, six, NOBODYS + number),
    ):
        yield


@dataclass(frozen=True, slots=True)
class _Life:
    name: str
    number: int
    since: float


class Turns:
    """The address of `place` goes through one pod after another."""

    def __init__(self, place: Place, talk: Talk, kubelet: Kubelet, prefix: str) -> None:
        self._place = place
        self._talk = talk
        self._kubelet = kubelet
        self._prefix = prefix
        self._random = random.Random(f"turns of {prefix}")
        self._serving = ExitStack()

    def take(self, turns: int) -> None:
        uids = [self._kubelet.make(f"{self._prefix}-{n}", self._place.node) for n in range(turns)]
        before: _Life | None = None
        for number, uid in enumerate(uids):
            if before:
                self._end()
            before = self._live(number, uid, before, time.time())
        self._end()

    def _live(self, number: int, uid: str, before: _Life | None, ended: float) -> _Life:
        life = _Life(f"{self._prefix}-{number}", number, time.time())
        pod = self._place.plug(number, uid)
        self._serving.enter_context(answering(pod, self._place.addresses, number))
        self._talk.set_owner(number)
        # In either order, and not always all of it.
        told_first = self._random.random() < 0.5
        if told_first:
            self._kubelet.runs(life.name, self._place.addresses, life.since)
        if before:
            if self._random.random() < 0.5:
                addresses = self._place.addresses
                self._kubelet.has_ended(before.name, addresses, before.since, ended)
            self._kubelet.is_gone(before.name)
        if not told_first:
            self._kubelet.runs(life.name, self._place.addresses, life.since)
        self._place.wait_until_known(number)
        time.sleep(3.5 if number % 20 == 10 else self._random.uniform(0.1, 0.3))
        self._kubelet.ask_to_go(life.name, self._random.choice((1, 2, 30)))
        time.sleep(self._random.uniform(0, 0.1))
        return life

    def _end(self) -> None:
        self._talk.set_owner(None)
        self._serving.close()
        with self._talk.silent():
            self._place.unplug()
