"""What user space costs: 100,000 flows out of the kernel, joined with the identity of 30,000
pods, accumulated into 50,000 series and encoded as OTLP.

The flows are real: test-run packets counted by the programs of bpf/flows.bpf.c. CPU time of this
process, system time of the map reads included; the first tick makes the series and is not counted.
"""

from __future__ import annotations

import ipaddress
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np

from retina_otel.encode.otlp import MetricsEncoder
from retina_otel.kernel.bpf import testrun
from retina_otel.model.batches import MetricBatch, Window
from retina_otel.pipeline.accumulator import Accumulator, AccumulatorSettings
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind, EndpointTable
from retina_otel.pipeline.points import MetricsExport
from retina_otel.processors.identity_ends import resolve
from retina_otel.receivers.flows import columns
from retina_otel.receivers.flows.rows import FlowRows
from retina_otel.receivers.flows.settings import FlowsSettings
from retina_otel.receivers.flows.tables import FlowTables
from retina_otel.receivers.flows.tuples import TupleMemory
from retina_otel.testing import packets as build
from tests.bench.report import Figure, Report

T = TypeVar("T")

PODS = 30_000
PAIRS = 25_000
FLOWS = 100_000
ROUNDS = 7
LOOPBACK = 1
FIRST_POD = int(ipaddress.ip_address("10.64.0.0"))
BUDGET_MS = 300.0
JOIN_MS = 12.0
ENCODE_US = 1.0


def pods() -> list[Endpoint]:
    """As realistic as names get; the first lives behind the interface of the test runs."""
    made = []
    for number in range(PODS):
        attributes = {
            "k8s.namespace.name": f"team-{number % 200}",
            "k8s.pod.name": f"service-{number // 10}-7d9f8c6b5d-{number:05x}",
            "k8s.owner.name": f"service-{number // 10}",
            "k8s.owner.type": "Deployment",
            "k8s.node.name": f"node-{number % 300}",
        }
        made.append(
            Endpoint(
                EndpointKind.POD,
                f"uid-{number}",
                attributes,
                addresses=[str(ipaddress.ip_address(FIRST_POD + number))],
                interfaces=[LOOPBACK] if number == 0 else (),
            )
        )
    return made


def send(tables: FlowTables) -> None:
    """One packet on each of FLOWS flows, to PAIRS pods."""
    local = str(ipaddress.ip_address(FIRST_POD))
    packet = build.ipv4(local, local, 17, build.udp(local, local, 1, 443, bytes(64)))
    frame = bytearray(build.ethernet("02:00:00:00:00:02", "02:00:00:00:00:01", packet))
    fd = tables.programs["flows_pod_in"]
    for number in range(FLOWS):
        frame[30:34] = (FIRST_POD + 1 + number % PAIRS).to_bytes(4, "big")
        frame[34:36] = (1024 + number // PAIRS).to_bytes(2, "big")
        testrun.run(fd, bytes(frame))


class Stages:
    """CPU seconds of each stage, round by round."""

    def __init__(self) -> None:
        self.taken: dict[str, list[float]] = {}

    def run(self, name: str, work: Callable[[], T]) -> T:
        before = time.process_time()
        result = work()
        self.taken.setdefault(name, []).append(time.process_time() - before)
        return result


def measure(report: Report) -> None:
    settings = FlowsSettings()
    tables = FlowTables(
        cache_bytes=settings.cache_bytes,
        max_flows=settings.max_flows,
        ring_bytes=settings.ring_bytes,
    )
    try:
        _measure(report, tables)
    finally:
        tables.close()


def _measure(report: Report, tables: FlowTables) -> None:
    table = EndpointTable()
    table.update(pods())
    accumulator = Accumulator(table, AccumulatorSettings(cardinality_limit=PAIRS + 1))
    reader = accumulator.reader("bench")
    encoder = MetricsEncoder({"service.name": "retina-otel", "k8s.node.name": "node-0"})
    openers = TupleMemory(2 * FLOWS)
    stages = Stages()
    n_points = n_bytes = 0
    for number in range(ROUNDS + 1):
        send(tables)
        window = Window(time.time_ns() - 1, time.time_ns())
        rows = stages.run("drain", tables.take).rows
        assert len(rows) == FLOWS
        batches = stages.run("columns", partial(_batches, rows, window, openers))
        joined = stages.run("join", partial(_join, table, batches))
        stages.run("accumulate", partial(_accumulate, accumulator, joined))
        stages.run("snapshot", partial(accumulator.snapshot, window.end_ns))
        export = stages.run("take", reader.take)
        assert export is not None
        n_bytes = stages.run("encode", partial(_encode, encoder, export))
        n_points = export.n_points
        reader.acknowledge(export)
        if number == 0:
            stages.taken.clear()
    assert n_points == 2 * PAIRS
    group = f"{FLOWS:,} flows into {n_points:,} series"
    for name, seconds in stages.taken.items():
        budget = JOIN_MS if name == "join" else None
        report.add(_milliseconds(group, f"{name}, CPU", seconds, budget))
    totals = [sum(round_) for round_ in zip(*stages.taken.values(), strict=True)]
    report.add(_milliseconds(group, "all, CPU", totals, BUDGET_MS))
    per_series = [seconds / n_points * 1e6 for seconds in stages.taken["encode"]]
    report.add(
        Figure(
            group,
            f"encode a series ({n_bytes // n_points} bytes each)",
            statistics.median(per_series),
            "us",
            ENCODE_US,
            (min(per_series), max(per_series)),
            "CPU, uncompressed OTLP",
        )
    )


def _batches(rows: FlowRows, window: Window, openers: TupleMemory) -> list[MetricBatch]:
    return columns.batches(rows, window, np.empty(0, np.uint32), {LOOPBACK: "eth0"}, openers)


def _join(table: EndpointTable, batches: list[MetricBatch]) -> list[MetricBatch]:
    return [
        replace(
            batch,
            source_rows=resolve(table, batch.source),
            destination_rows=resolve(table, batch.destination),
        )
        for batch in batches
    ]


def _accumulate(accumulator: Accumulator, batches: list[MetricBatch]) -> None:
    for batch in batches:
        accumulator.add(batch)


def _encode(encoder: MetricsEncoder, export: MetricsExport) -> int:
    return sum(len(body) for body in encoder.encode(export.blocks))


def _milliseconds(group: str, name: str, seconds: list[float], budget: float | None) -> Figure:
    taken = [one * 1000 for one in seconds]
    return Figure(
        group,
        name,
        statistics.median(taken),
        "ms",
        budget,
        (min(taken), max(taken)),
        f"median CPU of {len(taken)} ticks after the first",
    )
