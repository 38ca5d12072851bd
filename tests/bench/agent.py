"""What the whole agent costs: start to first export, memory as its cgroup counts it, idle CPU.

The agent is a process of its own in the node of a lab, and sends OTLP over HTTP to a server of this
process, which decodes it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from retina_otel.testing import traffic
from retina_otel.testing.lab import Lab
from retina_otel.testing.otlp import OtlpSink
from retina_otel.testing.servers import UdpServer
from tests.bench.report import Figure, Report

STARTS = 5
INTERVAL_S = 5
IDLE_S = 30
FLOWS = 100_000
SERIES_A_METRIC = 25_000
MB = 1_000_000
IDLE_MB, LOADED_MB = 130.0, 260.0
IDLE_PERCENT = 0.5
_LOAD_TICKS = 6


class Cgroup:
    """Memory of what runs in it, kernel memory (BPF maps) included, as kubelet sees it."""

    def __init__(self) -> None:
        v1, v2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
        self._v1 = (v1 / "memory.usage_in_bytes").exists()
        self.path = (v1 if self._v1 else v2) / f"rt-bench-{os.getpid()}"
        self.path.mkdir()

    def megabytes(self) -> float:
        """The working set: usage without file pages that nobody used lately."""
        usage = "memory.usage_in_bytes" if self._v1 else "memory.current"
        inactive = "total_inactive_file" if self._v1 else "inactive_file"
        stat = dict(line.split() for line in (self.path / "memory.stat").read_text().splitlines())
        return (int((self.path / usage).read_text()) - int(stat[inactive])) / MB

    def close(self) -> None:
        with suppress(OSError):
            self.path.rmdir()


class BenchAgent:
    """A running agent."""

    def __init__(
        self, lab: Lab, sink: OtlpSink, settings: dict[str, Any], cgroup: Cgroup | None = None
    ) -> None:
        identity = lab.write_identity(lab.folder / "identity.yaml")
        config = {
            "extensions": {"static_identity": {"path": str(identity)}},
            "receivers": {"flows": settings.get("flows", {}), "drops": {}, "interfaces": {}},
            "processors": {"identity": {}},
            "exporters": {
                "otlp_http": {
                    "endpoint": sink.endpoint,
                    "interval": settings.get("export_interval", "15s"),
                }
            },
            "service": {
                "extensions": ["static_identity"],
                "pipelines": {
                    "metrics": {
                        "receivers": ["flows", "drops", "interfaces"],
                        "processors": ["identity"],
                        "exporters": ["otlp_http"],
                        **settings.get("pipeline", {}),
                    },
                    "logs": {
                        "receivers": ["drops"],
                        "processors": ["identity"],
                        "exporters": ["otlp_http"],
                    },
                },
            },
        }
        path = lab.folder / "bench.yaml"
        path.write_text(yaml.safe_dump(config))
        argv = [sys.executable, "-m", "retina_otel", "agent", "--config", str(path)]
        if cgroup is not None:
            enter = f'echo $$ > {cgroup.path}/cgroup.procs; exec "$@"'
            argv = ["sh", "-c", enter, "sh", *argv]
        self.process = lab.node.popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def cpu_s(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@contextmanager
def sink_in(lab: Lab) -> Iterator[OtlpSink]:
    """A backend on the loopback of the lab's node."""
    sink = lab.node.call(OtlpSink)
    try:
        yield sink
    finally:
        sink.close()


def measure(report: Report) -> None:
    _start(report)
    _idle(report)
    _loaded(report)


def _start(report: Report) -> None:
    """Packets flow from before the process is made; the first export that holds one counts."""
    taken = []
    for _ in range(STARTS):
        with Lab("shop/web", "shop/api") as lab, sink_in(lab) as sink:
            api = lab.pod("api")
            done = threading.Event()
            sender = threading.Thread(target=_send_until, args=(lab, done))
            with UdpServer(api, api.ipv4, 9):
                sender.start()
                began = time.monotonic()
                agent = BenchAgent(lab, sink, {"export_interval": f"{INTERVAL_S}s"})
                try:
                    sink.wait_for(partial(_holds, sink, "web"), 30)
                    taken.append(time.monotonic() - began)
                finally:
                    done.set()
                    sender.join()
                    agent.close()
    report.add(
        Figure(
            "agent",
            f"process start to first export of a packet, interval {INTERVAL_S} s",
            statistics.median(taken),
            "s",
            1.5 + INTERVAL_S,
            (min(taken), max(taken)),
            f"wall time, median of {STARTS} starts",
        )
    )


def _send_until(lab: Lab, done: threading.Event) -> None:
    while not done.wait(0.05):
        traffic.udp(lab.pod("web"), (lab.pod("api").ipv4, 9), packets=2)


def _holds(sink: OtlpSink, pod: str) -> bool:
    return any(
        point.attributes.get("source.k8s.pod.name") == pod and point.value
        for point in sink.points("retina.flow.packets")
    )


def _idle(report: Report) -> None:
    with ExitStack() as stack:
        lab = stack.enter_context(Lab("shop/web", "shop/api"))
        sink = stack.enter_context(sink_in(lab))
        cgroup = Cgroup()
        stack.callback(cgroup.close)
        agent = BenchAgent(lab, sink, {}, cgroup)
        stack.callback(agent.close)
        sink.wait_for(lambda: sink.received, 30)
        time.sleep(10)
        before = agent.cpu_s()
        time.sleep(IDLE_S)
        percent = (agent.cpu_s() - before) / IDLE_S * 100
        report.add(
            Figure("agent", "idle CPU", percent, "% of a core", IDLE_PERCENT, None, f"{IDLE_S} s")
        )
        report.add(
            Figure("agent", "memory, idle", cgroup.megabytes(), "MB", IDLE_MB, None, "cgroup")
        )


def _loaded(report: Report) -> None:
    """100,000 flows a tick at one interface; ports told apart until the limit is reached."""
    flows = {"interfaces": {"pods": ["veth-web"]}}
    pipeline = {
        "attributes": {"retina.flow.*": ["default", "source.port"]},
        "cardinality": {"limit": SERIES_A_METRIC},
    }
    with ExitStack() as stack:
        lab = stack.enter_context(Lab("shop/web", "shop/api"))
        sink = stack.enter_context(sink_in(lab))
        cgroup = Cgroup()
        stack.callback(cgroup.close)
        web, api = lab.pod("web"), lab.pod("api")
        stack.enter_context(UdpServer(api, api.ipv4, 9))
        agent = BenchAgent(
            lab, sink, {"flows": flows, "pipeline": pipeline, "export_interval": "5s"}, cgroup
        )
        stack.callback(agent.close)
        sink.wait_for(lambda: sink.received, 30)
        peak = 0.0
        before, began = agent.cpu_s(), time.monotonic()
        for _ in range(_LOAD_TICKS):
            traffic.many_flows(web, api, flows=FLOWS, packets_each=1)
            until = time.monotonic() + 5
            while time.monotonic() < until:
                peak = max(peak, cgroup.megabytes())
                time.sleep(0.25)
        percent = (agent.cpu_s() - before) / (time.monotonic() - began) * 100
        what = f"{FLOWS:,} flows, {2 * SERIES_A_METRIC:,} series"
        report.add(Figure("agent", f"peak memory, {what}", peak, "MB", LOADED_MB, None, "cgroup"))
        report.add(Figure("agent", f"CPU, {what}", percent, "% of a core"))
