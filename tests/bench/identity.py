"""What it costs to know who has an address: both ends of 100,000 flows against 30,000 pods, of
which every fifth has its address from another that is gone; one address that had 200 owners; the
changes themselves. CPU time of this process.
"""

from __future__ import annotations

import gc
import ipaddress
import statistics
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from retina_otel.pipeline.identity.claim_index import ClaimIndex, Row
from retina_otel.pipeline.identity.claims import FOREVER, Endpoint, EndpointKind, Validity
from retina_otel.pipeline.identity.endpoints import EndpointTable
from retina_otel.pipeline.identity.networks import parse
from tests.bench.report import Figure, Report

PODS = 30_000
REUSED = 6_000
FLOWS = 100_000
OWNERS = 200
ROUNDS = 9
OUTSIDE = 0.15
"""Share of ends that are no pods."""
SECOND = 1_000_000_000
STARTED = 1_700_000_000 * SECOND
CHANGED = STARTED + 3600 * SECOND
GROUP = f"{PODS:,} pods"

JOIN_V4_MS = 12.0
JOIN_V6_MS = 20.0
JOIN_OWNERS_MS = 30.0
UPDATE_US = 5.0

Ends = tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]


def measure(report: Report) -> None:
    for v6, budget in ((False, JOIN_V4_MS), (True, JOIN_V6_MS)):
        _measure(report, v6=v6, budget=budget)
    _measure_updates(report)
    _measure_memory(report)


def _measure(report: Report, *, v6: bool, budget: float) -> None:
    table = EndpointTable()
    table.update(_pod(number, STARTED, v6=v6) for number in range(PODS))
    for number in range(REUSED):
        old = _pod(number, STARTED, CHANGED, v6=v6)
        table.apply([old, _pod(number, CHANGED + SECOND, v6=v6)], [old.key])
    rng = np.random.default_rng(1)
    source, destination = (_ends(rng, v6=v6) for _ in range(2))
    first = CHANGED + SECOND + rng.integers(0, 5 * SECOND, FLOWS)
    family = "IPv6" if v6 else "IPv4"

    def join(to: Ends, since: npt.NDArray[np.int64]) -> Callable[[], None]:
        def both() -> None:
            table.resolve_address(*source, since, since + SECOND // 10)
            table.resolve_address(*to, since, since + SECOND // 10)

        return both

    name = f"join of both ends of {FLOWS:,} flows, {family}"
    report.add(_figure(name, join(destination, first), budget))
    report.add(
        _figure(f"{name}, a fifth in the past", join(destination, first - 3 * SECOND), budget)
    )
    for owner in range(OWNERS):
        since = CHANGED + 2 * owner * SECOND
        table.apply([_pod(PODS - 1, since, since + SECOND, v6=v6)])
    hot = _ends_of(np.full(FLOWS, PODS - 1), v6=v6)
    times = CHANGED + rng.integers(0, 2 * OWNERS * SECOND, FLOWS)
    name = f"{name}, one of {OWNERS} owners"
    report.add(_figure(name, join(hot, times), JOIN_OWNERS_MS))


def _measure_updates(report: Report) -> None:
    gc.collect()
    pods = [_pod(number, STARTED) for number in range(PODS)]
    table = EndpointTable()
    report.add(_each("endpoint, told with all others", PODS, lambda: table.update(pods)))
    old = [_pod(number, STARTED, CHANGED) for number in range(REUSED)]
    new = [_pod(number, CHANGED) for number in range(REUSED)]
    gone = [[one.key] for one in old]
    report.add(
        _each(
            "endpoint that ends, told alone",
            REUSED,
            lambda: [table.apply([one], keys) for one, keys in zip(old, gone, strict=True)],
        )
    )
    report.add(
        _each(
            "endpoint at its address, told alone",
            REUSED,
            lambda: [table.apply([one]) for one in new],
        )
    )
    rows = [Row(one, (parse(one.addresses[0]),)) for one in pods]
    index = ClaimIndex(rows)
    every = range(PODS)
    claim = index.claim_addresses
    report.add(
        _each("address in the index, new", PODS, lambda: [claim(n) for n in every], UPDATE_US)
    )
    report.add(_each("address in the index", PODS, lambda: [claim(n) for n in every], UPDATE_US))


def _measure_memory(report: Report) -> None:
    pods = [_pod(number, STARTED) for number in range(PODS)]
    gc.collect()
    tracemalloc.start()
    table = EndpointTable()
    table.update(pods)
    taken = tracemalloc.get_traced_memory()[0] / 2**20
    tracemalloc.stop()
    report.add(Figure(GROUP, "memory of the table, without the endpoints", taken, "MiB"))


def _pod(number: int, since: int, until: int = FOREVER, *, v6: bool = False) -> Endpoint:
    text = (
        str(ipaddress.IPv6Address(_HI << 64 | number >> 8 << 64 | (number & 255) << 16 | 0xAB))
        if v6
        else str(ipaddress.IPv4Address(_FIRST + number))
    )
    names = {"k8s.pod.name": f"pod-{number}", "k8s.namespace.name": f"team-{number % 200}"}
    valid = Validity(since, since, until, until)
    return Endpoint(EndpointKind.POD, f"{since}-{number}", names, (text,), valid=valid)


_FIRST = int(ipaddress.IPv4Address("10.64.0.0"))
_HI = 0xFD00_0010_0064_0000


def _ends(rng: np.random.Generator, *, v6: bool) -> Ends:
    hi, lo = _ends_of(rng.integers(0, PODS, FLOWS), v6=v6)
    outside = rng.random(FLOWS) < OUTSIDE
    count = int(outside.sum())
    if v6:
        hi[outside] = rng.integers(1 << 61, 1 << 62, count, dtype=np.uint64)
    else:
        lo[outside] = rng.integers(0, 1 << 32, count, dtype=np.uint64) | np.uint64(0xFFFF << 32)
    return hi, lo


def _ends_of(numbers: npt.NDArray[np.int64], *, v6: bool) -> Ends:
    number = numbers.astype(np.uint64)
    if v6:
        low = (number & np.uint64(255)) << np.uint64(16) | np.uint64(0xAB)
        return np.uint64(_HI) + (number >> np.uint64(8)), low
    mapped = (number + np.uint64(_FIRST)) | np.uint64(0xFFFF << 32)
    return np.zeros(len(number), np.uint64), mapped


def _figure(name: str, work: Callable[[], None], budget: float) -> Figure:
    taken = []
    work()
    for _ in range(ROUNDS):
        before = time.process_time()
        work()
        taken.append((time.process_time() - before) * 1e3)
    spread = min(taken), max(taken)
    return Figure(GROUP, name, statistics.median(taken), "ms", budget, spread, "CPU")


def _each(name: str, count: int, work: Callable[[], object], budget: float | None = None) -> Figure:
    before = time.process_time()
    work()
    taken = (time.process_time() - before) / count * 1e6
    return Figure(GROUP, f"update: {name}", taken, "us", budget, None, "CPU")
