"""What only Application Insights does to an exporter: a quota that is used up, and a part of a
request that stays untaken. All else that may happen to it, the tests of all exporters' faults tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

from retina_otel.pipeline.ledger import LedgerReport
from retina_otel.testing.application_insights import Answer
from tests.e2e.fault_kit_of_azure_monitor import AzureMonitorKit
from tests.e2e.faults import Stepped, SteppedClock, no_threads

OUTAGE_S = 600
"""Twice the time for which a request is tried by default."""


@pytest.fixture
def kit() -> Iterator[AzureMonitorKit]:
    kit = AzureMonitorKit()
    with no_threads():
        yield kit
    kit.close()


@pytest.fixture
def stepped(kit: AzureMonitorKit) -> Stepped:
    return Stepped(kit.make(kit.port, interval="15s", events_interval="1s"), SteppedClock())


def ends_well(kit: AzureMonitorKit, stepped: Stepped) -> LedgerReport:
    """What comes when all works again is there: sums are those of the source, the books close."""
    kit.work()
    stepped.source.tick(100, b=20)
    stepped.run(120)
    assert stepped.bench.reasons[-1] == ""
    ledger = stepped.stop()
    assert kit.sums() == stepped.source.truth
    assert kit.faults() == []
    return ledger


def test_a_part_that_stays_untaken_for_longer_than_a_retry_may_last_is_waited_for(
    kit: AzureMonitorKit, stepped: Stepped
) -> None:
    kit.azure.script(Answer(206, errors={1: 503}))
    kit.fail(503)
    stepped.source.tick(a=1, b=2)
    for _ in range(10):
        stepped.run(OUTAGE_S / 10)
        stepped.source.tick(a=10, c=3)
    assert ends_well(kit, stepped).lost == {}


def test_an_hour_without_quota_costs_old_events_and_no_counts(
    kit: AzureMonitorKit, stepped: Stepped
) -> None:
    kit.fail(439)
    tried_at: list[int] = []
    for second in range(3600):
        if second % OUTAGE_S == 0:
            stepped.source.tick(10, a=10, c=3)
        stepped.run(1)
        if kit.requests("points", accepted=False) > len(tried_at):
            tried_at.append(second)
    assert tried_at[0] <= 1
    # A minute is waited each time, and up to a tenth longer.
    pauses = {later - earlier for earlier, later in pairwise(tried_at)}
    assert pauses <= {*range(60, 68)}
    assert 3600 - tried_at[-1] <= 67
    lost = ends_well(kit, stepped).lost
    assert set(lost) == {"events_expired"}
    assert kit.numbers() == list(range(lost["events_expired"], stepped.source.events))
