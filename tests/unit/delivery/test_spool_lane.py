"""Events over the disk: in order, each once, through outages, stops and restarts."""

from __future__ import annotations

from pathlib import Path

import pytest

from retina_otel.delivery.compression import Compression
from retina_otel.delivery.otlp_wire import LOGS
from retina_otel.delivery.outcome import Outcome
from retina_otel.testing.exporters import EventsFeed
from tests.unit.delivery.scripted_outcomes import ACCEPTED, REFUSED, TOO_LARGE, UNAVAILABLE
from tests.unit.delivery.spool_lane_rig import Backend, Rig


def test_events_wait_on_the_disk_while_the_backend_is_away_for_hours(tmp_path: Path) -> None:
    backend = Backend(lambda body: UNAVAILABLE)
    rig = Rig(tmp_path, backend)
    for hour in range(6):
        rig.happen(1 + hour * 10, 10)
        rig.run(3600)
        assert rig.events.take(1 << 20) is None
        assert (rig.ledger.held, rig.ledger.seen) == ((hour + 1) * 10, (hour + 1) * 10)
    backend.answer = lambda body: ACCEPTED
    rig.run(60)
    assert backend.stamps() == list(range(1, 61))
    ledger = rig.ledger
    assert (ledger.drained, ledger.held, dict(ledger.lost)) == (60, 0, {})
    assert rig.bench.reasons[-1] == ""


def test_what_a_killed_process_had_taken_is_sent_by_the_next(tmp_path: Path) -> None:
    first = Rig(tmp_path, Backend(lambda body: UNAVAILABLE))
    first.happen(1, 40)
    first.run(30)
    first.kill()
    backend = Backend()
    second = Rig(tmp_path, backend)
    second.happen(41, 2)
    second.run(10)
    assert backend.stamps() == list(range(1, 43))
    ledger = second.ledger
    assert (ledger.seen, ledger.drained, ledger.held) == (42, 42, 0)
    assert ledger.beside["events_resumed"] == 40


def test_killed_between_answer_and_acknowledgement_one_request_comes_twice(
    tmp_path: Path,
) -> None:
    backend = Backend()
    first = Rig(tmp_path, backend)

    def answered_and_killed(body: bytes) -> Outcome:
        if len(backend.taken) < 2:
            return ACCEPTED
        backend.taken.append(body)
        raise KeyboardInterrupt

    backend.answer = answered_and_killed
    for time in range(1, 5):
        first.happen(time, 1)
    with pytest.raises(KeyboardInterrupt):
        first.run(60)
    first.kill()
    backend.answer = lambda body: ACCEPTED
    second = Rig(tmp_path, backend)
    second.run(10)
    assert backend.stamps() == [1, 2, 3, 3, 4]
    assert second.ledger.beside["events_resumed"] == 2


def test_killed_right_after_an_answer_was_read_nothing_comes_twice(tmp_path: Path) -> None:
    backend = Backend()
    rig = Rig(tmp_path, backend)
    rig.happen(1, 5)
    while not backend.taken:
        rig.clock.advance_to(rig.lane.due_ns)
        rig.lane.step()
    rig.kill()
    after = Rig(tmp_path, backend)
    after.run(5)
    assert (backend.stamps(), after.ledger.beside["events_resumed"]) == ([1, 2, 3, 4, 5], 0)


def test_what_comes_before_a_flush_is_given_up_is_on_the_disk(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Backend(lambda body: UNAVAILABLE))
    rig.happen(1, 3)
    rig.lane.begin_flush(rig.bench.deadline_ns(5))
    rig.lane.step()
    rig.happen(4, 2)
    rig.lane.give_up()
    rig.lane.close()
    assert (rig.ledger.not_ours, rig.ledger.lost) == ({"events_kept": 5}, {})


def test_a_stop_leaves_what_is_not_sent_for_the_next_start_and_books_it_as_kept(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path, Backend(lambda body: UNAVAILABLE))
    rig.happen(1, 7)
    rig.run(10)
    rig.happen(8, 3)
    ledger = rig.stop()
    assert (ledger.seen, ledger.drained, ledger.held, dict(ledger.lost)) == (10, 0, 0, {})
    assert ledger.not_ours == {"events_kept": 10}
    backend = Backend()
    second = Rig(tmp_path, backend)
    second.run(10)
    assert backend.stamps() == list(range(1, 11))
    ledger = second.stop()
    assert (ledger.seen, ledger.drained, dict(ledger.not_ours)) == (10, 10, {})


def test_a_stop_sends_what_it_can(tmp_path: Path) -> None:
    backend = Backend()
    rig = Rig(tmp_path, backend)
    rig.happen(1, 7)
    ledger = rig.stop()
    assert backend.stamps() == list(range(1, 8))
    assert (ledger.drained, dict(ledger.not_ours)) == (7, {})


def test_another_compression_after_a_restart_is_used(tmp_path: Path) -> None:
    first = Rig(tmp_path, Backend(lambda body: UNAVAILABLE, Compression.ZSTD))
    first.happen(1, 3)
    first.run(3)
    first.kill()
    backend = Backend(compression=Compression.GZIP)
    Rig(tmp_path, backend).run(3)
    assert (backend.stamps(), backend.encodings) == ([1, 2, 3], {"gzip"})


@pytest.mark.parametrize(("outcome", "why"), [(REFUSED, "refused"), (TOO_LARGE, "too_large")])
def test_what_the_backend_never_takes_is_counted_and_the_next_is_sent(
    tmp_path: Path, outcome: Outcome, why: str
) -> None:
    backend = Backend(lambda body: outcome)
    rig = Rig(tmp_path, backend)
    rig.happen(1, 5)
    rig.run(10)
    backend.answer = lambda body: ACCEPTED
    rig.happen(6, 1)
    rig.run(10)
    assert backend.stamps() == [6]
    assert (rig.ledger.lost, rig.ledger.held) == ({f"events_{why}": 5}, 0)


def test_a_request_that_is_too_large_is_halved_and_each_event_arrives_once(
    tmp_path: Path,
) -> None:
    backend = Backend(lambda body: TOO_LARGE if LOGS.count(body) > 9 else ACCEPTED)
    rig = Rig(tmp_path, backend)
    rig.happen(1, 100)
    rig.run(10)
    assert backend.stamps() == list(range(1, 101))
    assert (rig.ledger.drained, rig.ledger.held) == (100, 0)


def test_what_the_buffer_shed_before_it_came_to_the_disk_is_booked(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Backend(), feed=EventsFeed(most_blocks=2))
    for time in range(5):
        rig.happen(time, 1)
    rig.run(5)
    assert (rig.ledger.drained, rig.ledger.lost) == (2, {"events_shed": 3})
