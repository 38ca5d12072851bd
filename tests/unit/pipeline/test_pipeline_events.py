"""EventBuffer: each event is acknowledged once, or counted as shed once, for each reader."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retina_otel.model.batches import Column, EventBatch, RawEnds, Window
from retina_otel.model.signals import Attribute, Ends, Event
from retina_otel.pipeline.events import BufferReader, EventBuffer, EventBufferSettings
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind, EndpointTable
from retina_otel.pipeline.points import EventsExport

SECOND = 1_000_000_000
DROP = Event(
    "test.drop", 13, "", (Attribute("reason", "string", ""), Attribute("n", "int", "")), Ends.BOTH
)
PLAIN = Event("test.plain", 9, "", (Attribute("n", "int", ""),))
ONE_EVENT = 64 + 12 + 1
"""Bytes of an event of PLAIN."""


def numbered(*numbers: int) -> EventBatch:
    values = np.array(numbers, np.int64)
    return EventBatch(PLAIN, Window(0, SECOND), values, {"n": values})


def numbers(export: EventsExport | None) -> list[int]:
    if export is None:
        return []
    return [int(n) for block in export.blocks for n in block.integers["n"]]


def small(events: int) -> EventBuffer:
    return EventBuffer(EndpointTable(), EventBufferSettings(max_bytes=events * ONE_EVENT))


def ends(ports: Sequence[int], low: int) -> RawEnds:
    count = len(ports)
    return RawEnds(
        hi=np.zeros(count, np.uint64),
        lo=np.full(count, 0xFFFF << 32 | 0x0A000000 | low, np.uint64),
        port=np.array(ports, np.uint16),
        ifindex=np.zeros(count, np.uint32),
    )


def test_an_event_has_all_attributes_of_its_ends_and_its_own() -> None:
    endpoints = EndpointTable()
    endpoints.update([Endpoint(EndpointKind.POD, "web", {"k8s.pod.uid": "u1"}, ("10.0.0.7",))])
    buffer = EventBuffer(endpoints)
    reader = buffer.reader("x")
    source, destination = ends([1000, 0], 7), ends([53, 0], 9)
    buffer.append(
        EventBatch(
            DROP,
            Window(0, SECOND),
            np.array([5, 6], np.int64),
            {"reason": Column(np.array([1, -1], np.int32), ["a", "b"]), "n": np.array([17, 3])},
            source,
            destination,
            endpoints.resolve_address(source.hi, source.lo),
            endpoints.resolve_address(destination.hi, destination.lo),
            body="{reason}",
        ),
        observed_ns=9,
    )
    export = reader.take(1 << 20)
    assert export is not None
    found = []
    for block in export.blocks:
        assert (block.event, block.observed_ns, block.body) == (DROP, 9, "{reason}")
        for place, time in enumerate(block.time_ns.tolist()):
            ids = (block.source[place], block.destination[place], block.own[place])
            attributes = {k: v for number in ids for k, v in block.sets.get(int(number))}
            attributes |= {name: int(column[place]) for name, column in block.integers.items()}
            found.append((time, attributes))
    addresses = {"source.address": "10.0.0.7", "destination.address": "10.0.0.9"}
    identity = {"source.k8s.pod.uid": "u1"}
    ports = {"source.port": 1000, "destination.port": 53}
    assert found == [
        (5, {**identity, **addresses, **ports, "reason": "b", "n": 17}),
        (6, {**identity, **addresses, "n": 3}),
    ]


def test_attributes_can_be_chosen() -> None:
    settings = EventBufferSettings(attributes={"test.*": ["n", "destination.address"]})
    buffer = EventBuffer(EndpointTable(), settings)
    reader = buffer.reader("x")
    own = {"reason": Column(np.zeros(1, np.int32), ["a"]), "n": np.array([17])}
    time = np.array([5], np.int64)
    buffer.append(EventBatch(DROP, Window(0, 1), time, own, ends([1], 7), ends([2], 9)))
    export = reader.take(1 << 20)
    assert export is not None
    (block,) = export.blocks
    assert list(block.integers) == ["n"]
    sets = [block.sets.get(int(ids[0])) for ids in (block.source, block.destination, block.own)]
    assert sets == [(), (("destination.address", "10.0.0.9"),), ()]


def test_what_is_not_acknowledged_is_given_again() -> None:
    buffer = EventBuffer(EndpointTable())
    reader = buffer.reader("x")
    assert reader.take(100) is None
    buffer.append(numbered(1, 2, 3))
    assert numbers(reader.take(1 << 20)) == [1, 2, 3]
    buffer.append(numbered(4))
    export = reader.take(1 << 20)
    assert numbers(export) == [1, 2, 3, 4]
    reader.acknowledge(export)  # type: ignore[arg-type]
    assert reader.take(1 << 20) is None
    buffer.tidy()
    assert (len(buffer), buffer.n_bytes, reader.shed) == (0, 0, 0)


def test_an_export_has_about_the_bytes_asked_for_and_at_least_one_event() -> None:
    buffer = EventBuffer(EndpointTable())
    reader = buffer.reader("x")
    buffer.append(numbered(1, 2, 3))
    buffer.append(numbered(4, 5))
    assert numbers(reader.take(1)) == [1]
    assert numbers(reader.take(2 * ONE_EVENT)) == [1, 2]
    assert numbers(reader.take(4 * ONE_EVENT)) == [1, 2, 3, 4]
    export = reader.take(2 * ONE_EVENT + 1)
    reader.acknowledge(export)  # type: ignore[arg-type]
    assert numbers(reader.take(2 * ONE_EVENT)) == [3, 4]


def test_beyond_the_bound_the_oldest_are_shed_and_counted() -> None:
    buffer = small(3)
    reader = buffer.reader("x")
    buffer.append(numbered(1, 2))
    buffer.append(numbered(3, 4))
    assert reader.shed == 1
    assert numbers(reader.take(1 << 20)) == [2, 3, 4]
    buffer.append(numbered(*range(5, 11)))
    assert numbers(reader.take(1 << 20)) == [8, 9, 10]
    assert (reader.shed, len(buffer), buffer.n_bytes) == (7, 3, 3 * ONE_EVENT)


def test_what_a_reader_holds_is_not_shed_for_it_if_it_is_delivered() -> None:
    buffer = small(2)
    lucky, unlucky = buffer.reader("lucky"), buffer.reader("unlucky")
    buffer.append(numbered(1, 2))
    held = lucky.take(1 << 20)
    unlucky.take(1 << 20)
    buffer.append(numbered(3, 4, 5))
    assert numbers(held) == [1, 2]
    assert lucky.shed == 1  # 3 is lost already, 1 and 2 may still be delivered
    lucky.acknowledge(held)  # type: ignore[arg-type]
    assert numbers(lucky.take(1 << 20)) == [4, 5]
    assert numbers(unlucky.take(1 << 20)) == [4, 5]
    assert (lucky.shed, unlucky.shed) == (1, 3)


def test_without_readers_nothing_is_kept() -> None:
    buffer = EventBuffer(EndpointTable())
    buffer.append(numbered(1, 2))
    assert len(buffer) == 0
    reader = buffer.reader("late")
    buffer.append(numbered(3))
    assert numbers(reader.take(1 << 20)) == [3]
    buffer.remove(reader)
    buffer.tidy()
    assert len(buffer) == 0


STEPS = st.lists(
    st.one_of(
        st.integers(1, 7).map(lambda n: ("append", n)),
        st.integers(1, 6).map(lambda n: ("take", n)),
        st.just(("ack", 0)),
        st.just(("tidy", 0)),
    ),
    max_size=50,
)


@given(STEPS, STEPS, st.integers(1, 12))
def test_delivered_and_shed_are_all_there_were(
    steps: list[tuple[str, int]], more: list[tuple[str, int]], bound: int
) -> None:
    buffer = small(bound)
    readers = [buffer.reader("a"), buffer.reader("b")]
    delivered: list[list[int]] = [[], []]
    held: list[EventsExport | None] = [None, None]
    appended = 0
    sequence = [(0, step) for step in steps] + [(1, step) for step in more]
    for who, (step, count) in [*sequence, *[(w, s) for s in FINISH for w in (0, 1)]]:
        if step == "append":
            buffer.append(numbered(*range(appended, appended + count)))
            appended += count
        elif step == "take":
            held[who] = readers[who].take(count * ONE_EVENT)
        elif step == "tidy":
            buffer.tidy()
        elif (export := held[who]) is not None:
            delivered[who] += numbers(export)
            readers[who].acknowledge(export)
            held[who] = None
        assert buffer.n_bytes <= bound * ONE_EVENT
    for reader, got in zip(readers, delivered, strict=True):
        assert got == sorted(set(got))
        assert len(got) + reader.shed == appended == buffer.appended


FINISH = [("ack", 0), ("take", 10_000), ("ack", 0)]


def test_ids_of_dropped_events_keep_their_meaning_for_whoever_holds_them() -> None:
    buffer = EventBuffer(EndpointTable(), EventBufferSettings(max_bytes=100))
    reader = buffer.reader("x")

    def append(name: str) -> None:
        own = {"reason": Column(np.zeros(1, np.int32), [name])}
        buffer.append(EventBatch(DROP, Window(0, 1), np.array([1], np.int64), own))

    append("held")
    held = reader.take(1 << 20)
    assert held is not None
    (block,) = held.blocks
    number = int(block.own[0])
    for other in range(20):
        append(f"other{other}")
    assert (reader.shed, len(buffer)) == (19, 1)
    assert block.sets.get(number) == (("reason", "held"),)
    assert block.sets.version(number) == 0
    reader.take(1 << 20)
    append("last")
    assert block.sets.version(number) == 1


def test_readers_on_threads_get_each_event_once_while_others_are_appended() -> None:
    buffer = EventBuffer(EndpointTable())
    stop = threading.Event()
    got: dict[str, list[int]] = {}

    def read(reader: BufferReader) -> None:
        mine = got[reader.name] = []
        while True:
            last = stop.is_set()
            export = reader.take(10 * ONE_EVENT)
            if export is not None:
                mine += numbers(export)
                reader.acknowledge(export)
            elif last:
                return

    threads = [threading.Thread(target=read, args=(buffer.reader(name),)) for name in "ab"]
    for thread in threads:
        thread.start()
    for number in range(0, 3000, 3):
        buffer.append(numbered(number, number + 1, number + 2))
    stop.set()
    for thread in threads:
        thread.join()
    assert got == {"a": list(range(3000)), "b": list(range(3000))}
