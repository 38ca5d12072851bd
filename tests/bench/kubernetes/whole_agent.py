"""The whole agent on a large cluster: until it knows all, its memory, and what changes cost it.

It runs with every receiver but is attached to no interface: what packets cost is measured
elsewhere. What an agent without the extension takes is measured beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from tests.bench.kubernetes import shapes
from tests.bench.report import Figure, Report

SYNC_S, SYNC_CPU_S = 8.0, 3.0
MEMORY_MB = {"remote": 150.0, "local": 90.0}
CHURN_PERCENT = 1.5
IDLE_S = 20.0
PORT = 19133
MB = 1 << 20


class Running:
    """An agent process."""

    def __init__(self, folder: Path, kubernetes: dict[str, Any] | None) -> None:
        extensions: dict[str, Any] = {"health_check": {"endpoint": f"127.0.0.1:{PORT}"}}
        if kubernetes is not None:
            extensions["kubernetes"] = kubernetes
        config = {
            "extensions": extensions,
            "receivers": {
                "flows": {"interfaces": {"pods": [], "uplinks": []}},
                "drops": {},
                "interfaces": {},
            },
            "processors": {"identity": {}},
            "exporters": {"prometheus": {"endpoint": "127.0.0.1:0"}},
            "service": {
                "extensions": list(extensions),
                "pipelines": {
                    "metrics": {
                        "receivers": ["flows", "drops", "interfaces"],
                        "processors": ["identity"],
                        "exporters": ["prometheus"],
                    }
                },
            },
        }
        path = folder / "agent.yaml"
        path.write_text(yaml.safe_dump(config))
        self._log = (folder / "agent.log").open("wb")
        self.began = time.monotonic()
        argv = [sys.executable, "-m", "retina_otel", "agent", "--config", str(path)]
        self.process = subprocess.Popen(argv, stdout=self._log, stderr=self._log)

    def wait_until_running(self) -> float:
        """Seconds from the start until every component runs with all it needs."""
        while time.monotonic() < self.began + 120:
            time.sleep(0.1)
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/", timeout=5) as answer:
                    components = json.load(answer)["components"]
            except OSError:
                continue
            if {one["state"] for kind in components.values() for one in kind.values()} == {
                "running"
            }:
                return time.monotonic() - self.began
        raise AssertionError("the agent never knows all")

    def cpu_s(self) -> float:
        """User and system time, of children that have ended too."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self, what: str = "VmRSS") -> float:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith(f"{what}:"))
        return int(line.split()[1]) * 1024 / MB

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self._log.close()


@contextmanager
def running(kubernetes: dict[str, Any] | None) -> Iterator[Running]:
    with TemporaryDirectory() as folder:
        agent = Running(Path(folder), kubernetes)
        try:
            yield agent
        finally:
            agent.close()


def measure(report: Report, kubeconfig: Path, pods: int, churn: Any) -> None:
    """`churn` changes pods for a while and tells for how many seconds and how many."""
    with running(None) as agent:
        base_s = agent.wait_until_running()
        base_cpu_s = agent.cpu_s()
        time.sleep(10)
        base_mb = agent.memory_mb()
    group = "the whole agent without Kubernetes"
    report.add(Figure(group, "until it runs", base_s, "s"))
    report.add(Figure(group, "CPU until then", base_cpu_s, "s"))
    report.add(Figure(group, "resident memory", base_mb, "MiB"))
    for view in ("remote", "local"):
        settings = {
            "context": view,
            "kubeconfig": str(kubeconfig),
            "node_name": shapes.node_name(1),
        }
        group = f"the whole agent, {pods} pods, {view}"
        with running(settings) as agent:
            wall_s = agent.wait_until_running()
            cpu_s = agent.cpu_s()
            report.add(Figure(group, "until it knows all", wall_s - base_s, "s", SYNC_S))
            report.add(Figure(group, "CPU for that", cpu_s - base_cpu_s, "s", SYNC_CPU_S))
            time.sleep(10)
            before = agent.cpu_s()
            time.sleep(IDLE_S)
            idle = (agent.cpu_s() - before) / IDLE_S * 100
            before = agent.cpu_s()
            made = churn()
            percent = (agent.cpu_s() - before) / made["seconds"] * 100
            how = "100 pod changes a second, less what it takes when nothing changes"
            report.add(Figure(group, "CPU when nothing changes", idle, "% of a core"))
            report.add(
                Figure(group, "changes", percent - idle, "% of a core", CHURN_PERCENT, how=how)
            )
            memory = agent.memory_mb()
            report.add(Figure(group, "resident memory", memory, "MiB", MEMORY_MB[view]))
            report.add(Figure(group, "peak of it", agent.memory_mb("VmHWM"), "MiB"))
