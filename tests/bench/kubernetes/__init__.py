"""What identity costs on a large cluster: a real API server with the pods of `store`.

RETINA_OTEL_BENCH_PODS sets another number of pods, for a quick look.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retina_otel.testing.cluster import ControlPlane
from tests.bench.kubernetes import shapes, whole_agent
from tests.bench.kubernetes.store import PODS, stored
from tests.bench.report import Figure, Report

ROUNDS = 3
RATE = 100.0
CHURN_SECONDS = 20.0
LIGHT_WATCHERS = (1, 10, 100)
SYNC_S, SYNC_CPU_S = 8.0, 3.0
CHURN_PERCENT = 1.5

Told = dict[str, Any]


def measure(report: Report) -> None:
    pods = int(os.environ.get("RETINA_OTEL_BENCH_PODS", PODS))
    folder = stored(pods)
    with ControlPlane() as control_plane:
        control_plane.restore_store(folder)
        _sync(report, control_plane, pods)
        _changes(report, control_plane)
        kubeconfig = control_plane.kubeconfig
        whole_agent.measure(report, kubeconfig, pods, lambda: _churn(control_plane))
        _light(report, control_plane)


def _sync(report: Report, control_plane: ControlPlane, pods: int) -> None:
    server = _Cpu(control_plane)
    for view, node in (("remote", ""), ("local", shapes.node_name(1))):
        told: list[Told] = []
        spent: list[float] = []
        for _ in range(ROUNDS):
            before = server.seconds()
            with _subject(control_plane, node) as (first, _):
                told.append(first)
            spent.append(server.seconds() - before)
            expected = pods if view == "remote" else pods // shapes.NODES
            assert first["objects"]["pods"] == expected, first
        group = f"kubernetes, {pods} pods, {view}"
        report.add(_median(group, "sync", [each["wall_s"] for each in told], "s", SYNC_S))
        report.add(_median(group, "sync, CPU", [each["cpu_s"] for each in told], "s", SYNC_CPU_S))
        report.add(_median(group, "sync, CPU of the API server", spent, "s"))
        grown = [each["rss_mb"] - each["base_mb"] for each in told]
        report.add(_median(group, "memory of the watchers", grown, "MB"))
        peak = [each["peak_mb"] - each["base_mb"] for each in told]
        report.add(_median(group, "memory of the watchers, peak", peak, "MB"))


def _changes(report: Report, control_plane: ControlPlane) -> None:
    with _subject(control_plane, "") as (_, ask):
        idle_from = ask()
        time.sleep(CHURN_SECONDS)
        idle_to = ask()
        made = _churn(control_plane)
        time.sleep(1.0)
        last = ask()
    percent = (last["cpu_s"] - idle_to["cpu_s"]) / made["seconds"] * 100
    idle = (idle_to["cpu_s"] - idle_from["cpu_s"]) / CHURN_SECONDS * 100
    rate = sum(made[key] for key in ("beat", "add", "move", "delete")) / made["seconds"]
    how = f"{rate:.0f} changes a second, {last['batches'] - idle_to['batches']} batches"
    group = "kubernetes, changes"
    report.add(Figure(group, "CPU", percent, "% of a core", CHURN_PERCENT, how=how))
    report.add(Figure(group, "CPU, nothing changes", idle, "% of a core"))


def _light(report: Report, control_plane: ControlPlane) -> None:
    server = _Cpu(control_plane)
    for number in (0, *LIGHT_WATCHERS):
        argv = [sys.executable, "-m", "tests.bench.kubernetes.light"]
        with subprocess.Popen(
            [*argv, str(control_plane.kubeconfig), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as light:
            assert light.stdout is not None
            light.stdout.readline()
            before = server.seconds()
            made = _churn(control_plane)
            spent = server.seconds() - before
            light.communicate()
        report.add(
            Figure(
                "kubernetes, API server at 100 changes a second",
                f"CPU with {number} watchers of all pods",
                spent / made["seconds"] * 100,
                "% of a core",
            )
        )


def _churn(control_plane: ControlPlane) -> Told:
    argv = [sys.executable, "-m", "tests.bench.kubernetes.churn", str(control_plane.kubeconfig)]
    done = subprocess.run(
        [*argv, str(RATE), str(CHURN_SECONDS)], capture_output=True, text=True, check=True
    )
    made: Told = json.loads(done.stdout)
    return made


@contextmanager
def _subject(control_plane: ControlPlane, node: str) -> Iterator[tuple[Told, Any]]:
    """What it says when it is synced, and a way to ask it again."""
    argv = [sys.executable, "-m", "tests.bench.kubernetes.subject", str(control_plane.kubeconfig)]
    with subprocess.Popen(
        [*argv, node], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as subject:
        stdin, stdout = subject.stdin, subject.stdout
        assert stdin is not None
        assert stdout is not None

        def ask() -> Told:
            stdin.write("\n")
            stdin.flush()
            told: Told = json.loads(stdout.readline())
            return told

        yield json.loads(stdout.readline()), ask
        stdin.close()


class _Cpu:
    """CPU time of the API server."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._stat = Path(f"/proc/{control_plane.api_server_pid}/stat")

    def seconds(self) -> float:
        fields = self._stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _median(
    group: str, name: str, values: list[float], unit: str, budget: float | None = None
) -> Figure:
    spread = (min(values), max(values))
    return Figure(group, name, statistics.median(values), unit, budget, spread)
