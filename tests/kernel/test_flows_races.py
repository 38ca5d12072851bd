"""Two CPUs open and count the same 65,536 flows at full speed while generations are read.

The packets are test runs of the benchmark's variant of the object, which draws a flow at random for
each: nothing but the programs themselves is in the way, so that rows are inserted by both CPUs at
the same moment many times a second.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from retina_otel.kernel import testrun
from retina_otel.receivers.flows.tables import FlowTables
from tests.bench.packets import compile_object, frames

FLOWS = 65_536
PACKETS_EACH = 3_000_000
BATCH = 100_000


@pytest.mark.parametrize("cached", [True, False], ids=["with caches", "shared tables only"])
@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_no_packet_is_lost_between_cpus_and_generations(
    family: str, cached: bool, tmp_path: Path
) -> None:
    tables = FlowTables(
        cache_bytes=4 << 20,
        max_flows=131_072,
        ring_bytes=1 << 20,
        shared_cpus=not cached,
        constants={"bench_flows": FLOWS},
        object_path=compile_object(tmp_path),
    )
    frame = frames()[f"{family} UDP"]
    program = tables.programs["flows_pod_in"]

    def send(cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        for _ in range(PACKETS_EACH // BATCH):
            testrun.run(program, frame, BATCH)

    senders = [threading.Thread(target=send, args=(cpu,)) for cpu in (0, 1)]
    counted = seen = lost = races = generations = 0
    try:
        for sender in senders:
            sender.start()
        while True:
            running = any(sender.is_alive() for sender in senders)
            generation = tables.take()
            counted += int(generation.rows.packets.sum())
            seen += generation.seen_packets
            lost += generation.lost_packets
            generations += 1
            assert int(generation.rows.packets.sum()) + generation.lost_packets == (
                generation.seen_packets
            )
            if not running:
                break
        races = tables.insert_races
    finally:
        for sender in senders:
            sender.join()
        tables.close()
    assert seen == 2 * PACKETS_EACH
    assert counted + lost == seen
    # Else this showed nothing: the CPUs never met, or nothing was read meanwhile.
    assert races > 0
    assert generations > 3
