"""A lane over a disk that is full, damaged or bounded: each event in exactly one account."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retina_otel.delivery.compression import Compression
from retina_otel.delivery.spool.queue import SpoolLimits
from tests.unit.delivery.file_limits import files_of_at_most
from tests.unit.delivery.scripted_outcomes import ACCEPTED, UNAVAILABLE, WORDS, Scripted
from tests.unit.delivery.spool_lane_rig import Backend, Rig


def test_events_that_are_too_old_are_thrown_away_also_while_they_are_tried(
    tmp_path: Path,
) -> None:
    backend = Backend(lambda body: UNAVAILABLE)
    rig = Rig(tmp_path, backend, limits=SpoolLimits(64 << 20, 100))
    rig.happen(1, 2)
    rig.run(50)
    rig.happen(3, 1)
    rig.run(60)
    backend.answer = lambda body: ACCEPTED
    rig.run(31)
    assert backend.stamps() == [3]
    assert (rig.ledger.lost, rig.ledger.held) == ({"events_expired": 2}, 0)


def test_beyond_the_size_the_oldest_are_thrown_away_and_counted(tmp_path: Path) -> None:
    backend = Backend(lambda body: UNAVAILABLE, Compression.NONE)
    rig = Rig(tmp_path, backend, limits=SpoolLimits(1 << 20, 0))
    for number in range(40):
        rig.happen(1 + number * 1000, 1000)
        rig.run(1)
    held = rig.ledger.held
    backend.answer = lambda body: ACCEPTED
    rig.run(60)
    # The first request was being tried all the time, so it was out of the limit's reach.
    assert backend.stamps() == [*range(1, 1001), *range(41_001 - held, 40_001)]
    assert rig.ledger.lost == {"events_spool_full": 40_000 - held}


def test_what_was_thrown_away_while_it_was_tried_is_not_said_to_be_kept(tmp_path: Path) -> None:
    small = SpoolLimits(1 << 20, 0)
    rig = Rig(tmp_path, Backend(lambda body: UNAVAILABLE, Compression.NONE), limits=small)
    for number in range(40):
        rig.happen(1 + number * 1000, 1000)
        rig.run(1)
    ledger = rig.stop(0)
    after = Rig(tmp_path, Backend(), limits=small)
    assert ledger.not_ours == {"events_kept": after.ledger.held}
    assert ledger.lost == {"events_spool_full": 40_000 - after.ledger.held}


def test_damage_costs_what_it_must_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Rig(tmp_path, Backend(lambda body: UNAVAILABLE))
    for time in range(1, 5):
        first.happen(time * 10, 10)
    first.run(3)
    first.kill()
    (segment,) = tmp_path.glob("*.segment")
    content = bytearray(segment.read_bytes())
    content[-1] ^= 0xFF
    segment.write_bytes(content)
    backend = Backend()
    second = Rig(tmp_path, backend)
    second.run(3)
    assert backend.stamps() == list(range(10, 40))
    ledger = second.ledger
    assert (ledger.lost, ledger.beside["spool_set_aside"]) == ({"events_spool_corrupt": 10}, 1)
    assert [r.getMessage() for r in caplog.records if str(segment) in r.getMessage()] != []


def full_disk() -> AbstractContextManager[None]:
    """No file grows any more."""
    return files_of_at_most(10)


def test_a_full_disk_degrades_and_events_go_on_over_memory(tmp_path: Path) -> None:
    backend = Backend(lambda body: UNAVAILABLE)
    rig = Rig(tmp_path, backend)
    rig.happen(1, 10)
    rig.run(3)
    with full_disk():
        rig.happen(11, 10)
        rig.run(30)
        assert "takes no events" in rig.bench.reasons[-1]
        assert "HTTP 503" in rig.bench.reasons[-1]
        assert (rig.ledger.seen, rig.ledger.held) == (10, 10)
        backend.answer = lambda body: ACCEPTED
        rig.run(30)
        assert backend.stamps() == list(range(1, 21))
        assert "takes no events" in rig.bench.reasons[-1]
    rig.happen(21, 10)
    rig.run(30)
    assert backend.stamps() == list(range(1, 31))
    assert rig.bench.reasons[-1] == ""
    assert (rig.ledger.drained, rig.ledger.held, dict(rig.ledger.lost)) == (30, 0, {})


def test_room_on_the_disk_again_takes_what_waited_in_memory(tmp_path: Path) -> None:
    backend = Backend(lambda body: UNAVAILABLE)
    rig = Rig(tmp_path, backend)
    with full_disk():
        rig.happen(1, 10)
        rig.run(30)
        assert rig.ledger.held == 0
    rig.run(3)
    assert rig.ledger.held == 10
    rig.kill()
    after = Backend()
    Rig(tmp_path, after).run(3)
    assert after.stamps() == list(range(1, 11))


def test_stopped_with_a_full_disk_and_a_dead_backend_books_what_is_lost(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Backend(lambda body: UNAVAILABLE))
    rig.happen(1, 4)
    rig.run(3)
    with full_disk():
        rig.happen(5, 6)
        rig.run(3)
        ledger = rig.stop()
    assert (ledger.lost, ledger.not_ours) == ({"events_shutdown": 6}, {"events_kept": 4})


STEPS = st.lists(st.sampled_from(["events", "run", "full", "room", "restart"]), max_size=25)


@settings(max_examples=50, deadline=None)
@given(STEPS, st.lists(WORDS, max_size=40))
def test_each_event_ends_in_exactly_one_account_whatever_happens(
    steps: list[str], script: list[str]
) -> None:
    scripted = Scripted(script)
    backend = Backend(scripted)
    totals = {"seen": 0, "drained": 0, "resumed": 0, "kept": 0}
    lost: dict[str, int] = {}

    def end(rig: Rig) -> None:
        # No time to send: all that waits is kept, if the disk takes it.
        ledger = rig.stop(0)
        totals["seen"] += ledger.seen
        totals["drained"] += ledger.drained
        totals["resumed"] += ledger.beside["events_resumed"]
        totals["kept"] += ledger.not_ours.get("events_kept", 0)
        for name, n in ledger.lost.items():
            lost[name] = lost.get(name, 0) + n

    happened = 0
    with TemporaryDirectory(dir="/dev/shm") as name:
        rig = Rig(Path(name), backend)
        disk = None
        for step in [*steps, "room", "run", "run"]:
            if step == "events":
                rig.happen(happened + 1, 3)
                happened += 3
            elif step == "run":
                rig.run(400)
            elif step == "full" and disk is None:
                disk = full_disk()
                disk.__enter__()
            elif step == "room" and disk is not None:
                disk.__exit__(None, None, None)
                disk = None
            elif step == "restart":
                end(rig)
                rig = Rig(Path(name), backend)
        rig.run(4000)
        end(rig)
    truth = scripted.truth
    assert totals["seen"] - totals["resumed"] == happened
    assert totals["drained"] == truth["accepted"]
    assert totals["kept"] == totals["resumed"]
    assert sum(lost.values()) + totals["drained"] == happened
    for why in ("rejected", "refused", "too_large"):
        assert lost.get(f"events_{why}", 0) == truth[why]
