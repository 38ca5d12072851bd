"""What agents cost the API server, each by itself and through the identity service.

30,000 pods on 1,000 nodes, and changes of pods' statuses. CPU is what the processes themselves tell
of it, for a hundred changes a second, by the changes that were made meanwhile; what the API server
uses for the changes alone is taken off. Light watchers read and decode nothing, so that the machine
is left to the API server.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import yaml

from retina_otel.identity_service.codec import decode_block
from retina_otel.identity_service.protocol import CHANGES, WATCH, Frame, Keys, Subscription
from retina_otel.kubernetes.api.access import PROTOBUF, Access
from retina_otel.kubernetes.api.stream import Stream
from retina_otel.kubernetes.objects import Kind
from retina_otel.testing.cluster import ControlPlane
from retina_otel.testing.cluster.ground import free_ports
from tests.bench.kubernetes import shapes
from tests.bench.kubernetes.store import stored
from tests.bench.report import Figure, Report

GROUP = "identity service"
PODS = int(os.environ.get("RETINA_OTEL_BENCH_PODS", "30000"))
CHANGES_A_SECOND = 100
SECONDS = float(os.environ.get("RETINA_OTEL_BENCH_SECONDS", "15"))
ACCOUNT = "default/bench-agent"
SUBSCRIPTION = Subscription(
    {
        Kind.POD.value: Keys((), ()),
        Kind.SERVICE.value: Keys(),
        Kind.NODE.value: Keys(("topology.kubernetes.io/zone",)),
        Kind.REPLICA_SET.value: Keys(),
        Kind.JOB.value: Keys(),
    },
    node=shapes.node_name(1),
)


def measure(report: Report) -> None:
    """Adds its figures."""

    def add(name: str, value: float, unit: str, how: str = "") -> None:
        report.add(Figure(GROUP, name, value, unit, how=how))

    with ControlPlane() as plane:
        plane.restore_store(stored(PODS))
        access = Access.from_settings(plane.kubeconfig)

        def of_api_server() -> float:
            return api_server_cpu(access)

        with Churn(access):
            time.sleep(SECONDS)  # it is busy with itself after its start
        before = of_api_server()
        time.sleep(SECONDS)
        idle = (of_api_server() - before) / SECONDS
        add("API server: idle", 100 * idle, "% of a core")
        with Churn(access) as churn:
            alone = churn.rates(of_api_server, idle=idle)[0]
            add("API server: changes alone", alone, "% of a core")
            for count in (1, 10, 100):
                with watchers(str(plane.kubeconfig), count):
                    used = churn.rates(of_api_server, idle=idle)[0] - alone
                add(f"API server: {count} watchers of pods", used, "% of a core")
        with ExitStack() as stack:
            before = of_api_server()
            service = stack.enter_context(Service(plane))
            add("API server: sync of the service", of_api_server() - before, "s of CPU")
            add("service: sync", service.ready_s, "s")
            add("service: sync, CPU", service.cpu(), "s of CPU")
            add("service: memory", service.memory_mib(), "MiB")
            sync(report, service)
            for how, settings in (("by the service", service.settings()), ("by itself", {})):
                agent(report, plane, how, settings)
            churn = stack.enter_context(Churn(access))
            for count in (1, 10, 100):
                before = service.cpu()
                with readers(service, count):
                    add(f"service: start of {count} agents", service.cpu() - before, "s of CPU")
                    both = churn.rates(of_api_server, service.cpu, idle=idle)
                    how = f"{count} agents by the service"
                    add(f"API server: {how}", both[0] - alone, "% of a core")
                    add(f"service: {how}", both[1], "% of a core")
            add("service: memory afterwards", service.memory_mib(), "MiB")


def api_server_cpu(access: Access) -> float:
    text = access.get("/metrics", accept="text/plain").decode()
    found = re.search(r"^process_cpu_seconds_total ([0-9.e+]+)$", text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def sync(report: Report, service: Service) -> None:
    """What a snapshot takes, and its decoding."""
    with grpc.insecure_channel(service.endpoint) as channel:
        started = time.monotonic()
        call = service.watch(channel)
        frames: list[Frame] = []
        for data in call:
            frame = Frame.parse(data)
            if frame.type == CHANGES:
                frames.append(frame)
                if frame.flags & 1:
                    break
        arrived_s = time.monotonic() - started
        call.cancel()
    blocks = [part for frame in frames for part in frame.parts()]
    pods = [one.block for one in blocks if one.topic == Kind.POD.value]
    size = sum(len(frame.payload) for frame in frames)
    for name, some in (("everything", [one.block for one in blocks]), (f"{PODS:,} pods", pods)):
        began = time.process_time()
        decoded = sum(len(decode_block(block, (), ())) for block in some)
        how = f"{decoded} objects"
        cost = (time.process_time() - began) * 1e3
        report.add(Figure(GROUP, f"snapshot: decode {name}", cost, "ms of CPU", how=how))
    report.add(Figure(GROUP, f"snapshot: {PODS:,} pods", sum(map(len, pods)) / 1e6, "MB"))
    report.add(Figure(GROUP, "snapshot: everything", size / 1e6, "MB"))
    report.add(Figure(GROUP, "snapshot: first agent has it after", arrived_s, "s"))


def agent(report: Report, plane: ControlPlane, how: str, settings: dict[str, Any]) -> None:
    """What the whole agent takes to know all pods."""
    health = free_ports(1)[0]
    kubernetes = {
        "kubeconfig": str(plane.kubeconfig),
        "node_name": shapes.node_name(1),
        **settings,
    }
    config = {
        "extensions": {
            "kubernetes": kubernetes,
            "health_check": {"endpoint": f"127.0.0.1:{health}"},
        },
        "receivers": {"interfaces": {}},
        "processors": {"identity": {}},
        "exporters": {"debug": {}},
        "service": {
            "extensions": ["kubernetes", "health_check"],
            "pipelines": {
                "metrics": {
                    "receivers": ["interfaces"],
                    "processors": ["identity"],
                    "exporters": ["debug"],
                }
            },
        },
    }

    def well() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{health}/", timeout=10) as answer:
                told = json.load(answer)["components"]["extensions"]["kubernetes"]
        except urllib.error.URLError:
            return False
        return bool(told == {"state": "running", "failures": 0})

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "agent.yaml"
        path.write_text(yaml.safe_dump(config))
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "retina_otel", "agent", "--config", str(path)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not well():
                time.sleep(0.05)
            ready_s = time.monotonic() - started
            time.sleep(SECONDS)
            about = Path(f"/proc/{process.pid}/status").read_text()
            clock = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        finally:
            process.terminate()
            process.wait(30)
    sizes = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", about, re.MULTILINE))
    cpu_s = (int(clock[11]) + int(clock[12])) / os.sysconf("SC_CLK_TCK")
    group = f"agent, {how}"
    report.add(Figure(GROUP, f"{group}: start until all is known", ready_s, "s"))
    report.add(Figure(GROUP, f"{group}: CPU of that and {SECONDS:g} s more", cpu_s, "s of CPU"))
    report.add(Figure(GROUP, f"{group}: memory", int(sizes["VmRSS"]) / 1024, "MiB"))
    report.add(Figure(GROUP, f"{group}: memory, peak", int(sizes["VmHWM"]) / 1024, "MiB"))


class Churn:
    """Patches statuses of pods, so many a second if the machine can, until it ends."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._ended = threading.Event()
        self._done = [0] * 4
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(4)]

    def __enter__(self) -> Churn:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def rates(self, *cpus: Callable[[], float], idle: float) -> list[float]:
        """Percent of a core at a hundred changes a second, by what was used over a while. `idle`
        is what the first uses anyway, in cores."""
        before, done, started = [cpu() for cpu in cpus], sum(self._done), time.monotonic()
        time.sleep(SECONDS)
        changes, elapsed_s = sum(self._done) - done, time.monotonic() - started
        used = [cpu() - start for cpu, start in zip(cpus, before, strict=True)]
        used[0] -= idle * elapsed_s
        return [100 * CHANGES_A_SECOND * each / changes for each in used]

    def _run(self, first: int) -> None:
        period_s = len(self._threads) / CHANGES_A_SECOND
        workloads = PODS // shapes.PODS_PER_WORKLOAD
        due = time.monotonic()
        with self._access.session() as session:
            for turn in itertools.count():
                number = (first + turn * len(self._threads)) % PODS
                workload = number % workloads
                namespace, name = shapes.namespace_of(workload), shapes.pod_name(number, workload)
                session.request(
                    "PATCH",
                    f"/api/v1/namespaces/{namespace}/pods/{name}/status",
                    body={"status": {"phase": ("Pending", "Running")[turn * 4 // PODS % 2]}},
                    content_type="application/merge-patch+json",
                )
                self._done[first] += 1
                due += period_s
                if self._ended.wait(max(0.0, due - time.monotonic())):
                    return


@contextmanager
def watchers(kubeconfig: str, count: int) -> Iterator[None]:
    """Watches of all pods from now on, in a process of their own."""
    with children(
        [sys.executable, "-m", "tests.bench.identity_service", "watchers", str(count), kubeconfig]
    ):
        yield


@contextmanager
def readers(service: Service, count: int) -> Iterator[None]:
    """Agents that read the service's stream, in a process of their own."""
    arguments = ["readers", str(count), service.endpoint, str(service.token_file)]
    with children([sys.executable, "-m", "tests.bench.identity_service", *arguments]):
        yield


@contextmanager
def children(command: Sequence[str]) -> Iterator[None]:
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "ready\n"
        yield
    finally:
        child.stdin.close()
        child.wait(30)


class Service:
    """`retina-otel identity-service` as it is run."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._folder = tempfile.TemporaryDirectory()
        self.token_file = Path(self._folder.name) / "token"
        self.ready_s = 0.0
        self.endpoint = ""
        self._health = ""

    def __enter__(self) -> Service:
        namespace, _, name = ACCOUNT.partition("/")
        self._plane.set_rights(name, [], namespace=namespace)
        audiences = ["retina-otel-identity"]
        token = self._plane.token_for(name, namespace=namespace, audiences=audiences)
        self.token_file.write_text(token)
        log = Path(self._folder.name) / "log"
        command = [
            *(sys.executable, "-m", "retina_otel", "identity-service"),
            *("--kubeconfig", str(self._plane.kubeconfig), "--allow-service-account", ACCOUNT),
            *("--listen", "127.0.0.1:0", "--health", "127.0.0.1:0"),
        ]
        started = time.monotonic()
        with log.open("w") as stream:
            self._process = subprocess.Popen(command, stderr=stream)
        pattern = re.compile(r"port (\d+); health at port (\d+)")
        while (found := pattern.search(log.read_text())) is None:
            time.sleep(0.01)
        self.endpoint, self._health = f"127.0.0.1:{found[1]}", found[2]
        while not self._ready():
            time.sleep(0.02)
        self.ready_s = time.monotonic() - started
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._folder.cleanup()

    def settings(self) -> dict[str, Any]:
        """Of an agent that is told by it."""
        told_by = {"endpoint": self.endpoint, "insecure": True, "token_file": str(self.token_file)}
        return {"service": told_by | {"fall_back": False}}

    def figure(self, name: str) -> float:
        text = self._get("/metrics")
        found = re.search(rf"^retina_otel_identity_service_{name} (\S+)$", text, re.MULTILINE)
        assert found is not None, text
        return float(found[1])

    def cpu(self) -> float:
        return self.figure("cpu_seconds_total")

    def memory_mib(self) -> float:
        return self.figure("resident_memory_bytes") / 2**20

    def watch(self, channel: grpc.Channel) -> grpc.CallIterator[bytes]:
        return watch(channel, self.token_file.read_text())

    def _get(self, path: str) -> str:
        url = f"http://127.0.0.1:{self._health}{path}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            text: str = answer.read().decode()
        return text

    def _ready(self) -> bool:
        try:
            return self._get("/readyz") == "ok\n"
        except urllib.error.HTTPError:
            return False


def watch(channel: grpc.Channel, token: str) -> grpc.CallIterator[bytes]:
    method: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(WATCH)
    return method(SUBSCRIPTION.serialize(), metadata=(("authorization", f"Bearer {token}"),))


# --------------------------------------------------------------------------- the child processes


def _watchers(count: int, kubeconfig: str) -> None:
    access = Access.from_settings(Path(kubeconfig))
    version = re.search(
        r'"resourceVersion":"(\d+)"', access.get("/api/v1/pods", {"limit": "1"}).decode()
    )
    assert version is not None
    query = {"watch": "1", "resourceVersion": version[1], "allowWatchBookmarks": "true"}
    for _ in range(count):
        stream = access.open_stream("/api/v1/pods", query, accept=f"{PROTOBUF};stream=watch")
        threading.Thread(target=_discard, args=(stream,), daemon=True).start()
    _until_told()


def _discard(stream: Stream) -> None:
    while True:
        stream.read(120.0)


def _readers(count: int, endpoint: str, token_file: str) -> None:
    token = Path(token_file).read_text()
    arrived = threading.Semaphore(0)

    def read() -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(endpoint, options) as channel:
            for data in watch(channel, token):
                frame = Frame.parse(data)
                if frame.type == CHANGES and frame.flags == 3:
                    arrived.release()

    for _ in range(count):
        threading.Thread(target=read, daemon=True).start()
    for _ in range(count):
        arrived.acquire()
    _until_told()


def _until_told() -> None:
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1] == "watchers":
        _watchers(int(sys.argv[2]), sys.argv[3])
    elif sys.argv[1] == "readers":
        _readers(int(sys.argv[2]), sys.argv[3], sys.argv[4])
