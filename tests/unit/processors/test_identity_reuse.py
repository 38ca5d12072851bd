"""An address that goes from pod to pod under traffic, told up to five seconds late: through the
processor, the settling stage and the accumulator nothing is ever credited to a wrong pod."""

from __future__ import annotations

import logging
import random
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from retina_otel.component import Context
from retina_otel.model.batches import Column, MetricBatch, RawEnds, Window
from retina_otel.model.signals import Attribute, Ends, Kind, Metric
from retina_otel.pipeline.accumulator import Accumulator
from retina_otel.pipeline.identity.endpoints import (
    FOREVER,
    Endpoint,
    EndpointKind,
    EndpointTable,
    Validity,
)
from retina_otel.pipeline.identity.late import LateIdentity
from retina_otel.pipeline.ledger import Ledger
from retina_otel.pipeline.pipeline import MetricsPipeline
from retina_otel.processors.identity import IdentityProcessor, IdentitySettings

MS = 1_000_000
SECOND = 1000 * MS
LATE = 5 * SECOND
TICK = 5 * SECOND
OWNERS = 200
LIFE = 4 * SECOND
EVERY = 100 * MS
T0 = 1_700_000_000 * SECOND
TRUTH = Attribute("truth", "string", "")
IO = Metric("test.io", Kind.COUNTER, "By", "", (TRUTH,), Ends.BOTH)
LOCAL = 7


@dataclass(frozen=True)
class Pod:
    """What really happened; the API server's times are whole seconds."""

    name: str
    scheduled: int
    begins: int
    asked_to_go: int
    ends: int

    def told(self, *, gone_at: int | None = None) -> Endpoint:
        certain = -(-self.begins // SECOND) * SECOND + SECOND
        valid = Validity(
            self.scheduled,
            certain,
            FOREVER if gone_at is None else self.asked_to_go // SECOND * SECOND,
            FOREVER if gone_at is None else gone_at,
        )
        names = {"k8s.pod.name": self.name}
        return Endpoint(EndpointKind.POD, self.name, names, ("10.0.0.1", "fd00::1"), valid=valid)


def story(rng: random.Random) -> list[Pod]:
    """Each gets the address the moment the one before has lost it."""
    pods = []
    now = T0
    for number in range(OWNERS):
        ends = now + LIFE + rng.randrange(SECOND)
        scheduled = (now - rng.randrange(2 * SECOND)) // SECOND * SECOND
        pods.append(Pod(f"p{number}", scheduled, now, ends - rng.randrange(SECOND), ends))
        now = ends
    return pods


def rows(pods: list[Pod], start: int, end: int) -> MetricBatch | None:
    """What the local pod exchanged with the address, a row a packet, with who had it then."""
    times, truth = [], []
    for pod in pods:
        first = max(pod.begins, start)
        for now in range(first + -(first - T0) % EVERY, min(pod.ends, end), EVERY):
            times.append(now)
            truth.append(pod.name)
    if not times:
        return None
    count = len(times)
    v4 = np.arange(count) % 2 == 0
    here = RawEnds(
        np.zeros(count, np.uint64),
        np.full(count, 0xFFFF_0A09_0909, np.uint64),
        np.zeros(count, np.uint16),
        np.full(count, LOCAL, np.uint32),
    )
    there = RawEnds(
        np.where(v4, np.uint64(0), np.uint64(0xFD00 << 48)),
        np.where(v4, np.uint64(0xFFFF_0A00_0001), np.uint64(1)),
        np.zeros(count, np.uint16),
        np.zeros(count, np.uint32),
    )
    stamps = np.array(times, np.int64)
    return MetricBatch(
        Window(start, end),
        {IO: np.ones(count, np.int64)},
        {"truth": Column(np.arange(count, dtype=np.int32), truth)},
        here,
        there,
        first_ns=stamps - 8 * MS,
        last_ns=stamps + 8 * MS,
    )


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("late", [0, LATE])
@pytest.mark.parametrize("around", [None, EndpointKind.CIDR, EndpointKind.WORLD])
def test_nothing_is_credited_to_who_did_not_have_the_address(
    seed: int, late: int, around: EndpointKind | None
) -> None:
    """`around`: what the addresses of pods would be if they were nobody's."""
    rng = random.Random(seed)
    pods = story(rng)
    table = EndpointTable()
    table.settle_after_ns = LATE
    me = Endpoint(
        EndpointKind.POD,
        "me",
        {"k8s.pod.name": "me"},
        ("10.0.0.9", "fd00::9"),
        interfaces=(LOCAL,),
    )
    table.apply([me])
    if around is not None:
        said = {"cidr": "office", "k8s.resource.type": around.name.lower()}
        table.apply([Endpoint(around, "around", said, ("10.0.0.0/8", "fd00::/8"))])
    processor = IdentityProcessor(
        IdentitySettings(),
        Context(
            id="identity",
            clock=None,  # type: ignore[arg-type]
            logger=logging.getLogger("identity"),
            ledger=Ledger("identity", "rows"),
            identity=table,
            interfaces=None,  # type: ignore[arg-type]
        ),
    )
    accumulator = Accumulator(table)
    reader = accumulator.reader("test", zero_points=False)
    stage = LateIdentity(processor.process_metrics, endpoints=table)
    pipeline = MetricsPipeline("metrics", [processor], accumulator, late=stage)
    news: list[tuple[int, Pod, bool]] = []
    for pod in pods:
        # The first event with the address comes when it has it; the last when it is gone.
        added = pod.begins + rng.randrange(late + 1)
        news.append((added, pod, False))
        news.append((max(added, pod.ends + rng.randrange(late + 1)), pod, True))
    news.sort(key=lambda one: one[0])
    sent = 0
    start = T0
    while start < pods[-1].ends + 3 * LATE:
        end = start + TICK
        while news and news[0][0] < end:
            now, pod, gone = news.pop(0)
            if gone:
                table.apply([pod.told(gone_at=now)], [pod.name])
            else:
                table.apply([pod.told()])
        if (batch := rows(pods, start, end)) is not None:
            sent += len(batch)
            pipeline.push([batch])
        table.advance(end)
        pipeline.tick(end)
        start = end
    credited: Counter[tuple[str, str]] = Counter()
    export = reader.take()
    assert export is not None
    for block in export.blocks:
        for place, value in enumerate(np.asarray(block.values).tolist()):
            whose = dict(block.sets.get(int(block.destination[place])))
            truth = dict(block.sets.get(int(block.own[place])))
            told = ("destination.k8s.pod.name", "destination.cidr", "destination.k8s.resource.type")
            name = next((str(whose[one]) for one in told if one in whose), "unknown")
            credited[str(truth["truth"]), name] += value
    assert [pair for pair in credited if pair[1] not in (pair[0], "unknown")] == []
    assert sum(credited.values()) == sent
    unknown = sum(value for pair, value in credited.items() if pair[1] == "unknown")
    report = pipeline.ledger.report()
    assert (report.drained, report.held, report.difference) == (sent, 0, 0)
    assert 0 < unknown == report.beside["ambiguous_ends"]
