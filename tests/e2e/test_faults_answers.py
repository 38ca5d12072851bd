"""Whatever a backend answers: the books close, sums are right, events come or are counted.

Each exporter is driven on a clock of the test's, against a real backend that keeps its own tally.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.fault_kit import Kit, Verdict
from tests.e2e.fault_kits import KITS, TAKING_PARTS, WITH_BEARER
from tests.e2e.faults import Stepped, SteppedClock, no_threads

STATUSES = [400, 401, 403, 404, 413, 429, 500, 502, 503, 504]
SETTINGS = {"interval": "15s", "events_interval": "1s"}


@pytest.fixture(params=KITS)
def kit(request: pytest.FixtureRequest) -> Iterator[Kit]:
    kit = KITS[request.param]()
    with no_threads():
        yield kit
    kit.close()


@pytest.fixture
def stepped(kit: Kit) -> Stepped:
    return Stepped(kit.make(kit.port, **SETTINGS), SteppedClock())


def works_again(stepped: Stepped, kit: Kit, **refused: int) -> None:
    """The end of each story: what came while all works is there, and the books agree with what the
    backend counted. What was refused is in the next cumulative value; as a delta it is gone."""
    stepped.source.tick(100, b=20)
    stepped.run(90)
    assert stepped.bench.reasons[-1:] in ([], [""])
    ledger = stepped.stop()
    truth = Counter(stepped.source.truth)
    if not kit.cumulative:
        truth -= Counter(refused)
    assert kit.sums() == truth
    for unit, counts in ledger.exports.items():
        rejected = counts.failed.get("rejected", 0)
        assert counts.exported == kit.items(unit, accepted=True) - rejected
        assert counts.requests == kit.requests(unit, accepted=True) + kit.requests(
            unit, accepted=False
        )
    if kit.has_events:
        lost = sum(n for name, n in ledger.lost.items() if name.startswith("events"))
        assert len(kit.numbers()) + lost == stepped.source.events
        assert kit.numbers() == sorted(set(kit.numbers()))


@pytest.mark.parametrize("wait_s", [None, 7.0], ids=["at-once", "retry-after"])
@pytest.mark.parametrize("status", STATUSES)
def test_each_status_means_what_its_protocol_says(
    stepped: Stepped, kit: Kit, status: int, wait_s: float | None
) -> None:
    verdict = (kit.verdicts if wait_s is None else kit.verdicts_with_wait)[status]
    stepped.source.tick(100, a=1, b=2)
    stepped.run(20)
    kit.fail(status, wait_s)
    stepped.source.tick(100, a=10, c=3)
    stepped.run(40)
    failed = {unit: kit.requests(unit, accepted=False) for unit in ("points", "events")}
    unsettled = {unit: kit.items(unit, accepted=False) for unit in ("points", "events")}
    kit.work()
    assert stepped.bench.reasons[-1] != ""
    works_again(stepped, kit, **({} if verdict is Verdict.RETRIED else {"a": 10, "c": 3}))
    ledger = stepped.ledger
    for unit, counts in ledger.exports.items():
        assert sum(counts.request_failures.values()) == failed[unit]
        if verdict is Verdict.RETRIED:
            assert counts.failed == {}
        elif verdict is Verdict.REFUSED:
            assert counts.failed == {"refused": unsettled[unit]}
        else:
            # Halved down to single items, each of which was refused once as such.
            assert set(counts.failed) == {"too_large"}
    if kit.has_events:
        gone = 0 if verdict is Verdict.RETRIED else 100
        assert kit.numbers() == [*range(200 - gone), *range(200, 300)][: 300 - gone]
        if verdict is Verdict.RETRIED and wait_s is not None:
            # At second 1, 8, 15, 22, 29 and 36 of 40.
            assert failed["events"] == 6
    assert kit.faults(zero_first=verdict is Verdict.RETRIED) == []


@pytest.mark.parametrize("kit", TAKING_PARTS, indirect=True)
def test_what_a_backend_takes_in_part_is_counted_and_not_sent_again(
    stepped: Stepped, kit: Kit
) -> None:
    kit.reject(2)
    stepped.source.tick(100, a=1, b=2)
    stepped.run(20)
    works_again(stepped, kit, a=1, b=2)
    (rejected,) = [counts for counts in stepped.ledger.exports.values() if counts.failed]
    assert rejected.failed == {"rejected": 2}
    assert rejected.request_failures == {kit.partly: 1}


@pytest.mark.parametrize("kit", WITH_BEARER, indirect=True)
def test_a_rotated_token_is_read_without_a_restart_and_costs_nothing(
    kit: Kit, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    auth = {"bearer": {"token_file": str(token)}}
    make = kit.make(kit.port, auth=auth, **SETTINGS)
    stepped = Stepped(make, SteppedClock())
    stepped.source.tick(100, a=1)
    stepped.run(20)
    assert kit.sums() == {"a": 1}
    kit.fail(401)
    stepped.source.tick(100, a=10)
    stepped.run(40)
    assert kit.sums() == {"a": 1}
    assert stepped.bench.reasons[-1] != ""
    with_first = kit.authorizations()
    assert set(with_first) == {"Bearer first"}
    token.write_text("second")
    kit.work()
    works_again(stepped, kit)
    assert set(kit.authorizations()[len(with_first) :]) == {"Bearer second"}
    assert "first" not in "".join(stepped.bench.reasons)
    if kit.has_events:
        assert kit.numbers() == list(range(300))
    assert stepped.ledger.lost == {}
