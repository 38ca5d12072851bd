"""How it was known who an end is: on events, as it was in the end; never on points."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from retina_otel.model.batches import EventBatch, How, MetricBatch, RawEnds, Window
from retina_otel.model.signals import (
    BUILT_IN,
    DESTINATION_KNOWN_BY,
    DROP_EVENT,
    FLOW_PACKETS,
    SOURCE_KNOWN_BY,
    Ends,
    Event,
)
from retina_otel.pipeline.accumulator import Accumulator
from retina_otel.pipeline.events import EventBuffer, EventBufferSettings
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind, EndpointTable
from retina_otel.pipeline.identity.late import LateIdentity

SECOND = 1_000_000_000
NOW = 100 * SECOND
WORDS = {
    How.UNKNOWN: "none",
    How.INTERFACE: "interface",
    How.NAMESPACE: "network_namespace",
    How.SOCKET: "socket",
    How.ADDRESS: "address",
    How.BACKEND: "translation",
    How.AMBIGUOUS: "ambiguous",
    How.NOBODY: "none",
}


def anywhere(count: int) -> RawEnds:
    nothing = np.zeros(count, np.uint64)
    return RawEnds(nothing, nothing, nothing.astype(np.uint16), nothing.astype(np.uint32))


def every_way(event: Event = DROP_EVENT) -> EventBatch:
    """An event for each way to know the source; of its destination it is the next one."""
    ways = np.array(list(How), np.uint8)
    rows = np.zeros(len(ways), np.int32)
    return EventBatch(
        event,
        Window(NOW - SECOND, NOW),
        np.full(len(ways), NOW),
        source=anywhere(len(ways)),
        destination=anywhere(len(ways)),
        source_rows=rows,
        destination_rows=rows,
        source_how=ways,
        destination_how=np.roll(ways, -1),
    )


def attributes(
    batch: EventBatch, endpoints: EndpointTable | None = None, **settings: Any
) -> list[dict[str, Any]]:
    """Of the events that come out of a buffer."""
    buffer = EventBuffer(endpoints or EndpointTable(), EventBufferSettings(**settings))
    reader = buffer.reader("x")
    buffer.append(batch)
    export = reader.take(1 << 20)
    assert export is not None
    return [
        {key: value for ids in ends for key, value in block.sets.get(ids)}
        for block in export.blocks
        for ends in zip(*(ids.tolist() for ids in (block.source, block.own)), strict=True)
    ]


def test_an_event_says_of_each_end_how_it_was_known() -> None:
    ways = list(How)
    assert attributes(every_way()) == [
        {
            "retina.source.known_by": WORDS[how],
            "retina.destination.known_by": WORDS[ways[(place + 1) % len(ways)]],
        }
        for place, how in enumerate(ways)
    ]


def test_it_is_left_out_where_it_is_not_chosen_declared_or_asked() -> None:
    chosen = attributes(every_way(), attributes={"retina.drop": ["retina.source.*"]})
    assert {key for one in chosen for key in one} == {"retina.source.known_by"}
    undeclared = Event("third.party", 9, "", ends=Ends.BOTH)
    assert attributes(every_way(undeclared)) == [{}] * len(How)
    unasked = replace(every_way(), source_how=None, destination_how=None)
    assert attributes(unasked) == [{}] * len(How)


def test_points_have_none_whatever_is_chosen() -> None:
    ways = np.array(list(How), np.uint8)
    rows = np.zeros(len(ways), np.int32)
    accumulator = Accumulator(EndpointTable())
    accumulator.add(
        MetricBatch(
            Window(NOW - SECOND, NOW),
            {FLOW_PACKETS: np.ones(len(ways), np.int64)},
            source=anywhere(len(ways)),
            destination=anywhere(len(ways)),
            source_rows=rows,
            destination_rows=rows,
            source_how=ways,
            destination_how=ways,
        )
    )
    accumulator.snapshot(NOW)
    assert accumulator.n_live == 1
    declaring = {signal for signal in BUILT_IN if SOURCE_KNOWN_BY in signal.attributes}
    assert declaring == {signal for signal in BUILT_IN if DESTINATION_KNOWN_BY in signal.attributes}
    assert declaring == {signal for signal in BUILT_IN if isinstance(signal, Event)}


@pytest.mark.parametrize("told", [How.ADDRESS, How.BACKEND, How.AMBIGUOUS, How.INTERFACE])
def test_an_end_that_could_not_settle_is_known_by_nothing(told: How) -> None:
    endpoints = EndpointTable()
    endpoints.settle_after_ns = 5 * SECOND
    endpoints.update([Endpoint(EndpointKind.POD, "web", {}, ("10.0.0.7",))])
    late: LateIdentity[EventBatch] = LateIdentity(lambda batch: batch, endpoints=endpoints)
    batch = every_way().at(np.array([0]))
    batch = replace(
        batch,
        destination_rows=np.array([0 if told is How.AMBIGUOUS else 1], np.int32),
        destination_how=np.array([told], np.uint8),
    )
    passed = late.pass_on(batch)
    if passed is None:
        (passed,) = late.release_all(NOW)
    expected = told if told in (How.AMBIGUOUS, How.INTERFACE) else How.UNKNOWN
    (one,) = attributes(passed, endpoints)
    assert one["retina.destination.known_by"] == WORDS[expected]
