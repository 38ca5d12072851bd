"""What the kernel side costs a packet, by BPF_PROG_TEST_RUN on a 1,400-byte frame.

The programs are those of bpf/flows.bpf.c, compiled once more with the benchmark's own beside them
(flows_bench.bpf.c). All are timed in turn within one round, and the median of the rounds is taken,
so that a noisy moment hits all of them. The floor of the method itself is the empty program.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retina_otel.kernel.bpf import testrun
from retina_otel.kernel.bpf.maps import possible_cpus
from retina_otel.loaders import core
from retina_otel.loaders.base import Loaded
from retina_otel.receivers.flows.settings import FlowsSettings
from retina_otel.receivers.flows.tables import slot_bits
from retina_otel.testing import packets as build
from tests.bench.report import Figure, Report

ROUNDS = 9
FRAME_BYTES = 1400
SOURCE = Path(__file__).with_name("flows_bench.bpf.c")
YARDSTICK_RATIO = 1.15
BUDGETS_NS = {0: 45.0, 1024: 70.0}


def compile_object(folder: Path = Path("build")) -> str:
    """The benchmark's variant of the object, compiled into `folder`."""
    folder.mkdir(exist_ok=True)
    target = str(folder / "flows_bench.bpf.o")
    arch = {"x86_64": "x86", "aarch64": "arm64"}[platform.machine()]
    subprocess.run(
        [
            *("clang", "-O2", "-g", "-mcpu=v3", "-target", "bpf", f"-D__TARGET_ARCH_{arch}"),
            *("-Ibpf", "-idirafter", f"/usr/include/{platform.machine()}-linux-gnu"),
            *("-c", str(SOURCE), "-o", target),
        ],
        check=True,
    )
    return target


@contextmanager
def loaded(object_path: str, flows: int) -> Iterator[Loaded]:
    cpus = possible_cpus()
    settings = FlowsSettings()
    bits = slot_bits(settings.cache_bytes, cpus)
    made = core.load(
        object_path,
        constants={"cfg_slot_bits": bits, "bench_flows": flows},
        max_entries={
            "flows4_cache": 2 * cpus << bits,
            "flows6_cache": 2 * cpus << bits,
            "flows6_details": 2 * cpus << bits,
            "flows4_tags": 2 * cpus << bits,
            "flows6_tags": 2 * cpus << bits,
            "flows_ledger": cpus * 2 * 256 * 2,
            "flows_stats": cpus * 2,
        },
    )
    try:
        yield made
    finally:
        made.close()


def frames() -> dict[str, bytes]:
    def padded(network: int, transport: int) -> bytes:
        return bytes(FRAME_BYTES - 14 - network - transport)

    four, six = ("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")
    packets = {
        "IPv4 TCP": build.ipv4(*four, 6, build.tcp(*four, 1, 443, 0x10, payload=padded(20, 20))),
        "IPv4 UDP": build.ipv4(*four, 17, build.udp(*four, 1, 443, padded(20, 8))),
        "IPv6 TCP": build.ipv6(*six, 6, build.tcp(*six, 1, 443, 0x10, payload=padded(40, 20))),
        "IPv6 UDP": build.ipv6(*six, 17, build.udp(*six, 1, 443, padded(40, 8))),
    }
    return {
        name: build.ethernet("02:00:00:00:00:02", "02:00:00:00:00:01", packet)
        for name, packet in packets.items()
    }


def measure(report: Report) -> None:
    object_path = compile_object()
    data = frames()
    for flows in (0, 1024, 65536):
        repeat = 2_000_000 if flows > 60_000 else 1_000_000
        what = "one flow" if not flows else f"{flows:,} random flows"
        # One family at a time: two tables of 65,536 flows would evict each other from the caches.
        for family in ("IPv4", "IPv6"):
            programs = {
                "empty program": ("bench_empty", data[f"{family} TCP"]),
                f"plain HASH with atomics, {family}": ("bench_yardstick", data[f"{family} TCP"]),
                f"flows, {family} TCP": ("flows_pod_in", data[f"{family} TCP"]),
            }
            if flows < 60_000:
                programs[f"flows, {family} UDP"] = ("flows_pod_in", data[f"{family} UDP"])
                programs[f"flows at an uplink's egress, {family} TCP"] = (
                    "flows_host_out",
                    data[f"{family} TCP"],
                )
            times: dict[str, list[int]] = {name: [] for name in programs}
            ratios: list[float] = []
            with loaded(object_path, flows) as made:
                for turn in range(ROUNDS + 1):
                    for name, (program, frame) in programs.items():
                        ran = testrun.run(made.programs[program], frame, repeat)
                        if turn:  # the first round fills the tables
                            times[name].append(ran.ns)
                    if turn:
                        yard, ours = (times[name][-1] for name in list(programs)[1:3])
                        ratios.append(ours / yard)
            for name, taken in times.items():
                budget = BUDGETS_NS.get(flows) if name.startswith("flows") else None
                report.add(_figure((f"packet, {what}", name), taken, "ns", budget))
            if flows > 60_000:
                name = f"flows over plain HASH, {family}"
                report.add(_figure((f"packet, {what}", name), ratios, "x", YARDSTICK_RATIO))


def _figure(
    where: tuple[str, str], values: list[int] | list[float], unit: str, budget: float | None
) -> Figure:
    how = f"median of {len(values)} rounds of PROG_TEST_RUN"
    spread = (min(values), max(values))
    return Figure(*where, statistics.median(values), unit, budget, spread, how)
