"""The wall clock is set while an agent runs, forwards and back: no value and no event is lost, no
time goes back, and none is before its series' start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.fault_kit import Kit
from tests.e2e.fault_kits import KITS
from tests.e2e.faults import Stepped, SteppedClock, no_threads

HOUR_NS = 3600 * 10**9


@pytest.fixture(params=KITS)
def kit(request: pytest.FixtureRequest) -> Iterator[Kit]:
    kit = KITS[request.param]()
    with no_threads():
        yield kit
    kit.close()


@pytest.mark.parametrize("away", [False, True], ids=["backend-there", "backend-away"])
@pytest.mark.parametrize("hours", [[30], [-30], [30, -60, 30], [-0.01, 0.02]], ids=str)
def test_a_step_of_the_wall_clock_costs_nothing(kit: Kit, hours: list[float], away: bool) -> None:
    stepped = Stepped(kit.make(kit.port, interval="15s", events_interval="1s"), SteppedClock())
    stepped.source.tick(50, a=1, b=2)
    stepped.run(20)
    for step in hours:
        if away:
            kit.fail(503)
        stepped.source.tick(50, a=10)
        stepped.run(20)
        stepped.clock.step_ns += round(step * HOUR_NS)
        stepped.source.tick(50, a=100, c=3)
        stepped.run(20)
        kit.work()
        stepped.source.tick(50, b=20)
        stepped.run(60)
    ledger = stepped.stop()
    assert kit.sums() == stepped.source.truth
    if kit.has_events:
        assert kit.numbers() == list(range(stepped.source.events))
    assert ledger.lost == {}
    assert kit.faults() == []
